"""A music collection of one's own as a dataset: what is known of the songs, their splits, duplicates, broken ones."""

import csv
import itertools
import os
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tfds_fma.clips.decode import decode
from tfds_fma.clips.windows import cut_windows, window_seconds
from tfds_fma.collection.duplicates import Fingerprint, find_duplicates, fingerprint
from tfds_fma.collection.labels import one_spelling, read_songs
from tfds_fma.collection.songs import find_songs
from tfds_fma.collection.source import Collection, SongTrack, collection_source, make_song
from tfds_fma.collection.splits import artists_of_genres, split_by_artist
from tfds_fma.errors import UserError
from tfds_fma.preparation import prepare_collection
from tfds_fma.prepare import main
from tfds_fma.reading import class_names, read_dataset
from tfds_fma.representations.registry import get_representation
from tfds_fma.validate import main as validate_main

RATE = 12_000
SHORT = get_representation("mel_256x96")  # 5.44 s


def song(seed: int, seconds: float = 7.0, rate: int = RATE) -> np.ndarray:
    """Noise in bands whose levels change twice a second: float32 [sample]. No two seeds are alike."""
    draw = np.random.default_rng(seed)
    edges = np.geomspace(80, rate / 2.2, 17)
    parts = []
    for _ in range(int(2 * seconds)):
        spectrum = np.zeros(rate // 4 + 1, complex)
        hertz = np.fft.rfftfreq(rate // 2, 1 / rate)
        for low, high in itertools.pairwise(edges):
            band = (hertz >= low) & (hertz < high)
            spectrum[band] = 10 ** draw.uniform(-2, 0) * np.exp(2j * np.pi * draw.random(band.sum()))
        parts.append(np.fft.irfft(spectrum, rate // 2))
    audio = np.concatenate(parts)
    return (0.7 * audio / np.abs(audio).max()).astype(np.float32)


def write(path: Path, audio: np.ndarray | int, rate: int = RATE, **kind) -> Path:
    """Writes a song, by default the one of a seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, song(audio, rate=rate) if isinstance(audio, int) else audio, rate, **kind)
    return path


def touch(*paths: Path) -> None:
    """Files that need no audio."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def tabulate(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def songs_of(folder: Path, table: str = "", genre_from: str = ""):
    lines: list[str] = []
    return read_songs(folder, table, genre_from, lines.append), lines


def prepared(audio: Path, data: Path, **flags):
    """Prepares a collection in this process; returns its folder, its columns, the rejects, and what was said."""
    lines: list[str] = []
    folder = prepare_collection(
        Collection(audio, **flags), "mine", "mel_256x96", data, workers=1, progress=False, log=lines.append
    )
    columns, clips = read_dataset(folder)
    with (folder / "rejects.csv").open(newline="", encoding="utf-8") as file:
        rejects = list(csv.DictReader(file))
    return folder, columns | {"clip": clips}, rejects, lines


@pytest.fixture(scope="module")
def music(tmp_path_factory) -> Path:
    """Six songs in two genres, of three artists each, as FOLDER/genre/artist/song, at mixed rates."""
    folder = tmp_path_factory.mktemp("music")
    for number in range(6):
        genre, artist = ("Rock", "jazz")[number % 2], f"artist {number}"
        write(folder / genre / artist / f"song {number}.wav", number, (12_000, 22_050, 44_100)[number // 2])
    return folder


class TestLabels:
    @pytest.mark.parametrize(
        ("path", "expected"),
        [
            ("Rock/a.wav", ("Rock", "", "")),
            ("Rock/Ann/a.wav", ("Rock", "Ann", "")),
            ("Rock/Ann/One/a.wav", ("Rock", "Ann", "One")),
            ("Rock/Ann/One/CD 2/a.wav", ("Rock", "Ann", "One/CD 2")),
        ],
    )
    def test_folders_tell_genre_artist_and_album(self, tmp_path, path, expected):
        touch(tmp_path / path)
        songs, lines = songs_of(tmp_path)
        assert (songs.genre[0], songs.artist[0], songs.album[0]) == expected
        assert songs.title == ("a",)
        assert "genre from folders" in lines[0]

    def test_tags_come_before_folders_if_half_of_the_songs_have_them(self, tmp_path):
        for number, tagged in enumerate([True, True, False, False, False]):
            path = tmp_path / "Pop" / "Ann" / f"{number}.flac"
            write(path, np.zeros(100))
            if tagged:
                with soundfile.SoundFile(path, "w", 8000, 1, format="FLAC") as file:
                    file.genre, file.artist, file.title = "Tagged", "Bob", "Hey"
                    file.write(np.zeros(100))
        songs, lines = songs_of(tmp_path)
        assert set(songs.genre) == {"Pop"}
        os.remove(tmp_path / "Pop" / "Ann" / "4.flac")
        songs, lines = songs_of(tmp_path)
        assert songs.genre == ("Tagged", "Tagged", "", "")
        assert songs.artist == ("Bob", "Bob", "", "")  # a folder beside a tagged genre may mean anything
        assert songs.title == ("Hey", "Hey", "2", "3")
        assert lines[0].endswith(
            "genre from tags, artist from tags, album from nowhere: 4 songs, 1 genre, 1 artist, 0 albums"
        )
        assert "2 of 4 songs without a genre" in lines[1]
        songs, lines = songs_of(tmp_path, genre_from="folders")
        assert set(songs.genre) == {"Pop"}
        assert "genre from folders, artist from tags" in lines[0]

    def test_a_table_comes_first_and_its_rows_are_the_songs(self, tmp_path):
        touch(*(tmp_path / "Pop" / name for name in ("a.wav", "b.wav", "c.wav")))
        table = tabulate(
            tmp_path / "t.csv", "path,genre,artist,split\nPop/b.wav,Folk,Ann,training\nPop/a.wav,Jazz,NA,dev\n"
        )
        songs, lines = songs_of(tmp_path, table)
        assert [path.name for path in songs.path] == ["b.wav", "a.wav"]
        assert songs.genre == ("Folk", "Jazz")
        assert songs.artist == ("Ann", "")
        assert songs.split == ("train", "validation")
        assert any("1 audio file in" in line and "left out" in line for line in lines)
        assert any("genre from table, artist from table" in line for line in lines)

    def test_genres_that_differ_by_case_or_spaces_are_one(self, tmp_path):
        touch(
            *(tmp_path / genre / "a.wav" for genre in ("Hip Hop", "hip hop", "hiphop ", "Pop")),
            tmp_path / "hip hop/b.wav",
        )
        songs, lines = songs_of(tmp_path)
        assert set(songs.genre) == {"hip hop", "Pop"}
        assert any("'Hip Hop', 'hip hop', 'hiphop ' are taken as one" in line for line in lines)
        assert one_spelling(["b", "B ", "", "b"]) == ["b", "b", "", "b"]

    def test_hidden_files_links_and_strange_names(self, tmp_path):
        touch(tmp_path / "Rock" / ".hidden.wav", tmp_path / ".x" / "a.wav", tmp_path / "Rock" / "notes.txt")
        touch(
            tmp_path / "Ro\nck" / "Ann\n" / "so\nng.wav", Path(os.fsdecode(os.fsencode(tmp_path) + b"/Pop/\xff.wav"))
        )
        (tmp_path / "Rock" / "loop").symlink_to(tmp_path, target_is_directory=True)
        songs, _ = songs_of(tmp_path)
        assert songs.genre == ("Pop", "Ro ck")
        assert songs.title[1] == "so ng"
        songs.title[0].encode()

    @pytest.mark.parametrize("files", [[], ["a.txt"], ["a.wav"]])
    def test_nothing_to_learn_from(self, tmp_path, files):
        touch(*(tmp_path / name for name in files))
        with pytest.raises(UserError, match=r"no audio in|No song in .* has a genre"):
            songs_of(tmp_path)
        with pytest.raises(UserError, match="is no folder"):
            songs_of(tmp_path / "gone")

    def test_ten_thousand_files_are_found_quickly(self, tmp_path):
        for genre in range(10):
            for artist in range(10):
                folder = tmp_path / f"genre {genre}" / f"artist {artist}"
                folder.mkdir(parents=True)
                for number in range(100):
                    (folder / f"{number}.wav").touch()
        start = time.perf_counter()
        assert len(find_songs([tmp_path])) == 10_000
        assert time.perf_counter() - start < 5


class TestSplits:
    @pytest.mark.parametrize("seed", range(5))
    def test_eight_one_one_by_artist_with_all_genres_everywhere(self, seed):
        draw = np.random.default_rng(seed)
        artist = draw.integers(0, 120, 1000)
        genre = artist % 4
        split = split_by_artist(genre, artist, seed)
        for name, share in (("train", 0.8), ("validation", 0.1), ("test", 0.1)):
            assert set(genre[split == name]) == {0, 1, 2, 3}
            assert np.mean(split == name) == pytest.approx(share, abs=0.02)
        assert all(len(set(split[artist == one])) == 1 for one in set(artist))
        assert (split == split_by_artist(genre, artist, seed)).all()
        assert (split != split_by_artist(genre, artist, seed + 1)).any()

    def test_three_artists_of_a_genre_are_in_all_splits(self):
        genre, artist = list("aaabbb"), list("uvwxyz")
        split = split_by_artist(genre, artist, 0)
        for name in ("train", "validation", "test"):
            assert {g for g, s in zip(genre, split, strict=True) if s == name} == {"a", "b"}

    def test_two_artists_are_trained_on_and_validated(self):
        split = split_by_artist(list("aabb"), list("uvwx"), 0)
        for name in ("train", "validation"):
            assert {g for g, s in zip("aabb", split, strict=True) if s == name} == {"a", "b"}
        assert "test" not in split

    def test_a_genre_of_one_artist_is_trained_on(self):
        split = split_by_artist(list("aaaac"), list("uvwxy"), 0)
        assert split[-1] == "train"
        assert set(split[:4]) == {"train", "validation", "test"}

    @pytest.mark.parametrize("artists", ["uuuu", "uuvv"])
    def test_too_few_artists_leave_everything_in_training(self, artists):
        assert set(split_by_artist(list("aabb"), list(artists), 0)) == {"train"}

    def test_an_unknown_artist_is_one_of_each_album(self, tmp_path):
        for number in range(6):
            touch(tmp_path / f"{number}.wav")
        rows = "".join(f"{n}.wav,{'ab'[n % 2]},,{n // 2}\n" for n in range(6))
        table = tabulate(tmp_path / "t.csv", f"path,genre,artist,album\n{rows}")
        tracks = collection_source(Collection(tmp_path, table), "mel_256x96", workers=1, progress=False).tracks
        assert [track.split for track in tracks[::2]] == [track.split for track in tracks[1::2]]
        assert {track.split for track in tracks} == {"train", "validation", "test"}
        assert [track.artist_id for track in tracks] == [-1] * 6

    def test_artists_are_counted(self):
        assert artists_of_genres(list("aab"), list("uvu")) == {"a": 2, "b": 1}


class TestDuplicates:
    def test_other_codings_loudness_and_cuts_are_found_and_other_songs_are_not(self, tmp_path):
        original = song(1, 20)
        paths = [
            write(tmp_path / "a.wav", original),
            write(tmp_path / "low.mp3", original, bitrate_mode="CONSTANT", compression_level=0.9),
            write(tmp_path / "high.mp3", original, bitrate_mode="CONSTANT", compression_level=0.1),
            write(tmp_path / "quiet.flac", 0.2 * original),
            write(tmp_path / "begins later.wav", original[RATE // 5 :]),
            write(tmp_path / "ends earlier.wav", original[: -RATE // 5]),
            *(write(tmp_path / f"{seed}.wav", song(seed, 20)) for seed in range(2, 12)),
        ]
        assert (tmp_path / "low.mp3").stat().st_size < 0.7 * (tmp_path / "high.mp3").stat().st_size
        marks = [fingerprint(str(path)) for path in paths]
        assert find_duplicates(marks) == dict.fromkeys(range(1, 6), 0)

    def test_steady_and_short_audio_is_a_duplicate_only_if_it_is_equal(self, tmp_path):
        time_ = np.arange(20 * RATE) / RATE
        tones = [0.5 * np.sin(2 * np.pi * hertz * time_) for hertz in (300, 500, 500)]
        audio = [*tones, np.zeros(RATE), np.zeros(2 * RATE), song(1, 3), 0.5 * song(1, 3)]
        marks = [fingerprint(str(write(tmp_path / f"{n}.wav", one))) for n, one in enumerate(audio)]
        assert find_duplicates(marks) == {2: 1}

    def test_what_cannot_be_decoded_is_compared_with_nothing(self, tmp_path):
        touch(tmp_path / "a.wav")
        assert fingerprint(str(tmp_path / "a.wav")) is None
        assert fingerprint(str(tmp_path / "gone.wav")) is None
        assert find_duplicates([None, None]) == {}

    def test_the_first_one_is_kept_of_a_chain(self):
        bits = np.random.default_rng(0).choice([-1, 1], 551).astype(np.int8)
        steps = []
        for number in range(4):  # each differs from the one before by 15 %
            changed = bits.copy()
            changed[: int(0.15 * number * 551)] *= -1
            steps.append(Fingerprint(30.0, str(number), changed))
        assert find_duplicates(steps) == {1: 0, 3: 2}


class TestClips:
    def test_the_clip_is_cut_from_the_middle_as_fma_did(self, tmp_path):
        audio = song(1, 45)
        path = write(tmp_path / "a.wav", audio, subtype="FLOAT")
        clip = make_song(SHORT, SongTrack(0, "train", "Rock", 0, 0, "", "", 45.0, path=str(path)))
        cut = write(tmp_path / "b.wav", audio[(45 // 2 - 15) * RATE :], subtype="FLOAT")
        expected = SHORT.compute(decode(cut.read_bytes(), SHORT.sample_rate, SHORT.samples).samples)
        np.testing.assert_array_equal(clip.array, expected)

    def test_every_window_is_a_clip_and_a_song_is_in_one_split(self, tmp_path):
        for number in range(3):
            write(tmp_path / "m" / "Rock" / f"{number}.wav", song(number, 6 + 6 * number))
        _, columns, rejects, _ = prepared(tmp_path / "m", tmp_path / "d", clips="every")
        assert not rejects
        windows = [cut_windows(tmp_path / f"m/Rock/{n}.wav", SHORT, window_seconds(SHORT)).clips for n in range(3)]
        assert [len(clips) for clips in windows] == [1, 2, 3]
        order = np.argsort(columns["track_id"])
        np.testing.assert_array_equal(columns["clip"][order], np.concatenate(windows))
        assert columns["title"][order].tolist() == ["0", "1", "1", "2", "2", "2"]
        for name in ("album_id", "artist_id"):  # unknown ones: the song takes their place
            assert len(set(columns[name].tolist())) == 3
        assert all(len(set(columns["split"][columns["title"] == title])) == 1 for title in "012")


class TestPrepared:
    def test_folders_become_a_dataset_and_it_is_prepared_once(self, music, tmp_path):
        folder, columns, rejects, lines = prepared(music, tmp_path)
        assert class_names(folder) == ("jazz", "Rock")
        assert rejects == []
        assert sorted(columns["title"].tolist()) == [f"song {number}" for number in range(6)]
        rows = {title: row for row, title in enumerate(columns["title"].tolist())}
        for number in range(6):
            row = rows[f"song {number}"]
            assert columns["artist"][row] == f"artist {number}"
            assert columns["genre"][row] == (1, 0)[number % 2]
            path = music / ("Rock", "jazz")[number % 2] / f"artist {number}" / f"song {number}.wav"
            np.testing.assert_array_equal(columns["clip"][row], cut_windows(path, SHORT, 6.0, most=1).clips[0])
        for split in ("train", "validation", "test"):
            assert sorted(columns["genre"][columns["split"] == split].tolist()) == [0, 1]
        assert "genre from folders, artist from folders, album from nowhere: 6 songs, 2 genres, 6 artists" in lines[0]
        lines.clear()
        again = prepare_collection(Collection(music), "mine", "mel_256x96", tmp_path, log=lines.append)
        assert again == folder
        assert "already prepared" in lines[0]

    def test_broken_songs_and_duplicates_are_listed_and_the_rest_is_prepared(self, music, tmp_path):
        folder = tmp_path / "m"
        for path in music.glob("*/*/*.wav"):
            touch(folder / path.relative_to(music))
            (folder / path.relative_to(music)).write_bytes(path.read_bytes())
        touch(folder / "Rock" / "artist 0" / "noise.mp3")
        (folder / "Rock" / "artist 0" / "empty.wav").touch()
        write(folder / "Rock" / "artist 0" / "too\nshort.wav", np.zeros(RATE))
        write(folder / "none.wav", 20)
        os.mkfifo(folder / "Rock" / "pipe.wav")
        (folder / "Rock" / "gone.wav").symlink_to("nowhere.wav")
        twin = folder / "jazz" / "artist 9" / "twin.flac"
        write(twin, soundfile.read(music / "Rock" / "artist 0" / "song 0.wav", dtype="int16")[0])
        path, columns, rejects, lines = prepared(folder, tmp_path / "d")
        assert len(columns["title"]) == 6
        assert validate_main(["--path", str(path)]) == 0
        reasons = {Path(row["path"]).name: row["reason"] for row in rejects}
        assert reasons == {
            "noise.mp3": "undecodable", "empty.wav": "empty", "too\nshort.wav": "short", "none.wav": "no-genre",
            "pipe.wav": "unreadable", "gone.wav": "missing", "twin.flac": "duplicate",
        }  # fmt: skip
        (detail,) = [row["detail"] for row in rejects if row["reason"] == "duplicate"]
        assert detail == f"the same audio as {folder / 'Rock' / 'artist 0' / 'song 0.wav'}"
        assert any("1 duplicate:" in line for line in lines)

    def test_few_artists_are_told_with_the_remedy(self, tmp_path):
        for number in range(4):
            write(tmp_path / "m" / ("Rock", "Jazz")[number % 2] / "Ann" / f"{number}.wav", number)
        _, columns, _, lines = prepared(tmp_path / "m", tmp_path / "d")
        assert set(columns["split"].tolist()) == {"train"}
        (told,) = [line for line in lines if "too few artists" in line]
        assert "Rock (1 artist) is not in validation and test" in told
        assert "add songs of other artists" in told

    def test_the_splits_of_the_table_are_kept_and_shared_artists_are_told(self, music, tmp_path):
        rows = [str(path.relative_to(music)) for path in sorted(music.glob("*/*/*.wav"))]
        splits = ["train", "validation", "train", "test", "train", "train"]
        text = "".join(f"{row},{row.split('/')[0]},Ann,{split}\n" for row, split in zip(rows, splits, strict=True))
        table = tabulate(tmp_path / "t.csv", "path,genre,artist,split\n" + text + "gone.wav,Rock,Ann,train\n")
        _, columns, rejects, lines = prepared(music, tmp_path / "d", table=table)
        assert sorted(columns["split"].tolist()) == sorted(splits)
        assert [row["reason"] for row in rejects] == ["missing"]
        assert any("1 artist in more than one split" in line for line in lines)

    def test_a_representation_that_is_not_computed_from_audio(self, music, tmp_path):
        with pytest.raises(UserError, match="extract_features"):
            prepare_collection(Collection(music), "mine", "features_518", tmp_path, log=lambda line: None)


class TestCommand:
    def test_it_names_the_corpus_to_train_on(self, music, tmp_path, capsys):
        flags = [
            "--audio",
            str(music),
            "--representation",
            "mel_256x96",
            "--data_dir",
            str(tmp_path),
            "--workers",
            "1",
        ]
        assert main(flags) == 0
        assert "--config.data.corpus=own_music --config.data.representation=mel_256x96" in capsys.readouterr().out
        assert main(["--name", "music", "--representation", "mel_256x96", "--data_dir", str(tmp_path)]) == 0

    @pytest.mark.parametrize(
        ("flags", "problem"),
        [
            (["--audio", "m", "--subset", "small"], "--subset is not for --audio"),
            (["--audio", "m", "--source", "x"], "--source is not for --audio"),
            (["--audio", "m", "--ids", "x"], "--ids is not for --audio"),
            (["--audio", "m", "--name", "My Music"], "cannot be the name of a collection"),
            (["--clips", "every"], "name its folder with --audio"),
            (["--source", "x"], "Say which subset"),
            (["--audio", "gone"], "is no folder"),
            (["--audio", "gone", "--split_seed", "-1"], "from 0 to"),
        ],
    )
    def test_flags_that_do_not_fit(self, tmp_path, capsys, flags, problem):
        assert main([*flags, "--data_dir", str(tmp_path)]) == 1
        assert problem in capsys.readouterr().err


@pytest.mark.slow
def test_a_model_is_trained_on_a_collection(music, tmp_path):
    import mgc_jax

    prepared(music, tmp_path / "data")
    (tmp_path / "small.py").write_text(
        "from mgc_jax.config.keys import default\n"
        "def get_config():\n"
        "    config = default()\n"
        "    config.data.corpus, config.data.representation = 'own_mine', 'mel_256x96'\n"
        f"    config.data.data_dir = {str(tmp_path / 'data')!r}\n"
        "    config.model.encoder.update(\n"
        "        name='crnn_tf', filters=(2, 2), pools=((4, 8), (4, 4)), gru_units=2, features=4)\n"
        "    config.train.epochs = 1\n"
        "    return config\n"
    )
    results = mgc_jax.train(mgc_jax.load_config(tmp_path / "small.py"), tmp_path / "run")
    assert set(results["splits"]) == {"train", "validation"}

    with pytest.raises(mgc_jax.UserError, match="--audio FOLDER --name other"):
        mgc_jax.open_corpus(mgc_jax.load_config(tmp_path / "small.py", {"data.corpus": "own_other"}).data)
