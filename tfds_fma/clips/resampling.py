"""Audio at another rate: by which filter is part of what a representation is.

Near half of the lower rate resamplers differ by more than anything else on the way from an MP3 file to a spectrogram:
in the top five of MATT's 96 bands by 2 to 8 dB (tfds_fma/README.md has the table).
"""

import functools
import math

import numpy as np

from tfds_fma.representations.base import KAISER_BEST, SOXR

# The filter `kaiser_best` of resampy 0.2: a sinc with so many zero crossings on each side, this roll-off as a share of
# half of the lower rate, under a Kaiser window.
_CROSSINGS = 64


_ROLL_OFF = 0.9475937167399596


_BETA = 14.769656459379492


_TABLE = 512  # entries of its table per zero crossing; between them it is interpolated linearly


def resample(audio: np.ndarray, rate: int, wanted: int, resampler: str) -> np.ndarray:
    """Resamples mono audio.

    Args:
      audio: float32 [sample].
      rate: of the audio, in Hz.
      wanted: rate of the result, in Hz.
      resampler: `SOXR` or `KAISER_BEST`.

    Returns:
      float32 [about sample * wanted / rate].
    """
    if resampler == KAISER_BEST:
        return _kaiser_best(audio, rate, wanted)
    import soxr

    return soxr.resample(audio, rate, wanted, quality="HQ")


def implementation(resampler: str) -> str:
    """Returns the name of a resampler with the version of what computes it."""
    if resampler == KAISER_BEST:
        return f"{KAISER_BEST}, own"
    import soxr

    return f"{SOXR}, soxr {soxr.__version__} with libsoxr {soxr.__libsoxr_version__}"


def _kaiser_best(audio: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """Resamples as ``resampy.resample(audio, rate, wanted)`` of resampy 0.2 does."""
    import scipy.signal

    if rate == wanted:
        return audio
    up, down = wanted // math.gcd(rate, wanted), rate // math.gcd(rate, wanted)
    taps, before = _polyphase(up, down)
    samples = len(audio) * up // down
    # The filter looks ahead: the result of `upfirdn` for output 0 lies `before` filter steps back.
    skipped = -(-before // down)
    ahead = np.pad(taps, (skipped * down - before, 0))
    return scipy.signal.upfirdn(ahead, audio, up, down)[skipped : skipped + samples]


@functools.lru_cache(maxsize=4)
def _polyphase(up: int, down: int) -> tuple[np.ndarray, int]:
    """The filter at `up` times the rate of the audio.

    resampy steps through its table in whole entries, fewer than a zero crossing has at the lower rate (139 instead of
    139.3 from 44,100 to 12,000 Hz), and that is why every phase is made by itself.

    Returns:
      float32 [tap], and how many of them are for audio that is yet to come.
    """
    scale = min(1.0, up / down)
    table = _table() * scale
    slope = np.append(np.diff(table), 0.0)
    step = int(scale * _TABLE)

    def wing(distance: np.ndarray) -> np.ndarray:
        """[phase] distances of the nearest sample, at the lower rate -> [sample, phase] weights."""
        place = distance * _TABLE
        offset = place.astype(int)
        entry = offset + step * np.arange(len(table) // step + 1)[:, None]
        used = np.arange(len(entry))[:, None] < (len(table) - offset) // step
        entry = np.where(used, entry, 0)
        return np.where(used, table[entry] + (place - offset) * slope[entry], 0.0)

    fraction = scale * np.arange(up) / up
    behind, ahead = wing(fraction), wing(scale - fraction)
    taps = np.concatenate([ahead[::-1], behind])
    return taps.ravel().astype(np.float32), len(ahead) * up


@functools.cache
def _table() -> np.ndarray:
    """The right half of the windowed sinc, float64 [_CROSSINGS * _TABLE + 1]."""
    size = _CROSSINGS * _TABLE
    sinc = _ROLL_OFF * np.sinc(_ROLL_OFF * np.arange(size + 1) / _TABLE)
    return sinc * np.kaiser(2 * size + 1, _BETA)[size:]
