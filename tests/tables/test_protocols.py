"""A configuration under several splits: what training and test share, and what that is worth."""

import dataclasses
import io
import re
import tarfile

import numpy as np
import pytest
import soundfile
from helpers import save_arrays

from mgc_jax.config.keys import default
from mgc_jax.config.loading import load_config
from mgc_jax.data.corpus import Corpus
from mgc_jax.errors import UserError
from mgc_jax.evaluation.predictions import Predictions
from mgc_jax.papers import gtzan
from mgc_jax.tables import protocols
from mgc_jax.tables.leakage import Row, compare, markdown, shared
from mgc_jax.tables.measure import Measured
from tfds_fma.collection.gtzan import excerpts
from tfds_fma.prepare import main as prepare

SONGS, SEGMENTS = 60, 6


@pytest.fixture(scope="module")
def leaking() -> Corpus:
    """Segments that tell their song and nothing of its genre; each song is of an artist of its own."""
    draw = np.random.default_rng(0)
    song = np.repeat(np.arange(SONGS), SEGMENTS)
    signature = draw.normal(size=(SONGS, 16))
    return Corpus(
        name="arrays",
        genres=("Rock", "Jazz", "Folk"),
        clips=(signature[song] + 0.1 * draw.normal(size=(len(song), 16))).astype(np.float32),
        track_id=np.arange(len(song)),
        label=(song % 3).astype(np.int32),
        split=np.array(["train", "train", "train", "validation", "test"])[song % 5],
        artist=(song + 1000).astype(str),
        album=song.astype(str),
    )


@pytest.fixture(scope="module")
def config(leaking, tmp_path_factory):
    config = default()
    config.update_from_flattened_dict(save_arrays(leaking, tmp_path_factory.mktemp("arrays")))
    config.data.arrays.axes = "clip feature"
    config.baseline.name = "knn"
    with config.unlocked():
        config.baseline.n_neighbors = 1
    return config


def test_random_clips_are_recognized_and_random_albums_are_not(config, tmp_path):
    """One nearest neighbour: right on a song that it has seen, at chance level on others."""
    segments, songs, own = compare(config, ("8-1-1", "8-1-1-albums", "fma"), tmp_path / "runs")
    assert (segments.clips, segments.error) == (SONGS * SEGMENTS // 10, "")
    assert (segments.albums, songs.albums, songs.artists, own.albums) == (100, 0, 0, 0)
    assert own.clips == 72
    assert segments.accuracy["clip"].mean == 100
    for row in (songs, own):
        measured = row.accuracy["clip"]
        assert measured.mean < 67
        if row.clips >= 60:  # ten artists
            assert measured.low < 100 / 3 < measured.high
    text = markdown([segments, songs, own], "knn on arrays", "arrays")
    assert "| random clips (`8-1-1`) | 36 | 100.0 | 100.0 | 100.0 " in text
    assert "| random albums (`8-1-1-albums`) | 36 | 0.0 | 0.0 |" in text
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("results.json")}
    assert len(before) == 3
    compare(config, ("8-1-1", "fma"), tmp_path / "runs")  # are there
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("results.json")}


def test_what_is_unknown_is_not_shared():
    run = Predictions(
        genres=("Rock",),
        track_id=np.arange(5),
        split=np.array(["train", "train", "test", "test", "test"]),
        label=np.zeros(5, np.int32),
        artist=np.array(["a", "", "a", "b", ""]),
        album=np.array(["x", "", "x", "x", ""]),
        bag=np.arange(5),
    )
    assert shared(run, "artist") == pytest.approx(100 / 3)
    assert shared(run, "album") == pytest.approx(100 / 3)  # that of b is another album of the same title


def test_the_table_of_gtzan_has_the_names_of_its_protocols():
    accuracy = {"clip": Measured(92.25, 0.5, 3, 90.0, 94.0, 600), "clip_mean": Measured(95, None, 1, None, None, 600)}
    rows = [Row("8-1-1", 600, 99.95, 100, accuracy), Row("fma", error="out of memory")]
    text = markdown(rows, "t", gtzan.PAPER.corpus)
    head, _, first, second = (line for line in text.splitlines() if line.startswith("|"))
    assert head.endswith("| song in training, % | artist in training, % | accuracy, %: segment | accuracy, %: song |")
    assert first == "| random segments (`8-1-1`) | 600 | 100.0 | 100.0 | 92.2 ± 0.5 (90.0 to 94.0) | 95.0 |"
    assert second == "| fault-filtered (`fma`) |  |  |  |  |  |"
    assert "Feng et al. (2017) print 92 %" in text
    assert text.endswith("FAILED, fma: out of memory\n")


def test_a_split_without_test_clips_fails_alone(config, leaking, tmp_path):
    corpus = dataclasses.replace(leaking, split=np.where(leaking.split == "test", "train", leaking.split))
    changed = config.copy_and_resolve_references()
    changed.update_from_flattened_dict(save_arrays(corpus, tmp_path))
    own, songs = compare(changed, ("fma", "8-1-1-albums"), tmp_path / "runs")
    assert (own.error, songs.error) == ("the split has no test clips", "")


