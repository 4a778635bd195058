"""GTZAN: what is known of its excerpts, its archive and folders, and the dataset of its segments."""

import collections
import csv
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tfds_fma.collection.gtzan import audio_folder, excerpts, genre_of, read_gtzan
from tfds_fma.demo import make_gtzan
from tfds_fma.describe import main as describe_main
from tfds_fma.errors import UserError
from tfds_fma.prepare import main
from tfds_fma.reading import class_names, read_dataset
from tfds_fma.representations.registry import get_representation
from tfds_fma.representations.spectrogram import mel_power
from tfds_fma.synthesis.gtzan import render_excerpt
from tfds_fma.synthesis.music import SAMPLE_RATE
from tfds_fma.validate import main as validate_main

RATE = 22_050
GENRES = ("blues", "classical", "country", "disco", "hiphop", "jazz", "metal", "pop", "reggae", "rock")
# One of each split, and the file that is broken in Kaggle's copy.
NAMES = ("blues.00029", "blues.00000", "blues.00012", "disco.00050")
BROKEN = "jazz.00054"


def noise(name: str, seconds: float = 30) -> np.ndarray:
    seed = sum(map(ord, name))
    return np.random.default_rng(seed).uniform(-0.5, 0.5, int(seconds * RATE)).astype(np.float32)


def write(folder: Path, ending: str, names: tuple[str, ...] = NAMES, seconds: float = 30) -> Path:
    """Writes excerpts as folder/GENRE/GENRE.NNNNN.ENDING."""
    for name in names:
        path = folder / genre_of(name) / f"{name}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, noise(name, seconds), RATE, format=ending.upper(), subtype="PCM_16")
    return folder


def pack(folder: Path, archive: Path) -> Path:
    with tarfile.open(archive, "w:gz") as file:
        file.add(folder, "genres")
    return archive


class TestFacts:
    def test_the_fault_filtered_splits_have_the_published_sizes(self):
        known = excerpts()
        assert list(known) == [f"{genre}.{number:05d}" for genre in GENRES for number in range(100)]  # each once
        assert collections.Counter(excerpt.split for excerpt in known.values()) == {
            "train": 443, "validation": 197, "test": 290, "": 70,
        }  # fmt: skip
        per_genre = {
            split: [sum(e.split == split and genre_of(n) == genre for n, e in known.items()) for genre in GENRES]
            for split in ("train", "validation", "test")
        }
        assert per_genre == {
            "train": [46, 48, 45, 42, 47, 43, 44, 41, 43, 44],
            "validation": [23, 20, 23, 22, 18, 17, 20, 13, 17, 24],
            "test": [31, 31, 30, 29, 27, 27, 27, 30, 26, 32],
        }

    def test_they_share_no_artist_and_no_recording(self):
        known = excerpts()
        splits = collections.defaultdict(set)
        recordings = collections.Counter()
        for name, excerpt in known.items():
            if excerpt.split:
                splits[excerpt.artist].add(excerpt.split)
                recordings[excerpt.repeats or name] += 1
        assert all(len(found) == 1 for artist, found in splits.items() if artist)
        assert set(recordings.values()) == {1}

    def test_a_repetition_is_of_the_same_artist_and_not_of_another_repetition(self):
        known = excerpts()
        repeating = {name: excerpt for name, excerpt in known.items() if excerpt.repeats}
        assert len(repeating) == 50
        for excerpt in repeating.values():
            assert known[excerpt.repeats].artist == excerpt.artist != ""
            assert not known[excerpt.repeats].repeats
        assert sum(genre_of(name) != genre_of(e.repeats) for name, e in repeating.items()) == 1
        assert sum(not excerpt.artist for excerpt in known.values()) == 81


