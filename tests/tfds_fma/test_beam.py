"""Apache Beam makes the shards, on this machine and on a cluster of worker processes."""

import dataclasses
import os
import pickle
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from fma_trees import clip_path, write_table

from tfds_fma import UserError
from tfds_fma.clips.make import Clip
from tfds_fma.clips.sources import fma_source
from tfds_fma.collection.source import Collection, collection_source
from tfds_fma.fma_dataset_builder import Builder
from tfds_fma.preparation import prepare
from tfds_fma.source.feature_table import write_features
from tfds_fma.storage import layout
from tfds_fma.storage.shards import ShardJob, Staging, make_shard, plan_shards

ROOT = Path(__file__).parents[2]
MEL = "mel_256x96"
DASK = "--runner=apache_beam.runners.dask.dask_runner.DaskRunner"
CLIPS = 120


@pytest.fixture(scope="module")
def tree(tmp_path_factory, mp3) -> Path:
    """Tracks that share one file; two are missing."""
    source = tmp_path_factory.mktemp("tree")
    write_table(source, [{"track_id": number, "title": f"T{number}"} for number in range(CLIPS)])
    original = clip_path(source, 0)
    original.write_bytes(mp3)
    for number in set(range(1, CLIPS)) - {35, 70}:
        os.link(original, clip_path(source, number))
    return source


@pytest.fixture
def small_shards(monkeypatch) -> None:
    monkeypatch.setattr("tfds_fma.storage.shards._SHARD_BYTES", 5 * 256 * 96 * 2)


def prepared(source: str | Path, data_dir: str | Path, **options) -> tuple[Path, list[str]]:
    lines: list[str] = []
    path = prepare(source, "small", MEL, data_dir, workers=1, progress=False, log=lines.append, **options)
    return path, lines


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir() if file.name != "dataset_info.json"}


def test_relative_folders_are_meant_from_where_the_command_runs(tmp_path, mp3, monkeypatch):
    write_table(tmp_path / "fma", [{"track_id": 2}])
    clip_path(tmp_path / "fma", 2).write_bytes(mp3)
    song = tmp_path / "music" / "Rock" / "song.mp3"
    song.parent.mkdir(parents=True)
    song.write_bytes(mp3)
    monkeypatch.chdir(tmp_path)
    sources = [fma_source("fma", "small", MEL), collection_source(Collection("music"), MEL, workers=1, progress=False)]
    staging = Builder(config=f"small-{MEL}", data_dir="data")._staging_dir
    monkeypatch.chdir("/")
    for source in sources:
        source = pickle.loads(pickle.dumps(source))
        (track,) = source.tracks
        assert isinstance(source.make(track), Clip)
        assert source.state(track).startswith(f"{len(mp3)} ")
    assert staging == tmp_path / "data" / "fma" / f"small-{MEL}" / layout.STAGING


@pytest.mark.parametrize("zipped", [False, True])
def test_a_worker_that_would_make_other_bytes_makes_none(tmp_path, mp3, monkeypatch, zipped):
    write_table(tmp_path, [{"track_id": 2}])
    clip = clip_path(tmp_path, 2)
    clip.write_bytes(mp3)
    seen = tmp_path / "fma_small"
    if zipped:
        seen = tmp_path / "fma_small.zip"
        with zipfile.ZipFile(seen, "w") as archive:
            archive.write(clip, "fma_small/000/000002.mp3")
        clip.unlink()
        (tmp_path / "fma_small" / "000").rmdir()
        (tmp_path / "fma_small").rmdir()
    source = fma_source(tmp_path, "small", MEL)
    (shard,) = plan_shards(source)
    staging = Staging(tmp_path / "staging", source.representation, source.genres)
    job = ShardJob(staging, shard, dataclasses.replace(source, tracks=()))
    with pytest.raises(UserError, match=r"does not see .*staging: the data folder must be one that all workers share"):
        make_shard(job)
    staging.folder.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr("soxr.__version__", "0.0")
        with pytest.raises(UserError, match="or has another NumPy, SciPy, libsndfile or soxr"):
            make_shard(job)
    seen.rename(tmp_path / "not_mounted")
    with pytest.raises(UserError, match="does not see the audio as the main process does"):
        make_shard(job)
    assert not list(staging.folder.iterdir())
    (tmp_path / "not_mounted").rename(seen)
    make_shard(job)
    assert staging.finished(shard).records == 1


