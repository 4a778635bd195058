"""Clips that stay on the disk: the same corpus, the same batches, the same weights as in memory."""

import dataclasses
import multiprocessing
import os
import pickle
import signal
import threading
import time

import jax
import numpy as np
import pytest
from helpers import make_corpus, placed_batches, small_config

from mgc_jax.data.bags import bags_of
from mgc_jax.data.batches import TrainBatches
from mgc_jax.data.on_disk import LazyClips, all_finite, stays_on_disk
from mgc_jax.data.open import open_corpus
from mgc_jax.data.placement import DeviceClips, HostClips, StreamClips, place_clips
from mgc_jax.data.standardization import standardization
from mgc_jax.data.streaming import Steps, stream_steps
from mgc_jax.errors import UserError
from mgc_jax.experiment import Experiment
from mgc_jax.modes import train as train_and_evaluate
from mgc_jax.runtime.devices import data_mesh
from mgc_jax.runtime.memory import available_memory
from mgc_jax.training.phases import initial_state, make_phase
from tfds_fma.preparation import prepare_arrays
from tfds_fma.source.arrays import ArrayFiles
from tfds_fma.storage.columns import COLUMNS_FILE
from tfds_fma.storage.records import ClipRecords


def npy_config(folder, corpus, **changes):
    """A configuration that trains on an .npy file."""
    config = small_config(folder, corpus)
    np.save(folder / "clips.npy", corpus.clips)
    np.save(folder / "ids.npy", corpus.track_id)
    config.data.arrays.clips, config.data.arrays.ids = str(folder / "clips.npy"), str(folder / "ids.npy")
    config.update_from_flattened_dict(changes)
    return config


def tfds_config(folder, corpus, **changes):
    """A configuration that trains on a prepared dataset."""
    config = small_config(folder, corpus)
    files = ArrayFiles(config.data.arrays.table, config.data.arrays.clips)
    prepare_arrays(files, "medium", "mine", folder / "data", progress=False, log=lambda line: None)
    config.data.update(corpus="fma_medium", representation="mine", data_dir=str(folder / "data"))
    config.update_from_flattened_dict(changes)
    return config


SOURCES = pytest.mark.parametrize("make_config", [npy_config, tfds_config], ids=["npy", "records"])


@SOURCES
@pytest.mark.parametrize("changes", [{}, {"data.frames": 17, "data.folds": 3, "data.fold": 1}], ids=["all", "some"])
def test_the_corpus_is_the_same_on_the_disk(tmp_path, corpus, make_config, changes):
    config = make_config(tmp_path, corpus, **changes)
    loaded = open_corpus(config.data)
    config.data.placement = "stream"
    lazy = open_corpus(config.data)
    assert isinstance(lazy.clips, LazyClips)
    assert isinstance(loaded.clips, np.ndarray)
    assert lazy.fingerprint == loaded.fingerprint
    assert lazy.clips_digest == ""  # it would read them all
    for name in ("shape", "dtype", "ndim", "nbytes"):
        assert getattr(lazy.clips, name) == getattr(loaded.clips, name)
    for index in (3, slice(4, 50, 7), np.array([[5, 0, 0], [99, 5, 1]]), np.array([], int), slice(None)):
        read = lazy.clips[index]
        np.testing.assert_array_equal(read, loaded.clips[index])
        assert read.dtype == loaded.clips.dtype
    for field in dataclasses.fields(loaded):
        if field.name != "clips":
            np.testing.assert_array_equal(getattr(lazy, field.name), getattr(loaded, field.name))
    statistics = [dataclasses.astuple(standardization(c, True)) for c in (lazy, loaded)]
    np.testing.assert_array_equal(*statistics)
    assert len(pickle.dumps(lazy.clips)) < 10_000


def test_opening_reads_no_clip(tmp_path, corpus, monkeypatch):
    config = tfds_config(tmp_path, corpus, **{"data.placement": "stream"})
    (file,) = (tmp_path / "data").rglob(COLUMNS_FILE)
    content = file.read_bytes()
    fingerprints = []
    for placement in ("stream", "host"):
        config.data.placement = placement
        file.unlink()
        fingerprints.append(open_corpus(config.data).fingerprint)
        file.write_bytes(content)
        fingerprints.append(open_corpus(config.data).fingerprint)
    assert len(set(fingerprints)) == 1

    def no_record(*_):
        raise AssertionError("a record is read")

    config.data.placement = "stream"
    monkeypatch.setattr(ClipRecords, "record", no_record)
    opened = open_corpus(config.data)
    assert opened.fingerprint == fingerprints[0]
    assert opened.summary()
    with pytest.raises(AssertionError, match="a record is read"):
        opened.clips[0]
    # Of other clips the fingerprint is not known, nor of these under another table.
    assert not opened.clips.first_frames(17).fingerprints
    config.data.update(folds=3, fold=1)
    with pytest.raises(AssertionError, match="a record is read"):
        _ = open_corpus(config.data).fingerprint


