"""From a source tree to a prepared dataset and back."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from fma_trees import clip_path, write_table

from tfds_fma import UserError
from tfds_fma.clips.sources import fma_source
from tfds_fma.command_line import prepared_below
from tfds_fma.fma_dataset_builder import REJECTS_COLUMNS, Builder
from tfds_fma.preparation import prepare
from tfds_fma.prepare import main
from tfds_fma.reading import class_names, find_prepared, load, read_dataset, read_split
from tfds_fma.representations.feature_names import columns_of
from tfds_fma.source.feature_table import write_features
from tfds_fma.source.tracks import read_tracks
from tfds_fma.storage import layout
from tfds_fma.storage.shards import Staging, _example, features_of, plan_shards
from tfds_fma.validate import validate

MEL = "mel_256x96"


def prepared(source: Path, data_dir: Path, subset: str = "small", **options) -> tuple[Path, list[str]]:
    lines: list[str] = []
    path = prepare(source, subset, MEL, data_dir, workers=2, progress=False, log=lines.append, **options)
    return path, lines


@pytest.fixture(scope="module")
def damaged(tmp_path_factory, mp3) -> Path:
    """A tree in which much is wrong: tracks 2 and 3 are fine, 4 is padded, 10 to 15 are unusable."""
    source = tmp_path_factory.mktemp("damaged")
    write_table(
        source,
        [
            {"track_id": 2, "title": 'Two, with "quotes"', "artist": "Ä", "duration": 168},
            {"track_id": 10},
            {"track_id": 11, "split": "validation"},
            {"track_id": 12},
            {"track_id": 3, "split": "validation", "genre": "Folk", "album_id": -1},
            {"track_id": 13},
            {"track_id": 4, "genre": "Hip-Hop"},
            {"track_id": 14, "genre": ""},
            {"track_id": 15, "split": "test"},
        ],
    )
    for track_id in (2, 3, 14):
        clip_path(source, track_id).write_bytes(mp3)
    clip_path(source, 4).write_bytes(mp3[: int(0.7 * len(mp3))])  # cut off, yet more than half
    clip_path(source, 11).write_bytes(b"")
    clip_path(source, 12).write_text("not found\n" * 300)
    clip_path(source, 13).write_bytes(mp3[: int(0.3 * len(mp3))])
    clip_path(source, 15).mkdir()
    return source


@pytest.fixture(scope="module")
def damaged_prepared(damaged, tmp_path_factory) -> Path:
    return prepared(damaged, tmp_path_factory.mktemp("data"))[0]


def test_unusable_clips_are_listed_and_the_others_written(damaged, tmp_path, capfd):
    path, lines = prepared(damaged, tmp_path)
    assert lines[-2].startswith("small-mel_256x96: 3 clips written (train 2, validation 1); 6 rejected: ")
    assert lines[-2].endswith("; 1 padded")
    with (path / "rejects.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert tuple(header) == REJECTS_COLUMNS
    reasons = {int(row[0]): row[4] for row in rows}
    assert reasons == {
        10: "missing", 11: "empty", 12: "undecodable", 13: "short", 14: "no-genre", 15: "undecodable",
    }  # fmt: skip
    assert [row[:4] for row in rows if row[0] == "11"] == [["11", "fma_small/000/000011.mp3", "validation", "Rock"]]
    assert capfd.readouterr() == ("", "")  # neither libsndfile nor TFDS talks


def test_what_is_read_is_what_the_table_says(damaged_prepared):
    path = damaged_prepared
    columns, clips = read_split(path, "train")
    assert columns["track_id"].tolist() == [2, 4]
    assert [class_names(path)[label] for label in columns["genre"]] == ["Rock", "Hip-Hop"]
    assert columns["title"][0] == 'Two, with "quotes"'
    assert columns["artist"][0] == "Ä"
    assert columns["duration"].tolist() == [168, 100]
    assert clips.shape == (2, 256, 96)
    assert clips.dtype == np.float16
    assert clips[1, 250:].max() < clips[1, :100].max() - 60  # the padding is silent
    validation, _ = read_split(path, "validation")
    assert validation["album_id"].tolist() == [-1]
    sources = load(path)
    assert set(sources) == {"train", "validation"}
    np.testing.assert_array_equal(sources["train"][1]["clip"], clips[1])


def test_a_split_without_clips_reads_as_empty(damaged_prepared):
    columns, clips = read_split(damaged_prepared, "test")
    assert clips.shape == (0, 256, 96)
    assert all(len(column) == 0 for column in columns.values())


def test_zip_files_give_the_same_bits_as_folders(demo_tree, tmp_path):
    zipped = tmp_path / "zipped"
    zipped.mkdir()
    for name in ("fma_metadata", "fma_medium"):
        with zipfile.ZipFile(zipped / f"{name}.zip", "w") as archive:
            for path in sorted((demo_tree / name).rglob("*.*")):
                archive.write(path, path.relative_to(demo_tree))
    from_folder, lines = prepared(demo_tree, tmp_path / "a", subset="medium")
    from_zip, _ = prepared(zipped, tmp_path / "b", subset="medium", unverified=True)
    assert lines[-2] == (
        "medium-mel_256x96: 96 clips written (train 64, validation 16, test 16); 0 rejected; 0 padded"
    )
    for split in ("train", "validation", "test"):
        (columns, clips), (zip_columns, zip_clips) = (
            read_split(from_folder, split),
            read_split(from_zip, split),
        )
        np.testing.assert_array_equal(clips, zip_clips)
        for name in columns:
            np.testing.assert_array_equal(columns[name], zip_columns[name])
        assert sorted(np.unique(columns["genre"])) == list(range(16))


def tree_of_subsets(path: Path, mp3: bytes, subsets: dict[int, str]) -> Path:
    """A tree whose tracks have the given subset labels."""
    write_table(path, [{"track_id": track_id, "subset": subset} for track_id, subset in subsets.items()])
    for track_id in subsets:
        clip_path(path, track_id, "fma_large").write_bytes(mp3)
    return path


def subsets_of(path: Path) -> dict[int, str]:
    columns, _ = read_dataset(path)
    return dict(zip(columns["track_id"].tolist(), columns["subset"].tolist(), strict=True))


def test_every_clip_has_fmas_subset_label(tmp_path, mp3):
    subsets = {2: "small", 3: "medium", 4: "large", 5: "small"}
    source = tree_of_subsets(tmp_path / "source", mp3, subsets)
    assert subsets_of(prepared(source, tmp_path / "data", subset="large")[0]) == subsets
    assert subsets_of(prepared(source, tmp_path / "data", subset="small")[0]) == {2: "small", 5: "small"}


def test_a_dataset_from_before_the_subset_label_is_read_and_checked(tmp_path, mp3, monkeypatch):
    source = tree_of_subsets(tmp_path / "source", mp3, {2: "small", 3: "medium"})
    with monkeypatch.context() as patch:

        def features_without(*arguments):
            features = features_of(*arguments)
            return type(features)({name: feature for name, feature in features.items() if name != "subset"})

        def example_without(track, clip):
            example = _example(track, clip)
            del example["subset"]
            return example

        for module in ("storage.shards", "fma_dataset_builder"):
            patch.setattr(f"tfds_fma.{module}.features_of", features_without)
        patch.setattr("tfds_fma.storage.shards._example", example_without)
        path, _ = prepared(source, tmp_path / "data", subset="medium")
    assert "subset" not in load(path)["train"].dataset_info.features
    assert subsets_of(path) == {2: "", 3: ""}
    found = validate(path, progress=False)
    assert not found.errors.number
    assert found.records["train"] == 2


def test_finished_shards_with_another_subset_label_are_made_again(tmp_path, mp3, monkeypatch):
    source = tree_of_subsets(tmp_path / "source", mp3, {2: "small"})
    interrupted(source, tmp_path / "data", monkeypatch, subset="large")
    tree_of_subsets(source, mp3, {2: "medium"})
    path, lines = prepared(source, tmp_path / "data", subset="large")
    assert not any("interrupted run" in line for line in lines)
    assert subsets_of(path) == {2: "medium"}


def test_many_shards_keep_the_order(demo_tree, tmp_path, monkeypatch):
    monkeypatch.setattr("tfds_fma.storage.shards._SHARD_BYTES", 500_000)  # ten clips
    path, _ = prepared(demo_tree, tmp_path, subset="medium")
    shards = sorted(file.name for file in path.glob("*train*"))
    assert len(shards) == 7
    assert shards[-1] == "fma-train.array_record-00006-of-00007"
    columns, _ = read_split(path, "train")
    in_table = [track.track_id for track in read_tracks(demo_tree, "medium") if track.split == "train"]
    assert columns["track_id"].tolist() == in_table


def test_small_is_taken_from_the_archive_of_medium(demo_tree, tmp_path):
    path, lines = prepared(demo_tree, tmp_path)
    assert "48 clips written" in lines[-2]
    assert len(class_names(path)) == 8


def test_a_rerun_does_nothing_and_overwrite_prepares_again(damaged, tmp_path):
    path, _ = prepared(damaged, tmp_path)
    before = (path / "dataset_info.json").stat().st_mtime_ns
    again, lines = prepared(damaged, tmp_path)
    assert again == path == find_prepared(tmp_path, "small", MEL)
    assert "already prepared" in lines[0]
    assert (path / "dataset_info.json").stat().st_mtime_ns == before
    prepared(damaged, tmp_path, overwrite=True)
    assert (path / "dataset_info.json").stat().st_mtime_ns > before


SLICED = """
import sys
import tfds_fma.storage.shards
from tfds_fma.prepare import main
tfds_fma.storage.shards._SHARD_BYTES = 30 * 256 * 96 * 2
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def many_clips(tmp_path_factory, mp3) -> Path:
    """900 tracks that share one file; two shards hold a track that is missing."""
    source = tmp_path_factory.mktemp("many")
    write_table(source, [{"track_id": number, "title": f"T{number}"} for number in range(900)])
    original = clip_path(source, 0)
    original.write_bytes(mp3)
    for number in set(range(1, 900)) - {35, 700}:
        os.link(original, clip_path(source, number))
    return source


