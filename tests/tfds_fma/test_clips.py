"""Decoding and spectrograms."""

import contextlib
import io

import numpy as np
import pytest
import soundfile

from tfds_fma.decode import decode
from tfds_fma.errors import ClipError, FmaError
from tfds_fma.representations import REPRESENTATIONS, get_representation
from tfds_fma.spectrogram import log_mel, mel_filters


def librosa_log_mel(audio: np.ndarray, sample_rate: int, n_fft: int, hop: int, n_mels: int) -> np.ndarray:
    import librosa

    mel = librosa.feature.melspectrogram(
        y=audio, sr=sample_rate, n_fft=n_fft, hop_length=hop, n_mels=n_mels, pad_mode="reflect"
    )
    return librosa.power_to_db(mel).T


@pytest.mark.parametrize("kind", ["noise", "tone", "silence", "click"])
@pytest.mark.parametrize("settings", [(12_000, 2048, 256, 96), (22_050, 2048, 1024, 128)])
def test_log_mel_equals_librosa(kind, settings):
    time = np.arange(48_000) / 12_000
    audio = {
        "noise": np.random.default_rng(0).normal(0, 0.1, len(time)),
        "tone": 0.5 * np.sin(2 * np.pi * 440 * time) * np.exp(-time),
        "silence": np.zeros(len(time)),
        "click": (np.arange(len(time)) == 20_000).astype(float),
    }[kind].astype(np.float32)
    ours, theirs = log_mel(audio, *settings), librosa_log_mel(audio, *settings)
    assert ours.shape == theirs.shape
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-3)


def test_mel_filters_equal_librosa():
    import librosa

    for sample_rate, n_fft, n_mels in ((12_000, 2048, 96), (22_050, 2048, 128), (1_500, 512, 10)):
        ours = mel_filters(sample_rate, n_fft, n_mels)
        theirs = librosa.filters.mel(sr=sample_rate, n_fft=n_fft, n_mels=n_mels)
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-9)


def test_representations_have_their_shape():
    assert REPRESENTATIONS["mel_1360x96"].shape == (1360, 96)
    assert REPRESENTATIONS["mel_1360x96"].samples == 348_000
    for representation in REPRESENTATIONS.values():
        audio = np.random.default_rng(1).normal(0, 0.1, representation.samples).astype(np.float32)
        stored = representation.compute(audio)
        assert stored.shape == representation.shape
        assert stored.dtype == np.dtype(representation.dtype)
    with pytest.raises(FmaError, match="mel_1360x96"):
        get_representation("mel_7x7")


def encoded(samples: np.ndarray, rate: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="MP3", subtype="MPEG_LAYER_III")
    return file.getvalue()


def test_stereo_at_another_rate_becomes_mono_at_the_wanted_rate():
    time = np.arange(2 * 44_100) / 44_100
    left = 0.5 * np.sin(2 * np.pi * 500 * time)
    audio = decode(encoded(np.stack([left, 0 * left], axis=1), 44_100), 12_000, 20_000)
    wanted = 0.25 * np.sin(2 * np.pi * 500 * np.arange(20_000) / 12_000)
    assert audio.samples.shape == (20_000,)
    assert audio.samples.dtype == np.float32
    assert not audio.padded
    np.testing.assert_allclose(audio.samples[1000:-1000], wanted[1000:-1000], atol=0.02)


def test_decoding_the_start_equals_the_start_of_decoding_all():
    noise = np.random.default_rng(2).normal(0, 0.1, 5 * 44_100)
    data = encoded(noise, 44_100)
    part, whole = decode(data, 12_000, 24_000), decode(data, 12_000, 58_000)
    np.testing.assert_allclose(part.samples, whole.samples[:24_000], atol=1e-6)


def test_short_clips_are_padded_and_shorter_ones_rejected(mp3):
    seconds = len(decode(mp3, 12_000, 12_000 * 5).samples) / 12_000
    audio = decode(mp3, 12_000, 12_000 * 9)
    assert seconds == 5
    assert audio.padded
    assert len(audio.samples) == 12_000 * 9
    assert not audio.samples[12_000 * 7 :].any()
    with pytest.raises(ClipError) as caught:
        decode(mp3, 12_000, 12_000 * 13)
    assert caught.value.reason == "short"
    assert "13.00 s needed" in caught.value.detail


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"", "empty"), (b"<html>404 Not Found</html>" * 100, "undecodable"), (bytes(5000), "undecodable")],
)
def test_what_is_no_audio_is_rejected_with_a_reason(data, reason):
    with pytest.raises(ClipError) as caught:
        decode(data, 12_000, 24_000)
    assert caught.value.reason == reason


def test_damaged_files_decode_or_are_rejected_and_never_crash(mp3):
    rng = np.random.default_rng(0)
    for _ in range(20):
        damaged = bytearray(mp3)
        for start in rng.integers(0, len(mp3), 5):
            damaged[start : start + 200] = rng.bytes(200)
        with contextlib.suppress(ClipError):
            audio = decode(bytes(damaged), 12_000, 48_000)
            assert np.isfinite(audio.samples).all()
            assert len(audio.samples) == 48_000
