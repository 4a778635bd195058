import dataclasses
import errno
import fcntl
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import make_corpus, placed_batches, small_config
from ml_collections import ConfigDict

from mgc_jax import modes
from mgc_jax.config import keys
from mgc_jax.config.loading import load_config
from mgc_jax.config.options import encoder_options, pooling_options
from mgc_jax.data.bags import bags_of
from mgc_jax.data.batches import TrainBatches, pad
from mgc_jax.data.inputs import make_inputs
from mgc_jax.data.open import open_corpus
from mgc_jax.data.placement import DeviceClips
from mgc_jax.data.standardization import standardization
from mgc_jax.errors import UserError
from mgc_jax.evaluation.predictions_file import PREDICTIONS_FILE, load_predictions
from mgc_jax.experiment import Experiment
from mgc_jax.export import export_workdir
from mgc_jax.inference import load_export
from mgc_jax.loading import load_model
from mgc_jax.models.classifier import build_model, split_model
from mgc_jax.runtime.devices import data_mesh
from mgc_jax.runtime.platform import dealt_over, in_order
from mgc_jax.runtime.workdir import claim
from mgc_jax.training.checkpoint import Checkpoints, open_checkpoints
from mgc_jax.training.optimizer import make_optimizer
from mgc_jax.training.phases import initial_state, make_phase
from mgc_jax.training.step import make_loss, make_train_step

ROOT = Path(__file__).parents[2]


AUGMENTED = {
    "augment.mixup": 0.5, "augment.noise": 0.1, "augment.crop_frames": 40, "augment.time_masks": 1,
    "augment.mel_masks": 1, "augment.mel_mask_bands": 3,
}  # fmt: skip


def loss_curve(config, corpus, devices, folder, steps=3):
    """The sums of some steps, and the state after them."""
    run = Experiment(config, folder, corpus=corpus, devices=jax.devices()[:devices])
    phase = make_phase(run, classifier_only=False)
    state, sums = initial_state(run, phase.optimizer), []
    for batch, clips, partners in placed_batches(phase.batches, run.clips, run.mesh, 0, steps):
        state, of_step = phase.train_step(state, batch, clips, partners, jax.random.key(0))
        sums.append(jax.device_get(of_step))
    return sums, jax.device_get(state)


@pytest.mark.devices(8)
@pytest.mark.parametrize(
    ("devices", "changes"),
    [
        ((2, 4, 8), {**AUGMENTED, "augment.crop_frames": 32}),
        ((8,), {"model.pooling.name": "mean", "data.placement": "host", "batch.clips": 30}),
        ((8,), {"augment.mixup": 0.5, "batch.clips": 100, "batch.bags": 30}),  # several rows
        ((8,), {"model.pooling.name": "none", "train.select": "clip/accuracy", "batch.clips": 21}),
        ((8,), {"augment.mixup": 0.5, "train.accumulate": 2, "batch.clips": 30}),
    ],
    ids=["matt augmented", "mean on the host", "rows", "none", "accumulated"],
)
def test_training_does_not_depend_on_the_number_of_devices(tmp_path, corpus, devices, changes):
    """Batch norm, dropout, augmentation: all as on one device."""
    changes = {"optimizer.name": "sgd", "optimizer.learning_rate": 0.1, **changes}
    config = small_config(tmp_path, corpus, **changes)
    config.model.encoder.dropout = 0.5
    assert config.model.head_dropout == 0.5
    assert len(jax.devices()) == 8
    (one, state), *others = (loss_curve(config, corpus, number, tmp_path) for number in (1, *devices))
    assert one[0]["loss"] != one[-1]["loss"]
    for sums, after in others:
        for mine, theirs in zip(one, sums, strict=True):
            assert mine["clips"] == theirs["clips"]
            np.testing.assert_allclose(mine["loss"], theirs["loss"], rtol=1e-5)
        for mine, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_training_learns_and_leaves_what_it_promises(tmp_path, capsys):
    config = small_config(tmp_path, make_corpus(num_clips=400), **{"train.epochs": 12})
    workdir = tmp_path / "run"
    results = modes.train(config, workdir, test=True)
    majority = results["splits"]["validation"]["majority_accuracy"]
    assert results["splits"]["validation"]["bag"]["accuracy"] > majority + 0.2
    assert results["splits"]["train"]["bag"]["accuracy"] > 0.8

    assert json.loads((workdir / "results.json").read_text()) == results
    assert set(results["splits"]) == {"train", "validation", "test"}
    assert results["test_evaluations"] == 1
    for split in results["splits"].values():
        for level in ("clip", "clip_mean", "bag"):
            assert set(split[level]) >= {"accuracy", "macro_f1", "micro_ap"}
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    evaluations = {
        line["step"]: line["validation/bag/micro_ap"] for line in lines if "validation/bag/micro_ap" in line
    }
    assert len(evaluations) == 12
    assert evaluations[results["best_step"]] == max(evaluations.values())  # the best is kept and used
    assert list((workdir / "tensorboard").glob("events*"))
    table = capsys.readouterr().out
    assert "clip mean" in table
    assert " bag " in table

    again = modes.evaluate(config, workdir)  # the test split's results stay, without another look
    assert again["splits"] == results["splits"]
    assert again["test_evaluations"] == 1
    assert modes.evaluate(config, workdir, test=True)["test_evaluations"] == 2


