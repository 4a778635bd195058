"""Windows of audio files of any length."""

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile

import tfds_fma
from tfds_fma.clips.decode import decode
from tfds_fma.clips.feature_extraction import extract
from tfds_fma.clips.windows import cut_windows, window_seconds
from tfds_fma.errors import ClipError
from tfds_fma.representations.base import AudioRepresentation
from tfds_fma.representations.feature_vector import FeatureVector
from tfds_fma.representations.registry import REPRESENTATIONS, get_representation

CLIPS = sorted((Path(tfds_fma.__file__).parent / "dummy_data" / "fma_medium").glob("*/*.mp3"))
SHORT = get_representation("mel_256x96")  # 5.44 s


def music(seconds: float, rate: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    """Tones that change, and noise: float32 [sample, channel]."""
    time = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(seed).normal(0, 0.05, (len(time), channels))
    return (0.3 * np.sin(2 * np.pi * (200 + 20 * np.floor(time)) * time)[:, None] + noise).astype(np.float32)


@pytest.mark.parametrize(
    "representation",
    [r for r in REPRESENTATIONS.values() if isinstance(r, AudioRepresentation) and window_seconds(r) < 6],
    ids=lambda representation: representation.name,
)
def test_the_first_window_is_what_is_stored_of_a_clip(representation):
    path = CLIPS[0]
    windows = cut_windows(path, representation, hop=1.0)
    with path.open("rb", buffering=0) as file:
        audio = decode(
            file, representation.sample_rate, representation.samples, at_most=representation.at_most,
            resampler=representation.resampler,
        )  # fmt: skip
    np.testing.assert_array_equal(windows.clips[0], representation.compute(audio.samples))


@pytest.mark.parametrize("hop", [2.0, 5.44, 9.3])
@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
def test_a_window_is_what_a_file_that_begins_there_gives(tmp_path, hop, kind):
    audio = np.rint(32767 * music(30, 22_050, channels=2).clip(-1, 1)).astype(np.int16)
    path = tmp_path / f"song.{kind.lower()}"
    soundfile.write(path, audio, 22_050, subtype="PCM_16")
    windows = cut_windows(path, SHORT, hop)
    for number, (clip, start) in enumerate(zip(windows.clips, windows.start, strict=True)):
        last = number == len(windows.clips) - 1 and number * hop > 30 - 5.44
        assert start == pytest.approx(30 - 5.44 if last else number * hop, abs=1 / 22_050)
        cut = tmp_path / "cut.wav"
        soundfile.write(cut, audio[round(start * 22_050) :], 22_050, subtype="PCM_16")
        expected = cut_windows(cut, SHORT, hop, most=1).clips[0]
        np.testing.assert_array_equal(clip, expected)
    assert 30 - (windows.start[-1] + 5.44) < hop / 2


@pytest.mark.parametrize("kind", ["mp3", "ogg", "wav", "flac"])
def test_parts_of_a_file_are_those_of_the_whole(tmp_path, kind):
    path = tmp_path / f"song.{kind}"
    soundfile.write(path, music(40, 44_100, channels=2), 44_100)
    whole = cut_windows(path, SHORT, 3.0)
    parts = [cut_windows(path, SHORT, 3.0, first=first, most=5) for first in range(0, len(whole.clips) + 5, 5)]
    joined = np.concatenate([part.clips for part in parts if len(part.clips)])
    # Vorbis windows overlap: a decoder that sought may round otherwise; storage steps of float16 are 1/32 dB there.
    np.testing.assert_allclose(joined.astype(float), whole.clips.astype(float), atol=0 if kind != "ogg" else 1 / 32)
    np.testing.assert_array_equal(np.concatenate([part.start for part in parts]), whole.start)


@pytest.mark.parametrize(
    ("seconds", "windows"), [(2.8, 1), (5.44, 1), (8.1, 1), (8.2, 2), (10.88, 2), (13.5, 2), (13.7, 3)]
)
def test_the_rest_gets_a_window_if_it_has_half_the_length(tmp_path, seconds, windows):
    soundfile.write(tmp_path / "song.wav", music(seconds, 12_000), 12_000)
    assert len(cut_windows(tmp_path / "song.wav", SHORT, window_seconds(SHORT)).clips) == windows


def test_a_song_shorter_than_half_a_window_is_refused(tmp_path):
    soundfile.write(tmp_path / "song.wav", music(2.6, 12_000), 12_000)
    with pytest.raises(ClipError, match=r"2\.60 s of the 5\.44 s needed"):
        cut_windows(tmp_path / "song.wav", SHORT, 1.0)


@pytest.mark.parametrize(
    ("name", "rate", "channels", "options"),
    [
        ("a.wav", 192_000, 8, {"subtype": "PCM_24"}),
        ("a.aiff", 8_000, 1, {}),
        ("a.opus", 48_000, 2, {"format": "OGG", "subtype": "OPUS"}),
        ("a.ogg", 44_100, 1, {}),
        ("a.mp3", 22_050, 1, {}),
        ("a.au", 11_025, 1, {"subtype": "ULAW"}),
        ("no ending", 16_000, 1, {"format": "WAV"}),
    ],
)
def test_any_format_rate_and_number_of_channels_gives_nearly_the_same(tmp_path, name, rate, channels, options):
    """A tone below all of their limits stays where it is and as loud."""
    time = np.arange(round(6 * rate)) / rate
    tone = np.repeat(0.5 * np.sin(2 * np.pi * 1000 * time)[:, None], channels, axis=1)
    soundfile.write(tmp_path / name, tone, rate, **options)
    clip = cut_windows(tmp_path / name, SHORT, 5.44).clips[0].astype(float)[20:-40]
    soundfile.write(tmp_path / "plain.wav", tone[:, :1], rate, subtype="FLOAT")
    plain = cut_windows(tmp_path / "plain.wav", SHORT, 5.44).clips[0].astype(float)[20:-40]
    band = plain.mean(axis=0).argmax()
    assert clip.mean(axis=0).argmax() == band
    assert abs(clip[:, band] - plain[:, band]).max() < 0.5  # dB


def test_features_are_those_of_half_minutes_at_the_file_s_own_rate(tmp_path):
    audio = music(50, 11_025, channels=2)
    soundfile.write(tmp_path / "song.wav", audio, 11_025, subtype="FLOAT")
    windows = cut_windows(tmp_path / "song.wav", FeatureVector("features_mfcc", ("mfcc",)), 30.0)
    assert windows.clips.shape == (2, 140)
    assert windows.start.tolist() == [0, 20]
    mono = (audio[:, 0] + audio[:, 1]) / np.float32(2)
    np.testing.assert_array_equal(windows.clips[0], extract(mono[: 30 * 11_025], 11_025, ("mfcc",)))
    np.testing.assert_array_equal(windows.clips[1], extract(mono[20 * 11_025 :], 11_025, ("mfcc",)))


def test_memory_does_not_grow_with_the_length(tmp_path):
    peaks = []
    for seconds in (60, 600):
        path = tmp_path / f"{seconds}.wav"
        soundfile.write(path, np.zeros(seconds * 8_000, np.float32), 8_000)
        tracemalloc.start()
        cut_windows(path, SHORT, 50.0, most=2)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "missing"),
        (lambda path: path.mkdir(), "it is no file"),
        (lambda path: os.mkfifo(path), "it is no file"),
        (lambda path: path.touch(), "no bytes"),
        (lambda path: path.write_text("<html>not found</html>" * 100), "undecodable"),
        (lambda path: path.write_bytes(CLIPS[0].read_bytes()[:600]), "undecodable|short"),
        (lambda path: soundfile.write(path, np.full(90_000, np.nan), 12_000, format="WAV", subtype="FLOAT"), "finite"),
        (lambda path: soundfile.write(path, np.zeros(9000), 2_000_000, format="WAV"), "sample rate of 2,000,000 Hz"),
        (lambda path: soundfile.write(path, np.zeros((0, 1)), 12_000, format="WAV"), "short|undecodable"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(tmp_path, make, words):
    path = tmp_path / "song.mp3"
    make(path)
    with pytest.raises(ClipError, match=words):
        cut_windows(path, SHORT, 5.44)


def test_a_file_that_ends_early_gives_what_there_is(tmp_path):
    path = tmp_path / "song.mp3"
    soundfile.write(path, music(30, 44_100), 44_100)
    whole = cut_windows(path, SHORT, 5.44)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    cut = cut_windows(path, SHORT, 5.44)
    assert 0 < len(cut.clips) < len(whole.clips)
    assert cut.end < 20
    assert cut.damage == f"it ends after {cut.end:.1f} of the 30.0 s that it tells"
    assert whole.damage == ""
    np.testing.assert_array_equal(cut.clips[:2], whole.clips[:2])