def test_the_archive_becomes_a_dataset_of_segments(tmp_path, capsys):
    source = write(tmp_path / "genres", "au")
    (source / "jazz").mkdir()
    (source / "jazz" / f"{BROKEN}.au").write_bytes(b"no audio")
    archive = pack(source, tmp_path / "genres.tar.gz")
    data = tmp_path / "data"
    arguments = ["--gtzan", str(archive), "--representation", "stft_128x513", "--data_dir", str(data), "--workers=1"]
    assert main(arguments) == 0
    output = capsys.readouterr().out
    assert "5 of the 1,000 excerpts of GTZAN, of 4 artists, 1 of unknown artist" in output
    assert "train 2, validation 1, test 1, unused 1" in output
    folder = next(data.glob("fma/own_gtzan-stft_128x513/*"))
    columns, clips = read_dataset(folder)
    assert class_names(folder) == ("blues", "disco", "jazz")
    assert collections.Counter(columns["split"].tolist()) == {"train": 6, "validation": 6, "test": 6, "unused": 6}
    for split, name in zip(("train", "validation", "test", "unused"), NAMES, strict=True):
        rows = np.flatnonzero(columns["split"] == split)
        assert set(columns["title"][rows]) == {name}
        assert len(set(columns["album_id"][rows])) == 1
        assert set(columns["artist"][rows]) == {excerpts()[name].artist}
        third, _ = soundfile.read(
            source / genre_of(name) / f"{name}.au", 5 * RATE, 10 * RATE, dtype="float32", always_2d=False
        )
        np.testing.assert_array_equal(clips[rows[2]], get_representation("stft_128x513").compute(third))
    assert len(set(columns["album_id"])) == 4
    with (folder / "rejects.csv").open(newline="") as file:
        (reject,) = csv.DictReader(file)
    assert (Path(reject["path"]).stem, reject["reason"]) == (BROKEN, "undecodable")
    assert validate_main(["--path", str(folder)]) == 0
    assert "unused 6" in capsys.readouterr().out
    assert describe_main(["--path", str(folder), "--plots", str(tmp_path / "plots")]) == 0
    assert "Artists in more than one split: 0 (as it should be)" in capsys.readouterr().out
    assert len(list((tmp_path / "plots").iterdir())) == 2


def test_folders_are_read_as_they_lie(tmp_path):
    lines: list[str] = []
    songs = read_gtzan(write(tmp_path / "Data" / "genres_original", "wav", seconds=0.1), lines.append)
    assert songs.title == tuple(sorted(NAMES))
    assert songs.split == ("validation", "test", "train", "unused")
    assert songs.genre == ("blues", "blues", "blues", "disco")
    assert songs.artist[:2] == ("John Lee Hooker", "Robert Johnson")
    write(tmp_path / "other", "au", NAMES[:1], 0.1)
    with pytest.raises(UserError, match=r"blues\.00029 is there twice: .* Give the folder of one copy"):
        read_gtzan(tmp_path, lines.append)


class TestArchive:
    def test_one_that_is_cut_off_is_refused_wherever(self, tmp_path):
        archive = pack(write(tmp_path / "genres", "au", seconds=0.5), tmp_path / "whole.tar.gz").read_bytes()
        cut = tmp_path / "cut.tar.gz"
        for length in (0, 5, 100, *np.linspace(1000, len(archive) - 1, 20).astype(int)):
            cut.write_bytes(archive[:length])
            with pytest.raises(UserError, match="is cut off or damaged, or no tar archive: download it again"):
                audio_folder(cut, tmp_path / "data", lambda line: None)
            assert [path.name for path in (tmp_path / "data" / "gtzan").iterdir()] == [".lock"]

    @pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
    def test_a_changed_byte_is_found(self, tmp_path, kind):
        archive = tmp_path / f"genres.tar.{kind}"
        with tarfile.open(archive, f"w:{kind}") as members:
            members.add(write(tmp_path / "genres", "au", seconds=0.5), "genres")
        content = bytearray(archive.read_bytes())
        content[len(content) // 2] ^= 0x10
        archive.write_bytes(content)
        with pytest.raises(UserError, match=r"damaged.*: download it again\."):
            audio_folder(archive, tmp_path / "data", lambda line: None)

    def test_another_archive_is_not_taken_for_the_first(self, tmp_path):
        first = pack(write(tmp_path / "a" / "genres", "au", seconds=0.5), tmp_path / "a.tar.gz")
        second = pack(write(tmp_path / "b" / "genres", "au", NAMES[:1], 0.5), tmp_path / "b.tar.gz")
        folder = audio_folder(first, tmp_path / "data", lambda line: None)
        assert audio_folder(first, tmp_path / "data", lambda line: None) == folder
        with pytest.raises(UserError, match=r"is of another archive than .*b\.tar\.gz\. Remove it"):
            audio_folder(second, tmp_path / "data", lambda line: None)

    def test_a_relative_place_is_absolute_for_workers(self, tmp_path, monkeypatch):
        archive = pack(write(tmp_path / "genres", "au", seconds=0.5), tmp_path / "genres.tar.gz")
        monkeypatch.chdir(tmp_path)
        assert audio_folder("genres", "data", lambda line: None) == tmp_path / "genres"
        assert audio_folder(archive.name, "data", lambda line: None) == tmp_path / "data" / "gtzan" / "genres"

    def test_nothing_but_excerpts_is_written_and_nothing_elsewhere(self, tmp_path):
        archive, lines = tmp_path / "a" / "genres.tar.gz", []
        archive.parent.mkdir()
        with tarfile.open(archive, "w:gz") as file:
            for name in ("../../blues/blues.00000.au", "/pop/pop.00001.wav", "genres/jazz/pop.00002.au", "x.sh"):
                info = tarfile.TarInfo(name)
                info.size = 3
                file.addfile(info, io.BytesIO(b"abc"))
            link = tarfile.TarInfo("genres/rock/rock.00000.au")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            file.addfile(link)
        folder = audio_folder(archive, tmp_path / "a" / "data", lines.append)
        files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if not path.is_dir())
        unpacked = "a/data/gtzan/genres"
        assert files == ["a/data/gtzan/.lock", f"{unpacked}/.archive",
                         f"{unpacked}/blues/blues.00000.au", f"{unpacked}/pop/pop.00001.wav",
                         "a/genres.tar.gz"]  # fmt: skip
        assert audio_folder(archive, tmp_path / "a" / "data", lines.append) == folder
        assert "unpacked before" in lines[-1]

    def test_what_is_no_gtzan_is_said(self, tmp_path):
        (tmp_path / "empty").mkdir()
        with pytest.raises(UserError, match=r"does not exist\. Give --gtzan genres.tar.gz"):
            audio_folder(tmp_path / "gone", tmp_path, print)
        with pytest.raises(UserError, match="holds no file called as GTZAN's"):
            audio_folder(pack(tmp_path / "empty", tmp_path / "empty.tar.gz"), tmp_path, print)
        soundfile.write(tmp_path / "empty" / "mine.wav", np.zeros(100), RATE)
        with pytest.raises(UserError, match=r"no file called as GTZAN's, such as blues\.00000\.au\. Give --gtzan"):
            read_gtzan(tmp_path / "empty", print)


