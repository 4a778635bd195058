"""Every pooling once more: plain NumPy in float64, one bag at a time."""

import jax
import numpy as np
from flax import nnx

PARENTS = (0, 1, 2, 1, 0, 1)  # three genres; three sub-genres below two of them


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def softmax(x):
    return np.exp(log_softmax(x))


def weights_of(pooling):
    """The pooling's weights, float64, as a nested dict."""
    state = nnx.to_pure_dict(nnx.state(pooling, nnx.Any(nnx.Param, nnx.BatchStat)))
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), state)


def mean(clips, classify, weights, options, target):
    share = np.ones(len(clips)) / len(clips)
    return log_softmax(classify(clips.mean(0))), share


def maximum(clips, classify, weights, options, target):
    winner = clips.argmax(0)
    share = np.array([np.mean(winner == k) for k in range(len(clips))])
    return log_softmax(classify(clips.max(0))), share


def mean_probability(clips, classify, weights, options, target):
    probabilities = [softmax(classify(clip)) for clip in clips]
    return np.log(sum(probabilities) / len(clips)), np.ones(len(clips)) / len(clips)


def noisy_or(clips, classify, weights, options, target):
    misses = np.array([np.log(1 - softmax(classify(clip))) for clip in clips])  # [clip, genre]
    bag = 1 - np.exp(misses.sum(0))
    return np.log(bag / bag.sum()), (misses / misses.sum(0)).T


def score(clip, query, weights, form):
    """One number: the score of one clip under one query."""
    both = np.concatenate([clip, query])
    if form == "dot":
        return clip @ query
    if form == "scaled_dot":
        return clip @ query / np.sqrt(len(clip))
    if form == "additive":
        return np.tanh(weights["kernel"] @ both) + weights["bias"]
    return weights["output"] @ np.tanh(both @ weights["kernel"] + weights["bias"])


def view(clips, number, weights, options, gold=False):
    """The view of one query on the bag, and the attention; `gold`: of the query that training is told."""
    mismatched = options.get("queries") == "frozen_mismatched"
    query = weights["other_queries" if gold and mismatched else "queries"][number]
    attention = softmax(np.array([score(clip, query, weights, options.get("score", "dot")) for clip in clips]))
    vector = attention @ clips
    return (np.tanh(vector) if options.get("activation", "tanh") == "tanh" else vector), attention


def matt(clips, classify, weights, options, target):
    own = options.get("train_query", "gold") == "own"
    if target is not None and not own:
        vector, attention = view(clips, target[0], weights["views"], options, gold=True)
        return log_softmax(classify(vector)), attention
    scores, attentions = [], []
    for genre in range(len(weights["views"]["queries"])):
        vector, attention = view(clips, genre, weights["views"], options)
        logits = classify(vector)
        scores.append(logits[genre] if own else log_softmax(logits)[genre])
        attentions.append(attention)
    return log_softmax(np.array(scores)) if own else np.array(scores), np.array(attentions)


def hierarchical_matt(clips, classify, weights, options, target, parents=PARENTS):
    own = options.get("train_query", "gold") == "own"

    def path(genre, subgenre, gold=False):
        top, top_attention = view(clips, genre, weights["genres"], options, gold)
        sub, sub_attention = view(clips, subgenre, weights["subgenres"], options, gold)
        return classify(np.concatenate([top, sub])), (top_attention + sub_attention) / 2

    if target is not None and not own:
        logits, attention = path(*target, gold=True)
        return log_softmax(logits), attention
    num_genres = len(weights["genres"]["queries"])
    scores, attentions = np.full(num_genres, -np.inf), [None] * num_genres
    for subgenre, genre in enumerate(parents):
        logits, attention = path(genre, subgenre)
        value = logits[genre] if own else log_softmax(logits)[genre]
        if value > scores[genre]:
            scores[genre], attentions[genre] = value, attention
    return log_softmax(scores) if own else scores, np.array(attentions)


def gated_attention(clips, classify, weights, options, target):
    content, gate, output = (weights[name]["kernel"] for name in ("content", "gate", "output"))
    scores = [(np.tanh(clip @ content) / (1 + np.exp(-clip @ gate)) @ output)[0] for clip in clips]
    attention = softmax(np.array(scores))
    return log_softmax(classify(attention @ clips)), attention


def linear(x, weights):
    return x @ weights["kernel"] + weights["bias"]


def layer_norm(x, weights):
    centered = x - x.mean(-1, keepdims=True)
    return centered / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * weights["scale"] + weights["bias"]


def block(asking, clips, weights, heads):
    a = weights["attention"]
    normed, normed_clips = layer_norm(asking, weights["attention_norm"]), layer_norm(clips, weights["attention_norm"])
    query, key, value = linear(normed, a["query"]), linear(normed_clips, a["key"]), linear(normed_clips, a["value"])
    found, attention = [], 0
    for columns in np.split(np.arange(query.shape[-1]), heads):
        shares = softmax(query[:, columns] @ key[:, columns].T / np.sqrt(len(columns)))
        found.append(shares @ value[:, columns])
        attention = attention + shares / heads
    x = asking + linear(np.concatenate(found, -1), a["output"])
    inner = np.maximum(linear(layer_norm(x, weights["norm"]), weights["expand"]), 0)
    return x + linear(inner, weights["contract"]), attention


def set_transformer(clips, classify, weights, options, target):
    x = linear(clips, weights["embed"])
    for number in range(options["layers"]):
        x, _ = block(x, x, weights["layers"][number], options["heads"])
    vector, attention = block(weights["seed"][None], x, weights["pool"], options["heads"])
    return log_softmax(classify(layer_norm(vector[0], weights["norm"]))), attention[0]


REFERENCES = {
    "none": mean,
    "mean": mean,
    "max": maximum,
    "mean_probability": mean_probability,
    "noisy_or": noisy_or,
    "matt": matt,
    "hierarchical_matt": hierarchical_matt,
    "gated_attention": gated_attention,
    "set_transformer": set_transformer,
}