def test_features_are_picked_and_mel_before_time_is_turned(tmp_path, corpus):
    config = npy_config(tmp_path, corpus, **{"data.placement": "stream", "data.arrays.axes": "clip mel time"})
    np.save(tmp_path / "clips.npy", corpus.clips.transpose(0, 2, 1))
    clips = open_corpus(config.data).clips
    np.testing.assert_array_equal(clips[:7], corpus.clips[:7])
    np.testing.assert_array_equal(clips.first_frames(9)[[2, 1]], corpus.clips[[2, 1], :9])
    vectors = make_corpus(clip_shape=(6,))
    np.save(tmp_path / "clips.npy", vectors.clips)
    config.data.arrays.axes = "clip feature"
    picked = open_corpus(config.data).clips.take_columns([4, 1])
    assert picked.shape == (len(vectors), 2)
    np.testing.assert_array_equal(picked[[[8, 3]]], vectors.clips[[[8, 3]]][..., [4, 1]])


def steps_of(config, first=0, total=9, mixup=0.5, accumulate=1):
    config.data.placement = "stream"
    corpus = open_corpus(config.data)
    batches = TrainBatches(bags_of(corpus, "train", "pair"), 36, seed=0, mixup=mixup, accumulate=accumulate)
    return Steps(batches, corpus.clips, 8, first, total)


@SOURCES
@pytest.mark.parametrize("accumulate", [1, 2])
def test_every_placement_gives_the_same_batches(tmp_path, corpus, make_config, accumulate):
    config, mesh = make_config(tmp_path, corpus), data_mesh()
    loaded, steps = open_corpus(config.data).clips, steps_of(config, accumulate=accumulate)
    take = jax.jit(lambda clips: clips.take())
    first, total = 2, 9  # as after resuming, over the end of an epoch
    assert first < steps.batches.steps_per_epoch < total
    placed = {
        kind: list(placed_batches(steps.batches, kind, mesh, first, total))
        for kind in (DeviceClips(loaded, mesh), HostClips(loaded, mesh), StreamClips(steps.clips, mesh, workers=0))
    }
    device, host, stream = placed.values()
    assert len(stream) == total - first
    for (batch, clips, partners), *others in zip(device, host, stream, strict=True):
        for other, other_clips, other_partners in others:
            jax.tree.map(np.testing.assert_array_equal, batch, other)
            np.testing.assert_array_equal(take(clips), take(other_clips))
            np.testing.assert_array_equal(take(partners), take(other_partners))


@pytest.mark.slow
def test_training_gives_the_same_weights(tmp_path, corpus):
    run = Experiment(tfds_config(tmp_path, corpus, **{"data.placement": "stream"}), tmp_path / "run")
    assert isinstance(run.clips, StreamClips)
    phase, weights = make_phase(run, classifier_only=False), []
    for clips in (run.clips, HostClips(run.corpus.clips[:], run.mesh)):
        state = initial_state(run, phase.optimizer)
        for batch, these, partners in placed_batches(phase.batches, clips, run.mesh, 0, 4):
            state, _ = phase.train_step(state, batch, these, partners, jax.random.key(0))
        weights.append(jax.device_get((state.params, state.batch_stats)))
    jax.tree.map(np.testing.assert_array_equal, *weights)


@pytest.mark.slow
def test_worker_processes_read_the_same_and_end(tmp_path, corpus):
    steps = steps_of(tfds_config(tmp_path, corpus), total=30)
    for workers in (1, 2):
        stream = stream_steps(steps, workers)
        for number in range(3):
            jax.tree.map(np.testing.assert_array_equal, next(stream), steps[number])
        stream.close()
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_a_killed_worker_is_one_clear_error(tmp_path, corpus):
    stream = stream_steps(steps_of(npy_config(tmp_path, corpus), total=1000), 2)
    next(stream)
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    start = time.monotonic()
    with pytest.raises(UserError, match=r"was killed \(exit code -9\).*workers=0"):
        for _ in stream:
            pass
    assert time.monotonic() - start < 20


def test_threads_end_with_the_stream(tmp_path, corpus):
    mesh, steps = data_mesh(), steps_of(npy_config(tmp_path, corpus))
    before = threading.active_count()
    placed = placed_batches(steps.batches, StreamClips(steps.clips, mesh, 0), mesh, 0, 9)
    next(placed)
    placed.close()
    deadline = time.monotonic() + 30
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


def test_a_file_that_changes_while_it_is_read(tmp_path, corpus):
    steps = steps_of(npy_config(tmp_path, corpus))
    path = tmp_path / "clips.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-5000])
    with pytest.raises(UserError, match=r"clips\.npy has changed since it was opened"):
        list(stream_steps(steps, 0))
    kept = pickle.dumps(steps.clips)
    path.unlink()
    with pytest.raises(UserError, match=r"clips\.npy cannot be read: No such file"):
        pickle.loads(kept)


