"""FMA's 518 features of one clip, computed from audio."""

import functools
import warnings
from collections.abc import Iterable, Iterator

import numpy as np

from tfds_fma.errors import ClipError
from tfds_fma.representations.feature_names import GROUPS, STATISTICS, groups_of

_N_FFT = 2048


_HOP = 512


# FMA did not pass the sample rate to the features of the magnitude spectrogram, so that librosa took its default.
# Their frequencies are shares of the true ones: half, for CD audio.
_ASSUMED_RATE = 22_050


_FROM_CQT = ("chroma_cens", "chroma_cqt", "tonnetz")


_FROM_SPECTRA = ("chroma_stft", "mfcc", "rmse", *(group for group in GROUPS if group.startswith("spectral_")))


_OCTAVES = 7


# The pass band of the highest filter ends at 4,127 Hz, or half a semitone higher if the music is tuned so.
_MIN_CQT_RATE = 8500


# librosa 0.5.0 had filters of Q sr / f samples with Q = 1 / (r - 1), r = 2^(1/12); since 0.10 they have
# (r^2 + 1) / (r^2 - 1) sr / f.
_SEMITONE = 2 ** (1 / 12)


_CQT_FILTER_SCALE = (_SEMITONE**2 - 1) / (_SEMITONE**2 + 1) / (_SEMITONE - 1)


# librosa's `piptrack` looks for pitches below this frequency in Hz.
_MAX_PITCH = 4000.0


# Edges in Hz of the bands of the spectral contrast, and the share of a band that counts as its peak or valley.
_CONTRAST_EDGES = (0, 200, 400, 800, 1600, 3200, 6400)


_CONTRAST_SHARE = 0.02


_ROLLOFF_SHARE = 0.85


# Spectra are computed and used up in blocks of frames: with all that is made of them, those of an hour would take many
# gigabytes. Those of up to five minutes are kept meanwhile (107 MB), which saves computing them twice or thrice.
_BLOCK_FRAMES = 256


_KEPT_SAMPLES = 300 * 44_100


# Samples per channel that are decoded at a time.
BLOCK_SAMPLES = 1 << 20


def extract(samples: np.ndarray, sample_rate: int, groups: Iterable[str] = tuple(GROUPS)) -> np.ndarray:
    """Computes FMA's features of one track.

    Where a value is the same in all frames, as in silence, the skewness is 0 and the kurtosis -3 (see `statistics`).

    Args:
      samples: mono float32 [sample], at its own rate: FMA did not resample.
      sample_rate: Hz.
      groups: which features (keys of `feature_names.GROUPS`); only what they need is computed.

    Returns:
      float32 [column], in the order of `tfds_fma.representations.feature_names.columns_of(groups)`.

    Raises:
      ClipError: if the audio is shorter than a window ("short"), not finite ("undecodable"), or its rate too low for
        the constant-Q transform ("low-rate").
      UserError: if there is no such feature.
    """
    wanted = {group for name in groups for group in groups_of(name)}
    if len(samples) < _N_FFT:
        raise ClipError("short", f"{len(samples)} samples of the {_N_FFT} that a window needs")
    if not np.isfinite(samples).all():
        raise ClipError("undecodable", "the decoded audio is not finite")
    if sample_rate < _MIN_CQT_RATE and wanted.intersection(_FROM_CQT):
        raise ClipError("low-rate", f"{sample_rate} Hz of the {_MIN_CQT_RATE} Hz that chroma features need")
    with warnings.catch_warnings():
        # librosa warns of silence, of audio shorter than its filters, and of high rates: there, low mels have no bin.
        warnings.simplefilter("ignore", UserWarning)
        frames = _over_time(np.asarray(samples, np.float32), sample_rate, wanted)
    return np.concatenate([statistics(frames[group]).ravel() for group in GROUPS if group in wanted])


def statistics(values: np.ndarray) -> np.ndarray:
    """Computes the seven statistics over the frames.

    Skewness and (Fisher's) kurtosis are those of SciPy, biased; of a constant, they are 0 and -3 as in the SciPy of
    2017, with which FMA's table was made. Today's returns NaN.

    Args:
      values: float [dimension, frame].

    Returns:
      float32 [statistic, dimension], in the order of `tfds_fma.representations.feature_names.STATISTICS`.
    """
    values = values.astype(np.float64, copy=False)
    mean = values.mean(axis=1)
    deviation = values - mean[:, None]
    squared = np.square(deviation)
    second = squared.mean(axis=1)
    third, fourth = (squared * deviation).mean(axis=1), np.square(squared).mean(axis=1)
    constant = second <= np.square(1e-15 * mean)  # a mean is rounded, so the variance of a constant is not quite 0
    divisor = np.where(constant, 1.0, second)
    by_name = {
        "kurtosis": np.where(constant, 0.0, fourth / divisor**2) - 3.0,
        "max": values.max(axis=1),
        "mean": mean,
        "median": np.median(values, axis=1),
        "min": values.min(axis=1),
        "skew": np.where(constant, 0.0, third / divisor**1.5),
        "std": np.sqrt(second),
    }
    return np.stack([by_name[name] for name in STATISTICS]).astype(np.float32)


