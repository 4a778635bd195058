import dataclasses
import gc
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import make_corpus, save_arrays

from mgc_jax import modes
from mgc_jax.bench import roofline, run
from mgc_jax.bench import setting as setting_module
from mgc_jax.bench.clips import SharedClips
from mgc_jax.bench.run import Row
from mgc_jax.bench.setting import Block, Setting, settings_of
from mgc_jax.bench.synthetic import bag_sizes, synthetic_corpus
from mgc_jax.bench.table import format_bench
from mgc_jax.config.checks import validate
from mgc_jax.config.keys import default
from mgc_jax.data.bags import bags_of
from mgc_jax.errors import UserError
from mgc_jax.papers.fma import baseline
from mgc_jax.runtime.devices import data_mesh, undeal
from mgc_jax.training import dispatch

ROOT = Path(__file__).parents[2]


@pytest.fixture
def config(monkeypatch):
    """A small MLP with MATT; the ceilings are not measured."""
    rates = {"matmul_flops_per_second": 1e9, "copy_bytes_per_second": 1e8}
    monkeypatch.setattr(run, "_ceilings", lambda dtype, devices: rates)
    monkeypatch.setattr(run, "_LEAST_SECONDS", 0)
    config = default()
    config.model.encoder.update(name="mlp", hidden=(8,))
    config.batch.clips = 16
    config.eval.batch_clips = 16
    config.bench.update(clips=60, clip_shape=(6,), steps=3, repeats=5)
    return config


def measured(config, folder):
    validate(config)
    result = modes.bench(config, folder)
    assert json.loads((folder / "bench.json").read_text()) == json.loads(json.dumps(result))
    return result


def test_every_variant_of_every_setting_is_a_row(tmp_path, config, capsys, caplog):
    caplog.set_level(logging.INFO, "mgc_jax")
    config.bench.update(devices=(1, 2), dtypes=("bfloat16",), scaling="weak", steps=1)
    result = measured(config, tmp_path / "bench")
    settings = [(facts["batch_clips"], facts["dtype"], facts["devices"]) for facts in result["settings"]]
    assert settings == [(16, "bfloat16", 1), (32, "bfloat16", 2)]
    rows = [(row["setting"], row["variant"]) for row in result["rows"]]
    assert rows == [(setting, variant) for setting in range(2) for variant in config.bench.variants]
    for row in result["rows"]:
        facts = result["settings"][row["setting"]]
        assert row["status"] == "ok"
        assert row["step_seconds"]["p5"] <= row["step_seconds"]["p50"] <= row["step_seconds"]["max"]
        assert 0 <= row["waited_seconds_per_step"] <= row["step_seconds"]["max"]
        if row["variant"] == "checkpoint":
            assert row["bytes"] == facts["parameters"] * 4 + 8  # float32 whatever the precision; two step counts
            continue
        assert row["repeats"] == len(row["clips_per_second_each"]) == 5
        assert row["clips_per_second_per_device"] * facts["devices"] == row["clips_per_second"]["p50"]
        if row["variant"] in ("train", "reused batch"):
            assert row["steps"] == 5
            assert row["share_of_roof"] == pytest.approx(row["flops_per_second"] / facts["roof_flops_per_second"])
    for facts in result["settings"]:
        assert facts["flops_per_step"] > 3 * 2 * facts["batch_clips"] * (6 * 8 + 8 * 16) * 0.6
        assert facts["intensity"] == facts["flops_per_step"] / facts["bytes_per_step"]
        assert facts["roof_flops_per_second"] == min(1e9, facts["intensity"] * 1e8)
        assert facts["compile_seconds"] > 0
        assert facts["xla"]["estimated_bytes"] > 0
        assert facts["peak_host_bytes"] > 2**20
        assert sum(facts["shares"].values()) == pytest.approx(1)
        most = facts["steps_per_epoch"] * facts["batch_clips"]
        assert len(synthetic_corpus(config).indices("train")) / most <= facts["slots_filled"] <= 1
    ratios = sorted((ratio["what"], ratio["setting"], ratio["variant"]) for ratio in result["ratios"])
    assert ratios == [
        ("clips/s, train to reused batch", 0, "train"),
        ("clips/s, train to reused batch", 1, "train"),
        *(("efficiency, 2 devices to 1", 1, variant) for variant in ("eval", "reused batch", "train")),
    ]
    logged = caplog.text  # no long silence
    assert "setting 2 of 2 (batch_clips 32, dtype bfloat16, placement auto, devices 2): building" in logged
    assert logged.count("first run: ") == len(rows)
    assert re.search(r"repeat 2 of 5, about \d+s left", logged)
    assert {"command", "date", "environment", "config", "corpus"} <= result.keys()
    assert result["environment"]["jax"] == jax.__version__
    assert result["corpus"]["clips"] == 60
    printed = capsys.readouterr().out
    assert printed.strip() == format_bench(result).strip()
    assert printed.count("\nreused batch ") == 2
    with pytest.raises(UserError, match=r"holds bench.json of another run; give a new folder"):
        modes.bench(config, tmp_path / "bench")
    assert [p.name for p in (tmp_path / "bench").iterdir() if p.is_dir()] == []  # checkpoints are gone


