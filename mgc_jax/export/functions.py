"""A model as pure functions in XLA's own operations: what the exported formats hold."""

import copy
import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mgc_jax.inference import ExportedModel, inputs_of, model_of, with_weights
from mgc_jax.models.classifier import split_model
from mgc_jax.scoring import final_scores


class Scores(NamedTuple):
    """What an exported model says of bags.

    Attributes:
        log_scores: float32 [bag, genre], with post-hoc logit adjustment; of a multi-label model log odds.
        attention: float32 [bag, slot], or [bag, genre, slot] with a query per genre; 0 where there is no clip.
        embedding: float32 [bag, slot, feature].
    """

    log_scores: jax.Array
    attention: jax.Array
    embedding: jax.Array


Score = Callable[[Float[Array, "bag slot *shape"], Bool[Array, "bag slot"]], Scores]


def score_function(exported: ExportedModel, *, of_spectrograms: bool = False) -> Score:
    """Returns the model as a function of its clips.

    Whatever `config.model.kernels` is, it uses the plain forms: those made for a platform would be in the files for
    every platform.

    Args:
        exported: the model.
        of_spectrograms: leaves out a front end: clips are the spectrograms that it computes.

    Returns:
        A function of `clips`, float32 [bag, slot, ...] in the form of the corpus (audio: full scale 1), and `present`,
        bool [bag, slot]: which slots hold a clip of the bag; the others may hold anything finite. Bags and slots may
        be symbols of `jax.export`.
    """
    meta = exported.meta
    config = copy.deepcopy(meta.config)
    config["model"]["kernels"] = "plain"
    plain = dataclasses.replace(meta, config=config)
    if of_spectrograms and exported.inputs.frontend is not None:
        config["model"]["frontend"] = ""
        plain = dataclasses.replace(plain, stored_shape=exported.inputs.frontend.clip_shape)
    _, *weights = split_model(exported.model)
    params, batch_stats = jax.tree.map(jnp.asarray, jax.device_get(weights))  # bound to no device
    model, inputs = with_weights(model_of(plain), params, batch_stats), inputs_of(plain)
    adjustment, parents = exported.adjustment, meta.genre_parents

    def score(clips, present):
        bags, slots = clips.shape[:2]
        x = inputs.evaluation(clips.reshape(bags * slots, *clips.shape[2:]))
        embedding = model.embed(x, present.reshape(bags * slots)).astype(jnp.float32)
        embedding = embedding.reshape(bags, slots, embedding.shape[1])
        log_scores, attention = model.score_bags(embedding, jnp.where(present, 0, 1), bags=1)
        scores = final_scores(jnp.squeeze(log_scores, 1), adjustment, parents)
        return Scores(scores, jnp.squeeze(attention, 1), embedding)

    return score
