"""The loss of a batch, and the jitted train step."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from mgc_jax.data.batches import Batch
from mgc_jax.data.inputs import Inputs
from mgc_jax.models.pooling import Segments, Target
from mgc_jax.models.pooling.segments import of_own_bag
from mgc_jax.runtime.devices import deal
from mgc_jax.runtime.platform import data_devices, dealt_over, in_order, split_rows
from mgc_jax.training.accumulation import accumulated
from mgc_jax.training.losses import bag_loss, multi_label_loss, targets
from mgc_jax.training.optimizer import Optimizer
from mgc_jax.training.state import TrainState


def make_loss(
    graph: nnx.GraphDef,
    inputs: Inputs,
    options: Any,
    weight_per_step: float,
    genre_weight: np.ndarray,
    adjustment: np.ndarray,
    *,
    shares: np.ndarray | None = None,
    classifier_only: bool = False,
) -> Callable[..., Any]:
    """Returns loss(params, batch_stats, batch, clips, partners, key) -> (loss, (batch_stats, sums)).

    `clips` and `partners` (None without mixup) are `PlacedClips`. It is to be traced inside `platform.dealt_over`.

    The loss is the weighted sum of the bags' losses over `weight_per_step`, a constant: over an epoch every bag
    counts as its weight says, however the bags fell into batches. Of the sums, `correct` counts the clips in whose bag
    the bag's genre has the highest score, whatever the bag's weight; with several genres there is no such sum.

    Args:
        graph: the model's structure.
        inputs: what the encoder sees.
        options: `config.loss`.
        weight_per_step: mean total weight of a batch.
        genre_weight: float32 [genre]: see `losses.class_weights`.
        adjustment: float32 [genre]: added to the log scores in the loss.
        shares: float32 [target, genre]: the targets of a multi-label model, of which a bag's label names one; the loss
            is then `losses.multi_label_loss`, and options, weights and adjustment are not looked at. None: one genre.
        classifier_only: the encoder runs as in evaluation and gets no gradient.
    """

    weight, adjust = jnp.asarray(genre_weight), jnp.asarray(adjustment)
    table = None if shares is None else jnp.asarray(shares)

    def loss(params, batch_stats, batch, clips, partners, key):
        model = nnx.merge(graph, params, batch_stats)
        input_key, dropout_key = jax.random.split(key)
        x = inputs.training(batch, clips.take(), None if partners is None else partners.take(), input_key)
        real, target = deal(batch.real, data_devices()), Target(batch.label, batch.subgenre)
        rngs = nnx.Rngs(dropout=dropout_key)
        if classifier_only:
            embeddings = jax.lax.stop_gradient(in_order(model.embed(x, real)))[batch.at]
            scores, _ = model.score_bags(split_rows(embeddings), batch.segment, target, train=True, rngs=rngs)
        else:
            scores, _ = model(x, real, batch.at, batch.segment, target, train=True, rngs=rngs)
        mixed = (None, None) if batch.mix is None else (batch.mix.label, batch.mix.share)
        wanted = targets(batch.label, scores.shape[-1], *mixed, shares=table)
        opinions = scores.reshape(-1, *batch.label.shape, scores.shape[-1])  # two with model.clips_too
        if table is None:
            losses = bag_loss(opinions, wanted, options, weight, adjust).mean(0)
            right = jnp.argmax(opinions.mean(0), axis=-1) == batch.label
            right = of_own_bag(right, Segments(batch.segment, batch.label.shape[-1]))
            extra = {"correct": jnp.sum(right & (batch.segment < batch.segment.shape[-1]))}
        else:
            losses, extra = multi_label_loss(opinions, wanted).mean(0), {}
        sums = extra | {
            "loss": jnp.sum(jnp.where(batch.weight > 0, losses, 0) * batch.weight),
            "weight": jnp.sum(batch.weight),
            "clips": jnp.sum(batch.real),
        }
        new_stats = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
        return sums["loss"] / weight_per_step, (new_stats, sums)

    return loss


def make_train_step(
    loss: Callable[..., Any],
    optimizer: Optimizer,
    mesh: Mesh,
    *,
    trained: Sequence[str] | None = None,
    accumulate: int = 1,
    unroll: bool = True,
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """Returns the jitted train_step(state, batch, clips, partners, key) -> (state, sums).

    The draws of a step are a function of (key, step). The old state's memory is reused.

    Args:
        loss: as from `make_loss`.
        optimizer: as from `make_optimizer`.
        mesh: the devices that the clips are dealt to.
        trained: the parts of the model whose weights change ("head"); None: all.
        accumulate: micro-batches of a batch; see `accumulated`.
        unroll: write them out one after the other; else they are a loop.
    """
    if accumulate > 1:
        differentiated = accumulated(loss, accumulate, unroll=unroll)
    else:
        differentiated = jax.value_and_grad(loss, has_aux=True)

    def only_of(tree):
        if trained is None:
            return tree
        return {part: leaf if part in trained else jax.tree.map(jnp.zeros_like, leaf) for part, leaf in tree.items()}

    def train_step(state: TrainState, batch: Batch, clips, partners, key):
        key = jax.random.fold_in(key, state.step)
        with dealt_over(mesh):
            (_, (batch_stats, sums)), gradients = differentiated(
                state.params, state.batch_stats, batch, clips, partners, key
            )
        gradients = only_of(gradients)
        updates, opt_state = optimizer.rule.update(gradients, state.opt_state, state.params)
        updates = only_of(updates)  # weight decay would change the others too
        if state.plateau is not None:
            updates = jax.tree.map(lambda update: update * state.plateau.scale, updates)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if ema is not None:
            # EMA warm-up: decay starts low so that the initial weights are forgotten.
            decay = jnp.minimum(optimizer.ema, (1.0 + ema["count"]) / (10.0 + ema["count"]))
            average = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, ema["average"], params)
            ema = {**ema, "average": average, "count": ema["count"] + 1}
        sums |= {"gradient_norm": optax.tree.norm(gradients), "weight_norm": optax.tree.norm(params)}
        return TrainState(state.step + 1, params, batch_stats, opt_state, ema, state.plateau), sums

    return jax.jit(train_step, donate_argnums=0)