def out_of_memory(*_):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes.")


def test_what_has_not_enough_memory_is_a_row(tmp_path, config, monkeypatch, capsys):
    config.bench.update(placements=("device", "host"), repeats=2, steps=1)
    monkeypatch.setattr(setting_module.Benchmark, "_evaluate", out_of_memory)
    place = setting_module.Experiment.__init__

    def init(self, config, *args, **kwargs):
        if config.data.placement == "device":
            out_of_memory()
        place(self, config, *args, **kwargs)

    monkeypatch.setattr(setting_module.Experiment, "__init__", init)
    result = measured(config, tmp_path / "bench")
    status = {(row["setting"], row["variant"]): row["status"] for row in result["rows"]}
    assert {variant for (s, variant), found in status.items() if s == 0 and found == "out of memory"} == set(
        config.bench.variants
    )
    assert {variant for (s, variant), found in status.items() if s == 1 and found == "out of memory"} == {"eval"}
    printed = capsys.readouterr().out
    assert printed.count("out of memory") == len(config.bench.variants) + 2  # and eval, and why nothing is known
    assert "2 pairs of runs are too few" in printed


def test_a_step_that_needs_more_memory_than_there_is_is_a_row(tmp_path, config, monkeypatch):
    monkeypatch.setattr(dispatch, "device_memory_limit", lambda mesh: 1000)
    config.bench.update(repeats=1, variants=("train",))
    (row,) = measured(config, tmp_path / "bench")["rows"]
    assert row["status"] == "out of memory"


def test_steps_are_dispatched_as_in_training(tmp_path, config):
    config.train.steps_per_dispatch = 2
    config.bench.update(placements=("device", "host", "stream"), variants=("train", "reused batch", "data only"),
                        repeats=2, steps=3)  # fmt: skip
    result = measured(config, tmp_path / "bench")
    assert [(f["placement"], f["placed"], f["steps_per_dispatch"]) for f in result["settings"]] == [
        ("device", "device", 2), ("host", "host", 1), ("stream", "stream", 1)
    ]  # fmt: skip
    assert {(row["setting"], row["steps"]) for row in result["rows"]} == {(0, 8), (1, 6), (2, 6)}
    assert [p.name for p in (tmp_path / "bench").iterdir() if p.is_dir()] == []  # nor are the clips left


def test_a_small_synthetic_corpus_is_dispatched_like_a_large_one(tmp_path, config, monkeypatch):
    monkeypatch.setattr(dispatch, "on_cpu", lambda mesh: False)
    config.train.log_every_steps = 7
    config.bench.update(placements=("device", "host"), variants=("train",), repeats=1, steps=1)
    facts = measured(config, tmp_path / "bench")["settings"]
    assert facts[0]["steps_per_epoch"] < 7
    assert [f["steps_per_dispatch"] for f in facts] == [7, 1]


@pytest.mark.parametrize("length", [1, 3])
def test_the_clips_of_all_steps_are_counted(tmp_path, config, length):
    config.train.steps_per_dispatch = length
    clips = SharedClips(config, ["device"], tmp_path)
    corpus, placed = clips.corpora["device"], clips.placed("device", 1)
    (setting,) = settings_of(config, 1)
    benchmark = setting_module.Benchmark(
        config, corpus, placed, dataclasses.replace(setting, placement="device"), tmp_path
    )
    batches = benchmark._phase.batches
    blocks = [benchmark.measure("train", 2), benchmark.measure("data only", 2)]
    for first, block in zip((length, 4 * length), blocks, strict=True):  # after one dispatch each that does not count
        assert (len(block.seconds), block.steps) == (2, length)
        each = [np.sum(batches(step).real) for step in range(first, first + 2 * length)]
        assert block.clips == sum(each)
    facts = benchmark.facts
    one = config.copy_and_resolve_references()
    one.train.steps_per_dispatch = 1
    other = setting_module.Benchmark(one, corpus, placed, setting, tmp_path).facts
    assert (facts["flops_per_step"], facts["bytes_per_step"]) == (other["flops_per_step"], other["bytes_per_step"])


