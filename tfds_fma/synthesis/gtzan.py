"""Synthetic excerpts in the shape of GTZAN, made so that a leak between splits shows.

Each segment of 5 s is a clip of the demo's music, whose genre can be heard, more or less. All segments of an excerpt
went through a filter of its own, as if through one recording: that tells the excerpt, and nothing of its genre.
"""

import numpy as np

from tfds_fma.synthesis.music import SAMPLE_RATE, Identity, render

SEGMENTS, SEGMENT_SECONDS = 6, 5

# GTZAN's genres, and those of FMA that sound like them here.
STYLES = {
    "blues": "Blues",
    "classical": "Classical",
    "country": "Country",
    "disco": "Soul-RnB",
    "hiphop": "Hip-Hop",
    "jazz": "Jazz",
    "metal": "Experimental",
    "pop": "Pop",
    "reggae": "International",
    "rock": "Rock",
}

# The filter: gains at so many frequencies, evenly spaced in octaves, with this standard deviation.
_POINTS, _SPREAD_DB, _LOWEST_HZ = 24, 15.0, 60.0


def render_excerpt(genre: str, artist: int, number: int, seed: int = 0) -> np.ndarray:
    """Renders an excerpt: float32 [30 s at `SAMPLE_RATE`], mono, within -1 and 1.

    Args:
      genre: one of `STYLES`.
      artist: who shifts the style of the genre.
      number: of the excerpt; no two have the same.
      seed: of all randomness.
    """
    length = SEGMENT_SECONDS * SAMPLE_RATE
    clips = (Identity(seed, STYLES[genre], artist, number, SEGMENTS * number + segment) for segment in range(SEGMENTS))
    audio = _filtered(np.concatenate([render(clip)[:length] for clip in clips]), number, seed)
    return (0.9 * audio / max(float(np.abs(audio).max()), 1e-6)).astype(np.float32)


def _filtered(audio: np.ndarray, number: int, seed: int) -> np.ndarray:
    gains = np.random.default_rng((seed, 4, number)).normal(0, _SPREAD_DB, _POINTS)
    points = np.geomspace(_LOWEST_HZ, SAMPLE_RATE / 2, _POINTS)
    hertz = np.fft.rfftfreq(len(audio), 1 / SAMPLE_RATE)
    decibels = np.interp(np.log(np.maximum(hertz, _LOWEST_HZ)), np.log(points), gains)
    return np.fft.irfft(np.fft.rfft(audio) * 10 ** (decibels / 20), len(audio))
