"""Several devices: what they exchange in a train step, and that their number changes nothing else."""

import functools
import re
from itertools import pairwise

import jax
import numpy as np
import pytest
from helpers import make_corpus, placed_batches, small_config

from mgc_jax import modes
from mgc_jax.data.placement import DeviceClips, HostClips
from mgc_jax.experiment import Experiment
from mgc_jax.runtime.devices import data_mesh, gather, replicate, shard, undeal
from mgc_jax.runtime.platform import dealt_over, draw_per_clip
from mgc_jax.training.checkpoint import open_checkpoints
from mgc_jax.training.phases import initial_state, make_phase

AUGMENTED = {
    "augment.mixup": 0.5, "augment.noise": 0.1, "augment.crop_frames": 36, "augment.time_masks": 1,
    "augment.mel_masks": 1, "augment.mel_mask_bands": 3,
}  # fmt: skip
MLP = {"name": "mlp", "hidden": (8,)}
_COLLECTIVE = re.compile(
    r"= (?P<result>.*?) (?P<name>all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter|"
    r"collective-broadcast|send|recv)(-start)?\("
)


def compiled_step(config, folder):
    """The compiled train step on all devices, as text, and the state and the batch it takes."""
    run = Experiment(config, folder / "run")
    phase = make_phase(run, classifier_only=False)
    state = initial_state(run, phase.optimizer)
    batch, clips, partners = next(placed_batches(phase.batches, run.clips, run.mesh, 0, 1))
    step = phase.train_step.lower(state, batch, clips, partners, jax.random.key(0))
    return step.compile().as_text(), state, batch


def collectives(text):
    """For each collective of a program: its name, the sizes in bytes of its results, and whether it is in a loop."""
    computations = re.split(r"\n(?=\S.*\{\n)", text)
    bodies = set(re.findall(r"(?:body|condition)=%?([\w.\-]+)", text))
    called = {c.split()[0].lstrip("%"): set(re.findall(r"(?:calls|to_apply)=%?([\w.\-]+)", c)) for c in computations}
    while more := {inner for name in bodies for inner in called.get(name, ())} - bodies:
        bodies |= more
    found = []
    for computation in computations:
        looped = computation.split()[0].lstrip("%") in bodies
        for match in _COLLECTIVE.finditer(computation):
            shapes = re.findall(r"(?:f|s|u|bf)(\d+)\[([\d,]*)\]", match["result"])
            sizes = [int(bits) // 8 * int(np.prod([int(n) for n in dims.split(",") if n])) for bits, dims in shapes]
            found.append((match["name"], sizes, looped))
    return found


def without_gradient(params):
    """Bytes of the convolution biases that a batch norm takes away again: nobody computes their gradient."""
    if not isinstance(params, dict):
        return 0
    own = params["bias"].nbytes if {"kernel", "bias", "norm"} <= params.keys() else 0
    return own + sum(map(without_gradient, params.values()))


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="matt"),
        pytest.param({"data.placement": "host", **AUGMENTED}, id="on the host, augmented", marks=pytest.mark.slow),
        pytest.param({"batch.clips": 100, "batch.bags": 30}, id="several rows", marks=pytest.mark.slow),
        pytest.param({"model.pooling.name": "set_transformer"}, id="set transformer", marks=pytest.mark.slow),
    ],
)
def test_devices_exchange_embeddings_gradients_and_moments_alone(tmp_path, corpus, changes):
    config = small_config(tmp_path, corpus, **changes)
    text, state, batch = compiled_step(config, tmp_path)
    found = collectives(text)
    assert {name for name, _, _ in found} == {"all-gather", "all-reduce"}
    assert not any(looped for _, _, looped in found)
    (embeddings,) = (size for name, sizes, _ in found for size in sizes if name == "all-gather")
    assert embeddings == batch.clip.size * config.model.encoder.features * 4
    reduced = [size for name, sizes, _ in found for size in sizes if name == "all-reduce"]
    arrays, scalars = [n for n in reduced if n > 4], [n for n in reduced if n <= 4]
    # Every gradient of the encoder once; mean and variance of every batch norm once, and their
    # gradients. One row is pooled by all devices
    # alike; several are split, and then the gradients of the pooling, the head and the embeddings are exchanged too.
    rows = len(batch.segment) > 1
    trained = state.params if rows else state.params["encoder"]
    moments = sum(leaf.nbytes for leaf in jax.tree.leaves(state.batch_stats) if leaf.ndim)  # not how many there were
    wanted = sum(leaf.nbytes for leaf in jax.tree.leaves(trained)) + moments - without_gradient(trained)
    small = sum(leaf.nbytes for leaf in jax.tree.leaves(trained) if leaf.nbytes <= 4)
    assert sum(arrays) == wanted - small + moments + (embeddings if rows else 0)
    assert len(scalars) <= 8  # the sums that are logged, and how many clips the moments are of