def test_the_clips_are_on_the_devices_once(tmp_path, config):
    clips = SharedClips(config, ["device", "host", "auto"], tmp_path)
    corpus = clips.corpora["device"]
    assert corpus is clips.corpora["host"] is clips.corpora["auto"]

    def there():
        return [len(a.devices()) for a in jax.live_arrays() if a.shape == corpus.clips.shape]

    before, index = there(), np.arange(8)
    found = {}
    for placement, devices in [("device", 1), ("device", 2), ("auto", 4), ("host", 2), ("device", 1)]:
        placed = clips.placed(placement, devices)
        assert there() == [*before, *([] if placement == "host" else [devices])]
        np.testing.assert_array_equal(undeal(placed(index).take(), devices), corpus.clips[index])
        assert found.setdefault((placement, devices), placed) is placed
    clips.free()
    assert there() == before


def test_building_takes_nothing_from_the_cache_and_the_ceilings_have_the_devices_alone(tmp_path, config, monkeypatch):
    cached, measure = [], setting_module.Benchmark.measure

    def noted(*arguments):
        cached.append(jax.config.jax_enable_compilation_cache)
        return measure(*arguments)

    def ceilings(*_):
        assert not any(type(thing) is setting_module.Benchmark for thing in gc.get_objects())
        return {"matmul_flops_per_second": 1e9, "copy_bytes_per_second": 1e8}

    monkeypatch.setattr(setting_module.Benchmark, "measure", noted)
    monkeypatch.setattr(run, "_ceilings", ceilings)
    config.bench.update(variants=("train", "eval"), devices=(1, 2), repeats=1, steps=1)
    before = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", True)
    try:
        measured(config, tmp_path / "bench")
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
    assert cached == [False] * 8 + [True] * 4  # eval is measured three times before it counts


def test_other_failures_are_not_hidden(tmp_path, config, monkeypatch):
    def broken(*_):
        raise jax.errors.JaxRuntimeError("INTERNAL: what is this?")

    config.bench.variants = ("train",)
    monkeypatch.setattr(setting_module.Benchmark, "_train", broken)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        measured(config, tmp_path / "bench")


def test_ratios_are_of_settings_that_differ_in_one_thing():
    settings = [Setting(clips, "float32", "auto", devices) for clips in (8, 16) for devices in (1, 4)]
    rates = [10.0, 20.0, 16.0, 40.0]
    rows = [Row(i, "train", blocks=[Block([1.0], clips=rate)] * 5) for i, rate in enumerate(rates)]
    found = {(r["what"], r["setting"], r["to_setting"]): r["median"] for r in run._ratios(settings, rows)}
    assert found == {
        ("clips/s, batch_clips 16 to 8", 2, 0): 1.6,
        ("clips/s, batch_clips 16 to 8", 3, 1): 2.0,
        ("efficiency, 4 devices to 1", 1, 0): 0.5,
        ("efficiency, 4 devices to 1", 3, 2): 0.625,
    }


def test_fast_steps_are_repeated_and_slow_ones_are_not():
    options = default().bench
    options.update(steps=10, repeats=5, seconds=30.0)  # so 6 s for each repeat
    assert [run._dispatches(seconds, 1, options) for seconds in (0.0001, 0.001, 0.05, 0.1, 1.0, 9.0)] == [
        1000, 500, 10, 10, 5, 1
    ]  # fmt: skip
    assert [run._dispatches(seconds, 4, options) for seconds in (0.001, 0.4, 1.5, 9.0)] == [500, 3, 3, 1]


def test_more_devices_than_there_are(config):
    config.bench.devices = (1, 9)
    with pytest.raises(UserError, match="--cpu_devices=9"):
        settings_of(config, 8)


def test_batches_that_cannot_be_cut_are_named_before_any_work(config):
    config.train.accumulate = 4
    config.bench.update(batch_clips=(4, 6), devices=(1, 2))
    with pytest.raises(UserError, match=r"train\.accumulate=4 is invalid.*divides config\.batch\.clips=6"):
        settings_of(config, 8)
    config.bench.batch_clips = (4, 8)
    assert len(settings_of(config, 8)) == 4


def test_a_baseline_has_no_steps(tmp_path):
    with pytest.raises(UserError, match="--mode bench is for models"):
        modes.bench(baseline("lr", ""), tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("variants", ("training",)), ("dtypes", ("float16",)), ("batch_clips", (0,)), ("devices", (1.5,)), ("clips", 0),
     ("scaling", "linear"), ("seconds", 0.0), ("variants", ()), ("clip_shape", (1, 2, 3)), ("bag_length", -1)],
)  # fmt: skip
def test_an_impossible_value_is_named(config, key, value):
    config.bench[key] = value
    with pytest.raises(UserError, match=rf"config\.bench\.{key}"):
        validate(config)