def contents(path: Path) -> dict[str, bytes]:
    """The files of a dataset that must not depend on how it was made."""
    return {file.name: file.read_bytes() for file in path.iterdir() if file.name != "dataset_info.json"}


@pytest.mark.slow
def test_killed_in_the_middle_then_run_again(many_clips, tmp_path, monkeypatch):
    script = tmp_path / "sliced.py"
    script.write_text(SLICED)
    command = [sys.executable, str(script), "--source", str(many_clips), "--subset", "small"]
    command += ["--representation", MEL, "--data_dir", str(tmp_path / "data"), "--workers", "2"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    config_dir = tmp_path / "data" / "fma" / f"small-{MEL}"
    while len(list(config_dir.glob(".unfinished-*/*.json"))) < 5:
        assert process.poll() is None
        time.sleep(0.01)
    workers = children_of(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert workers
    assert find_prepared(tmp_path / "data", "small", MEL) is None
    deadline = time.time() + 10
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.time() < deadline, "workers outlive their parent"
        time.sleep(0.05)

    monkeypatch.setattr("tfds_fma.storage.shards._SHARD_BYTES", 30 * 256 * 96 * 2)
    kept = len(list(config_dir.glob(".unfinished-*/*.json")))
    assert kept < 30
    path, lines = prepared(many_clips, tmp_path / "data")
    assert f"small-{MEL}: {30 * kept} tracks are done from an interrupted run" in lines
    assert "898 clips written (train 898); 2 rejected: 2 missing" in lines[-2]
    assert sorted(file.name for file in config_dir.iterdir()) == [".lock", layout.VERSION]
    uninterrupted, _ = prepared(many_clips, tmp_path / "other")
    assert contents(path) == contents(uninterrupted)
    assert len(contents(path)) == 30 + 5  # shards; columns, features, labels, metadata, rejects; nothing left over


def interrupted(source: Path, data_dir: Path, monkeypatch, subset: str = "small", name: str = MEL) -> None:
    """Prepares all shards and stops there."""
    with monkeypatch.context() as patch:
        patch.setattr("tfds_fma.fma_dataset_builder.Builder._collect", interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare(source, subset, name, data_dir, workers=2, progress=False, log=lambda line: None)


def tree_of(path: Path, tracks: int, clip: bytes) -> Path:
    """A tree in which every track has the same clip; the last one has none."""
    write_table(path, [{"track_id": number} for number in range(tracks)])
    for number in range(tracks - 1):
        clip_path(path, number).write_bytes(clip)
    return path


@pytest.mark.slow
def test_only_what_has_changed_is_made_again(tmp_path, demo_tree, monkeypatch):
    """After an interruption: another table, another clip, one more clip, another folder."""
    first, second = (path.read_bytes() for path in sorted(demo_tree.glob("fma_medium/*/*.mp3"))[:2])
    monkeypatch.setattr("tfds_fma.storage.shards._SHARD_BYTES", 4 * 256 * 96 * 2)
    source = tree_of(tmp_path / "source", 12, first)

    def done_after(change, source: Path = source, data_dir: Path = tmp_path / "data") -> int:
        interrupted(tmp_path / "source", data_dir, monkeypatch)
        change()
        path, lines = prepared(source, data_dir)
        fresh, _ = prepared(source, tmp_path / "fresh", overwrite=True)
        assert contents(path) == contents(fresh)
        shutil.rmtree(data_dir)
        return next((int(line.split()[1]) for line in lines if "from an interrupted run" in line), 0)

    assert done_after(lambda: None) == 12
    assert done_after(lambda: clip_path(source, 1).write_bytes(second)) == 8
    assert done_after(lambda: clip_path(source, 11).write_bytes(second)) == 8
    write_table(source, [{"track_id": number} for number in range(12)])
    titles = [{"track_id": number, "title": "new" if number < 4 else "T"} for number in range(12)]
    assert done_after(lambda: write_table(source, titles)) == 8
    assert done_after(lambda: shutil.copytree(source, tmp_path / "copy"), tmp_path / "copy") == 0


def test_another_feature_table_is_noticed(tmp_path, monkeypatch):
    sources = [tmp_path / "a", tmp_path / "b"]
    for value, source in enumerate(sources):
        write_table(source, [{"track_id": 2}])
        values = np.full((1, 518), value, np.float32)
        write_features(source / "fma_metadata" / "features.csv", np.array([2]), values)
    interrupted(sources[0], tmp_path / "data", monkeypatch, name="features_518")
    path = prepare(sources[1], "small", "features_518", tmp_path / "data", progress=False, log=lambda line: None)
    assert (read_dataset(path)[1] == 1).all()


@pytest.mark.parametrize("where", ["_write_rejects", "Builder._collect_split"])
def test_failing_after_the_last_shard_loses_nothing(tmp_path, mp3, monkeypatch, where):
    source = tree_of(tmp_path / "source", 5, mp3)

    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(f"tfds_fma.fma_dataset_builder.{where}", fail)
        with pytest.raises(UserError, match="the shards that are finished are kept"):
            prepared(source, tmp_path / "data")
    _, lines = prepared(source, tmp_path / "data")
    assert any("5 tracks are done from an interrupted run" in line for line in lines)
    assert "4 clips written" in lines[-2]


def test_a_shard_that_was_cut_off_is_not_taken(tmp_path, mp3, monkeypatch):
    source = tree_of(tmp_path / "source", 5, mp3)
    collect = Builder._collect

    def cut_then_collect(self, staging, shards):
        file = staging.path(shards[0])
        file.write_bytes(file.read_bytes()[:1000])
        return collect(self, staging, shards)

    with monkeypatch.context() as patch:
        patch.setattr(Builder, "_collect", cut_then_collect)
        with pytest.raises(UserError, match=r"missing or incomplete.*Run the same command"):
            prepared(source, tmp_path / "data")
    assert "4 clips written" in prepared(source, tmp_path / "data")[1][-2]


def test_two_workers_may_make_the_same_shard(tmp_path, mp3):
    """As on a cluster that starts a slow task a second time."""
    source = fma_source(tree_of(tmp_path / "source", 5, mp3), "small", MEL)
    (shard,) = plan_shards(source)
    staging = Staging(tmp_path / "staging", source.representation, source.genres)
    clips = [source.make(track) for track in shard.tracks]

    def meanwhile():
        yield from clips[:2]
        staging.write(shard, iter(clips))
        yield from clips[2:]

    assert staging.write(shard, meanwhile()) == staging.finished(shard)
    assert sorted(path.suffix for path in staging.folder.iterdir()) == [".array_record", ".json"]


def test_the_old_dataset_can_be_read_while_it_is_replaced(damaged, damaged_prepared, tmp_path):
    path = layout.version_dir(tmp_path, "small", MEL)
    shutil.copytree(damaged_prepared, path)
    seen = []

    def look(line: str) -> None:
        seen.append((find_prepared(tmp_path, "small", MEL), len(prepared_below(tmp_path))))

    prepare(damaged, "small", MEL, tmp_path, workers=2, progress=False, overwrite=True, log=look)
    assert set(seen) == {(path, 1)}


def test_a_rerun_says_what_is_done_on_the_command_line(tmp_path, mp3, monkeypatch, capsys):
    source = tree_of(tmp_path / "source", 5, mp3)
    interrupted(source, tmp_path / "data", monkeypatch)
    arguments = ["--source", str(source), "--subset", "small", "--representation", MEL]
    assert main([*arguments, "--data_dir", str(tmp_path / "data")]) == 0
    assert "5 tracks are done from an interrupted run" in capsys.readouterr().out


def test_download_comes_after_all_that_can_be_checked(tmp_path, damaged, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr("tfds_fma.source.download.download", lambda names, *_, **__: asked.append(list(names)))
    arguments = ["--source", str(damaged), "--subset", "small", "--representation", MEL, "--download"]
    assert main([*arguments, "--data_dir", str(tmp_path), "--workers", "0"]) == 1
    assert "workers is 0" in capsys.readouterr().err
    assert not asked
    assert main([*arguments, "--data_dir", str(tmp_path), "--workers", "2"]) == 0
    assert asked == [[]]  # the folders are there
    assert main([*arguments, "--data_dir", str(tmp_path)]) == 0
    assert asked == [[]]  # all is there


def test_archives_that_are_not_needed_are_not_verified(tmp_path, mp3):
    write_table(tmp_path, [{"track_id": 2}, {"track_id": 3, "subset": "medium"}])
    for name, tracks in (("fma_small", (2,)), ("fma_medium", (2, 3)), ("fma_large", (2, 3))):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            for track_id in tracks:
                archive.writestr(f"{name}/000/{track_id:06d}.mp3", mp3)
    for subset, needed in (("small", ["fma_small.zip"]), ("medium", ["fma_medium.zip"])):
        verified = []
        fma_source(tmp_path, subset, MEL, verify=lambda path, verified=verified: verified.append(path.name))
        assert verified == needed


def interrupt(*_):
    raise KeyboardInterrupt


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_folder_that_is_no_dataset_is_not_taken_for_one(damaged, tmp_path):
    path = layout.version_dir(tmp_path, "small", MEL)
    path.mkdir(parents=True)
    assert find_prepared(tmp_path, "small", MEL) is None
    with pytest.raises(UserError, match=r"holds no complete dataset. Remove it, or use --overwrite"):
        prepared(damaged, tmp_path)


def test_errors_of_the_command_line(damaged, tmp_path, capsys):
    def run(source: Path, *options: str) -> str:
        arguments = ["--source", str(source), "--subset", "small", "--representation", MEL]
        assert main([*arguments, "--data_dir", str(tmp_path / "data"), *options]) == 1
        return capsys.readouterr().err

    assert "source folder" in run(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "There is no track table" in run(tmp_path / "empty")
    assert "workers is 0" in run(damaged, "--workers", "0")
    shutil.copytree(damaged / "fma_metadata", tmp_path / "half" / "fma_metadata")
    (tmp_path / "half" / "fma_small").mkdir()
    message = run(tmp_path / "half", "--workers", "1")
    assert "None of the 9 clips of the table could be used (8 missing, 1 no-genre)" in message
    assert "fma_small/000/000002.mp3" in message
    assert find_prepared(tmp_path / "data", "small", MEL) is None
    (tmp_path / "half" / "fma_medium.zip").write_bytes(b"half")
    assert "fma_medium.zip is not a complete zip file" in run(tmp_path / "half")


def test_reading_what_was_not_prepared_is_an_error(tmp_path):
    for read in (class_names, load, lambda path: read_split(path, "train")):
        with pytest.raises(UserError, match="holds no prepared dataset"):
            read(tmp_path)


TRAIN, VALIDATION = (f"fma-{split}.array_record-00000-of-00001" for split in ("train", "validation"))


def damage(path: Path, name: str, how: str) -> None:
    """Damages one file of a prepared dataset."""
    file = path / name
    if how == "missing":
        file.unlink()
    elif how == "other":
        shutil.copy(path / VALIDATION, file)
    else:
        data = file.read_bytes()
        file.write_bytes(data[: {"cut": len(data) // 2, "empty": 0}[how]])


@pytest.mark.parametrize("how", ["missing", "cut", "empty"])
@pytest.mark.parametrize("name", [TRAIN, VALIDATION, "features.json", "genre.labels.txt", "dataset_info.json"])
def test_a_damaged_dataset_is_an_error_that_tells_the_remedy(damaged_prepared, tmp_path, name, how):
    path = tmp_path / "fma" / f"small-{MEL}" / layout.VERSION
    shutil.copytree(damaged_prepared, path)
    damage(path, name, how)
    remedy = (
        rf"The dataset in {path} is damaged \(.*\). .* --subset small --representation {MEL} --data_dir {tmp_path} "
        rf"--overwrite\."
    )
    if (name, how) == ("dataset_info.json", "missing"):
        remedy = "holds no prepared dataset"
    for read in (load, read_dataset, lambda path: read_split(path, "train")):
        with pytest.raises(UserError, match=remedy):
            read(path)


def test_a_shard_with_too_few_records_is_damage(damaged_prepared, tmp_path):
    path = tmp_path / "data"
    shutil.copytree(damaged_prepared, path)
    damage(path, TRAIN, "other")
    with pytest.raises(UserError, match=r"is damaged \(fma-train.*00001 has 1 of 2 records\)"):
        read_dataset(path)


@pytest.mark.parametrize("name", [TRAIN, "features.json", "dataset_info.json"])
def test_overwrite_mends_a_damaged_dataset(damaged, damaged_prepared, tmp_path, name):
    path = layout.version_dir(tmp_path, "small", MEL)
    shutil.copytree(damaged_prepared, path)
    damage(path, name, "cut")
    prepared(damaged, tmp_path, overwrite=True)
    assert len(read_dataset(path)[1]) == 3


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_a_failed_overwrite_leaves_the_old_dataset(damaged, damaged_prepared, tmp_path, monkeypatch, error):
    path = layout.version_dir(tmp_path, "small", MEL)
    shutil.copytree(damaged_prepared, path)

    def fail(*_):
        raise error

    monkeypatch.setattr("tfds_fma.storage.shards.Staging._write_records", fail)
    with pytest.raises((UserError, KeyboardInterrupt), match=r"Make room and run the same command again|^$"):
        prepared(damaged, tmp_path, overwrite=True)
    assert contents(path) == contents(damaged_prepared)


def test_killed_while_the_new_dataset_takes_its_place(damaged, damaged_prepared, tmp_path):
    path = layout.version_dir(tmp_path, "small", MEL)
    shutil.copytree(damaged_prepared, path.parent / layout.REPLACED)
    _, lines = prepared(damaged, tmp_path)
    assert "already prepared" in lines[0]
    assert contents(path) == contents(damaged_prepared)


def test_a_disk_that_may_be_too_small_is_told(damaged, tmp_path, monkeypatch):
    monkeypatch.setattr("tfds_fma.storage.shards.free_bytes", lambda folder: 400_000)
    _, lines = prepared(damaged, tmp_path)
    assert lines[0].endswith("up to 9 clips, 432 KiB; the disk has 391 KiB left, which may be too little")


def test_a_full_disk_keeps_what_is_finished(many_clips, tmp_path, monkeypatch):
    from array_record.python import array_record_module

    class FullAfterTwoFiles(array_record_module.ArrayRecordWriter):
        def close(self):
            super().close()
            if len(list(tmp_path.rglob("*.json"))) >= 2:
                raise RuntimeError("write() failed: No space left on device; writing x.partial; at byte 86016")

    monkeypatch.setattr("tfds_fma.storage.shards._SHARD_BYTES", 30 * 256 * 96 * 2)
    monkeypatch.setattr(array_record_module, "ArrayRecordWriter", FullAfterTwoFiles)
    with pytest.raises(UserError, match=r"Cannot write to .* \(No space left on device\). Make room and run the same"):
        prepared(many_clips, tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr("tfds_fma.storage.shards._SHARD_BYTES", 30 * 256 * 96 * 2)
    _, lines = prepared(many_clips, tmp_path)
    assert any("tracks are done from an interrupted run" in line for line in lines)
    assert "898 clips written" in lines[-2]


def test_tracks_without_a_genre_stay_in_large(tmp_path, mp3):
    rows = [{"track_id": 2, "genres_all": "[12, 25]"}, {"track_id": 3, "genre": "", "subset": "large"}]
    write_table(
        tmp_path, [*rows, {"track_id": 4, "genre": "", "subset": "large", "genres_all": "[]", "split": "test"}]
    )
    for track_id in (2, 3, 4):
        clip_path(tmp_path, track_id, "fma_large").write_bytes(mp3)
    path, lines = prepared(tmp_path, tmp_path / "data", subset="large")
    assert "3 clips written (train 2, test 1); 0 rejected" in lines[-2]
    columns, _ = read_dataset(path)
    assert columns["genre"].tolist() == [0, -1, -1]
    assert columns["genres_all"].tolist() == [[12, 25], [12], []]
    assert len(class_names(path)) == 16
    with pytest.raises(UserError, match=r"no audio in .*: looked for fma_full, fma_full.zip"):
        prepared(tmp_path, tmp_path / "data", subset="full")


def test_features_come_from_the_table_without_audio(tmp_path):
    write_table(tmp_path, [{"track_id": number} for number in (2, 3, 4)] + [{"track_id": 5, "split": "test"}])
    values = np.random.default_rng(0).normal(size=(3, 518)).astype(np.float32)
    values[1, 100] = np.nan
    write_features(tmp_path / "fma_metadata" / "features.csv", np.array([5, 3, 2]), values)
    lines: list[str] = []
    for name, size in (("features_518", 518), ("features_mfcc", 140)):
        path = prepare(tmp_path, "small", name, tmp_path / "data", progress=False, log=lines.append)
        columns, clips = read_dataset(path)
        assert clips.shape[1:] == (size,)
    assert "2 clips written (train 1, test 1); 2 rejected: 1 incomplete, 1 missing; 0 padded" in lines[2]
    assert lines[0] == f"features from {tmp_path}/fma_metadata/features.csv"
    assert "3 clips written (train 2, test 1); 1 rejected: 1 missing" in lines[6]  # the NaN is not in the MFCCs
    assert columns["track_id"].tolist() == [2, 3, 5]
    np.testing.assert_array_equal(clips, values[[2, 1, 0]][:, columns_of(("mfcc",))])


def test_the_names_that_tfds_knows(damaged, tmp_path):
    """As in a user's own script."""
    import tensorflow_datasets as tfds

    import tfds_fma.fma_dataset_builder  # noqa: F401 - registers the name

    builder = tfds.builder(f"fma/small-{MEL}", data_dir=tmp_path, workers=2, progress=False)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=damaged))
    train = tfds.data_source(f"fma/small-{MEL}", split="train", data_dir=tmp_path)
    assert [example["track_id"] for example in train] == [2, 4]
    assert train[0]["clip"].shape == (256, 96)
    assert builder.info.features["genre"].int2str(int(train[0]["genre"])) == "Rock"
    assert set(tfds.core.registered.list_imported_builders()) >= {"fma"}


def test_overwrite_with_a_wrong_source_deletes_nothing(damaged_prepared, tmp_path):
    path = layout.version_dir(tmp_path, "small", MEL)
    shutil.copytree(damaged_prepared, path)
    write_table(tmp_path / "source", [{"track_id": 2, "genre": "Polka"}])
    (tmp_path / "source" / "fma_small").mkdir()
    with pytest.raises(UserError, match="Polka"):
        prepared(tmp_path / "source", tmp_path, overwrite=True)
    assert len(read_dataset(path)[1]) == 3


def test_a_broken_clip_is_listed_where_it_lies(tmp_path, mp3):
    source = tmp_path / "source"
    write_table(source, [{"track_id": 2}, {"track_id": 3, "subset": "medium"}, {"track_id": 4}])
    clip_path(source, 2).write_bytes(mp3)
    clip_path(source, 3, "fma_medium").write_bytes(b"broken" * 100)
    clip_path(source, 4).write_bytes(b"")
    clip_path(source, 4, "fma_medium").write_bytes(mp3)
    for subset, in_use, rejected in (("small", 2, []), ("medium", 2, ["fma_medium/000/000003.mp3"])):
        path, _ = prepared(source, tmp_path / "data", subset=subset)
        with (path / "rejects.csv").open(newline="") as file:
            assert [row["path"] for row in csv.DictReader(file)] == rejected
        assert len(read_dataset(path)[1]) == in_use
