"""Several steps per dispatch, what is compiled ahead, accumulated gradients, profiles, and the compilation cache."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import make_corpus, placed_batches, small_config
from jax.extend.core import jaxprs_in_params
from ml_collections import ConfigDict

from mgc_jax import modes
from mgc_jax.config.identity import differences
from mgc_jax.config.keys import to_json
from mgc_jax.data.bags import bags_of
from mgc_jax.data.batches import Batch, TrainBatches
from mgc_jax.data.feed import placed_dispatches
from mgc_jax.data.inputs import make_inputs
from mgc_jax.data.placement import DeviceClips, HostClips, PlacedClips
from mgc_jax.errors import UserError
from mgc_jax.experiment import Experiment
from mgc_jax.models.classifier import build_model, split_model
from mgc_jax.runtime import platform
from mgc_jax.runtime.compilation_cache import cache_folder
from mgc_jax.runtime.devices import data_mesh, replicate
from mgc_jax.runtime.platform import dealt_over
from mgc_jax.training import dispatch
from mgc_jax.training.accumulation import accumulated
from mgc_jax.training.checkpoint import Checkpoints, open_checkpoints
from mgc_jax.training.dispatch import Dispatcher, steps_per_dispatch
from mgc_jax.training.optimizer import make_optimizer
from mgc_jax.training.phases import initial_state, make_phase
from mgc_jax.training.step import make_loss, make_train_step
from mgc_jax.training.timetable import Timetable

MLP = {"name": "mlp", "hidden": (8,), "dropout": 0.2}
CNN = {"name": "cnn", "filters": (4, 4), "pools": ((2, 2), (4, 4))}  # no batch norm, no dropout


def config_with(folder, corpus, encoder, **changes):
    config = small_config(folder, corpus)
    config.data.arrays.axes = "clip time mel" if corpus.clips.ndim == 3 else "clip feature"
    config.model.encoder = ConfigDict(encoder)
    config.data.placement = "device"
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture
def features():
    return make_corpus(clip_shape=(12,))


@pytest.mark.parametrize(
    "timetable",
    [
        Timetable(60, 60, log_every=20, eval_every=20),
        Timetable(137, 200, log_every=20, eval_every=50, save_every=7),
        Timetable(50, 50, log_every=1000, eval_every=1000, profile=(11, 13)),
    ],
)
def test_a_dispatch_never_goes_past_a_step_after_which_there_is_something_to_do(timetable):
    last = timetable.total_steps
    for first in (0, 3, 59):
        acts = [s for s in range(first + 1, last + 1) if timetable.logs(s)]
        begin, end = timetable.profile
        acts += [s for s in (begin - 1, end) if first < s and end]
        if first < timetable.model_steps < last:
            acts.append(timetable.model_steps)
        assert timetable.stops(first, last) == sorted(set(acts))
        for length in (1, 3, 16):
            steps = timetable.dispatches(first, last, length)
            ends = first + np.cumsum(steps)
            assert set(steps) <= {1, length}
            assert ends[-1] == last if steps else first >= last
            assert set(timetable.stops(first, last)) <= set(ends.tolist())


def test_as_many_steps_per_dispatch_as_make_the_fewest_dispatches():
    assert Timetable(600, 600, log_every=20, eval_every=60).best_length(64) == 20
    assert Timetable(600, 600, log_every=100, eval_every=600).best_length(64) == 50  # twice, not 64 and 36 single ones
    assert Timetable(600, 600, log_every=1, eval_every=60).best_length(64) == 1
    uneven = Timetable(264, 264, log_every=20, eval_every=22)
    number = [len(uneven.dispatches(0, 264, length)) for length in range(1, 65)]
    assert len(uneven.dispatches(0, 264, uneven.best_length(64))) == min(number)


def test_how_many_steps_per_dispatch(tmp_path, features, caplog):
    config, timetable = config_with(tmp_path, features, MLP), Timetable(600, 600, log_every=20, eval_every=60)
    mesh = data_mesh(jax.devices()[:1])
    on_device, on_host = DeviceClips(features.clips, mesh), HostClips(features.clips, mesh)
    assert steps_per_dispatch(config, timetable, on_device, mesh) == 1  # this is a CPU
    config.train.steps_per_dispatch = 7
    assert steps_per_dispatch(config, timetable, on_device, mesh) == 7
    assert not caplog.records
    assert steps_per_dispatch(config, timetable, on_host, mesh) == 1
    assert "needs the corpus on the devices" in caplog.text


def test_what_only_says_how_a_run_is_run_may_change(tmp_path, features):
    config = config_with(tmp_path, features, MLP)
    before = to_json(config)
    config.update_from_flattened_dict({"train.steps_per_dispatch": 3, "profile.first": 1, "profile.last": 2})
    assert differences(config, before) == []
    config.train.accumulate = 2
    assert differences(config, before)


def weights(config, workdir, clip_shape):
    _, params, stats = split_model(build_model(config.model, clip_shape, 3, seed=config.seed))
    state = make_optimizer(config.optimizer, config.train.epochs, 1).initial_state(params, stats)
    with open_checkpoints(workdir, config.train.select, config.train.keep_checkpoints) as checkpoints:
        return jax.device_get(checkpoints.restore(checkpoints.latest_step(), state))


def test_several_steps_per_dispatch_train_as_one_by_one_and_resume(tmp_path, features, monkeypatch):
    changes = {"batch.clips": 16, "train.log_every_steps": 4, "train.checkpoint_every_steps": 7}
    config = config_with(tmp_path, features, MLP, **changes, **{"optimizer.ema": 0.5, "augment.mixup": 0.5})
    singly = modes.train(config, tmp_path / "one")
    config.train.steps_per_dispatch = 3
    called = []
    call = Dispatcher.__call__

    def counting(self, state, placed):
        called.append(placed.steps)
        return call(self, state, placed)

    class Stop(Exception):
        pass

    def save_and_stop(self, state, meta, metrics, save=Checkpoints.save):
        save(self, state, meta, metrics)
        if int(state.step) == 7:
            raise Stop

    monkeypatch.setattr(Dispatcher, "__call__", counting)
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_and_stop)
        with pytest.raises(Stop):
            modes.train(config, tmp_path / "three")
    together = modes.train(config, tmp_path / "three")
    assert set(called) == {1, 3}
    assert sum(called) == together["last_step"] == singly["last_step"]
    one, three = (weights(config, tmp_path / name, (12,)) for name in ("one", "three"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), one, three)
    lines = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "three")
    ]
    assert [line["step"] for line in lines[0]] == [line["step"] for line in lines[1]]
    for a, b in zip(*lines, strict=True):
        for name in a.keys() - {"train/clips_per_second"}:
            np.testing.assert_allclose(a[name], b[name], rtol=1e-4, atol=1e-6)


def test_divergence_is_named_at_the_same_step(tmp_path, features):
    changes = {"optimizer.name": "sgd", "optimizer.learning_rate": 1e38, "train.log_every_steps": 4}
    messages = []
    for number in (1, 3):
        config = config_with(tmp_path, features, MLP, **changes, **{"batch.clips": 16})
        config.train.steps_per_dispatch = number
        with pytest.raises(UserError, match="no longer finite at step") as raised:
            modes.train(config, tmp_path / f"run{number}")
        messages.append(str(raised.value))
    assert messages[0] == messages[1]


def ready(config, folder, steps=1):
    """A dispatcher, a state, and what to train on first."""
    run = Experiment(config, folder)
    phase = make_phase(run, classifier_only=False)
    dispatcher = Dispatcher(phase.train_step, jax.random.key(0), run.mesh)
    placed = next(placed_dispatches(phase.batches, run.clips, run.mesh, 0, [steps]))
    return dispatcher, initial_state(run, phase.optimizer), placed


def test_nothing_moves_between_host_and_devices_unnoticed(tmp_path, features):
    dispatcher, state, placed = ready(config_with(tmp_path, features, MLP), tmp_path / "run")
    dispatcher.compile(state, placed)
    for forgotten in (
        placed._replace(batch=jax.device_get(placed.batch)),
        placed._replace(clips=placed.clips.with_per_clip(np.asarray(placed.clips.index))),
    ):
        with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
            dispatcher(state, forgotten)
    state, sums = dispatcher(state, placed)
    assert int(state.step) == 1
    assert np.isfinite(sums["loss"])


@pytest.mark.parametrize("steps", [1, 2])
def test_the_step_is_compiled_ahead_and_its_memory_is_known(tmp_path, features, steps, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    dispatcher, state, placed = ready(config_with(tmp_path, features, MLP), tmp_path / "run", steps)
    assert not dispatcher.is_compiled(steps)
    with monkeypatch.context() as patch:
        patch.setattr(dispatch, "device_memory_limit", lambda mesh: 1000)
        with pytest.raises(UserError, match=r"GiB .*on each device, more than there is.*config\.train\.accumulate"):
            dispatcher.compile(state, placed)
    caplog.clear()
    dispatcher.compile(state, placed)
    assert dispatcher.is_compiled(steps)
    assert "compiled " + ("the train step" if steps == 1 else "a loop of 2 train steps") in caplog.text
    assert "memory per device: 0.00 GiB (state, batch and corpus" in caplog.text
    memory = dispatch.memory_of(dispatcher._programs[steps])
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + placed.clips.stored.nbytes
    assert held <= memory.arguments <= 1.2 * held + 10_000  # and the batch, dealt to the devices
    assert memory.total >= memory.arguments + memory.temporaries


def loss_parts(config, corpus, devices, clips=96, accumulate=1):
    mesh = data_mesh(devices)
    graph, params, stats = split_model(build_model(config.model, corpus.clips.shape[1:], 3, seed=0))
    batches = TrainBatches(
        bags_of(corpus, "train", "pair"), clips, seed=0, mixup=config.augment.mixup, accumulate=accumulate
    )
    ones = np.ones(3, np.float32)
    loss = make_loss(graph, make_inputs(config, corpus), config.loss, batches.weight_per_step, ones, 0 * ones)
    placed = next(placed_batches(batches, DeviceClips(corpus.clips, mesh), mesh, 0, 1))
    return loss, (replicate(params, mesh), replicate(stats, mesh), *placed, replicate(jax.random.key(0), mesh))


def dealt(function, devices):
    """The function, jitted, of clips that are dealt to devices."""

    @jax.jit
    def run(*arguments):
        with dealt_over(data_mesh(devices)):
            return function(*arguments)

    return run


@pytest.mark.parametrize("unroll", [True, False], ids=["unrolled", "loop"])
@pytest.mark.parametrize("devices", [1, pytest.param(8, marks=pytest.mark.devices(8))])
def test_accumulated_gradients_are_the_sum_over_the_micro_batches(tmp_path, corpus, unroll, devices):
    encoder = CNN if unroll else MLP
    corpus = corpus if unroll else make_corpus(clip_shape=(12,))
    config, devices = config_with(tmp_path, corpus, encoder, **{"augment.mixup": 0.5}), jax.devices()[:devices]
    loss, arguments = loss_parts(config, corpus, devices, clips=60, accumulate=3)
    (value, (_, sums)), gradients = dealt(accumulated(loss, 3, unroll=unroll), devices)(*arguments)
    params, stats, batch, clips, partners, key = arguments
    one, parts = dealt(jax.value_and_grad(loss, has_aux=True), devices), []
    for number, draw in enumerate(jax.random.split(key, 3)):
        part = jax.tree.map(lambda values, number=number: values[number], batch)
        micro, mixed_with = (placed.with_per_clip(placed.per_clip[number]) for placed in (clips, partners))
        parts.append(one(params, stats, part, micro, mixed_with, draw))
    assert float(value) > 0
    total = jax.tree.map(lambda *leaves: sum(leaves), *(gradient for _, gradient in parts))
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(total))
    assert scale > 0
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6 * scale), total, gradients)
    np.testing.assert_allclose(value, sum(float(part[0][0]) for part in parts), rtol=1e-5)
    for name, number in sums.items():
        np.testing.assert_allclose(number, sum(float(part[0][1][1][name]) for part in parts), rtol=1e-5)


@pytest.mark.parametrize("pooling", ["matt", "mean"])
def test_an_accumulated_step_is_the_step_on_its_micro_batches_together(tmp_path, features, pooling):
    changes = {"model.head_dropout": 0.0, "model.pooling.name": pooling}
    config = config_with(tmp_path, features, {**MLP, "dropout": 0.0}, **changes)
    config.optimizer.update(name="sgd", learning_rate=0.1, options=ConfigDict({"momentum": 0.9}))
    loss, (params, stats, batch, clips, _, key) = loss_parts(config, features, jax.devices(), accumulate=2)
    slots = batch.clip.shape[-1]
    at = batch.at + slots * np.arange(2, dtype=np.int32)[:, None, None]
    flat = jax.tree.map(lambda values: np.asarray(values).reshape(-1, *values.shape[2:]), batch._replace(at=at))
    together = DeviceClips(features.clips, data_mesh())(flat.clip)
    optimizer = make_optimizer(config.optimizer, 1, 10)
    after = []
    for accumulate, data in ((1, (flat, together)), (2, (batch, clips))):
        step = make_train_step(loss, optimizer, data_mesh(), accumulate=accumulate)
        state = replicate(optimizer.initial_state(params, stats), data_mesh())
        for _ in range(3):
            state, sums = step(state, *data, None, key)
        after.append((state, sums))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), *after)


def norm_loss(params, batch_stats, batch, clips, partners, key):
    """A loss whose statistics are those of batch norm: a moving average of the mean over the clips."""
    x = jnp.where(batch.real, clips.take(), 0)
    mean = x.sum() / jnp.maximum(batch.real.sum(), 1)
    sums = {"loss": (params["w"] * jnp.where(batch.real, x - mean, 0) ** 2).sum(), "clips": batch.real.sum()}
    return sums["loss"] / 7, ({"mean": 0.9 * batch_stats["mean"] + 0.1 * mean}, sums)


@pytest.mark.parametrize("unroll", [True, False], ids=["unrolled", "loop"])
def test_micro_batches_have_batch_statistics_of_their_own_and_empty_ones_none(unroll):
    rng = np.random.default_rng(0)
    corpus = rng.normal(size=20).astype(np.float32)
    index = rng.integers(0, 20, (3, 8))
    real = np.ones((3, 8), bool)
    real[1] = False  # the second of three micro-batches is empty
    zero = np.zeros((3, 1, 8), np.int32)
    batch = Batch(index, real, zero, zero, zero, zero, zero.astype(np.float32))
    params, stats = {"w": jnp.float32(2)}, {"mean": jnp.float32(1)}
    (value, (stats, sums)), gradients = jax.jit(accumulated(norm_loss, 3, unroll=unroll))(
        params, stats, batch, PlacedClips(jnp.asarray(corpus), jnp.asarray(index)), None, jax.random.key(0)
    )
    parts = [corpus[index[i]] for i in (0, 2)]
    squares = sum(((part - part.mean()) ** 2).sum() for part in parts)
    np.testing.assert_allclose(value, 2 * squares / 7, rtol=1e-5)
    np.testing.assert_allclose(gradients["w"], squares / 7, rtol=1e-5)
    moved = 0.9 * (0.9 * 1 + 0.1 * parts[0].mean()) + 0.1 * parts[1].mean()
    np.testing.assert_allclose(stats["mean"], moved, rtol=1e-5)
    assert int(sums["clips"]) == 16


@pytest.mark.parametrize(("unroll", "share"), [(True, 0.5), (False, 0.3)], ids=["unrolled", "loop"])
def test_accumulation_saves_memory(tmp_path, corpus, unroll, share, monkeypatch):
    monkeypatch.setattr(platform, "on_cpu", lambda: False)  # CPU forms hold little beside their own buffers
    config = config_with(tmp_path, corpus, CNN)
    optimizer, mesh = make_optimizer(config.optimizer, 1, 10), data_mesh(jax.devices()[:1])
    temporaries = []
    for accumulate in (1, 4):
        loss, arguments = loss_parts(config, corpus, jax.devices()[:1], accumulate=accumulate)
        state = optimizer.initial_state(*arguments[:2])
        step = make_train_step(loss, optimizer, mesh, accumulate=accumulate, unroll=unroll)
        temporaries.append(dispatch.memory_of(step.lower(state, *arguments[2:]).compile()).temporaries)
    assert temporaries[1] < share * temporaries[0]


@pytest.mark.parametrize(("changes", "key"), [({}, "clips=48"), ({"batch.clips": 50, "batch.bags": 12}, "bags=12")])
def test_batches_that_cannot_be_cut_into_micro_batches_are_named(tmp_path, features, changes, key):
    with pytest.raises(UserError, match=rf"config\.train\.accumulate=5 is invalid: .*divides config\.batch\.{key}"):
        small_config(tmp_path, features, **{"train.accumulate": 5, **changes})


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from equations(inner)


@pytest.mark.parametrize("encoder", ["crnn_tf", pytest.param("cnn", marks=pytest.mark.devices(8))])
def test_a_bfloat16_step_convolves_in_bfloat16_and_updates_in_float32(tmp_path, corpus, encoder, monkeypatch):
    monkeypatch.setattr(platform, "on_cpu", lambda: False)  # on CPUs they are products of matrices
    config = small_config(tmp_path, corpus, **{"model.dtype": "bfloat16"})
    if encoder == "cnn":
        config.model.encoder = ConfigDict(CNN)
    loss, arguments = loss_parts(config, corpus, jax.devices()[:1])
    optimizer = make_optimizer(config.optimizer, 1, 10)
    state = optimizer.initial_state(*arguments[:2])
    step = jax.make_jaxpr(make_train_step(loss, optimizer, data_mesh(jax.devices()[:1])))(state, *arguments[2:])
    found = list(equations(step.jaxpr))
    convolutions = [e for e in found if e.primitive.name == "conv_general_dilated"]
    assert len(convolutions) >= 4  # two blocks, and their gradients
    assert {v.aval.dtype.name for e in convolutions for v in e.invars} == {"bfloat16"}
    out = {v.aval.dtype.name for v in step.jaxpr.outvars[1 : 1 + len(jax.tree.leaves(state.params))]}
    assert out == {"float32"}
    assert not [v for e in found for v in e.outvars if getattr(v.aval, "dtype", None) == np.float64]


@pytest.mark.slow
def test_a_profile_names_its_steps_and_parts(tmp_path, features):
    changes = {"profile.first": 3, "profile.last": 4, "train.epochs": 4}
    modes.train(config_with(tmp_path, features, MLP, **changes), tmp_path / "run")
    (trace,) = (tmp_path / "run" / "profile").glob("plugins/profile/*/*.xplane.pb")
    (perfetto,) = (tmp_path / "run" / "profile").glob("plugins/profile/*/perfetto_trace.json.gz")
    assert perfetto.stat().st_size > 0
    profile = jax.profiler.ProfileData.from_file(str(trace))
    events = [event for plane in profile.planes for line in plane.lines for event in line.events]
    steps = [dict(event.stats).get("step_num") for event in events if event.name == "train_step"]
    assert sorted(steps) == [3, 4]
    assert {"data", "train", "evaluate", "checkpoint"} <= {event.name for event in events}


def test_the_cache_of_compiled_programs_is_in_the_users_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "mgc_jax" / "xla"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "mgc_jax" / "xla"


@pytest.mark.slow
def test_the_second_process_finds_what_the_first_one_compiled(tmp_path):
    program = (
        "import jax, jax.numpy as jnp, logging; from mgc_jax.runtime.compilation_cache import keep_compiled_programs\n"
        "keep_compiled_programs()\n"
        "hits = []; jax.monitoring.register_event_listener(lambda event, **_: hits.append('cache_hits' in event))\n"
        "loss = lambda x: jnp.tanh(jax.lax.conv(x, x, (1, 1), 'SAME')).sum()\n"
        "print(float(jax.jit(jax.grad(loss))(jnp.ones((3, 3, 8, 8)))[0, 0, 0, 0]), any(hits))"
    )

    def run(**changes):
        kept = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
        environment = {**kept, "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment | changes, capture_output=True, text=True, check=True
        )
        assert done.stderr == ""
        return done.stdout.split()

    first = run()
    kept = set((tmp_path / "mgc_jax" / "xla").iterdir())
    assert kept
    assert first[1] == "False"
    assert run() == [first[0], "True"]
    assert run(JAX_COMPILATION_CACHE_DIR="", XDG_CACHE_HOME=str(tmp_path / "off")) == first
    assert run(JAX_ENABLE_COMPILATION_CACHE="false", XDG_CACHE_HOME=str(tmp_path / "off")) == first
    assert not (tmp_path / "off").exists()
