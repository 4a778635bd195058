"""The genuine FMA sample: 8 MP3 files and the first rows of tracks.csv."""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest

from mgc_jax.config.checks import validate
from mgc_jax.modes import train as train_and_evaluate
from tfds_fma.clips.decode import decode
from tfds_fma.preparation import prepare
from tfds_fma.reading import class_names, read_split
from tfds_fma.representations.registry import REPRESENTATIONS, get_representation
from tfds_fma.representations.spectrogram import log_mel
from tfds_fma.source.tracks import read_tracks

REAL_DATA = Path(os.environ.get("MGC_REAL_DATA", Path(__file__).parents[3] / "shared" / "real_data"))
SAMPLE = REAL_DATA / "fma_sample"
CONFIGS = Path(__file__).parents[2] / "configs"

pytestmark = pytest.mark.skipif(
    not SAMPLE.is_dir(), reason=f"the real FMA sample is not at {SAMPLE} (set MGC_REAL_DATA to its folder)"
)

MATT = REPRESENTATIONS["mel_1360x96"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> tuple[Path, list[str]]:
    lines: list[str] = []
    data_dir = tmp_path_factory.mktemp("data")
    path = prepare(SAMPLE, "small", MATT.name, data_dir, workers=2, progress=False, log=lines.append)
    return path, lines


def test_eight_clips_in_and_fifty_missing(prepared):
    path, lines = prepared
    assert lines[-2] == (
        "small-mel_1360x96: 8 clips written (train 7, validation 1); 50 rejected: 50 missing; 0 padded"
    )
    assert len((path / "rejects.csv").read_text().splitlines()) == 51
    tracks = {track.track_id: track for track in read_tracks(SAMPLE, "small")}
    for split in ("train", "validation"):
        columns, _ = read_split(path, split)
        for track_id, genre, artist_id in zip(
            columns["track_id"], columns["genre"], columns["artist_id"], strict=True
        ):
            assert tracks[track_id].split == split
            assert tracks[track_id].genre == class_names(path)[genre]
            assert tracks[track_id].artist_id == artist_id


def test_medium_table_reads(tmp_path):
    assert len(read_tracks(SAMPLE, "medium")) == 58 + 136


@pytest.mark.parametrize("clip", sorted(SAMPLE.glob("fma_small/*/*.mp3")), ids=lambda path: path.stem)
def test_log_mel_equals_librosa_and_storage_is_close(clip, prepared):
    import librosa

    audio = decode(clip.read_bytes(), MATT.sample_rate, MATT.samples)
    theirs = librosa.power_to_db(
        librosa.feature.melspectrogram(
            y=audio.samples, sr=12_000, n_fft=2048, hop_length=256, n_mels=96, pad_mode="reflect"
        )
    ).T
    ours = log_mel(audio.samples, 12_000, 2048, 256, 96)
    assert ours.shape == MATT.shape
    error = np.abs(ours - theirs).max()
    stored = {
        track_id: array
        for split in ("train", "validation")
        for columns, arrays in [read_split(prepared[0], split)]
        for track_id, array in zip(columns["track_id"], arrays, strict=True)
    }[int(clip.stem)]
    storage_error = np.abs(stored.astype(np.float32) - ours).max()
    print(f"{clip.stem}: log-mel {error:.1e} dB from librosa, storage {storage_error:.4f} dB")
    assert error < 1e-3
    # float16 steps are 1/16 dB between 64 and 128 dB, so rounding is off by at most half of that.
    assert np.abs(ours).max() < 128
    assert storage_error <= 0.0625 / 2


@pytest.mark.parametrize("clip", sorted(SAMPLE.glob("fma_small/*/*.mp3"))[:2], ids=lambda path: path.stem)
def test_decoding_equals_librosa_load(clip):
    import librosa

    ours = decode(clip.read_bytes(), 12_000, 348_000).samples
    theirs, _ = librosa.load(clip, sr=12_000, mono=True, res_type="soxr_hq", duration=29.5)
    np.testing.assert_allclose(ours, theirs[:348_000], atol=2e-5)


SPECTROGRAMS = ["mel_1360x96", "mel_1360x96_nfft512", "mel_640x128", "mel_640x128_hop512"]


@pytest.mark.parametrize("name", SPECTROGRAMS)
def test_every_spectrogram_equals_the_plain_librosa_recipe(name):
    """From the MP3 files on, which librosa decodes itself; before float16."""
    import librosa

    representation = REPRESENTATIONS[name]
    errors = []
    for clip in sorted(SAMPLE.glob("fma_small/*/*.mp3")):
        audio, rate = librosa.load(clip, sr=representation.sample_rate)
        relative = representation.scale == "ln"
        audio = audio if relative else audio[: representation.samples]
        power = librosa.feature.melspectrogram(
            y=audio,
            sr=rate,
            n_fft=representation.n_fft,
            hop_length=representation.hop,
            n_mels=representation.n_mels,
            pad_mode="reflect",
        )
        theirs = librosa.power_to_db(power, ref=np.max if relative else 1.0).T[: representation.shape[0]]
        ours = decode(
            clip.read_bytes(), representation.sample_rate, representation.samples, at_most=representation.at_most
        ).samples
        if relative:
            decibels = representation.compute(ours) * (10 / np.log(10))
        else:
            decibels = log_mel(ours, rate, representation.n_fft, representation.hop, representation.n_mels)
        errors.append(np.abs(decibels - theirs).max())
    print(f"{name}: at most {max(errors):.1e} dB from librosa")
    assert len(errors) == 8
    assert max(errors) < 1e-3


@pytest.mark.parametrize("rate", [12_000, 22_050, 44_100])
def test_stored_audio_is_what_librosa_loads(rate):
    import librosa

    representation = get_representation(f"audio_{rate}")
    for clip in sorted(SAMPLE.glob("fma_small/*/*.mp3"))[:4]:
        theirs, _ = librosa.load(clip, sr=rate)
        ours = decode(clip.read_bytes(), rate, representation.samples)
        assert not ours.padded
        stored = representation.compute(ours.samples).astype(np.float32) / 32767
        inside = np.abs(theirs[: len(stored)]) <= 1
        np.testing.assert_allclose(stored[inside], theirs[: len(stored)][inside], atol=0.5 / 32767 + 2e-5)


@pytest.mark.slow
def test_from_mp3_files_to_results(tmp_path):
    """The whole way: prepare the eight real clips, train MATT on them, evaluate."""
    prepare(SAMPLE, "small", MATT.name, tmp_path / "data", workers=2, progress=False)
    spec = importlib.util.spec_from_file_location("matt_crnn_tf", CONFIGS / "matt_crnn_tf.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    config.data.corpus, config.data.data_dir = "fma_small", str(tmp_path / "data")
    config.batch.clips = 16
    config.model.encoder.filters = (4, 4, 4, 4)
    config.optimizer.name, config.optimizer.learning_rate = "adam", 0.01
    config.train.epochs = 2
    validate(config)
    results = train_and_evaluate(config, tmp_path / "run")
    assert results["corpus"] == "fma_small"
    assert {split: result["clips"] for split, result in results["splits"].items()} == {"train": 7, "validation": 1}
    for result in results["splits"].values():
        scores = [value for kind in ("bag", "clip", "clip_mean") for value in result[kind].values()]
        assert scores
        assert np.isfinite(scores).all()