def test_gradients_without_batch_norm_are_exchanged_in_one_go(tmp_path):
    corpus = make_corpus(clip_shape=(6,))
    config = small_config(tmp_path, corpus, **{"data.arrays.axes": "clip feature"})
    with config.unlocked():
        config.model.encoder = MLP
    found = collectives(compiled_step(config, tmp_path)[0])
    assert [name for name, sizes, _ in found if any(size > 4 for size in sizes)] == ["all-gather", "all-reduce"]


def test_collectives_in_loops_are_found():
    """The test above sees what it looks for: a scan whose weights are shared gathers their gradient in each step."""
    mesh = data_mesh()

    def loss(weight, x):
        return jax.lax.scan(lambda h, _: (jax.numpy.tanh(h @ weight), None), x, length=3)[0].sum()

    arguments = replicate(np.ones((4, 4), np.float32), mesh), shard(np.ones((8, 4), np.float32), mesh)
    found = collectives(jax.jit(jax.grad(loss)).lower(*arguments).compile().as_text())
    assert ("all-reduce", [64], True) in found
    gathered = jax.jit(lambda x: x[::-1]).lower(arguments[1]).compile().as_text()
    assert {name for name, _, _ in collectives(gathered)} <= {"all-gather", "collective-permute", "all-to-all"}
    assert collectives(gathered)


def test_a_checkpoint_of_eight_devices_restores_on_fewer(tmp_path, corpus):
    config = small_config(tmp_path, corpus, **{"train.epochs": 1})
    modes.train(config, tmp_path / "run")
    states = []
    for number in (8, 4, 2, 1):
        run = Experiment(config, tmp_path / "run", devices=jax.devices()[:number])
        assert run.mesh.size == number
        with open_checkpoints(tmp_path / "run", config.train.select) as checkpoints:
            like = initial_state(run, make_phase(run, classifier_only=False).optimizer)
            state = checkpoints.restore(checkpoints.latest_step(), like)
        assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(state)} == {number}
        states.append(jax.device_get(state))
    assert int(states[0].step) > 0
    for one, other in pairwise(states):
        jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.slow
def test_one_two_four_and_eight_devices_give_the_same_curve(tmp_path, corpus):
    curves = []
    for number in (8, 4, 2, 1):
        config = small_config(tmp_path, corpus, **{"data.placement": "host", **AUGMENTED})
        run = Experiment(config, tmp_path / "run", devices=jax.devices()[:number])
        assert run.mesh.size == number
        phase = make_phase(run, classifier_only=False)
        state, losses = initial_state(run, phase.optimizer), []
        for batch, clips, partners in placed_batches(phase.batches, run.clips, run.mesh, 0, 6):
            state, sums = phase.train_step(state, batch, clips, partners, jax.random.key(0))
            losses.append(float(sums["loss"]))
        scores = run.predict("validation", *state.evaluated).levels["bag"]
        curves.append((np.array(losses), scores))
    for losses, scores in curves[1:]:
        # Sums in another order; Adam's steps have the size of the rate also where a gradient is nearly nothing.
        np.testing.assert_allclose(losses, curves[0][0], rtol=1e-3)
        np.testing.assert_allclose(scores, curves[0][1], atol=1e-2)


def test_clips_are_dealt_and_gathered_in_order(corpus):
    mesh = data_mesh()
    assert [device.id for device in mesh.devices.flat] == sorted(device.id for device in jax.devices())
    index = np.random.default_rng(0).integers(0, len(corpus), (3, 16))
    for clips in (HostClips(corpus.clips, mesh)(index).take(), DeviceClips(corpus.clips, mesh)(index).take()):
        assert len(clips.sharding.device_set) == 8
        for micro, of_micro in zip(gather(clips), index, strict=True):
            np.testing.assert_array_equal(undeal(micro, 8), corpus.clips[of_micro])
    second = HostClips(corpus.clips, mesh)(index[0]).take().addressable_shards[1].data
    np.testing.assert_array_equal(second, corpus.clips[index[0][[1, 9]]])


@pytest.mark.parametrize("name", ["bernoulli", "normal", "uniform", "randint"])
def test_a_clip_has_the_same_draws_on_any_number_of_devices_and_whatever_the_padding(name):
    arguments = {"bernoulli": (0.3,)}.get(name, ())
    sample = functools.partial(getattr(jax.random, name), jax.random.key(3), *arguments)
    if name == "randint":
        sample = functools.partial(sample, minval=0, maxval=1000)
    draws = [sample(shape=(13, 5))]
    for number in (1, 2, 4, 8):
        shape = (-(-13 // number) * number, 5)
        with dealt_over(data_mesh(jax.devices()[:number])):
            draws.append(undeal(draw_per_clip(sample, shape), number)[:13])
    for other in draws[1:]:
        np.testing.assert_array_equal(draws[0], other)
    # Dropout on the bags of padded rows, too.
    assert (sample(shape=(8, 7, 5))[:3] == sample(shape=(3, 7, 5))).all()
