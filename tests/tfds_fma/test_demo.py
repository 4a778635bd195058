import collections
import csv
import json
import shutil

import numpy as np
import pytest

from tfds_fma import GENRES, UserError
from tfds_fma.demo import DEMO_SUBSET, SUB_GENRES, ensure_demo, main, make_demo_tree, plan
from tfds_fma.reading import read_dataset
from tfds_fma.representations.audio import Audio
from tfds_fma.representations.feature_vector import FeatureVector
from tfds_fma.representations.registry import REPRESENTATIONS, demo_representation, get_representation
from tfds_fma.source.feature_table import format_row, write_rows
from tfds_fma.source.tracks import read_tracks
from tfds_fma.synthesis.music import SAMPLE_RATE, SECONDS, Identity, render
from tfds_fma.synthesis.styles import STYLES


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
    sub_genres = {(track.album_id, track.sub_genre) for track in tracks}
    assert len(sub_genres) == len({track.album_id for track in tracks})
    assert all(track.sub_genre in {"", *SUB_GENRES[track.genre]} for track in tracks)
    assert {track.sub_genre for track in tracks} >= set(SUB_GENRES["Rock"])
    assert 0.7 < sum(bool(track.sub_genre) for track in tracks) / len(tracks) < 0.9
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
        genres = {int(row["genre_id"]): row for row in csv.DictReader(file)}
    top = {number: row for number, row in genres.items() if row["parent"] == "0"}
    assert {row["title"]: int(row["#tracks"]) for row in top.values()} == dict.fromkeys(GENRES, 6)
    assert all(int(row["top_level"]) == number for number, row in top.items())
    assert all(row["top_level"] == row["parent"] for number, row in genres.items() if number not in top)
    counts = collections.Counter()
    for row in rows:
        values = dict(zip(zip(groups, fields, strict=True), row, strict=True))
        ids = json.loads(values["track", "genres_all"])
        (parent,) = set(ids) & top.keys()
        assert genres[parent]["title"] == values["track", "genre_top"]
        assert {int(genres[number]["top_level"]) for number in ids} == {parent}
        assert json.loads(values["track", "genres"]) == ([number for number in ids if number != parent] or [parent])
        counts.update(ids)
    assert {number: int(row["#tracks"]) for number, row in genres.items()} == {n: counts[n] for n in genres}


def test_an_existing_tree_is_kept_and_anything_else_is_not_touched(demo_tree, tmp_path, capsys):
    before = demo_tree.stat().st_mtime_ns
    assert make_demo_tree(demo_tree, clips=0) == demo_tree
    assert demo_tree.stat().st_mtime_ns == before
    with pytest.raises(UserError, match="is not this demo corpus"):
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


@pytest.mark.parametrize("name", REPRESENTATIONS)
def test_the_demos_clips_are_long_enough_for_its_representations(name):
    chosen = get_representation(demo_representation(name))
    assert type(chosen) is type(REPRESENTATIONS[name])
    assert demo_representation(chosen.name) == chosen.name
    if isinstance(chosen, FeatureVector):
        assert chosen.name == name
        return
    assert chosen.samples <= SECONDS * chosen.sample_rate
    assert (chosen.sample_rate, chosen.dtype) == (REPRESENTATIONS[name].sample_rate, REPRESENTATIONS[name].dtype)
    if isinstance(chosen, Audio):
        for mel in ("mel_256x96", "mel_120x128"):
            assert chosen.seconds >= REPRESENTATIONS[mel].samples / REPRESENTATIONS[mel].sample_rate


def test_other_rates_and_names_of_ones_own():
    assert demo_representation("audio_8000") == "audio_8000_short"
    assert demo_representation("mel_100x250") == "mel_256x96"


def test_one_tree_serves_all_representations(tmp_path, monkeypatch, demo_tree):
    source = shutil.copytree(demo_tree, tmp_path / "demo" / "source")
    monkeypatch.setattr("tfds_fma.demo.make_demo_tree", lambda *args, **kwargs: source)
    extracted = []

    def extract(tree, subset, **kwargs):  # the real one takes a second per ten clips
        extracted.append(subset)
        rows = [format_row(str(track.track_id), np.full(518, track.track_id)) for track in read_tracks(tree, subset)]
        write_rows(tree / "fma_metadata" / "features.csv", "track_id", rows)

    monkeypatch.setattr("tfds_fma.extract_features.extract_tracks", extract)
    for name in ("audio_12000", "features_518", "features_mfcc"):
        path = ensure_demo(tmp_path, name, workers=2, log=lambda line: None)
        assert path.parent.name == f"medium-{demo_representation(name)}"
        columns, clips = read_dataset(path)
        assert clips.shape == (96, *get_representation(demo_representation(name)).shape)
    np.testing.assert_array_equal(clips[:, 0], columns["track_id"])
    assert collections.Counter(columns["subset"].tolist()) == {"small": 48, "medium": 48}
    assert extracted == [DEMO_SUBSET]


def test_sub_genres_can_be_heard():
    def centroid(samples):
        power = np.abs(np.fft.rfft(samples)) ** 2
        return (power * np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE)).sum() / power.sum()

    brightness = np.array(
        [
            [centroid(render(Identity(0, genre, artist, artist, artist, sub_genre))) for sub_genre in (2, 0, 1)]
            for artist, genre in enumerate(STYLES)
            if genre != "Spoken"
        ]
    )
    assert (np.diff(np.log(brightness).mean(axis=0)) > 0).all()