def test_a_clip_level_model_has_no_bag_scores_but_the_average(tmp_path, corpus):
    config = small_config(tmp_path, corpus, **{"model.pooling.name": "none", "train.select": "clip/accuracy"})
    validation = modes.train(config, tmp_path / "run")["splits"]["validation"]
    assert "bag" not in validation
    assert {"clip", "clip_mean"} <= set(validation)


def test_a_corpus_without_validation_split_trains_to_the_last_step(tmp_path, corpus):
    split = np.where(corpus.split == "validation", "test", corpus.split)
    config = small_config(tmp_path, corpus.__class__(**{**vars(corpus), "split": split}))
    results = modes.train(config, tmp_path / "run")
    assert results["best_step"] == results["last_step"]
    assert results["selected_by"] == "last step"


def final_state(config, workdir, step=None):
    model = build_model(config.model, (config.augment.crop_frames or 40, 12), 3, seed=config.seed)
    _, params, stats = split_model(model)
    state = make_optimizer(config.optimizer, config.train.epochs, 1).initial_state(params, stats)
    with open_checkpoints(workdir, config.train.select, config.train.keep_checkpoints) as checkpoints:
        return jax.device_get(checkpoints.restore(step or checkpoints.latest_step(), state))


@pytest.mark.slow
def test_resuming_after_kill_9_gives_the_same_weights(tmp_path, corpus):
    config = small_config(tmp_path, corpus, **{"train.epochs": 40, "train.checkpoint_every_steps": 2})
    (tmp_path / "config.json").write_text(json.dumps(keys.to_json(config)))
    program = (
        "import json, sys, pathlib; from ml_collections import ConfigDict; from mgc_jax import modes\n"
        "modes.train(ConfigDict(json.load(open(sys.argv[1]))), pathlib.Path(sys.argv[2]))"
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
    first = modes.train(config, tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert modes.train(config, tmp_path / "run")["splits"] == first["splits"]
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == lines


def test_a_constant_rate_run_can_be_lengthened(tmp_path, corpus):
    config = small_config(tmp_path, corpus, **{"train.epochs": 2})
    short = modes.train(config, tmp_path / "run")
    config.train.epochs = 4
    assert modes.train(config, tmp_path / "run")["last_step"] == 2 * short["last_step"]
    config.train.epochs = 3
    with pytest.raises(UserError, match=r"more than the .* of config\.train\.epochs=3"):
        modes.train(config, tmp_path / "run")


@pytest.mark.parametrize(
    ("key", "value"),
    [("model.pooling.name", "mean"), ("seed", 1), ("batch.clips", 16), ("train.select", "clip/accuracy")],
)
def test_a_workdir_of_another_model_is_refused(tmp_path, corpus, key, value):
    config = small_config(tmp_path, corpus, **{"train.epochs": 1})
    modes.train(config, tmp_path / "run")
    before = sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir())
    config.update_from_flattened_dict({key: value})
    for job in (modes.train, modes.evaluate):
        with pytest.raises(UserError, match=rf"another configuration \({key}"):
            job(config, tmp_path / "run")
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir()) == before


def test_a_run_that_never_began_does_not_bind_its_workdir(tmp_path, corpus):
    config = small_config(tmp_path, corpus, **{"train.epochs": 1})
    config.model.encoder.pools = ((2, 4), (0, 4))
    with pytest.raises(UserError, match="write two sizes per block"):
        modes.train(config, tmp_path / "run")
    config.model.encoder.pools = ((2, 4), (2, 4))
    modes.train(config, tmp_path / "run")


