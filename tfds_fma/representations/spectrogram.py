"""Log-mel and plain spectrograms, equal to librosa's to 1e-3 dB and faster on one core (benchmarks/prepare.py)."""

import functools
from collections.abc import Iterator

import numpy as np
import scipy.fft
import scipy.sparse

POWER_FLOOR = 1e-10  # before the logarithm


DYNAMIC_RANGE_DB = 80.0  # kept below the maximum of the clip


# The FFT of one block of frames stays in the processor's cache.
_BLOCK_FRAMES = 64


def log_mel(audio: np.ndarray, sample_rate: int, n_fft: int, hop: int, n_mels: int) -> np.ndarray:
    """Computes the log-mel spectrogram of one clip in decibels relative to 1.

    Equals ``power_to_db(melspectrogram(y, sr, n_fft, hop_length, n_mels, pad_mode="reflect")).T`` of librosa.

    Args:
      audio: float32 [samples], more than n_fft / 2 of them.
      sample_rate: Hz.
      n_fft: window length in samples.
      hop: distance between frames in samples.
      n_mels: number of mel bands.

    Returns:
      float32 [1 + samples // hop, n_mels], decibels.
    """
    return _decibels(mel_power(audio, sample_rate, n_fft, hop, n_mels))


def log_mel_below_peak(audio: np.ndarray, sample_rate: int, n_fft: int, hop: int, n_mels: int) -> np.ndarray:
    """Computes the natural logarithm of the mel power relative to the clip's maximum.

    Equals ``power_to_db(melspectrogram(..., pad_mode="reflect"), ref=np.max).T * ln(10) / 10`` of librosa.

    Args:
      audio: see `log_mel`, as for the other arguments.
      sample_rate: Hz.
      n_fft: window length in samples.
      hop: distance between frames in samples.
      n_mels: number of mel bands.

    Returns:
      float32 [1 + samples // hop, n_mels], from -8 ln 10 (80 dB below the maximum) to 0.
    """
    mel = np.maximum(mel_power(audio, sample_rate, n_fft, hop, n_mels), np.float32(POWER_FLOOR))
    return np.maximum(np.log(mel / mel.max()), np.float32(-DYNAMIC_RANGE_DB / 10 * np.log(10)))


def mel_power(audio: np.ndarray, sample_rate: int, n_fft: int, hop: int, n_mels: int) -> np.ndarray:
    """Computes the mel power spectrogram: periodic Hann window, centred frames, reflect padding, Slaney mels.

    Args:
      audio: see `log_mel`, as for the other arguments.
      sample_rate: Hz.
      n_fft: window length in samples.
      hop: distance between frames in samples.
      n_mels: number of mel bands.

    Returns:
      float32 [1 + samples // hop, n_mels].
    """
    filters = _sparse_mel_filters(sample_rate, n_fft, n_mels)
    return np.concatenate([(filters @ block.T).T for block in _power_blocks(audio, n_fft, hop)])


def log_power(audio: np.ndarray, n_fft: int, hop: int) -> np.ndarray:
    """Computes the power spectrogram in decibels relative to 1, without mel bands.

    Equals ``power_to_db(abs(stft(y, n_fft, hop_length, pad_mode="reflect"))**2).T`` of librosa.

    Args:
      audio: see `log_mel`, as for the other arguments.
      n_fft: window length in samples.
      hop: distance between frames in samples.

    Returns:
      float32 [1 + samples // hop, 1 + n_fft // 2], decibels.
    """
    return _decibels(np.concatenate(list(_power_blocks(audio, n_fft, hop))))


def _power_blocks(audio: np.ndarray, n_fft: int, hop: int) -> Iterator[np.ndarray]:
    """Yields the power spectra of frames, block after block: float32 [frame, 1 + n_fft // 2]."""
    padded = np.pad(audio.astype(np.float32, copy=False), n_fft // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop]
    window = _hann(n_fft)
    for start in range(0, len(frames), _BLOCK_FRAMES):
        spectrum = scipy.fft.rfft(frames[start : start + _BLOCK_FRAMES] * window, axis=-1)
        yield np.square(spectrum.real) + np.square(spectrum.imag)


def _decibels(power: np.ndarray) -> np.ndarray:
    """10 log10 of powers, at most 80 dB below the greatest."""
    decibels = 10.0 * np.log10(np.maximum(power, np.float32(POWER_FLOOR)))
    return np.maximum(decibels, decibels.max() - np.float32(DYNAMIC_RANGE_DB))


@functools.cache
def _hann(n_fft: int) -> np.ndarray:
    """Periodic Hann window, float32 [n_fft]."""
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)).astype(np.float32)


@functools.cache
def _sparse_mel_filters(sample_rate: int, n_fft: int, n_mels: int) -> scipy.sparse.csr_array:
    """The mel filters as a sparse matrix: each covers a few bins only."""
    return scipy.sparse.csr_array(mel_filters(sample_rate, n_fft, n_mels))


def mel_filters(sample_rate: int, n_fft: int, n_mels: int) -> np.ndarray:
    """Triangular filters on Slaney's mel scale, each of unit area, from 0 Hz to half the sample rate.

    The same numbers as ``librosa.filters.mel``; written out so that preparing data needs neither librosa nor
    numba, whose import alone takes seconds.

    Returns:
      float32 [n_mels, 1 + n_fft // 2].
    """
    bins = np.fft.rfftfreq(n_fft, 1.0 / sample_rate)
    edges = _mel_to_hz(np.linspace(0.0, _hz_to_mel(sample_rate / 2), n_mels + 2))
    ramps = edges[:, None] - bins
    widths = np.diff(edges)[:, None]
    rising, falling = -ramps[:-2] / widths[:-1], ramps[2:] / widths[1:]
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    return (triangles * (2.0 / (edges[2:] - edges[:-2]))[:, None]).astype(np.float32)


# Slaney's scale (Auditory Toolbox, 1998): linear below 1 kHz (3 mels per 200 Hz), logarithmic above.
_HZ_PER_MEL = 200.0 / 3


_BREAK_HZ = 1000.0


_BREAK_MEL = _BREAK_HZ / _HZ_PER_MEL


_LOG_STEP = np.log(6.4) / 27.0


def _hz_to_mel(hz: float) -> float:
    """Converts a frequency to mels."""
    return _BREAK_MEL + float(np.log(hz / _BREAK_HZ)) / _LOG_STEP if hz >= _BREAK_HZ else hz / _HZ_PER_MEL


def _mel_to_hz(mel: np.ndarray) -> np.ndarray:
    """Converts mels to frequencies."""
    return np.where(mel < _BREAK_MEL, mel * _HZ_PER_MEL, _BREAK_HZ * np.exp(_LOG_STEP * (mel - _BREAK_MEL)))
