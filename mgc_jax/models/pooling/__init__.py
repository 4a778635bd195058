"""Poolings: from the embeddings of a bag's clips to log scores of the genres.

Bags lie side by side in rows of slots (see `mgc_jax.data.batches`), and place s of a row's output belongs to the bag
with segment number s. The outputs of places without a bag must be finite; their values are ignored. A slot without a
clip has the number of slots as its segment, and must not influence the others.

A pooling is a class in its family's file, and an entry in `POOLINGS`. It is built as
`Pooling(features, num_genres, *, <options>, rngs)`; the options are the keys of `config.model.pooling`. If it has a
parameter `subgenre_parents`, it gets a tuple with the genre of every sub-genre, which begins with the genres
themselves. If it has a parameter `multi_label`, it is told whether a clip may have several genres, and can be trained
so: its scores then are log odds, whose sigmoid is the probability of each genre by itself; it is given no useful
`target`. The attribute `features` is the width of the vectors that it passes to the head. If it holds several views
of every bag at once, the attribute `num_views` is their number; evaluation limits its chunks by it. If its scores in
training depend on `target`, the attribute `told_genre` is true; their accuracy is then not set beside that of
validation. It is called as

    log_scores, attention = pooling(embeddings, segments, target, classify)

* `embeddings`: float32 [row, slot, feature].
* `segments`: `Segments`: the bag of each clip, and the number of places for bags.
* `target`: in training a `Target`, outside of it None.
* `classify`: the head, from vectors [..., feature] to logits [..., genre], with dropout in training.
* `log_scores`: [row, bag, genre]: in training normalized over the genres; multi-label: log odds.
* `attention`: the clips' weights, [row, bag, slot], or [row, bag, genre, slot] if they differ between genres.
"""

from collections.abc import Callable
from typing import Any

from mgc_jax.models.pooling.gated import GatedAttentionPooling
from mgc_jax.models.pooling.hierarchical_matt import HierarchicalMattPooling
from mgc_jax.models.pooling.matt import MattPooling
from mgc_jax.models.pooling.segments import Classify, Segments, Target
from mgc_jax.models.pooling.set_transformer import SetTransformerPooling
from mgc_jax.models.pooling.simple import MaxPooling, MeanPooling, MeanProbabilityPooling, NoisyOrPooling

__all__ = ["POOLINGS", "Classify", "Segments", "Target"]

POOLINGS: dict[str, Callable[..., Any]] = {
    "none": MeanPooling,  # bags of one clip
    "mean": MeanPooling,
    "max": MaxPooling,
    "mean_probability": MeanProbabilityPooling,
    "noisy_or": NoisyOrPooling,
    "matt": MattPooling,
    "hierarchical_matt": HierarchicalMattPooling,
    "gated_attention": GatedAttentionPooling,
    "set_transformer": SetTransformerPooling,
}
"""Name in `config.model.pooling.name` -> class: `mgc_jax.POOLINGS["matt"](64, 16, rngs=nnx.Rngs(0))`."""