@pytest.mark.parametrize("content", ["", "{", "null"])
def test_a_damaged_config_json_is_named_and_can_be_deleted(tmp_path, corpus, content):
    config = small_config(tmp_path, corpus, **{"train.epochs": 1})
    first = modes.train(config, tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config\.json cannot be read"):
        modes.train(config, tmp_path / "run")
    (tmp_path / "run" / "config.json").unlink()
    assert modes.train(config, tmp_path / "run")["splits"] == first["splits"]
    (tmp_path / "run" / "config.json").unlink()
    config.seed = 5  # the checkpoints know it too
    with pytest.raises(UserError, match="seed: 0 there, 5 now"):
        modes.train(config, tmp_path / "run")


def test_a_workdir_of_another_corpus_is_refused(tmp_path, corpus):
    config = small_config(tmp_path, corpus, **{"train.epochs": 1})
    results = modes.train(config, tmp_path / "run")
    (meta, *_) = (tmp_path / "run" / "checkpoints").glob("*/meta/metadata")
    digests = json.loads(meta.read_text())["clips_digest"], results["clips_digest"]
    assert digests == (open_corpus(config.data).clips_digest,) * 2
    small_config(tmp_path, make_corpus(seed=9))  # overwrites the files
    before = (tmp_path / "run" / "config.json").read_text()
    config.eval.batch_clips = 8
    with pytest.raises(UserError, match="fingerprint"):
        modes.train(config, tmp_path / "run")
    assert (tmp_path / "run" / "config.json").read_text() == before


@pytest.mark.parametrize("rate", [1e30, 1e38])
def test_divergence_stops_the_run_and_no_checkpoint_is_poisoned(tmp_path, corpus, rate):
    changes = {"optimizer.name": "sgd", "optimizer.learning_rate": rate, "train.checkpoint_every_steps": 1}
    config = small_config(tmp_path, corpus, **changes)
    with pytest.raises(UserError, match="training diverged: loss or weights are no longer finite at step"):
        modes.train(config, tmp_path / "run")
    for step in (int(p.name) for p in (tmp_path / "run" / "checkpoints").glob("*") if p.name.isdigit()):
        state = final_state(config, tmp_path / "run", step)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


def test_a_workdir_is_for_one_process_at_a_time(tmp_path, corpus):
    config = small_config(tmp_path, corpus)
    with (
        claim(tmp_path / "run", config, create=True),
        pytest.raises(UserError, match="another process works in"),
    ):
        modes.train(config, tmp_path / "run")


@pytest.mark.parametrize("key", ["paper", "published"])
def test_the_true_genre_parts_the_bags_of_training_but_not_those_that_select(tmp_path, corpus, key):
    mixed = dataclasses.replace(corpus, album=(corpus.track_id // 2).astype(str), artist=np.full(len(corpus), "a"))
    run = Experiment(small_config(tmp_path, mixed, **{"data.bag_key": key}), tmp_path / "run")

    def parted(bags):
        return all(len(np.unique(mixed.label[bags.take(np.array([i])).clips])) == 1 for i in range(len(bags)))

    assert parted(run.train_bags)
    assert {split: parted(bags) for split, bags in run.bags.items()} == {
        "train": key == "published", "validation": key == "published", "test": False
    }  # fmt: skip


def test_weights_keep_the_standardization_that_they_were_trained_with(tmp_path, corpus, monkeypatch):
    """As those of earlier versions, which took it from a sample."""
    config, workdir = small_config(tmp_path, corpus, **{"train.epochs": 1}), tmp_path / "run"

    def other(corpus, *_):
        statistics = standardization(corpus, True)
        return dataclasses.replace(statistics, mean=statistics.mean - 0.5, std=2 * statistics.std)

    with monkeypatch.context() as patch:
        patch.setattr("mgc_jax.data.inputs.standardization", other)
        trained = modes.train(config, workdir)
        config.train.epochs = 2
        longer = modes.train(config, tmp_path / "longer")
    config.train.epochs = 1
    assert modes.evaluate(config, workdir)["splits"] == trained["splits"]
    config.train.epochs = 2
    assert modes.train(config, workdir)["splits"] == longer["splits"]


def test_a_workdir_can_be_on_a_file_system_without_locks(tmp_path, corpus, monkeypatch, caplog):
    def flock(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with claim(tmp_path / "run", small_config(tmp_path, corpus), create=True):
        assert "has no locks (No locks available)" in caplog.text


def test_a_checkpoint_says_what_resampled_the_audio(tmp_path, corpus):
    resampled = dataclasses.replace(corpus, resampler="soxr HQ, soxr 1.1.0")
    run = Experiment(small_config(tmp_path, corpus), tmp_path / "run", corpus=resampled)
    assert run.meta({}).resampler == "soxr HQ, soxr 1.1.0"


def in_rows(saved, rows, clips_per_row):
    """A configuration as earlier versions saved it."""
    batch = {key: value for key, value in saved["batch"].items() if key not in ("clips", "bags")}
    return saved | {"batch": batch | {"rows": rows, "clips_per_row": clips_per_row}}


@pytest.mark.parametrize(("rows", "clips_per_row"), [(1, 48), (8, 6)])
def test_a_run_of_before_goes_on_where_its_batches_are_the_same(tmp_path, corpus, monkeypatch, rows, clips_per_row):
    config, workdir = small_config(tmp_path, corpus, **{"train.epochs": 2}), tmp_path / "run"
    whole = modes.train(config, tmp_path / "whole")
    to_json = keys.to_json
    with monkeypatch.context() as patch:
        patch.setattr(keys, "to_json", lambda config: in_rows(to_json(config), rows, clips_per_row))
        config.train.epochs = 1
        modes.train(config, workdir)
    assert json.loads((workdir / "config.json").read_text())["batch"]["clips_per_row"] == clips_per_row
    evaluated = modes.evaluate(load_config(workdir), workdir)  # as --workdir alone
    assert evaluated["last_step"] == whole["last_step"] // 2
    assert load_model(modes.export(load_config(workdir), workdir)).genres == corpus.genres
    longer = load_config(workdir, {"train.epochs": 2})
    assert longer.batch.clips == 48
    if rows == 1:
        assert modes.train(longer, workdir)["splits"] == whole["splits"]
        return
    with pytest.raises(
        UserError, match=r"^the run in .* can be evaluated .* but not trained on; give a new --workdir"
    ):
        modes.train(longer, workdir)


def test_the_step_compiles_once(tmp_path, corpus):
    config = small_config(tmp_path, corpus)
    run = Experiment(config, tmp_path / "run")
    phase, traced = make_phase(run, classifier_only=False), []
    ones = np.ones(3, np.float32)
    loss = make_loss(run.graph, run.inputs, config.loss, 1.0, ones, 0 * ones)

    def counted(*arguments):
        traced.append(1)
        return loss(*arguments)

    step = make_train_step(counted, phase.optimizer, run.mesh)
    state = initial_state(run, phase.optimizer)
    for batch, clips, partners in placed_batches(phase.batches, run.clips, run.mesh, 0, 4):
        state, _ = step(state, batch, clips, partners, jax.random.key(0))
    assert len(traced) == 1


EVERYTHING = {
    "batch.sampling": "sqrt", "batch.sub_bags": True, "loss.name": "focal", "loss.label_smoothing": 0.1,
    "loss.bag_weight": "size", "loss.class_weights": "class_balanced", "optimizer.ema": 0.8,
    "optimizer.plateau_factor": 0.5, "optimizer.plateau_patience": 4, "optimizer.warmup_epochs": 0.5,
    "model.dtype": "bfloat16", **AUGMENTED, "augment.crop_frames": 32,
}  # fmt: skip


@pytest.mark.slow
def test_all_options_at_once_learn_and_resume_bit_for_bit(tmp_path, monkeypatch):
    corpus = make_corpus(num_clips=300)
    # Wide enough to learn in spite of all that (narrower ones fail for half of the seeds), and a seed with a margin:
    # clip means of five seeds get 0.56 to 1.0.
    wide = {"model.encoder.filters": (8, 8), "model.encoder.gru_units": 8, "model.encoder.features": 16}
    changes = {**EVERYTHING, **wide, "train.epochs": 12, "train.classifier_epochs": 3, "seed": 2}
    config = small_config(tmp_path, corpus, **changes)
    whole = modes.train(config, tmp_path / "whole")
    validation = whole["splits"]["validation"]
    assert validation["clip_mean"]["accuracy"] > validation["majority_accuracy"] + 0.15

    class Stop(Exception):
        pass

    steps = whole["last_step"] // 15
    for stop in (3 * steps, 12 * steps, 13 * steps):  # in the first phase, between the phases, in the second
        save = Checkpoints.save

        def save_and_stop(self, state, meta, metrics, stop=stop, save=save):
            save(self, state, meta, metrics)
            if int(state.step) == stop:
                raise Stop

        with monkeypatch.context() as patch:
            patch.setattr(Checkpoints, "save", save_and_stop)
            with pytest.raises(Stop):
                modes.train(config, tmp_path / "interrupted")
    again = modes.train(config, tmp_path / "interrupted")
    assert again["splits"] == whole["splits"]
    assert again["best_step"] == whole["best_step"] > 12 * steps  # of the last phase
    one, two = (final_state(config, tmp_path / name) for name in ("whole", "interrupted"))
    jax.tree.map(np.testing.assert_array_equal, one, two)


def test_training_the_classifier_again_leaves_the_rest_alone(tmp_path, corpus):
    changes = {"train.epochs": 2, "train.classifier_epochs": 2, "train.keep_checkpoints": 9}
    changes |= {"optimizer.name": "adamw", "optimizer.weight_decay": 0.1}
    config = small_config(tmp_path, corpus, **changes)
    results = modes.train(config, tmp_path / "run")
    per_epoch = results["last_step"] // 4
    with open_checkpoints(tmp_path / "run", config.train.select, 9) as checkpoints:
        assert checkpoints.best_step() > 2 * per_epoch
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    first = {n["step"]: n["validation/bag/micro_ap"] for n in lines if "validation/bag/micro_ap" in n}
    best = max((step for step in first if step <= 2 * per_epoch), key=lambda step: (first[step], step))
    before, after = final_state(config, tmp_path / "run", best), final_state(config, tmp_path / "run")
    for part in ("encoder", "pooling"):
        jax.tree.map(np.testing.assert_array_equal, before.params[part], after.params[part])
    jax.tree.map(np.testing.assert_array_equal, before.batch_stats, after.batch_stats)
    assert not np.allclose(before.params["head"]["kernel"], after.params["head"]["kernel"])


def test_bfloat16_keeps_weights_and_statistics_in_float32(tmp_path, corpus):
    config = small_config(tmp_path, corpus, **{"model.dtype": "bfloat16", "train.epochs": 1})
    modes.train(config, tmp_path / "run")
    state = final_state(config, tmp_path / "run")
    assert {leaf.dtype for leaf in jax.tree.leaves((state.params, state.batch_stats))} == {np.dtype("float32")}


def test_post_hoc_adjustment_divides_by_the_prior(tmp_path, corpus):
    config = small_config(tmp_path, corpus)
    scores = []
    for tau in (0.0, 1.0):
        config.eval.logit_adjustment = tau
        run = Experiment(config, tmp_path / "run")
        state = initial_state(run, make_optimizer(config.optimizer, 1, 10))
        scores.append(run.predict("validation", *state.evaluated))
    prior = np.bincount(bags_of(corpus, "train", "pair").label, minlength=3)
    for level in ("clip", "bag"):
        expected = np.exp(scores[0].levels[level]) / prior
        expected /= expected.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(np.exp(scores[1].levels[level]), expected, rtol=1e-4)


def test_evaluation_may_be_adjusted_after_training(tmp_path, corpus):
    config = small_config(tmp_path, corpus, **{"train.epochs": 1})
    modes.train(config, tmp_path / "run")
    config.eval.logit_adjustment = 1.0
    modes.evaluate(config, tmp_path / "run")
    with pytest.raises(UserError, match=r"another configuration \(eval\.logit_adjustment"):
        modes.train(config, tmp_path / "run")  # which checkpoint is best depends on it


def test_a_plateau_needs_a_validation_split(tmp_path, corpus):
    split = np.where(corpus.split == "validation", "test", corpus.split)
    changes = {"optimizer.plateau_factor": 0.5}
    config = small_config(tmp_path, corpus.__class__(**{**vars(corpus), "split": split}), **changes)
    with pytest.raises(UserError, match="no validation split"):
        Experiment(config, tmp_path / "run")


@pytest.mark.parametrize(
    ("key", "value"), [("model.encoder.name", "crn"), ("model.pooling.name", "mat"), ("optimizer.name", "adm")]
)
def test_a_mistyped_name_shows_before_the_corpus_is_read(tmp_path, corpus, key, value):
    config = small_config(tmp_path, corpus, **{key: value})
    (tmp_path / "clips.npz").unlink()
    with pytest.raises(UserError, match=f"{value}.*choose one of"):
        modes.train(config, tmp_path / "run")


def test_inputs_in_evaluation_are_standardized_middle_crops(tmp_path, corpus):
    config = small_config(
        tmp_path, corpus, **{"augment.crop_frames": 30, "augment.noise": 9.0, "augment.mel_masks": 2}
    )
    inputs = make_inputs(config, corpus)
    assert inputs.clip_shape == (30, 12)
    statistics = standardization(corpus, True)
    expected = (corpus.clips[:5, 5:35].astype(np.float32) - statistics.mean) / statistics.std
    np.testing.assert_allclose(inputs.evaluation(corpus.clips[:5]), expected, rtol=1e-4, atol=1e-5)


def test_a_model_that_is_trained_on_crops_can_be_evaluated_on_whole_clips(tmp_path, corpus):
    changes = {"augment.crop_frames": 20, "eval.crop": "whole", "train.epochs": 1}
    config = small_config(tmp_path, corpus, **changes)
    config.model.encoder = encoder_options("crnn_pooled", filters=(2,), pools=((2, 2),), features=3, gru_units=2)
    inputs = make_inputs(config, corpus)
    assert inputs.clip_shape == (20, 12)
    assert inputs.evaluation(corpus.clips[:5]).shape == (5, 40, 12)
    modes.train(config, tmp_path / "run")
    exported = load_export(export_workdir(config, tmp_path / "run"))
    rows = corpus.indices("validation")[:3]
    clips = corpus.clips[rows]
    scores, _ = exported(clips, np.arange(3))
    for part in (slice(0, 10), slice(30, 40)):  # what the middle crop does not see
        changed = clips.copy()
        changed[:, part] += 5
        assert np.abs(scores - exported(changed, np.arange(3))[0]).max() > 1e-4
    config.model.encoder = encoder_options("crnn", filters=(2,), pools=((2, 2),), gru_units=2)
    with pytest.raises(UserError, match=r"eval\.crop='whole' .* crnn takes clips of one length"):
        modes.train(config, tmp_path / "other")


def test_a_model_that_scores_clips_too_is_evaluated_and_exported_alike(tmp_path, corpus):
    config = small_config(
        tmp_path, corpus, **{"model.clips_too": True, "batch.sub_bags": True, "train.select": "last"}
    )
    config.model.pooling = pooling_options("set_transformer", width=8, heads=2)
    config.batch.bags = 0
    modes.train(config, tmp_path / "run")
    found = load_predictions(tmp_path / "run" / PREDICTIONS_FILE).of_split("validation")
    exported = load_export(export_workdir(config, tmp_path / "run"))
    rows = np.searchsorted(corpus.track_id, found.track_id)
    scores, _ = exported(corpus.clips[rows], found.bag)
    np.testing.assert_allclose(scores[found.bag], found.bag_scores, atol=1e-4)
    assert "last" in (tmp_path / "run" / "export" / "MODEL_CARD.md").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"augment.crop_frames": 41}, "crop_frames=41, but a clip is 40 x 12"),
        ({"model.frontend": "mel_1360x96"}, "from audio, but a clip of this corpus is 40 x 12"),
    ],
)
def test_inputs_that_do_not_fit_the_corpus_are_named(tmp_path, corpus, changes, message):
    config = small_config(tmp_path, corpus, **changes)
    with pytest.raises(UserError, match=message):
        make_inputs(config, corpus)


