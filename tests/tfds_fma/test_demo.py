import collections
import csv

import pytest

from tfds_fma import GENRES, FmaError
from tfds_fma.demo import ensure_demo, main, make_demo_tree, plan


def test_plan_has_the_long_tail_and_keeps_artists_apart():
    tracks = plan(seed=0)
    assert 900 <= len(tracks) <= 1100
    assert len({track.track_id for track in tracks}) == len(tracks)
    genres = collections.Counter(track.genre for track in tracks)
    assert set(genres) == set(GENRES)
    assert genres["Rock"] > 0.25 * len(tracks)
    assert min(genres.values()) == 6
    splits = collections.Counter(track.split for track in tracks)
    assert 0.08 < splits["validation"] / len(tracks) < 0.12
    assert {(track.genre, track.split) for track in tracks} == {(genre, split) for genre in GENRES for split in splits}
    for key in ("artist_id", "album_id"):
        owners = {(getattr(track, key), track.split, track.genre) for track in tracks}
        assert len(owners) == len({owner[0] for owner in owners})
    bags = {(track.album_id, track.artist_id) for track in tracks}
    assert 2.7 < len(tracks) / len(bags) < 3.7
    small = collections.Counter((track.split, track.genre) for track in tracks if track.subset == "small")
    assert {genre for _, genre in small} == set(GENRES[:8])
    for split in splits:
        assert len({small[split, genre] for genre in GENRES[:8]}) == 1


def test_tree_depends_on_the_seed_only(demo_tree, tmp_path):
    again = make_demo_tree(tmp_path / "again", clips=0, workers=1, progress=False)
    files = [path.relative_to(demo_tree) for path in sorted(demo_tree.rglob("*.*"))]
    assert len(files) == 96 + 3
    assert all((demo_tree / file).read_bytes() == (again / file).read_bytes() for file in files)
    assert plan(seed=1, clips=0) != plan(seed=0, clips=0)


def test_table_has_the_columns_of_fma(demo_tree):
    with (demo_tree / "fma_metadata" / "tracks.csv").open(newline="") as file:
        groups, fields, index, *rows = csv.reader(file)
    assert len(fields) == 53
    assert index == ["track_id"] + 52 * [""]
    assert {len(row) for row in rows} == {53}
    assert collections.Counter(groups) == {"": 1, "album": 13, "artist": 17, "set": 2, "track": 20}
    with (demo_tree / "fma_metadata" / "genres.csv").open(newline="") as file:
        titles = {row["title"]: int(row["#tracks"]) for row in csv.DictReader(file)}
    assert titles == dict.fromkeys(GENRES, 6)


def test_an_existing_tree_is_kept_and_anything_else_is_not_touched(demo_tree, tmp_path, capsys):
    before = demo_tree.stat().st_mtime_ns
    assert make_demo_tree(demo_tree, clips=0) == demo_tree
    assert demo_tree.stat().st_mtime_ns == before
    with pytest.raises(FmaError, match="is not this demo corpus"):
        make_demo_tree(demo_tree, clips=0, seed=1)
    (tmp_path / "mine").mkdir()
    assert main(["--out", str(tmp_path / "mine")]) == 1
    assert "error: " in capsys.readouterr().err


def test_ensure_demo_works_once(tmp_path, monkeypatch, demo_tree):
    # The whole demo takes too long for a test: let its tree be the small one.
    made = []
    monkeypatch.setattr("tfds_fma.demo.make_demo_tree", lambda *args, **kwargs: made.append(args) or demo_tree)
    lines: list[str] = []
    first = ensure_demo(tmp_path, workers=2, log=lines.append)
    assert ensure_demo(tmp_path, log=lines.append) == first
    assert first.is_relative_to(tmp_path / "demo")
    assert len(made) == 1
    assert [line.split(":")[0] for line in lines] == ["demo", "demo"]
