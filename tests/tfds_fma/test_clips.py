"""Decoding and spectrograms."""

import contextlib
import io

import numpy as np
import pytest
import soundfile

from tfds_fma.clips.decode import decode
from tfds_fma.errors import ClipError, UserError
from tfds_fma.representations.base import AudioRepresentation
from tfds_fma.representations.registry import REPRESENTATIONS, get_representation
from tfds_fma.representations.spectrogram import log_mel, mel_filters


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


AUDIO_REPRESENTATIONS = [item for item in REPRESENTATIONS.values() if isinstance(item, AudioRepresentation)]


@pytest.mark.parametrize("representation", AUDIO_REPRESENTATIONS, ids=lambda item: item.name)
def test_representations_have_their_shape(representation):
    rng = np.random.default_rng(1)
    for samples in {representation.samples, representation.at_most}:
        stored = representation.compute(rng.normal(0, 0.1, samples).astype(np.float32))
        assert stored.shape == representation.shape
        assert stored.dtype == np.dtype(representation.dtype)


def test_published_shapes_and_names():
    shapes = {name: item.shape for name, item in REPRESENTATIONS.items()}
    assert shapes["mel_1360x96"] == shapes["mel_1360x96_librosa08"] == shapes["mel_1360x96_nfft512"] == (1360, 96)
    assert shapes["mel_640x128"] == shapes["mel_640x128_hop512"] == (640, 128)
    assert shapes["features_518"] == (518,)
    assert shapes["features_mfcc"] == (140,)
    assert shapes["audio_22050"] == (659_295,)
    assert get_representation("audio_32000").sample_rate == 32_000
    for wrong in ("mel_7x7", "audio_999", "audio_96000", "audio_"):
        with pytest.raises(UserError, match=rf"Unknown representation '{wrong}'. Choose one of: mel.*audio_RATE"):
            get_representation(wrong)


@pytest.mark.parametrize("kind", ["music", "silence", "loud end"])
@pytest.mark.parametrize("name", ["mel_640x128", "mel_640x128_hop512"])
def test_relative_log_mel_equals_librosa(name, kind, mp3):
    import librosa

    representation = REPRESENTATIONS[name]
    audio = np.tile(decode(mp3, 22_050, 127_000).samples, 6)[:660_984]  # as long as FMA's clips
    if kind == "silence":
        audio[:] = 0
    if kind == "loud end":  # the maximum lies beyond the frames that are kept
        audio[-3000:] *= 20
    power = librosa.feature.melspectrogram(
        y=audio, sr=22_050, n_fft=2048, hop_length=representation.hop, n_mels=128, pad_mode="reflect"
    )
    theirs = librosa.power_to_db(power, ref=np.max).T[:640] * (np.log(10) / 10)
    ours = representation.compute(audio)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-3 * np.log(10) / 10)
    if kind == "loud end":
        assert ours.max() < -1


def test_audio_is_stored_to_half_a_step_of_int16():
    representation = get_representation("audio_12000")
    audio = np.random.default_rng(3).uniform(-1.2, 1.2, representation.samples).astype(np.float32)
    stored = representation.compute(audio)
    inside = np.abs(audio) <= 1
    assert np.abs(stored[inside] / 32767 - audio[inside]).max() <= 0.5 / 32767 + 1e-7
    np.testing.assert_array_equal(stored[~inside], np.where(audio[~inside] > 0, 32767, -32767))


def test_of_a_whole_track_the_excerpt_in_its_middle_is_decoded():
    """FMA cut 30 s from duration // 2 - 15 s on: 32 s for a track of 95 s."""
    noise = np.random.default_rng(4).normal(0, 0.1, 95 * 8000)
    data = encoded(noise, 8000)
    excerpt = decode(data, 8000, 29 * 8000, excerpt_of=95.0).samples
    everything = decode(data, 8000, 94 * 8000).samples
    np.testing.assert_allclose(excerpt, everything[32 * 8000 : 61 * 8000], atol=1e-6)
    short = encoded(noise[: 25 * 8000], 8000)
    start, whole = decode(short, 8000, 20 * 8000, excerpt_of=25.0), decode(short, 8000, 20 * 8000)
    np.testing.assert_allclose(start.samples, whole.samples, atol=1e-6)


def test_as_many_samples_as_there_are_up_to_the_limit(mp3):
    seconds = soundfile.info(io.BytesIO(mp3)).duration
    assert len(decode(mp3, 12_000, 40_000, at_most=50_000).samples) == 50_000
    assert len(decode(mp3, 12_000, 40_000, at_most=900_000).samples) == pytest.approx(12_000 * seconds, abs=1)
    assert decode(mp3, 12_000, 80_000, at_most=900_000).padded


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