def test_beam_that_is_not_installed_is_an_error_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(UserError, match=r"pip install 'mgc-jax\[beam\]'"):
        prepared(tmp_path / "gone", tmp_path, beam_options=[])


def test_a_runner_that_beam_lacks_is_an_error_before_any_work(tmp_path):
    pytest.importorskip("apache_beam", reason="Apache Beam is not installed (extra: beam)")
    with pytest.raises(UserError, match=f"Unexpected pipeline runner: DaskRunner.* Dask's is {DASK}, after: pip"):
        prepared(tmp_path / "gone", tmp_path, beam_options=["--runner=DaskRunner"])
    with pytest.raises(UserError, match="Missing required option: project"):
        prepared(tmp_path / "gone", tmp_path, beam_options=["--runner=DataflowRunner"])


@pytest.mark.slow
def test_beam_makes_the_same_bytes(tree, tmp_path, small_shards):
    pytest.importorskip("apache_beam", reason="Apache Beam is not installed (extra: beam)")
    write_table(tmp_path, [{"track_id": 2}])
    write_features(tmp_path / "fma_metadata" / "features.csv", np.array([2]), np.zeros((1, 518), np.float32))
    with pytest.raises(UserError, match="There is nothing for Beam to do"):
        prepare(tmp_path, "small", "features_518", tmp_path, beam_options=[])
    local, lines = prepared(tree, tmp_path / "local")
    for options in (["--runner=DirectRunner"], ["--direct_num_workers=2", "--direct_running_mode=multi_threading"]):
        beam, beam_lines = prepared(tree, tmp_path / "beam", beam_options=options, overwrite=True)
        assert contents(beam) == contents(local)
        assert beam_lines[-2] == lines[-2]


def dask(*arguments: object, folder: Path) -> subprocess.Popen:
    """Starts a process of a cluster in a folder of its own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "dask", *map(str, arguments), "--no-dashboard"]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.slow
def test_a_dask_cluster_makes_the_same_bytes_also_when_a_worker_is_killed(tree, tmp_path, small_shards, monkeypatch):
    pytest.importorskip("apache_beam", reason="Apache Beam is not installed (extra: beam)")
    distributed = pytest.importorskip("distributed", reason="Dask is not installed (extra: dask)")
    local, lines = prepared(tree, tmp_path / "local")
    scheduler = tmp_path / "scheduler.json"
    (tmp_path / "elsewhere").mkdir()
    place = {"folder": tmp_path / "elsewhere"}
    found = ["--scheduler-file", scheduler]
    cluster = [dask("scheduler", "--host", "127.0.0.1", "--port", 0, *found, **place)]
    cluster += [dask("worker", *found, "--nthreads", 1, "--no-nanny", **place) for _ in range(3)]
    # A process of its own watches, as this one waits for Beam: it kills a worker once two shards are there.
    staging = layout.version_dir(tmp_path / "beam", "small", MEL).parent / layout.STAGING
    killer = subprocess.Popen([sys.executable, "-c", KILL, str(staging), str(cluster[-1].pid)])
    monkeypatch.chdir(tmp_path)
    try:
        options = [DASK, f"--dask_scheduler_file={scheduler}", "--dask_partition_size=1"]
        beam, beam_lines = prepared(os.path.relpath(tree), "beam", beam_options=options)
        assert killer.wait(10) == 0
        assert cluster[-1].wait(10) == -signal.SIGKILL
        distributed.default_client().close()  # Beam leaves it open
    finally:
        for process in (killer, *cluster):
            process.kill()
            process.wait()
    assert contents(beam) == contents(local)
    assert beam_lines[-2] == lines[-2]
    assert f"{CLIPS - 2} clips written" in lines[-2]


KILL = f"""
import os, sys, time
from pathlib import Path
while len(list(Path(sys.argv[1]).glob("*.json"))) < 2:
    time.sleep(0.01)
os.kill(int(sys.argv[2]), {signal.SIGKILL:d})
"""
