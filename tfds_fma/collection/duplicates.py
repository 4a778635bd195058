"""Which songs are there twice: the same audio, or the same recording in another coding, loudness or cut."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from tfds_fma.clips.decode import added, decoder_errors_as_clip_errors, resampled_mean
from tfds_fma.clips.windows import open_audio
from tfds_fma.errors import ClipError
from tfds_fma.parallel import take_printed
from tfds_fma.representations.base import SOXR

# What is compared: up to 30 s from the middle of a song, which a cut at one end moves by half of what was cut.
_SECONDS = 30

# The audio is compared as mono at 8 kHz, in blocks of a second and 20 mel bands.
_RATE, _N_FFT, _HOP, _BANDS = 8_000, 1024, 400, 20

# Smaller differences, in dB, say nothing: those of silence, or of a steady tone.
_DEAD_ZONE = 0.3

# Bits that must say something in both songs; those of some 7 s.
_LEAST_BITS = 100

# Two songs are one if at most so many of the bits differ. Of the 26 million pairs of 7,194 songs of FMA-small, 25
# are closer, and 44 closer than 35 %, where pairs of different songs begin to count.
MOST_DIFFERENT = 0.2

_SONGS_AT_A_TIME = 512


@dataclass(frozen=True)
class Fingerprint:
    """What a song is compared by.

    Attributes:
      seconds: length that the file tells.
      content: a hash of the decoded audio.
      bits: int8 [bit] of -1 and 1, and 0 where the song says nothing.
    """

    seconds: float
    content: str
    bits: np.ndarray


def fingerprint(path: str) -> Fingerprint | None:
    """Decodes the middle of a song and sums it up; None if it cannot be decoded (runs in a worker process)."""
    take_printed()
    try:
        with (
            open_audio(Path(path)) as file,
            decoder_errors_as_clip_errors(),
            soundfile.SoundFile(file.fileno(), closefd=False) as audio,
        ):
            rate, seconds = audio.samplerate, audio.frames / audio.samplerate
            audio.seek(max(0, (audio.frames - _SECONDS * rate) // 2))
            channels = audio.read(_SECONDS * rate, dtype="float32", always_2d=True).T
            mono = resampled_mean(added(channels), len(channels), rate, _RATE, SOXR)[: _SECONDS * _RATE]
    except ClipError:
        return None
    finally:
        take_printed()
    if not len(mono):
        return None
    return Fingerprint(seconds, hashlib.blake2b(mono.tobytes(), digest_size=16).hexdigest(), _bits(mono))


def _bits(mono: np.ndarray) -> np.ndarray:
    """The signs of how the differences between neighbouring bands change from block to block: int8 [bit].

    So did Haitsma and Kalker (A Highly Robust Audio Fingerprinting System, ISMIR 2002) with shorter blocks. Loudness
    and filters that do not change with time cancel out.
    """
    from tfds_fma.representations.spectrogram import log_mel

    bits = np.zeros((_SECONDS - 1, _BANDS - 1), np.int8)
    # A short song is in the middle, too. Blocks that it does not fill say nothing.
    before = (_SECONDS * _RATE - len(mono)) // 2
    first, last = -(-before // _RATE), (before + len(mono)) // _RATE
    if last - first > 1 and np.isfinite(mono).all():
        filled = mono[first * _RATE - before : last * _RATE - before]
        levels = log_mel(filled, _RATE, _N_FFT, _HOP, _BANDS)[:-1].reshape(last - first, -1, _BANDS).mean(axis=1)
        change = np.diff(np.diff(levels, axis=1), axis=0)
        bits[first : last - 1] = np.where(np.abs(change) < _DEAD_ZONE, 0, np.sign(change))
    return bits.ravel()


def find_duplicates(fingerprints: Sequence[Fingerprint | None]) -> dict[int, int]:
    """Returns the songs that are there already, and which one of those before is the same: number -> number.

    The one that is kept is the first; all others are compared with those that are kept.

    Args:
      fingerprints: of the songs; None for one that cannot be compared.
    """
    first: dict[str, int] = {}
    found: dict[int, int] = {}
    for number, mark in enumerate(fingerprints):
        if mark is not None and (same := first.setdefault(mark.content, number)) != number:
            found[number] = same
    rest = [(n, mark.bits) for n, mark in enumerate(fingerprints) if mark is not None and n not in found]
    if not rest:
        return found
    rows, bits = [n for n, _ in rest], np.array([bits for _, bits in rest], np.float32)
    told = np.abs(bits)
    for start in range(0, len(rows), _SONGS_AT_A_TIME):
        end = min(start + _SONGS_AT_A_TIME, len(rows))
        both = told[start:end] @ told[:end].T
        agreement = bits[start:end] @ bits[:end].T  # bits that are equal, less those that differ
        close = (both >= _LEAST_BITS) & (agreement >= (1 - 2 * MOST_DIFFERENT) * both)
        for row, before in np.argwhere(close).tolist():
            if before < start + row and rows[before] not in found:
                found.setdefault(rows[start + row], rows[before])
    return found
