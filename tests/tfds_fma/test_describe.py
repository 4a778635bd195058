"""The report on a prepared dataset, and the flags that name one."""

import collections
import csv
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from fma_trees import clip_path, write_table

from tfds_fma import GENRES, UserError
from tfds_fma.describe import main, render
from tfds_fma.description import NO_GENRE, Description, bag_statistics, describe
from tfds_fma.preparation import prepare
from tfds_fma.source import counts
from tfds_fma.source import counts as counts_module
from tfds_fma.source.tracks import read_tracks
from tfds_fma.storage import layout

MEL = "mel_256x96"


@pytest.fixture(scope="module")
def description(dataset) -> Description:
    return describe(dataset)


def add_rejects(path: Path, *rows: tuple) -> None:
    with (path / "rejects.csv").open("a", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def test_published_counts_add_up():
    assert counts.clips_per_split("small") == {"train": 6400, "validation": 800, "test": 800}
    assert counts.clips_per_split("medium") == {"train": 19_922, "validation": 2505, "test": 2573}
    large = counts.clips_per_split("large")
    assert large == counts.clips_per_split("full") == {"train": 84_353, "validation": 10_958, "test": 11_263}
    assert sum(large.values()) == 106_574  # the tracks of tracks.csv
    medium = counts.clips_per_genre("medium")
    assert all(set(numbers) == set(GENRES) for numbers in medium.values())
    assert counts.clips_per_genre("large") is None
    assert counts.clips_per_split("mine") is None


def test_published_counts_are_those_of_the_real_table(real_data):
    with (real_data / "fma_medium_tables" / "labels.csv").open() as file:
        found = collections.Counter((row["split"], row["genre_top"]) for row in csv.DictReader(file))
    lacking = 0
    for split, numbers in counts.clips_per_genre("medium").items():
        for genre, number in numbers.items():
            missing = number - found[{"train": "training"}.get(split, split), genre]
            assert 0 <= missing < 10
            lacking += missing
    assert lacking == 20  # that table has 24,980 of the 25,000 tracks


def test_counts_are_those_of_the_table(description, demo_tree):
    tracks = read_tracks(demo_tree, "small")
    for split, clips in description.clips.items():
        here = [track for track in tracks if track.split == split]
        assert clips == {genre: sum(track.genre == genre for track in here) for genre in GENRES[:8]}
        bags = collections.Counter((track.album_id, track.artist_id) for track in here)
        assert description.bags[split].number == len(bags)
        assert description.bags[split].largest == max(bags.values())
        assert description.bags[split].mean == len(here) / len(bags)
        assert description.bags[split].unknown == description.bags[split].mixed == 0
    assert description.shared_artists == 0
    assert (description.name, description.version) == (f"small-{MEL}", layout.VERSION)


def test_storage_is_what_is_on_the_disk(description, dataset):
    for split, storage in description.storage.items():
        files = list(dataset.glob(f"fma-{split}.*"))
        assert storage.shards == len(files) == 1
        assert storage.bytes == sum(file.stat().st_size for file in files)
        assert storage.clips == sum(description.clips[split].values())


def test_every_mismatch_is_told(own, monkeypatch):
    add_rejects(own, (900, "fma_small/000/000900.mp3", "train", "Rock", "missing", "no such file"))
    add_rejects(own, (901, "fma_small/000/000901.mp3", "test", "Rock", "short", "1.00 s"))
    counts = {split: dict(numbers) for split, numbers in describe(own).clips.items()}
    counts["train"]["Rock"] += 2
    counts["train"]["Folk"] -= 1
    rock, folk, total = (
        counts["train"]["Rock"],
        counts["train"]["Folk"],
        sum(map(lambda n: sum(n.values()), counts.values())),
    )
    monkeypatch.setattr(counts_module, "clips_per_genre", lambda subset: counts)
    report = render(describe(own)).splitlines()
    start = report.index("Published counts: differences")
    assert report[start + 1 : start + 6] == [
        f"  train Rock {rock - 2} of {rock}: 2 missing",
        f"  train Folk {folk + 1} of {folk}: 1 too many",
        f"2 of FMA's {total} clips are missing in all; rejects.csv explains 1 of them.",
        "Not in the track table that the dataset was made of: 1.",
        "",
    ]


def test_no_mismatch_is_told_too(description):
    same = dataclasses.replace(description, mismatches=())
    assert "Published counts: no difference." in render(same)
    other = dataclasses.replace(description, published=None, published_totals=None, subset="mine")
    assert "Published counts: there are none of the subset 'mine'." in render(other)


def test_the_demo_is_not_compared(dataset, tmp_path):
    path = shutil.copytree(dataset, layout.version_dir(tmp_path / "demo", "small", MEL))
    description = describe(path)
    assert description.demo
    assert not description.mismatches
    report = render(description)
    assert "the synthetic demo corpus" in report
    assert "Published counts: not compared" in report


def test_tables_are_aligned(description):
    lines = render(description).splitlines()
    start = lines.index("Clips per genre; FMA: as published (Defferrard et al. 2017)")
    table = lines[start + 1 : start + 11]
    assert len({len(line) for line in table}) == 1
    assert table[0].split() == ["genre", "train", "FMA", "validation", "FMA", "test", "FMA", "all", "FMA"]
    assert table[-1].split() == ["all", "32", "6400", "8", "800", "8", "800", "48", "8000"]


def test_bags_of_known_and_unknown_ids():
    genre, artist, album = np.array(
        [
            (0, 1, 10),
            (0, 1, 10),
            (1, 1, 10),  # one bag of three clips and two genres
            (0, 2, 10),  # the same album id, another artist
            (-1, 3, 30),
            (0, 3, 30),  # no genre makes no bag mixed
            (0, 4, -1),
            (0, 4, -1),  # what is known of them is the same
            (0, -1, -1),
            (0, -1, -1),  # nothing is known of them: two bags
        ]
    ).T
    bags = bag_statistics(genre, artist, album)
    assert (bags.number, bags.largest, bags.median, bags.mean) == (6, 3, 1.5, 10 / 6)
    assert (bags.singletons, bags.mixed, bags.unknown) == (3, 1, 4)
    empty = bag_statistics(*np.empty((3, 0), np.int64))
    assert (empty.number, empty.largest, empty.mean) == (0, 0, 0)


def test_rejects_are_grouped_with_examples(own):
    add_rejects(own, *((900 + number, f"{number}.mp3", "train", "Rock", "missing", "none") for number in range(5)))
    add_rejects(own, (950, "x.mp3", "test", "", "short", "1.00 s"))
    description = describe(own)
    assert [(group.reason, group.number, len(group.examples)) for group in description.rejects] == [
        ("missing", 5, 3),
        ("short", 1, 1),
    ]
    report = render(description)
    assert "Rejects: 6 tracks" in report
    assert f"    x.mp3 (test, {NO_GENRE}): 1.00 s" in report
    (own / "rejects.csv").unlink()
    assert "there is no rejects.csv" in render(describe(own))
    (own / "rejects.csv").write_text("track_id\n1\n")
    with pytest.raises(UserError, match=r"rejects.csv cannot be read \(its columns are not track_id, path"):
        describe(own)


def test_clips_without_a_genre_have_a_row(tmp_path, mp3):
    source = tmp_path / "source"
    write_table(source, [{"track_id": 2}, {"track_id": 3, "genre": "", "subset": "large"}, {"track_id": 4}])
    for track_id in (2, 3, 4):
        clip_path(source, track_id, "fma_large").write_bytes(mp3)
    path = prepare(source, "large", MEL, tmp_path / "data", workers=1, progress=False, log=lambda line: None)
    description = describe(path)
    assert description.clips["train"]["Rock"] == 2
    assert description.clips["train"][NO_GENRE] == 1
    report = render(description)
    assert "  train 3 of 84353: 84350 missing" in report
    assert "  test 0 of 11263: 11263 missing" in report


def test_damage_is_an_error_that_names_the_check(own):
    shard = next(own.glob("fma-train.*"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(UserError, match=rf"train split in {own} is damaged .* tfds_fma.validate --path {own}"):
        describe(own)


def test_json_holds_the_same(description, dataset, tmp_path, capsys):
    data_dir = dataset.parents[2]
    flags = ["--data_dir", str(data_dir), "--subset", "small", "--representation", MEL]
    assert main([*flags, "--json", str(tmp_path / "numbers.json")]) == 0
    assert capsys.readouterr().out == render(description) + "\n"
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert numbers == json.loads(json.dumps(dataclasses.asdict(description)))
    assert numbers["storage"]["train"]["clips"] == 32
    assert main(["--path", str(dataset)]) == 0
    assert main([*flags, "--json", str(tmp_path / "no" / "numbers.json")]) == 1
    assert "Choose another file" in capsys.readouterr().err


def test_a_dataset_that_is_not_there(dataset, tmp_path, capsys):
    def error(*flags: str) -> str:
        assert main(list(flags)) == 1
        return capsys.readouterr().err

    data_dir = dataset.parents[2]
    message = error("--data_dir", str(data_dir), "--subset", "medium")
    assert "medium-mel_1360x96 has not been prepared" in message
    assert f"Prepared there: fma/small-{MEL}/{layout.VERSION} " in message
    assert (
        "python -m tfds_fma.prepare --source DIR --subset medium --representation mel_1360x96 --data_dir "
        f"{data_dir}." in message
    )
    shutil.copytree(dataset, layout.version_dir(tmp_path / "demo", "medium", MEL))
    assert f"demo/fma/medium-{MEL}/" in error("--data_dir", str(tmp_path), "--subset", "small")
    assert "Prepared there: nothing" in error("--data_dir", str(tmp_path / "none"), "--subset", "small")
    assert "Unknown representation 'x'" in error("--data_dir", ".", "--subset", "small", "--representation", "x")
    assert "no dataset_info.json in it" in error("--path", str(data_dir))
    assert "leave out" in error("--path", str(dataset), "--subset", "small")
    assert "Say which dataset" in error("--subset", "small")
