"""Several devices: what they exchange in a train step, and that their number changes nothing else."""

import re
from itertools import pairwise

import jax
import numpy as np
import pytest
from helpers import make_corpus, placed_batches, small_config

from mgc_jax import modes
from mgc_jax.data.placement import HostClips
from mgc_jax.experiment import Experiment
from mgc_jax.runtime.devices import data_mesh, gather, replicate, shard
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
    """The compiled train step on all devices, as text, and the state it takes."""
    run = Experiment(config, folder / "run")
    phase = make_phase(run, classifier_only=False)
    state = initial_state(run, phase.optimizer)
    batch, clips, partners = next(placed_batches(phase.batches, run.clips, run.mesh, 0, 1))
    step = phase.train_step.lower(state, batch, clips, partners, jax.random.key(0))
    return step.compile().as_text(), state


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
        pytest.param({"model.pooling.name": "set_transformer"}, id="set transformer", marks=pytest.mark.slow),
    ],
)
def test_devices_exchange_gradients_and_moments_alone(tmp_path, corpus, changes):
    text, state = compiled_step(small_config(tmp_path, corpus, **changes), tmp_path)
    found = collectives(text)
    assert {name for name, _, _ in found} == {"all-reduce"}
    assert not any(looped for _, _, looped in found)
    sizes = [size for _, sizes, _ in found for size in sizes]
    arrays, scalars = [n for n in sizes if n > 4], [n for n in sizes if n <= 4]
    exchanged = jax.tree.leaves((state.params, state.batch_stats))
    wanted = sum(leaf.nbytes for leaf in exchanged) - without_gradient(state.params)
    # Every gradient once; mean and variance of every batch norm once. The set transformer: one of 1 KiB comes twice.
    assert sum(arrays) - wanted == (1024 if "model.pooling.name" in changes else 0)
    assert len(scalars) <= 8  # the sums that are logged, and how many clips the moments are of


def test_gradients_without_batch_norm_are_exchanged_in_one_go(tmp_path):
    corpus = make_corpus(clip_shape=(6,))
    config = small_config(tmp_path, corpus, **{"data.arrays.axes": "clip feature"})
    with config.unlocked():
        config.model.encoder = MLP
    found = collectives(compiled_step(config, tmp_path)[0])
    assert sum(any(size > 4 for size in sizes) for _, sizes, _ in found) == 1


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
        scores = run.predict("validation", state.evaluated, state.batch_stats).levels["bag"]
        curves.append((np.array(losses), scores))
    for losses, scores in curves[1:]:
        # Sums in another order; Adam's steps have the size of the rate also where a gradient is nearly nothing.
        np.testing.assert_allclose(losses, curves[0][0], rtol=1e-3)
        np.testing.assert_allclose(scores, curves[0][1], atol=1e-2)


def test_rows_are_dealt_and_gathered_in_order(corpus):
    mesh = data_mesh()
    assert [device.id for device in mesh.devices.flat] == sorted(device.id for device in jax.devices())
    index = np.random.default_rng(0).integers(0, len(corpus), (16, 3))
    clips = HostClips(corpus.clips, mesh)(index).take()
    assert len(clips.sharding.device_set) == 8
    np.testing.assert_array_equal(gather(clips), corpus.clips[index])
    stacked = shard(np.stack([index, index + 1]), mesh, axis=1)
    assert stacked.addressable_shards[0].data.shape == (2, 2, 3)
