import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from helpers import make_corpus, small_config
from ml_collections import ConfigDict

from mgc_jax import config as config_lib
from mgc_jax.checkpoint import open_checkpoints
from mgc_jax.data.bags import bags_of
from mgc_jax.data.batches import TrainBatches, pad_rows
from mgc_jax.data.corpus import standardization
from mgc_jax.errors import UserError
from mgc_jax.models.classifier import build_model
from mgc_jax.sharding import DeviceClips, HostClips, data_mesh, replicate, shard
from mgc_jax.state import initial_state, make_loss, make_optimizer, make_schedule, make_train_step, split_model
from mgc_jax.train import evaluate_workdir, train_and_evaluate
from mgc_jax.workdir import claim

ROOT = Path(__file__).parents[1]


def step_parts(config, corpus, devices, source):
    """Everything for one train step on the given devices."""
    mesh = data_mesh(devices)
    model = build_model(config.model, corpus.clips.shape[1:], len(corpus.genres), seed=0)
    graph, params, stats = split_model(model)
    batches = TrainBatches(bags_of(corpus, "train", "pair"), 8, 6, seed=0)
    loss = make_loss(graph, standardization(corpus, True), batches.bags_per_step)
    batch = batches(0)
    placed = shard(batch, mesh), source(corpus.clips, mesh)(batch.clip)
    return loss, replicate(params, mesh), replicate(stats, mesh), placed


@pytest.mark.parametrize("pooling", ["mean", "matt"])
@pytest.mark.parametrize("source", [DeviceClips, HostClips])
def test_the_same_batch_on_one_and_eight_devices(tmp_path, corpus, pooling, source):
    config = small_config(tmp_path, corpus, **{"model.pooling.name": pooling})
    results = []
    for devices, clips in ((jax.devices()[:1], DeviceClips), (jax.devices(), source)):
        loss, params, stats, (batch, arguments) = step_parts(config, corpus, devices, clips)
        run = jax.jit(jax.value_and_grad(loss, has_aux=True))
        results.append(jax.device_get(run(params, stats, batch, arguments, jax.random.key(0))))
    assert len(jax.devices()) == 8
    (one, gradients_one), (eight, gradients_eight) = results
    np.testing.assert_allclose(one[0], eight[0], rtol=1e-5)
    scale = float(optax.tree.norm(gradients_one))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6 * scale), gradients_one, gradients_eight)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one[1][0], eight[1][0])


@pytest.mark.slow
def test_training_learns_and_leaves_what_it_promises(tmp_path, capsys):
    config = small_config(tmp_path, make_corpus(num_clips=400), **{"train.epochs": 12})
    workdir = tmp_path / "run"
    results = train_and_evaluate(config, workdir)
    majority = results["splits"]["validation"]["majority_accuracy"]
    assert results["splits"]["validation"]["bag"]["accuracy"] > majority + 0.2
    assert results["splits"]["train"]["bag"]["accuracy"] > 0.8

    assert json.loads((workdir / "results.json").read_text()) == results
    assert set(results["splits"]) == {"train", "validation", "test"}
    for split in results["splits"].values():
        for view in ("clip", "clip_mean", "bag"):
            assert set(split[view]) >= {"accuracy", "macro_f1", "micro_ap"}
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    evaluations = {
        line["step"]: line["validation/bag/micro_ap"] for line in lines if "validation/bag/micro_ap" in line
    }
    assert len(evaluations) == 12
    assert evaluations[results["best_step"]] == max(evaluations.values())  # the best is kept and used
    assert list((workdir / "tensorboard").glob("events*"))
    table = capsys.readouterr().out
    assert "clip, bag average" in table
    assert "bag model" in table

    again = evaluate_workdir(config, workdir)
    for split in results["splits"]:
        assert again["splits"][split] == results["splits"][split]


def test_a_clip_level_model_has_no_bag_scores_but_the_average(tmp_path, corpus):
    config = small_config(tmp_path, corpus, **{"model.pooling.name": "none", "train.select": "clip/accuracy"})
    validation = train_and_evaluate(config, tmp_path / "run")["splits"]["validation"]
    assert "bag" not in validation
    assert {"clip", "clip_mean"} <= set(validation)


def test_a_corpus_without_validation_split_trains_to_the_last_step(tmp_path, corpus):
    split = np.where(corpus.split == "validation", "test", corpus.split)
    config = small_config(tmp_path, corpus.__class__(**{**vars(corpus), "split": split}))
    results = train_and_evaluate(config, tmp_path / "run")
    assert results["best_step"] == results["last_step"]
    assert results["selected_by"] == "last step"