def test_masks_are_for_spectrograms(tmp_path):
    corpus = make_corpus(clip_shape=(6,))
    config = small_config(tmp_path, corpus, **{"augment.mel_masks": 1})
    with pytest.raises(UserError, match="are for spectrograms"):
        make_inputs(config, corpus)


def test_mixup_mixes_the_standardized_clips(tmp_path, corpus):
    config = small_config(tmp_path, corpus, **{"augment.mixup": 0.5})
    inputs, mesh = make_inputs(config, corpus), data_mesh()
    batch = pad(TrainBatches(bags_of(corpus, "train", "pair"), 48, seed=0, mixup=0.5)(0), mesh.size)
    clips = DeviceClips(corpus.clips, mesh)

    @jax.jit
    def mix(batch, clips, partners):
        with dealt_over(mesh):
            return in_order(inputs.training(batch, clips.take(), partners.take(), jax.random.key(0)))

    mixed = mix(batch, clips(batch.clip), clips(batch.mix.clip))
    one, other = (inputs.evaluation(corpus.clips[index]) for index in (batch.clip, batch.mix.clip))
    for clip in np.flatnonzero(batch.real):
        share = batch.mix.share_of_clip[clip]
        assert share >= 0.5
        np.testing.assert_allclose(mixed[clip], share * one[clip] + (1 - share) * other[clip], rtol=1e-4, atol=1e-5)


