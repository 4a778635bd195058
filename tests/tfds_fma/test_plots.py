"""Pictures: that there is something on them, and of the right size."""

import dataclasses
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image

from tfds_fma import UserError, plots
from tfds_fma.clips.make import Clip
from tfds_fma.clips.sources import ClipSource
from tfds_fma.describe import main
from tfds_fma.description import NO_GENRE, describe
from tfds_fma.labels import genres_of
from tfds_fma.preparation import prepare_clips
from tfds_fma.representations.registry import get_representation
from tfds_fma.source.tracks import Track
from tfds_fma.storage import layout

MEL = "mel_256x96"


def hand_made(data_dir: Path, representation: str, genres: int) -> Path:
    """A dataset of noise: one training clip of each of the first genres."""
    chosen, names = get_representation(representation), genres_of("small")
    scale = 1000 if chosen.dtype == "int16" else 1
    clip = (scale * np.random.default_rng(0).uniform(-18, 0, chosen.shape)).astype(chosen.dtype)
    tracks = tuple(Track(number + 1, "train", names[number], 1, 1, "T", "A", 30.0) for number in range(genres))
    source = ClipSource(tracks, names, chosen, lambda track: Clip(clip, padded=False), parallel=False, identity="")
    return prepare_clips(lambda: source, "small", representation, data_dir, progress=False, log=lambda line: None)


def pixels(path: Path) -> np.ndarray:
    """Reads a picture, float [row, column, channel]; nothing may be blank, nor its left and right edge cut off."""
    picture = image.imread(path)[..., :3]
    assert picture.std() > 0.1
    assert (picture[:, [0, -1]] == 1).all()
    assert (picture[[0, -1]] == 1).all()
    return picture


def test_genres(dataset, tmp_path):
    description = describe(dataset)
    plots.plot_genres(description, tmp_path / "small.png")
    small = pixels(tmp_path / "small.png")
    assert small.shape[1] == 1080
    # More genres, one of no clips and one that is no genre: a taller picture.
    clips = {split: numbers | {"None": 0, NO_GENRE: 100_000} for split, numbers in description.clips.items()}
    plots.plot_genres(dataclasses.replace(description, clips=clips, subset="large"), tmp_path / "large.png")
    large = pixels(tmp_path / "large.png")
    assert large.shape[0] > small.shape[0]
    colours = {tuple(np.rint(255 * colour).astype(int)) for colour in large[::3, ::3].reshape(-1, 3)}
    assert {(0x00, 0x72, 0xB2), (0xE6, 0x9F, 0x00), (0x00, 0x9E, 0x73)} <= colours


def test_examples_of_spectrograms(dataset, tmp_path):
    assert plots.plot_examples(dataset, tmp_path / "examples.png")
    picture = pixels(tmp_path / "examples.png")
    assert picture.shape[:2] == (round(120 * (1.5 + 2.3 * 2)), round(120 * (1.2 + 3.2 * 4)))


@pytest.mark.parametrize(
    ("representation", "genres"), [("mel_120x128", 1), ("mel_120x128", 5), ("audio_8000", 2), ("audio_8000", 8)]
)
def test_examples_of_other_kinds_and_numbers(tmp_path, representation, genres):
    path = hand_made(tmp_path, representation, genres)
    assert plots.plot_examples(path, tmp_path / "examples.png")
    pixels(tmp_path / "examples.png")


def test_feature_vectors_have_no_picture(tmp_path, capsys):
    path = hand_made(tmp_path, "features_mfcc", 2)
    assert main(["--path", str(path), "--plots", str(tmp_path / "plots")]) == 0
    assert "No picture of examples: the axes of features_mfcc are not time and frequency." in capsys.readouterr().out
    assert [file.name for file in (tmp_path / "plots").iterdir()] == ["small-features_mfcc-genres.png"]


def test_a_dataset_without_training_clips_has_no_picture(dataset, tmp_path):
    path = shutil.copytree(dataset, layout.version_dir(tmp_path, "small", MEL))
    info = path / "dataset_info.json"
    info.write_text(info.read_text().replace('"name": "train"', '"name": "other"'))
    next(path.glob("fma-train.*")).rename(path / "fma-other.array_record-00000-of-00001")
    assert not plots.plot_examples(path, tmp_path / "examples.png")


def test_titles_tell_the_demo(dataset, tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr(
        "matplotlib.figure.Figure.suptitle", lambda figure, title, **options: titles.append(title), raising=True
    )
    demo = shutil.copytree(dataset, layout.version_dir(tmp_path / "demo", "small", MEL))
    for path in (dataset, demo):
        plots.plot_genres(describe(path), tmp_path / "genres.png")
        plots.plot_examples(path, tmp_path / "examples.png")
    assert [title.startswith("SYNTHETIC") for title in titles] == [False, False, True, True]
    assert all("FMA-small" in title for title in titles)


@pytest.mark.parametrize("representation", ["mel_1360x96", "mel_1360x96_nfft512", "mel_640x128"])
def test_the_mel_axis(representation):
    librosa = pytest.importorskip("librosa")
    mel = get_representation(representation)
    ticks = plots.mel_ticks(mel.sample_rate, mel.n_fft, mel.n_mels)
    centres = librosa.mel_frequencies(n_mels=mel.n_mels + 2, fmin=0, fmax=mel.sample_rate / 2)[1:-1]
    assert {250, 500, 1000, 2000, 4000} <= set(ticks)
    assert max(ticks) <= mel.sample_rate / 2
    for hertz, place in ticks.items():
        assert place == pytest.approx(np.interp(hertz, centres, np.arange(mel.n_mels)), abs=0.5)


def test_the_command_draws_both(dataset, tmp_path, capsys):
    assert main(["--path", str(dataset), "--plots", str(tmp_path / "new" / "plots")]) == 0
    output = capsys.readouterr().out
    for kind in ("genres", "examples"):
        file = tmp_path / "new" / "plots" / f"small-{MEL}-{kind}.png"
        assert f"Drawn: {file}" in output
        pixels(file)
    (tmp_path / "file").touch()
    assert main(["--path", str(dataset), "--plots", str(tmp_path / "file")]) == 1
    assert "Choose another folder" in capsys.readouterr().err


def test_without_matplotlib(dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for draw in (lambda: plots.plot_genres(None, "x.png"), lambda: plots.plot_examples(dataset, "x.png")):
        with pytest.raises(UserError, match="pip install matplotlib"):
            draw()
    assert main(["--path", str(dataset), "--plots", str(tmp_path)]) == 1
    assert capsys.readouterr().out == ""  # nothing was read