def test_a_source_is_one_of_them(capsys, tmp_path):
    assert main(["--gtzan", "x", "--audio", "y", "--data_dir", str(tmp_path)]) == 1
    assert "--audio is not for --gtzan" in capsys.readouterr().err
    assert main(["--gtzan", str(tmp_path), "--representation", "features_518", "--data_dir", str(tmp_path)]) == 1
    assert "features_518 is read from FMA's table" in capsys.readouterr().err


def test_the_spectrogram_of_feng_is_librosas():
    import librosa

    chosen = get_representation("stft_128x513")
    audio = np.random.default_rng(0).standard_normal(chosen.at_most).astype(np.float32)
    spectrum = np.abs(librosa.stft(audio, n_fft=1024, hop_length=861, pad_mode="reflect")) ** 2
    ours = chosen.compute(audio)
    assert ours.shape == chosen.shape == (128, 513)
    assert 0 <= chosen.at_most / chosen.hop - 128 < 1  # the frames reach to the end of the 5 s
    np.testing.assert_allclose(ours.astype(float), librosa.power_to_db(spectrum).T[:128], atol=1 / 16)


class TestSynthetic:
    def test_a_segment_tells_its_excerpt_and_an_excerpt_hardly_its_genre(self):
        """The nearest of the other segments by the mean spectrum is of the same excerpt, if of any."""
        made = [(genre, song) for genre in ("jazz", "rock") for song in range(4)]
        spectra, song, genre = [], [], []
        for number, (name, _) in enumerate(made):
            audio = render_excerpt(name, artist=number, number=number)
            assert audio.shape == (30 * SAMPLE_RATE,)
            assert 0.85 < np.abs(audio).max() < 0.95
            for segment in audio.reshape(6, -1):
                spectra.append(np.log(mel_power(segment, SAMPLE_RATE, 1024, 1024, 40) + 1e-6).mean(axis=0))
                song.append(number)
                genre.append(name)
        spectra, song, genre = np.array(spectra), np.array(song), np.array(genre)
        distance = np.square(spectra[:, None] - spectra).sum(axis=-1)
        np.fill_diagonal(distance, np.inf)
        assert np.mean(song[distance.argmin(axis=1)] == song) > 0.6  # by chance 0.11
        distance[song[:, None] == song] = np.inf
        assert np.mean(genre[distance.argmin(axis=1)] == genre) < 0.75  # by chance 0.43

    def test_its_files_have_the_names_of_gtzan(self, tmp_path):
        folder = make_gtzan(tmp_path / "genres", 1, workers=1, progress=False)
        lines: list[str] = []
        songs = read_gtzan(folder, lines.append)
        assert songs.title == tuple(f"{genre}.00000" for genre in GENRES)
        assert {"train", "validation", "test"} == set(songs.split)
        assert soundfile.info(songs.path[0]).duration == 30
        with pytest.raises(UserError, match="genres exists"):
            make_gtzan(folder, 1)
        with pytest.raises(UserError, match="give a number from 1 to 100, not 101"):
            make_gtzan(tmp_path / "more", 101)