def test_the_command(config, tmp_path, monkeypatch, capsys):
    given, overrides = protocols._parse(["--config.data.split_seed=3", "x.py", "--splits", "8-1-1", "--seeds", "2"])
    assert (given.config, given.splits, given.seeds) == ("x.py", ["8-1-1"], 2)
    assert overrides == {"data.split_seed": "3"}
    with pytest.raises(SystemExit):
        protocols._parse(["x.py", "--seeds", "0"])
    monkeypatch.setattr(protocols, "load_config", lambda file, overrides: config)
    given, overrides = protocols._parse(["knn", "--splits", "8-1-1", "--workdir", str(tmp_path)])
    assert protocols._main(given, overrides) == 0
    assert (tmp_path / "protocols.md").read_text() == capsys.readouterr().out
    assert re.search(r"^# knn on arrays$", (tmp_path / "protocols.md").read_text(), re.MULTILINE)


def test_models_of_several_genres_are_refused_before_anything_is_trained(config, tmp_path, monkeypatch):
    several = config.copy_and_resolve_references()
    several.task, several.train.select, several.baseline.name = "multi_label", "clip/macro_ap", ""
    monkeypatch.setattr(protocols, "load_config", lambda file, overrides: several)
    given, overrides = protocols._parse(["knn", "--workdir", str(tmp_path / "out")])
    with pytest.raises(UserError, match=r"set config\.task=single_label"):
        protocols._main(given, overrides)
    assert not (tmp_path / "out").exists()


def test_what_fails_under_all_splits_is_said_once(config, tmp_path, monkeypatch):
    gone = config.copy_and_resolve_references()
    gone.data.arrays.table = str(tmp_path / "no.csv")
    monkeypatch.setattr(protocols, "load_config", lambda file, overrides: gone)
    given, overrides = protocols._parse(["knn", "--workdir", str(tmp_path / "out")])
    with pytest.raises(UserError, match=r"no\.csv does not exist"):
        protocols._main(given, overrides)
    assert not (tmp_path / "out" / "protocols.md").exists()


@pytest.mark.parametrize("file", ["gtzan_feng", "gtzan_prcnn"])
def test_without_gtzan_the_remedy_is_said(file, tmp_path):
    from mgc_jax.data.open import open_corpus

    config = load_config(file, {"data.data_dir": str(tmp_path)})
    remedy = rf"prepare --gtzan genres.tar.gz --representation {config.data.representation} --data_dir {tmp_path}\."
    with pytest.raises(UserError, match=remedy):
        open_corpus(config.data)


def recording(number: int, seconds: int = 15, rate: int = 22_050) -> np.ndarray:
    """Noise through a filter that only this recording has: float32 [sample]."""
    draw = np.random.default_rng(number)
    spectrum = np.fft.rfft(draw.normal(size=seconds * rate))
    gains = 10 ** (draw.normal(0, 1, 40) / 2)
    filtered = np.fft.irfft(spectrum * np.interp(np.linspace(0, 39, len(spectrum)), np.arange(40), gains))
    return (0.5 * filtered / np.abs(filtered).max()).astype(np.float32)


@pytest.mark.slow
def test_the_leak_of_gtzan_shows(tmp_path, capsys):
    """From an archive of recordings that say nothing of their genre, under their real names, to the table."""
    known = excerpts()
    wanted = {"train": 10, "validation": 3, "test": 5, "": 2}
    with tarfile.open(tmp_path / "genres.tar.gz", "w:gz", compresslevel=1) as archive:
        for genre in ("blues", "disco", "jazz"):
            for split, count in wanted.items():
                of_split = [name for name in known if name.startswith(genre) and known[name].split == split]
                for name in of_split[:: max(1, len(of_split) // count)][:count]:
                    content = io.BytesIO()
                    soundfile.write(content, recording(list(known).index(name)), 22_050, format="AU")
                    info = tarfile.TarInfo(f"genres/{genre}/{name}.au")
                    info.size = len(content.getvalue())
                    archive.addfile(info, io.BytesIO(content.getvalue()))
    flags = ["--representation", "mel_107x128", "--data_dir", str(tmp_path / "data"), "--workers", "1"]
    assert prepare(["--gtzan", str(tmp_path / "genres.tar.gz"), *flags]) == 0
    capsys.readouterr()
    overrides = {
        "data.data_dir": str(tmp_path / "data"),
        "data.standardize": "True",
        "model.encoder.name": "cnn",
        "model.encoder.filters": "(4,)",
        "model.encoder.kernel": "(1, 1)",
        "model.encoder.pools": "((107, 1),)",
        "optimizer.name": "adam",
        "optimizer.learning_rate": "0.01",
        "train.epochs": "15",
        "train.eval_every_epochs": "15",
    }
    arguments = [f"--config.{key}={value}" for key, value in overrides.items()]
    given, changes = protocols._parse(["gtzan_prcnn", "--workdir", str(tmp_path / "protocols"), *arguments])
    assert protocols._main(given, changes) == 0
    rows = [
        line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ") and "`" in line
    ]
    assert [row[0] for row in rows] == [
        "| random segments (`8-1-1`)", "| random songs (`8-1-1-albums`)", "| fault-filtered (`fma`)",
    ]  # fmt: skip
    segments, songs, filtered = ([float(re.match(r"[\d.]+", cell)[0]) for cell in row[1:]] for row in rows)
    assert (segments[0], songs[0], filtered[0]) == (
        17,
        15,
        45,
    )  # of 58 songs of 3 segments: nothing of blues is unused
    assert segments[1] > 90
    assert songs[1] == filtered[1] == filtered[2] == 0
    assert segments[3] > 80
    assert filtered[3] < 60
