"""Music collections that are broken: each gets a clear sentence, and what is fine in them is not lost."""

import csv
import os
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from tests.tfds_fma.test_collection import RATE, prepared, song, tabulate, touch, write
from tfds_fma.collection.labels import read_songs
from tfds_fma.errors import UserError


@pytest.fixture
def music(tmp_path):
    """Two genres by three artists, each with a song of both."""
    folder = tmp_path / "music"
    for number in range(6):
        write(folder / ("Rock", "Jazz")[number % 2] / f"artist{number // 2}" / f"{number}.wav", number)
    return folder


def rows_of(music: Path, *more: str, columns: str = "path,genre,artist") -> str:
    """A table of what the folders say, with further cells in each row."""
    rows = [(path.relative_to(music), *path.parts[-3:-1]) for path in sorted(music.rglob("*.wav"))]
    return "\n".join([columns, *(",".join(map(str, (*row, *more))) for row in rows)]) + "\n"


# What makes a collection unusable -> what the error says.
UNUSABLE = {
    "no folder": (lambda music: shutil.rmtree(music), "is no folder"),
    "a file": (lambda music: (shutil.rmtree(music), music.write_bytes(b"x")), "is no folder"),
    "no files": (lambda music: (shutil.rmtree(music), music.mkdir()), "no audio in"),
    "only formats that are not read": (
        lambda music: [path.rename(path.with_suffix(".M4A")) for path in music.rglob("*.wav")],
        r"6 files are in formats that are not read \(.m4a\): convert them",
    ),
    "text called wav": (
        lambda music: [path.write_text("hello") for path in music.rglob("*.wav")],
        "None of the 6 clips .* libsndfile: Format not recognised.$",
    ),
    "all too short": (
        lambda music: [write(path, song(n, 1.0)) for n, path in enumerate(music.rglob("*.wav"))],
        "6 short.* 1.00 s of the 5.44 s needed",
    ),
    "no folders in it": (
        lambda music: [path.rename(music / path.name) for path in list(music.rglob("*.wav"))],
        "No song .* has a genre: put the songs into folders",
    ),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_it_cannot_be_used(music, tmp_path, name):
    spoil, problem = UNUSABLE[name]
    spoil(music)
    with pytest.raises(UserError, match=problem):
        prepared(music, tmp_path / "data")
    assert not list((tmp_path / "data").rglob("dataset_info.json"))


# Contents of a table -> what the error says.
TABLES = {
    "nothing": (b"", "is empty: its first row must name the columns"),
    "a header alone": (b"path,genre\n", "has no rows"),
    "semicolons": (b"path;genre\nRock/artist0/0.wav;Rock\n", "separates its columns by ';'"),
    "tabs": (b"path\tgenre\nRock/artist0/0.wav\tRock\n", r"separates its columns by '\\t'"),
    "Latin-1": ("path,genre\nRock/artist0/0.wav,Música\n".encode("latin-1"), "'genre': 'M\ufffdsica' is not UTF-8"),
    "UTF-16": ("path,genre\nRock/artist0/0.wav,Rock\n".encode("utf-16"), "is no text in UTF-8"),
    "a zip file": (b"PK\x03\x04" + bytes(range(256)), "is no text in UTF-8"),
    "other columns": (b"file,genre\nRock/artist0/0.wav,Rock\n", "has no column 'path'; it has file, genre"),
    "no file that is there": (b"path,genre\na.wav,Rock\nb.wav,Jazz\n", "None of the 2 files of .* is there"),
    "a row twice": (b"path,genre\na.wav,Rock\na.wav,Jazz\n", "'a.wav' occurs more than once"),
    "an empty path": (b"path,genre\na.wav,Rock\n,Jazz\n", "a row has no path"),
    "another split": (b"path,genre,split\na.wav,Rock,often\n", "'often' is none of train, validation, test"),
    "an empty split": (b"path,genre,split\na.wav,Rock,train\nb.wav,Jazz,\n", "'' is none of train, validation, test"),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_makes_no_sense(music, tmp_path, name):
    content, problem = TABLES[name]
    (tmp_path / "songs.csv").write_bytes(content)
    with pytest.raises(UserError, match=problem):
        read_songs(music, str(tmp_path / "songs.csv"), "", lambda line: None)


@pytest.mark.parametrize("there", [True, False])
def test_a_table_is_no_file(music, tmp_path, there):
    with pytest.raises(UserError, match="Is a directory" if there else "does not exist"):
        read_songs(music, str(music if there else tmp_path / "no.csv"), "", lambda line: None)


def test_oddities_of_files_cost_only_those_files(music, tmp_path):
    loop, rock = music / "Rock" / "loop", music / "Rock" / "odd"
    rock.mkdir()
    loop.symlink_to(music)
    (rock / "self.wav").symlink_to("self.wav")
    (rock / "gone.wav").symlink_to("nowhere.wav")
    (rock / "folder.wav").mkdir()
    os.mkfifo(rock / "pipe.wav")
    (rock / "zero.wav").touch()
    (rock / "cut.wav").write_bytes((music / "Rock" / "artist0" / "0.wav").read_bytes()[:60])
    write(rock / "half.wav", song(77, 0.5))
    unfinite = song(78)
    unfinite[100] = np.nan
    write(rock / "nan.wav", unfinite, subtype="FLOAT")
    (rock / "._0.wav").write_bytes(b"x" * 4096)
    touch(rock / "song.wma")
    _folder, columns, rejects, lines = prepared(music, tmp_path / "data")
    assert len(columns["genre"]) == 6
    assert {Path(row["path"]).stem: row["reason"] for row in rejects} == {
        "self": "unreadable", "gone": "missing", "pipe": "unreadable", "zero": "empty", "cut": "short",
        "half": "short", "nan": "undecodable",
    }  # fmt: skip
    assert "1 file is in formats that are not read (.wma)" in lines[0]
    # What cannot be decoded at all has no place in a split; what is short, or not finite, is found out later.
    (splits,) = (line for line in lines if line.startswith("splits by artist"))
    assert sum(map(int, re.findall(r"(\d+) songs?", splits))) == 6 + len(["cut", "half", "nan"])


def test_mixed_rates_and_channels_are_all_used(tmp_path):
    for number, (rate, channels) in enumerate([(8_000, 1), (44_100, 2), (96_000, 6), (22_050, 1), (48_000, 2)]):
        audio = np.repeat(song(number, rate=rate)[:, None], channels, axis=1)
        write(tmp_path / "music" / ("Rock", "Jazz")[number % 2] / f"artist{number}" / f"{number}.wav", audio, rate)
    _, columns, rejects, _ = prepared(tmp_path / "music", tmp_path / "data")
    assert len(columns["genre"]) == 5
    assert not rejects


def test_equal_audio_under_two_genres_is_told(music, tmp_path):
    shutil.copy(music / "Rock" / "artist0" / "0.wav", music / "Jazz" / "artist0" / "copy.wav")
    _, columns, rejects, lines = prepared(music, tmp_path / "data")
    assert [row["reason"] for row in rejects] == ["duplicate"]
    assert len(columns["genre"]) == 6
    assert "warning: 1 of the duplicates under another genre than the song that is used" in lines


def test_one_file_of_each_genre_is_trained_on(tmp_path):
    for number, genre in enumerate(["Rock", "Jazz", "Pop"]):
        write(tmp_path / "music" / genre / f"{number}.wav", number)
    _, columns, _, lines = prepared(tmp_path / "music", tmp_path / "data")
    assert set(columns["split"]) == {"train"}
    assert "too few artists. A genre needs at least three" in " ".join(lines)


def test_all_songs_by_one_artist_are_trained_on(music, tmp_path):
    for path in list(music.rglob("*.wav")):
        (path.parents[1] / "Same").mkdir(exist_ok=True)
        path.rename(path.parents[1] / "Same" / path.name)
    _, columns, _, lines = prepared(music, tmp_path / "data")
    assert set(columns["split"]) == {"train"}
    assert "Jazz (1 artist) is not in validation and test" in " ".join(lines)


def test_a_split_without_training_is_told(music, tmp_path):
    table = tabulate(tmp_path / "songs.csv", rows_of(music, "test", columns="path,genre,artist,split"))
    _, columns, _, lines = prepared(music, tmp_path / "data", table=table)
    assert set(columns["split"]) == {"test"}
    assert "warning: no song to train on" in " ".join(lines)


def test_files_that_a_table_names_and_are_missing_are_listed(music, tmp_path):
    table = tabulate(tmp_path / "songs.csv", rows_of(music) + "Rock/gone.wav,Rock,artist0\n")
    _, columns, rejects, _ = prepared(music, tmp_path / "data", table=table)
    assert [(Path(row["path"]).name, row["reason"]) for row in rejects] == [("gone.wav", "missing")]
    assert len(columns["genre"]) == 6


def test_strange_names_stay_names(tmp_path):
    names = ["None", "nan", "-1", "A\nB", '"q", x', "é" * 80, "  "]
    for number, genre in enumerate(names):
        write(tmp_path / "music" / genre / f"artist{number % 3}" / "new\nline.wav", number)
    _, columns, rejects, _ = prepared(tmp_path / "music", tmp_path / "data")
    assert len(set(columns["genre"])) == 6
    assert [row["reason"] for row in rejects] == ["no-genre"]


def test_silence_is_no_duplicate_of_other_silence(music, tmp_path):
    for seconds in (7, 8):
        write(music / "Rock" / "artist0" / f"silent{seconds}.wav", np.zeros(seconds * RATE, np.float32))
    _, columns, rejects, _ = prepared(music, tmp_path / "data")
    assert len(columns["genre"]) == 8
    assert not rejects


def test_a_wrong_ending_does_not_matter(music, tmp_path):
    for path in list(music.rglob("*.wav")):
        path.rename(path.with_suffix(".MP3"))
    assert len(prepared(music, tmp_path / "data")[1]["genre"]) == 6


def test_the_file_of_each_clip_is_listed(music, tmp_path):
    write(music / "Rock" / "artist0" / "long.wav", song(50, 14.0))
    (music / "Jazz" / "zero.wav").touch()
    folder, columns, _, _ = prepared(music, tmp_path / "data", clips="every")
    with (folder / "songs.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert sorted(int(row["track_id"]) for row in rows) == sorted(columns["track_id"].tolist())
    assert [row["window"] for row in rows if row["path"].endswith("long.wav")] == ["0", "1", "2"]
    assert all(Path(row["path"]).is_file() for row in rows)


@pytest.mark.slow
def test_a_hundred_thousand_files_are_read_in_a_minute(tmp_path):
    for artist in range(1000):
        folder = tmp_path / ("Rock", "Jazz")[artist % 2] / f"artist{artist}"
        folder.mkdir(parents=True)
        for number in range(100):
            (folder / f"{number}.wav").touch()
    start = time.perf_counter()
    songs = read_songs(tmp_path, "", "", lambda line: None)
    assert len(songs.path) == 100_000
    assert len(set(songs.artist)) == 1000
    print(f"{time.perf_counter() - start:.1f} s")