def test_the_corpus_itself_is_measured_where_asked_also_without_validation(tmp_path, config, monkeypatch):
    corpus = make_corpus(clip_shape=(6,))
    corpus.split[:] = "train"
    config.update_from_flattened_dict(save_arrays(corpus, tmp_path))
    np.save(tmp_path / "clips.npy", corpus.clips)
    np.save(tmp_path / "ids.npy", corpus.track_id)
    files = {"clips": str(tmp_path / "clips.npy"), "ids": str(tmp_path / "ids.npy"), "axes": "clip feature"}
    config.data.arrays.update(files)
    config.optimizer.plateau_factor = 0.5
    config.bench.update(data="corpus", variants=("train", "eval"), repeats=1, steps=1, placements=("auto", "stream"))
    result = measured(config, tmp_path / "bench")
    assert (result["corpus"]["name"], result["corpus"]["clips"]) == ("arrays", len(corpus))
    assert [facts["placed"] for facts in result["settings"]] == ["device", "stream"]
    assert result["config"]["optimizer"]["plateau_factor"] == config.optimizer.plateau_factor == 0.5  # as given


def test_synthetic_clips_are_like_those_of_the_configuration(config):
    config.bench.clip_shape = ()
    config.bench.clips = 300
    corpus = synthetic_corpus(config)
    assert corpus.clips.shape == (300, 1360, 96)
    assert corpus.clips.dtype == np.float16
    assert len(corpus.genres) == 16
    assert len(np.unique(corpus.label)) > 8
    assert set(corpus.split) == {"train", "validation"}
    config.data.representation, config.data.features = "features_518", "mfcc"
    assert synthetic_corpus(config).clips.shape == (300, 140)
    config.data.features, config.bench.bag_length = "", 7
    corpus = synthetic_corpus(config)
    sizes = np.concatenate([bags_of(corpus, split, "pair").sizes for split in ("train", "validation")])
    np.testing.assert_array_equal(np.sort(sizes), [300 % 7] + [7] * (300 // 7))
    config.data.corpus = "arrays"
    with pytest.raises(UserError, match=r"--config.bench.clip_shape"):
        synthetic_corpus(config)
    config.data.corpus, config.data.representation = "auto", "my_embeddings"
    with pytest.raises(UserError, match=r"my_embeddings.*--config.bench.clip_shape"):
        synthetic_corpus(config)
    config.bench.clip_shape = (128,)
    corpus = synthetic_corpus(config)
    assert (corpus.clips.shape, corpus.clips.dtype) == ((300, 128), np.float16)


def test_bags_have_a_long_tail():
    sizes = bag_sizes(20_000, 0, np.random.default_rng(0))
    assert sizes.sum() == 20_000
    assert sizes.min() >= 1
    assert 2.5 < sizes.mean() < 3.6
    assert np.median(sizes) == 2
    assert sizes.max() > 20


def test_ceilings_are_of_all_devices_together(monkeypatch):
    monkeypatch.setattr(roofline, "_LARGEST", 512)
    monkeypatch.setattr(roofline, "_COPIED", {"cpu": 2**20})
    for devices in (1, 4):
        mesh = data_mesh(jax.devices()[:devices])
        assert 1e7 < roofline.matmul_rate("float32", mesh) < 1e14
        assert 1e7 < roofline.copy_rate(mesh) < 1e13


@pytest.mark.slow
def test_the_command_line(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {"PYTHONPATH": str(ROOT)}
    flags = ["--config.bench.clips=100", "--config.bench.steps=2", "--config.bench.repeats=2", "--mode", "bench"]

    def run(config, *more):
        return subprocess.run(
            [sys.executable, "-m", "mgc_jax.main", "--config", str(ROOT / "configs" / config), *flags, *more],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300,
        )  # fmt: skip

    done = run("matt_mlp.py", "--config.bench.batch_clips=(64, 128)")
    assert done.returncode == 0, done.stderr
    (workdir,) = (tmp_path / "runs").iterdir()
    assert workdir.name.startswith("bench-matt_mlp-2")
    result = json.loads((workdir / "bench.json").read_text())
    assert [facts["batch_clips"] for facts in result["settings"]] == [64, 128]
    assert "--mode bench" in result["command"]
    assert {"bench.json", "train.log"} <= {p.name for p in workdir.iterdir()}
    assert "GFLOP/s (products of matrices)" in done.stdout
    refused = run("svm.py")
    assert refused.returncode == 1
    assert "error: --mode bench is for models" in refused.stderr
    refused = run("matt_mlp.py", "--test")
    assert "--test does not go with --mode bench" in refused.stderr