MLP = ConfigDict({"name": "mlp", "hidden": (8,)})


def mlp_config(folder, corpus, **changes):
    """A configuration that trains in a second or two."""
    config = small_config(folder, corpus, **{"data.arrays.axes": "clip feature"})
    config.model.encoder = MLP.copy_and_resolve_references()
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture
def vectors():
    return make_corpus(clip_shape=(6,))


def test_more_epochs_stretch_a_schedule_that_depends_on_the_length(tmp_path, vectors, caplog):
    config = mlp_config(tmp_path, vectors, **{"train.epochs": 2, "optimizer.schedule": "cosine"})
    short = modes.train(config, tmp_path / "run")
    assert "rescaled" not in caplog.text
    config.train.epochs = 4
    assert modes.train(config, tmp_path / "run")["last_step"] == 2 * short["last_step"]
    assert (
        f"config.train.epochs was 2 and is now 4: the schedule cosine is rescaled, the learning rate at step "
        f"{short['last_step']} is 0.005 instead of 0" in caplog.text
    )
    caplog.clear()
    modes.train(config, tmp_path / "run")
    assert "rescaled" not in caplog.text  # said once
    assert json.loads((tmp_path / "run" / "config.json").read_text())["train"]["epochs"] == 4


@pytest.mark.parametrize(
    ("pooling", "told"),
    [
        ({"name": "mean"}, False),
        ({"name": "matt", "train_query": "own"}, False),
        ({"name": "matt"}, True),
        ({"name": "hierarchical_matt"}, True),
    ],
    ids=lambda value: "-".join(value.values()) if isinstance(value, dict) else "",
)
def test_the_accuracy_in_training_is_that_of_evaluation_or_has_another_name(tmp_path, vectors, pooling, told, caplog):
    """With weights that do not move: by clips, as in the results, though every bag counts as one in the loss."""
    config = mlp_config(
        tmp_path, vectors,
        **{"train.epochs": 1, "train.log_every_steps": 2, "optimizer.learning_rate": 1e-12, "model.head_dropout": 0.0},
    )  # fmt: skip
    config.model.encoder.hidden = ()
    config.model.pooling = ConfigDict(pooling)
    caplog.set_level("INFO", "mgc_jax")
    results = modes.train(config, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    (logged,) = [line for line in lines if "train/loss" in line]
    assert ("train/accuracy_told_genre" in logged) == told == ("train/accuracy" not in logged)
    assert (", train accuracy (told the genre) 0." in caplog.text) == told
    if not told:
        assert logged["train/accuracy"] == pytest.approx(results["splits"]["train"]["bag"]["accuracy"])
        assert results["splits"]["train"]["bag"]["bag_accuracy"] != results["splits"]["train"]["bag"]["accuracy"]


def test_a_longer_run_with_a_constant_rate_is_that_of_the_length(tmp_path, vectors, caplog):
    config = mlp_config(tmp_path, vectors, **{"train.epochs": 3})
    modes.train(config, tmp_path / "whole")
    config.train.epochs = 1
    modes.train(config, tmp_path / "run")
    config.train.epochs = 3
    modes.train(config, tmp_path / "run")
    assert "rescaled" not in caplog.text
    one, two = (mlp_state(config, tmp_path / name) for name in ("run", "whole"))
    jax.tree.map(np.testing.assert_array_equal, one, two)


def test_a_run_that_goes_on_with_another_form_of_the_gru_says_so(tmp_path, vectors, monkeypatch, caplog):
    config = mlp_config(tmp_path, vectors, **{"train.epochs": 1})
    monkeypatch.setattr("mgc_jax.experiment.gru_form", lambda model: "kernel")
    step = modes.train(config, tmp_path / "run")["last_step"]
    config.train.epochs = 2
    monkeypatch.setattr("mgc_jax.experiment.gru_form", lambda model: "scan")
    modes.train(config, tmp_path / "run")
    assert f"the GRUs ran as a kernel up to step {step} and run as a scan from there on" in caplog.text
    caplog.clear()
    config.train.epochs = 3
    modes.train(config, tmp_path / "run")
    assert "GRU" not in caplog.text


def test_a_classifier_that_was_trained_again_is_not_taken_back(tmp_path, vectors):
    config = mlp_config(tmp_path, vectors, **{"train.epochs": 1, "train.classifier_epochs": 1})
    modes.train(config, tmp_path / "run")
    config.train.epochs = 2
    with pytest.raises(UserError, match=r"another configuration \(train\.epochs: 1 there, 2 now\)"):
        modes.train(config, tmp_path / "run")


def mlp_state(config, workdir, step=None):
    _, params, stats = split_model(build_model(config.model, (6,), 3, seed=config.seed))
    state = make_optimizer(config.optimizer).initial_state(params, stats)
    with open_checkpoints(workdir, config.train.select, config.train.keep_checkpoints) as checkpoints:
        return jax.device_get(checkpoints.restore(step or checkpoints.latest_step(), state))


def meta_of(config, workdir):
    with open_checkpoints(workdir, config.train.select, config.train.keep_checkpoints) as checkpoints:
        return checkpoints.meta(checkpoints.latest_step())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The configuration, the workdir and the export of a short run on feature vectors."""
    folder = tmp_path_factory.mktemp("trained")
    config = mlp_config(folder, make_corpus(clip_shape=(6,)), **{"train.epochs": 2, "optimizer.ema": 0.5})
    modes.train(config, folder / "run")
    return config, folder / "run", modes.export(config, folder / "run")


@pytest.mark.parametrize("source", [1, 2], ids=["workdir", "export"])
def test_a_run_starts_from_the_best_weights_of_another(tmp_path, vectors, trained, source):
    changes = {"train.init_from": str(trained[source]), "optimizer.learning_rate": 1e-30, "train.epochs": 1}
    config = mlp_config(tmp_path, vectors, **changes, **{"model.head_dropout": 0.2, "seed": 3})
    results = modes.train(config, tmp_path / "run")
    with open_checkpoints(trained[1], config.train.select) as checkpoints:
        best = checkpoints.best_step()
    theirs = mlp_state(trained[0], trained[1], best)
    jax.tree.map(np.testing.assert_array_equal, mlp_state(config, tmp_path / "run").params, theirs.evaluated[0])
    origin = meta_of(config, tmp_path / "run").init_from
    assert origin == {
        "path": str(trained[source]), "step": best, "corpus": "arrays", "fingerprint": results["fingerprint"],
        "reset": [],
    }  # fmt: skip
    config.train.epochs = 2  # resumes; the source is not needed any more
    shutil.move(trained[source], tmp_path / "gone")
    try:
        assert modes.train(config, tmp_path / "run")["last_step"] == 2 * results["last_step"]
    finally:
        shutil.move(tmp_path / "gone", trained[source])
    assert meta_of(config, tmp_path / "run").init_from == origin
    config.train.init_from = ""
    with pytest.raises(UserError, match=r"another configuration \(train\.init_from"):
        modes.train(config, tmp_path / "run")


def test_other_genres_start_with_a_new_head(tmp_path, vectors, trained, caplog):
    caplog.set_level(logging.INFO)
    others = dataclasses.replace(vectors, genres=("Rock", "Folk", "Blues"))
    config = mlp_config(tmp_path, others, **{"train.init_from": str(trained[1]), "optimizer.learning_rate": 1e-30})
    config.train.epochs = 1
    modes.train(config, tmp_path / "run")
    assert "the head is reset: other genres" in caplog.text
    state = mlp_state(config, tmp_path / "run")
    with open_checkpoints(trained[1], config.train.select) as checkpoints:
        theirs = mlp_state(trained[0], trained[1], checkpoints.best_step())
    jax.tree.map(np.testing.assert_array_equal, state.params["encoder"], theirs.evaluated[0]["encoder"])
    _, fresh, _ = split_model(build_model(config.model, (6,), 3, seed=config.seed))
    np.testing.assert_array_equal(state.params["head"]["kernel"], fresh["head"]["kernel"])
    assert meta_of(config, tmp_path / "run").init_from["reset"][-1] == "head"


def test_another_pooling_keeps_encoder_and_head(tmp_path, vectors, trained, caplog):
    caplog.set_level(logging.INFO)
    config = mlp_config(tmp_path, vectors, **{"train.init_from": str(trained[1]), "train.epochs": 1})
    config.model.pooling = ConfigDict({"name": "gated_attention"})
    modes.train(config, tmp_path / "run")
    assert "the pooling is reset" in caplog.text
    assert meta_of(config, tmp_path / "run").init_from["reset"] == ["pooling"]


def test_another_encoder_cannot_start_from_these_weights(tmp_path, vectors, trained):
    config = mlp_config(tmp_path, vectors, **{"train.init_from": str(trained[1])})
    config.model.encoder.hidden = (9,)
    with pytest.raises(
        UserError, match=r"has another encoder \(mlp\) than this run \(mlp\): .* there, .* here\. Give"
    ):
        modes.train(config, tmp_path / "run")
    config.train.init_from = str(tmp_path / "nowhere")
    with pytest.raises(UserError, match="nowhere is neither the folder of a run nor that of an export"):
        modes.train(config, tmp_path / "run")


def test_two_trainings_in_one_process_leave_it_as_it_was(tmp_path, vectors, capsys):
    config = mlp_config(tmp_path, vectors, **{"train.epochs": 1})
    loggers = [logging.getLogger(name) for name in ("", "mgc_jax", "tfds_fma")]

    def process():
        return (
            signal.getsignal(signal.SIGTERM), dict(os.environ), dict(jax.config.values), sys.excepthook,
            [(logger.level, [*logger.handlers], logger.propagate) for logger in loggers], threading.active_count(),
        )  # fmt: skip

    modes.train(config, tmp_path / "first")  # libraries start threads of their own
    before = process()
    results = [modes.train(config, str(tmp_path / name)) for name in ("run", "other", "run")]
    assert results[0]["splits"] == results[1]["splits"] == results[2]["splits"]
    assert process() == before
    shown = capsys.readouterr().err  # nobody has set logging up, as in a notebook
    for line in ("compiling the train step ...", "epoch 1/1: loss", "evaluating the checkpoint of step"):
        assert line in shown
    thread = threading.Thread(target=lambda: results.append(modes.train(config, tmp_path / "elsewhere")))
    thread.start()
    thread.join()
    assert results[3]["splits"] == results[0]["splits"]


def test_a_run_that_fails_leaves_no_threads(tmp_path, vectors):
    config = mlp_config(tmp_path, vectors, **{"train.epochs": 1})
    modes.train(config, tmp_path / "first")
    before = threading.active_count()
    config.optimizer.update(name="sgd", learning_rate=1e38)
    with pytest.raises(UserError, match="training diverged") as kept:  # a notebook keeps the traceback
        modes.train(config, tmp_path / "run")
    assert kept.traceback
    deadline = time.monotonic() + 20
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


@pytest.mark.devices(2)
def test_a_run_that_goes_on_on_other_devices_says_so(tmp_path, vectors, monkeypatch, caplog):
    monkeypatch.setenv("NPROC", "2")
    threads = f"{max(2, jax.local_device_count())} threads"
    config = mlp_config(tmp_path, vectors, **{"train.epochs": 1})
    monkeypatch.setattr("mgc_jax.experiment.data_mesh", lambda devices: data_mesh(jax.devices()[:2]))
    step = modes.train(config, tmp_path / "run")["last_step"]
    config.train.epochs = 2
    monkeypatch.setattr("mgc_jax.experiment.data_mesh", lambda devices: data_mesh(jax.devices()[:1]))
    modes.train(config, tmp_path / "run")
    assert f"trained on 2 x cpu, {threads} up to step {step} and on 1 x cpu, {threads} from there on" in caplog.text
    caplog.clear()
    monkeypatch.setenv("NPROC", "99")
    config.train.epochs = 3
    modes.train(config, tmp_path / "run")
    assert f"on 1 x cpu, {threads} up to" in caplog.text
    assert "on 1 x cpu, 99 threads from there on" in caplog.text
    assert "NPROC=THREADS" in caplog.text