def test_clips_that_are_not_finite_are_named(tmp_path, corpus):
    corpus.clips[7, 3, 2] = np.nan
    steps = steps_of(npy_config(tmp_path, corpus), total=50)
    with pytest.raises(UserError, match=f"track {corpus.track_id[7]} are not all finite"):
        steps.clips[:]
    for values in (np.inf, -np.inf, np.nan):
        for dtype in (np.float16, np.float32):
            assert not all_finite(np.array([0, values], dtype))
    for dtype in (np.float16, np.float32):
        assert all_finite(np.array([np.finfo(dtype).max, np.finfo(dtype).min, 0], dtype))


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda path: path.unlink(), "has been deleted while it was being read"),
        (lambda path: path.write_bytes(path.read_bytes()[:-30_000]), "has changed since the dataset was opened"),
        (lambda path: path.write_bytes(path.read_bytes()), "has changed since the dataset was opened"),
    ],
    ids=["deleted", "cut off", "written again"],
)
def test_shards_that_change_while_they_are_read(tmp_path, corpus, harm, words):
    steps = steps_of(tfds_config(tmp_path, corpus))
    harm(next((tmp_path / "data").rglob("*train*")))
    clips = pickle.loads(pickle.dumps(steps.clips))  # as in a worker
    with pytest.raises(UserError, match=words):
        clips[:3]


def test_a_damaged_shard_is_named(tmp_path, corpus):
    config = tfds_config(tmp_path, corpus, **{"data.placement": "stream"})
    path = next((tmp_path / "data").rglob("*train*"))
    damaged = bytearray(path.read_bytes())
    damaged[20_000:20_200] = bytes(200)
    path.write_bytes(bytes(damaged))
    with pytest.raises(UserError, match=r"fma-train.*is damaged"):
        open_corpus(config.data).clips[:]


def test_only_npy_files_can_be_streamed(tmp_path, corpus):
    config = small_config(tmp_path, corpus, **{"data.placement": "stream"})
    with pytest.raises(UserError, match=r"clips\.npz, which has to be read whole. Save them with numpy\.save"):
        open_corpus(config.data)
    config = npy_config(tmp_path, corpus, **{"data.placement": "stream"})
    np.save(tmp_path / "clips.npy", np.asfortranarray(corpus.clips))
    with pytest.raises(UserError, match="Fortran order"):
        open_corpus(config.data)


def test_what_does_not_fit_into_memory_stays_on_the_disk(tmp_path, corpus, monkeypatch):
    assert not stays_on_disk("auto", 59, 100)
    assert stays_on_disk("auto", 61, 100)
    assert not stays_on_disk("host", 61, 100)
    assert stays_on_disk("stream", 1, None)
    assert not stays_on_disk("auto", 61, None)
    config = npy_config(tmp_path, corpus)
    for opener in ("fma", "arrays"):
        monkeypatch.setattr(f"mgc_jax.data.{opener}.available_memory", lambda: corpus.clips.nbytes)
    clips = open_corpus(config.data).clips
    assert isinstance(place_clips(clips, "auto", data_mesh()), StreamClips)


def test_memory_that_is_left(tmp_path):
    (tmp_path / "self").mkdir()
    assert available_memory(tmp_path, tmp_path) is None
    (tmp_path / "meminfo").write_text("MemTotal: 900 kB\nMemAvailable:     500 kB\n")
    assert available_memory(tmp_path, tmp_path) == 500 * 1024
    (tmp_path / "self/cgroup").write_text("0::/jobs/mine\n")
    groups = tmp_path / "groups"
    (groups / "jobs/mine").mkdir(parents=True)
    for folder, limit in ((groups / "jobs/mine", "max"), (groups / "jobs", "300000")):
        (folder / "memory.max").write_text(limit + "\n")
        (folder / "memory.current").write_text("100000\n")
    (groups / "jobs/memory.stat").write_text("anon 5\ninactive_file 40000\n")
    assert available_memory(tmp_path, groups) == 240_000  # the files that are cached make room
    (tmp_path / "self/cgroup").write_text("4:cpu,memory:/box\n")
    (groups / "memory/box").mkdir(parents=True)
    (groups / "memory/box/memory.limit_in_bytes").write_text("50000\n")
    (groups / "memory/box/memory.usage_in_bytes").write_text("20000\n")
    assert available_memory(tmp_path, groups) == 30_000


@pytest.mark.slow
def test_a_streamed_run_trains_and_is_evaluated(tmp_path, corpus):
    results = [
        train_and_evaluate(
            npy_config(tmp_path, corpus, **{"data.placement": placement, "train.epochs": 2}), tmp_path / placement
        )
        for placement in ("host", "stream")
    ]
    assert results[0]["splits"] == results[1]["splits"]
