"""What a report shows of attention: how concentrated it is, and whether it prefers clips that are easier."""

from typing import Any

import numpy as np

from mgc_jax.evaluation.bootstrap import ArtistBootstrap, interval
from mgc_jax.evaluation.predictions import Predictions

_EXAMPLE_BAGS = 4
_EXAMPLE_SIZES = (3, 12)  # clips of an example bag: fewer say little, more fill the page


def attention_of(scored: Predictions | None) -> dict[str, Any] | None:
    """Returns how the bag model weighs the clips of its bags; None without attention.

    Concentration is the effective number of clips, the exponential of the entropy of the weights: as many clips with
    equal weights would be as concentrated.
    """
    if scored is None or scored.attention is None or not (scored.bag_sizes > 1).any():
        return None
    bags = np.flatnonzero(scored.bag_sizes > 1)
    weights = bag_weights(scored)
    entropy = np.where(weights > 0, -weights * np.log(np.maximum(weights, 1e-30)), 0)
    effective = np.exp(np.add.reduceat(entropy, scored.offsets[:-1]))[bags]
    sizes, genre = scored.bag_sizes[bags], scored.label[scored.offsets[bags]]
    right = scored.predicted("clip") == scored.label if "clip" in scored.levels else None
    preferred, others = preferred_and_others(scored, weights, bags, right)

    def row(name: str, chosen: np.ndarray) -> dict[str, Any]:
        compared = chosen & ~np.isnan(preferred)
        return {
            "name": name,
            "bags": int(chosen.sum()),
            "size": float(sizes[chosen].mean()),
            "effective": float(effective[chosen].mean()),
            "relative": float((effective / sizes)[chosen].mean()),
            "preferred": float(preferred[compared].mean()) if compared.any() else None,
            "others": float(others[compared].mean()) if compared.any() else None,
        }

    uniform = bool(np.all(effective / sizes > 0.999))
    compared = ~np.isnan(preferred)
    difference = None
    if compared.any():
        gain = (preferred - others)[compared]
        bootstrap = ArtistBootstrap(scored.artists[scored.offsets[bags]][compared])
        difference = {
            "value": float(gain.mean()),
            "interval": interval(bootstrap.mean(gain), len(bootstrap.artists)),
            "bags": int(compared.sum()),
            "artists": len(bootstrap.artists),
        }
    rows = [row(name, genre == i) for i, name in enumerate(scored.genres) if np.any(genre == i)]
    return {
        "total": row("all genres", np.full(len(bags), True)),
        "rows": sorted(rows, key=lambda row: -row["bags"]),
        "difference": difference,
        "uniform": uniform,
        "examples": [] if uniform else _example_bags(scored, weights, bags, effective / sizes),
    }


def bag_weights(scored: Predictions) -> np.ndarray:
    """Returns the attention, so scaled that it sums to one over each bag: float64 [clip]."""
    assert scored.attention is not None
    weights = np.maximum(scored.attention.astype(np.float64), 0)
    total = np.add.reduceat(weights, scored.offsets[:-1])
    return weights / np.repeat(np.where(total > 0, total, 1), scored.bag_sizes)


def preferred_and_others(
    scored: Predictions, weights: np.ndarray, bags: np.ndarray, right: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Compares, within bags, the clip of the highest weight with the others.

    Args:
        scored: the clips.
        weights: [clip].
        bags: numbers of bags of several clips.
        right: bool [clip]: whether the clip alone is classified right; None: unknown.

    Returns:
        Share of right ones among the preferred clips (0 or 1) and among the others: float64 [bag] each; NaN where all
        weights are the same, or where nothing is known.
    """
    preferred, others = np.full(len(bags), np.nan), np.full(len(bags), np.nan)
    if right is None:
        return preferred, others
    for i, bag in enumerate(bags):
        rows = slice(scored.offsets[bag], scored.offsets[bag + 1])
        if np.ptp(weights[rows]) > 1e-6:
            top = int(weights[rows].argmax())
            preferred[i] = right[rows][top]
            others[i] = np.delete(right[rows], top).mean()
    return preferred, others


def _example_bags(
    scored: Predictions, weights: np.ndarray, bags: np.ndarray, relative: np.ndarray
) -> list[dict[str, Any]]:
    """Returns the most concentrated bags, half of them right and half wrong if there are such, of different genres."""
    if "bag" not in scored.levels:
        return []
    predicted = scored.predicted("bag")
    probability = probabilities(scored.levels["bag"])
    few, many = _EXAMPLE_SIZES
    fitting = [i for i in np.argsort(relative, kind="stable") if few <= scored.bag_sizes[bags[i]] <= many]
    chosen: list[int] = []
    for right in (True, False):
        genres: set[int] = set()
        for i in fitting:
            first = scored.offsets[bags[i]]
            if (predicted[first] == scored.label[first]) == right and scored.label[first] not in genres:
                genres.add(int(scored.label[first]))
                chosen.append(bags[i])
            if len(genres) == _EXAMPLE_BAGS // 2:
                break
    examples = []
    for bag in chosen:
        first, last = scored.offsets[bag], scored.offsets[bag + 1]
        rows = first + np.argsort(-weights[first:last], kind="stable")
        clips = [
            {
                "track": int(scored.track_id[row]),
                "weight": float(weights[row]),
                "genre": scored.genres[scored.label[row]],
                "alone": scored.genres[scored.predicted("clip")[row]] if "clip" in scored.levels else None,
            }
            for row in rows
        ]
        examples.append(
            {
                "artist": scored.artist[first],
                "album": scored.album[first],
                "genre": scored.genres[scored.label[first]],
                "predicted": scored.genres[predicted[first]],
                "probability": float(probability[first, predicted[first]]),
                "clips": clips,
            }
        )
    return examples


def probabilities(log_scores: np.ndarray) -> np.ndarray:
    """Normalizes log scores [clip, genre] to probabilities."""
    scores = log_scores.astype(np.float64)
    return np.exp(scores - np.logaddexp.reduce(scores, axis=1, keepdims=True))