def _over_time(samples: np.ndarray, sample_rate: int, wanted: set[str]) -> dict[str, np.ndarray]:
    """Computes the wanted features in every frame: feature -> float [dimension, frame]."""
    frames = {"zcr": _zero_crossing_rate(samples)} if "zcr" in wanted else {}
    if wanted - {"zcr"}:
        spectra = _Spectra(samples)
        if wanted.intersection(_FROM_CQT):
            frames |= _constant_q_features(samples, sample_rate, _tuning(spectra, sample_rate, power=1))
        if wanted.intersection(_FROM_SPECTRA):
            frames |= _spectral_features(spectra, sample_rate, wanted)
    return frames


def _zero_crossing_rate(samples: np.ndarray) -> np.ndarray:
    """Counts the changes of sign per sample, float [1, frame].

    As librosa does: what is within 1e-10 of 0 is positive; both ends are continued by their last value.
    """
    negative = samples < -1e-10
    changes = np.pad(negative[1:] != negative[:-1], _N_FFT // 2)
    before = np.concatenate([[0], np.cumsum(changes)])
    starts = np.arange(0, len(samples) + 1, _HOP)
    return ((before[starts + _N_FFT - 1] - before[starts]) / _N_FFT)[None]


class _Spectra:
    """The STFT magnitudes of a track: iterates over blocks, float32 [frame, bin]."""

    def __init__(self, samples: np.ndarray):
        self._padded = np.pad(samples, _N_FFT // 2, mode="reflect")
        self._frames = 1 + len(samples) // _HOP
        self._kept = list(self._blocks()) if len(samples) <= _KEPT_SAMPLES else None

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(self._kept) if self._kept is not None else self._blocks()

    def _blocks(self) -> Iterator[np.ndarray]:
        import librosa

        for first in range(0, self._frames, _BLOCK_FRAMES):
            last = min(first + _BLOCK_FRAMES, self._frames) - 1
            piece = self._padded[first * _HOP : last * _HOP + _N_FFT]
            yield np.abs(librosa.stft(piece, n_fft=_N_FFT, hop_length=_HOP, center=False)).T


def _tuning(spectra: _Spectra, rate: int, power: int) -> float:
    """Estimates by how much the music is tuned away from A = 440 Hz, in semitones.

    The same as ``librosa.estimate_tuning(S=magnitude**power, sr=rate)``, which looks for the pitches of all frames.
    Here it is shown only the bins that it looks at: those up to 4 kHz.
    """
    import librosa

    used = _N_FFT // 2
    while used % 2 == 0 and used // 2 * rate / _N_FFT >= _MAX_PITCH:
        used //= 2
    pitches, magnitudes = [], []
    for block in spectra:
        spectrum = (block**power).T
        peak = spectrum.max(axis=0)
        # As if the audio had been sampled at a lower rate: the same frequencies in the same bins.
        pitch, magnitude = librosa.piptrack(
            S=spectrum[: used + 1], sr=rate * 2 * used / _N_FFT, ref=lambda _, axis, peak=peak: peak
        )
        found = pitch > 0
        pitches.append(pitch[found])
        magnitudes.append(magnitude[found])
    pitch, magnitude = np.concatenate(pitches), np.concatenate(magnitudes)
    if not len(pitch):
        return 0.0
    return float(librosa.pitch_tuning(pitch[magnitude >= np.median(magnitude)]))


def _spectral_features(spectra: _Spectra, sample_rate: int, wanted: set[str]) -> dict[str, np.ndarray]:
    """Computes what depends on the STFT magnitudes: feature -> float [dimension, frame]."""
    import librosa

    chroma_filters = mel_filters = np.empty((0, 1 + _N_FFT // 2), np.float32)
    if "chroma_stft" in wanted:
        tuning = _tuning(spectra, _ASSUMED_RATE, power=2)
        chroma_filters = librosa.filters.chroma(sr=_ASSUMED_RATE, n_fft=_N_FFT, tuning=tuning)
    if "mfcc" in wanted:
        mel_filters = _mel_filters(sample_rate)
    blocks = [_spectral_block(block, chroma_filters, mel_filters, wanted) for block in spectra]
    frames = {name: np.concatenate([block[name] for block in blocks]).T for name in blocks[0]}
    if "chroma_stft" in wanted:
        frames["chroma_stft"] = librosa.util.normalize(frames["chroma_stft"], norm=np.inf, axis=0)
    if "mfcc" in wanted:
        frames["mfcc"] = librosa.feature.mfcc(S=librosa.power_to_db(frames["mfcc"]), n_mfcc=GROUPS["mfcc"])
    if "spectral_contrast" in wanted:
        # FMA passed magnitudes where librosa expects power: these decibels are half of the true ones.
        peaks, valleys = np.split(frames["spectral_contrast"], 2)
        frames["spectral_contrast"] = librosa.power_to_db(peaks) - librosa.power_to_db(valleys)
    return frames


@functools.cache
def _mel_filters(sample_rate: int) -> np.ndarray:
    """librosa's 128 mel filters, float32 [filter, bin]."""
    import librosa

    return librosa.filters.mel(sr=sample_rate, n_fft=_N_FFT)


def _spectral_block(
    magnitude: np.ndarray, chroma_filters: np.ndarray, mel_filters: np.ndarray, wanted: set[str]
) -> dict[str, np.ndarray]:
    """Computes what one frame determines.

    Args:
      magnitude: float32 [frame, bin].
      chroma_filters: float32 [chroma, bin].
      mel_filters: float32 [filter, bin].
      wanted: features.

    Returns:
      feature -> float [frame, dimension]; of chroma_stft the chroma before they are normalised, of mfcc the mel power,
      of spectral_contrast the peaks, then the valleys.
    """
    result = {}
    power = np.square(magnitude)
    frequency = np.fft.rfftfreq(_N_FFT, 1 / _ASSUMED_RATE)
    if "chroma_stft" in wanted:
        result["chroma_stft"] = power @ chroma_filters.T
    if "mfcc" in wanted:
        result["mfcc"] = power @ mel_filters.T
    if "rmse" in wanted:
        result["rmse"] = np.sqrt(power.mean(axis=1, keepdims=True))
    if "spectral_centroid" in wanted or "spectral_bandwidth" in wanted:
        weights = magnitude.astype(np.float64)
        total = weights.sum(axis=1, keepdims=True)
        weights /= np.where(total > 0, total, 1.0)
        result["spectral_centroid"] = weights @ frequency[:, None]
        squared = np.square(frequency - result["spectral_centroid"])
        result["spectral_bandwidth"] = np.sqrt(np.einsum("tf,tf->t", weights, squared))[:, None]
    if "spectral_rolloff" in wanted:
        below = np.cumsum(magnitude, axis=1)
        result["spectral_rolloff"] = frequency[(below >= _ROLLOFF_SHARE * below[:, -1:]).argmax(axis=1)][:, None]
    if "spectral_contrast" in wanted:
        result["spectral_contrast"] = _peaks_and_valleys(magnitude, frequency)
    return result


def _peaks_and_valleys(magnitude: np.ndarray, frequency: np.ndarray) -> np.ndarray:
    """The means of the loudest and of the faintest bins of each octave band (Jiang et al., 2002).

    Args:
      magnitude: float32 [frame, bin].
      frequency: Hz, ascending [bin].

    Returns:
      float32 [frame, 2 bands]: the peaks of all bands, then the valleys.
    """
    peaks, valleys = [], []
    for low, high in zip(_CONTRAST_EDGES, (*_CONTRAST_EDGES[1:], None), strict=True):
        # librosa's bands begin one bin below their lower edge; all but the last end one bin before the upper one.
        first = max(int(np.searchsorted(frequency, low)) - 1, 0)
        last = len(frequency) if high is None else int(np.searchsorted(frequency, high, side="right")) - 1
        bins = last - first + (high is not None)
        count = max(round(_CONTRAST_SHARE * bins), 1)
        ordered = np.sort(magnitude[:, first:last], axis=1)
        peaks.append(ordered[:, -count:].mean(axis=1))
        valleys.append(ordered[:, :count].mean(axis=1))
    return np.stack(peaks + valleys, axis=1)


def _constant_q_features(samples: np.ndarray, sample_rate: int, tuning: float) -> dict[str, np.ndarray]:
    """Computes what depends on the constant-Q transform: feature -> float [dimension, frame]."""
    import librosa
    import scipy.signal

    magnitude = np.abs(
        librosa.cqt(
            samples,
            sr=sample_rate,
            hop_length=_HOP,
            n_bins=12 * _OCTAVES,
            bins_per_octave=12,
            tuning=tuning,
            filter_scale=_CQT_FILTER_SCALE,
            pad_mode="reflect",
        )
    )
    cens = librosa.feature.chroma_cens(
        C=magnitude, bins_per_octave=12, smoothing_window=functools.partial(scipy.signal.windows.hann, sym=False)
    )
    return {
        "chroma_cqt": librosa.feature.chroma_cqt(C=magnitude, bins_per_octave=12),
        "chroma_cens": cens,
        "tonnetz": librosa.feature.tonnetz(chroma=cens),
    }