def final_state(config, workdir, step=None):
    model = build_model(config.model, (40, 12), 3, seed=config.seed)
    _, params, stats = split_model(model)
    state = initial_state(params, stats, make_optimizer(config.optimizer, config.train.epochs, 1))
    with open_checkpoints(workdir, config.train.select, config.train.keep_checkpoints) as checkpoints:
        return jax.device_get(checkpoints.restore(step or checkpoints.latest_step(), state))


@pytest.mark.slow
def test_resuming_after_kill_9_gives_the_same_weights(tmp_path, corpus):
    config = small_config(tmp_path, corpus, **{"train.epochs": 40, "train.checkpoint_every_steps": 2})
    (tmp_path / "config.json").write_text(json.dumps(config_lib.to_json(config)))
    program = (
        "import json, sys, pathlib; from ml_collections import ConfigDict; from mgc_jax.train import *\n"
        "train_and_evaluate(ConfigDict(json.load(open(sys.argv[1]))), pathlib.Path(sys.argv[2]))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "config.json")]
    interrupted, whole = tmp_path / "interrupted", tmp_path / "whole"
    process = subprocess.Popen([*command, str(interrupted)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while sum(p.name.isdigit() for p in interrupted.glob("checkpoints/*")) < 2:  # it is in the middle of training
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (interrupted / "results.json").exists()

    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for workdir in (interrupted, whole):
        subprocess.run([*command, str(workdir)], check=True, capture_output=True, env=environment)
    one, two = (final_state(config, workdir) for workdir in (interrupted, whole))
    assert int(one.step) == int(two.step) > 40
    jax.tree.map(np.testing.assert_array_equal, one, two)  # bit for bit
    metrics = [
        [
            {k: v for k, v in json.loads(line).items() if "per_second" not in k}
            for line in (workdir / "metrics.jsonl").read_text().splitlines()
        ]
        for workdir in (interrupted, whole)
    ]
    steps = [[line["step"] for line in lines] for lines in metrics]
    assert steps[0] == sorted(steps[0])  # no line of the lost steps is left
    assert metrics[0] == metrics[1]


def test_a_finished_run_is_not_trained_again(tmp_path, corpus):
    config = small_config(tmp_path, corpus)
    first = train_and_evaluate(config, tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert train_and_evaluate(config, tmp_path / "run")["splits"] == first["splits"]
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == lines


def test_a_constant_rate_run_can_be_lengthened(tmp_path, corpus):
    config = small_config(tmp_path, corpus, **{"train.epochs": 2})
    short = train_and_evaluate(config, tmp_path / "run")
    config.train.epochs = 4
    assert train_and_evaluate(config, tmp_path / "run")["last_step"] == 2 * short["last_step"]
    config.train.epochs = 3
    with pytest.raises(UserError, match=r"more than the .* of config\.train\.epochs=3"):
        train_and_evaluate(config, tmp_path / "run")


@pytest.mark.parametrize(
    ("key", "value"),
    [("model.pooling.name", "mean"), ("seed", 1), ("batch.rows", 16), ("train.select", "clip/accuracy")],
)
def test_a_workdir_of_another_model_is_refused(tmp_path, corpus, key, value):
    config = small_config(tmp_path, corpus, **{"train.epochs": 1})
    train_and_evaluate(config, tmp_path / "run")
    before = sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir())
    config.update_from_flattened_dict({key: value})
    for job in (train_and_evaluate, evaluate_workdir):
        with pytest.raises(UserError, match=rf"another configuration \({key}"):
            job(config, tmp_path / "run")
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir()) == before


def test_a_run_that_never_began_does_not_bind_its_workdir(tmp_path, corpus):
    config = small_config(tmp_path, corpus, **{"train.epochs": 1})
    config.model.encoder.pools = ((2, 4), (0, 4))
    with pytest.raises(UserError, match="write two sizes per block"):
        train_and_evaluate(config, tmp_path / "run")
    config.model.encoder.pools = ((2, 4), (2, 4))
    train_and_evaluate(config, tmp_path / "run")


@pytest.mark.parametrize("content", ["", "{", "null"])
def test_a_damaged_config_json_is_named_and_can_be_deleted(tmp_path, corpus, content):
    config = small_config(tmp_path, corpus, **{"train.epochs": 1})
    first = train_and_evaluate(config, tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config\.json cannot be read"):
        train_and_evaluate(config, tmp_path / "run")
    (tmp_path / "run" / "config.json").unlink()
    assert train_and_evaluate(config, tmp_path / "run")["splits"] == first["splits"]
    (tmp_path / "run" / "config.json").unlink()
    config.seed = 5  # the checkpoints know it too
    with pytest.raises(UserError, match="seed: 0 there, 5 now"):
        train_and_evaluate(config, tmp_path / "run")


def test_a_workdir_of_another_corpus_is_refused(tmp_path, corpus):
    config = small_config(tmp_path, corpus, **{"train.epochs": 1})
    train_and_evaluate(config, tmp_path / "run")
    small_config(tmp_path, make_corpus(seed=9))  # overwrites the files
    before = (tmp_path / "run" / "config.json").read_text()
    config.eval.batch_clips = 8
    with pytest.raises(UserError, match="fingerprint"):
        train_and_evaluate(config, tmp_path / "run")
    assert (tmp_path / "run" / "config.json").read_text() == before


@pytest.mark.parametrize("rate", [1e30, 1e38])
def test_divergence_stops_the_run_and_no_checkpoint_is_poisoned(tmp_path, corpus, rate):
    changes = {"optimizer.name": "sgd", "optimizer.learning_rate": rate, "train.checkpoint_every_steps": 1}
    config = small_config(tmp_path, corpus, **changes)
    with pytest.raises(UserError, match="training diverged: loss or weights are no longer finite at step"):
        train_and_evaluate(config, tmp_path / "run")
    for step in (int(p.name) for p in (tmp_path / "run" / "checkpoints").glob("*") if p.name.isdigit()):
        state = final_state(config, tmp_path / "run", step)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


def test_a_workdir_is_for_one_process_at_a_time(tmp_path, corpus):
    config = small_config(tmp_path, corpus)
    with (
        claim(tmp_path / "run", config, create=True),
        pytest.raises(UserError, match="another process works in"),
    ):
        train_and_evaluate(config, tmp_path / "run")


def test_rows_that_do_not_divide_by_the_devices_are_padded(tmp_path, corpus):
    config = small_config(tmp_path, corpus, **{"batch.rows": 1, "batch.clips_per_row": 64, "train.epochs": 2})
    assert len(jax.devices()) == 8
    results = train_and_evaluate(config, tmp_path / "run")
    assert results["last_step"] == 4
    batch = TrainBatches(bags_of(corpus, "train", "pair"), 3, 32, seed=0)(0)
    padded = pad_rows(batch, 8)
    assert padded.clip.shape == (8, 32)
    for before, after in zip(batch, padded, strict=True):
        np.testing.assert_array_equal(after[:3], before)
        assert after.dtype == before.dtype
    assert (padded.segment[3:] == 32).all()
    assert not padded.weight[3:].any()


def test_schedule_warms_up_and_ends_at_zero():
    options = ConfigDict({"learning_rate": 0.1, "schedule": "cosine", "warmup_epochs": 0.5})
    schedule = make_schedule(options, epochs=4, steps_per_epoch=10)
    assert float(schedule(0)) == 0
    np.testing.assert_allclose(float(schedule(5)), 0.1, rtol=1e-6)
    np.testing.assert_allclose(float(schedule(5 + 35 / 2)), 0.05, rtol=0.1)
    np.testing.assert_allclose(float(schedule(40)), 0, atol=1e-7)


def test_sgd_with_weight_decay_is_pytorchs(tmp_path):
    options = ConfigDict({"name": "sgd", "learning_rate": 0.1, "schedule": "constant", "warmup_epochs": 0,
                          "weight_decay": 0.5, "clip_norm": 0.0})  # fmt: skip
    optimizer = make_optimizer(options, 1, 10)
    params, gradient = {"w": np.float32(2.0)}, {"w": np.float32(3.0)}
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    np.testing.assert_allclose(updates["w"], -0.1 * (3.0 + 0.5 * 2.0), rtol=1e-6)


def test_the_step_compiles_once(tmp_path, corpus):
    config = small_config(tmp_path, corpus)
    mesh = data_mesh()
    model = build_model(config.model, (40, 12), 3, seed=0)
    graph, params, stats = split_model(model)
    batches = TrainBatches(bags_of(corpus, "train", "pair"), 8, 6, seed=0)
    optimizer = make_optimizer(config.optimizer, 1, batches.steps_per_epoch)
    loss, traced = make_loss(graph, standardization(corpus, True), 1.0), []

    def counted(*arguments):
        traced.append(1)
        return loss(*arguments)

    step = make_train_step(counted, optimizer, seed=0)
    state = replicate(initial_state(params, stats, optimizer), mesh)
    clips = DeviceClips(corpus.clips, mesh)
    for number in range(4):
        batch = batches(number)
        state, _ = step(state, shard(batch, mesh), clips(batch.clip))
    assert len(traced) == 1
