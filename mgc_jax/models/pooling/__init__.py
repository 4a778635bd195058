"""Pooling: the embeddings of a bag's clips in, log scores of the genres out.

Bags lie side by side in rows (see `mgc_jax.data.batches`): slot s of a row's output belongs to the bag with
segment number s. Slots without a bag give finite values that nobody reads; slots without a clip, whose segment
is the number of slots, influence nothing.

A pooling is a module of its own family's file, and a line in `POOLINGS`. It is built as
`Pooling(features, num_genres, *, <options>, rngs)`; `config.model.pooling` gives the options, by name. If it has a
parameter `subgenre_parents`, it gets a tuple with the genre of every sub-genre, which begins with the genres
themselves. Its attribute `features` is the width of the vectors that it hands to the head. If it holds several views
of every bag at once, `num_views` says how many, for the memory that evaluation may take. It is called as

    log_scores, attention = pooling(embeddings, segment, target, classify)

* `embeddings`: float32 [row, slot, feature].
* `segment`: [row, slot]: the bag of each clip.
* `target`: in training a `Target`, outside of it None.
* `classify`: the head, from vectors [..., feature] to logits [..., genre], with dropout in training.
* `log_scores`: [row, bag, genre]: in training normalized over the genres.
* `attention`: the clips' weights, [row, bag, slot], or [row, bag, genre, slot] if they differ between genres.
"""

from collections.abc import Callable
from typing import Any

from mgc_jax.models.pooling.gated import GatedAttentionPooling
from mgc_jax.models.pooling.hierarchical_matt import HierarchicalMattPooling
from mgc_jax.models.pooling.matt import MattPooling
from mgc_jax.models.pooling.segments import Classify, Target
from mgc_jax.models.pooling.set_transformer import SetTransformerPooling
from mgc_jax.models.pooling.simple import MaxPooling, MeanPooling, MeanProbabilityPooling, NoisyOrPooling

__all__ = ["POOLINGS", "Classify", "Target"]

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
