"""MP3 bytes -> mono float32 audio at the rate that is wanted, with libsndfile and a resampler."""

import contextlib
import functools
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import soundfile

from tfds_fma.clips.mp3_frames import with_all_frames
from tfds_fma.clips.resampling import resample
from tfds_fma.errors import ClipError
from tfds_fma.parallel import take_printed
from tfds_fma.representations.base import SOXR

# A clip with less than this share of the wanted length is rejected; a longer one is padded with zeros, as
# MATT did.
MIN_SHARE = 0.5


# Audio decoded beyond the wanted end, so that the resampling filter sees what follows. Its impulse response
# is some hundred samples long.
MARGIN_SECONDS = 0.1


# FMA cut its clips from the middle of the tracks (creation.py of mdeff/fma).
_EXCERPT_SECONDS = 30


@dataclass(frozen=True)
class DecodedAudio:
    """Decoded audio.

    Attributes:
      samples: mono float32 of the length that was asked for.
      padded: whether zeros were added at the end to reach it.
    """

    samples: np.ndarray
    padded: bool


def decode(
    file: bytes | BinaryIO,
    sample_rate: int,
    samples: int,
    *,
    at_most: int | None = None,
    excerpt_of: float | None = None,
    resampler: str = SOXR,
) -> DecodedAudio:
    """Decodes the start of an MP3 file.

    Args:
      file: the contents of the file, or the open file, unbuffered if it is on disk.
      sample_rate: wanted rate in Hz.
      samples: number of samples needed at that rate; zeros are added to a shorter clip.
      at_most: number of samples to return if there are as many; by default `samples`.
      excerpt_of: length of the track in seconds, if the file is a whole track of which FMA's 30 s excerpt is wanted:
        from half of that length less 15 s on, in whole seconds.
      resampler: see `tfds_fma.clips.resampling`.

    Returns:
      Between `samples` and `at_most` samples.

    Raises:
      ClipError: if the file is empty or no audio, or shorter than half of what is needed.
    """
    if isinstance(file, bytes):
        file = io.BytesIO(file)
    if not file.seek(0, io.SEEK_END):
        raise ClipError("empty", "the file has no bytes")
    file.seek(0)
    return filled_up(
        _resampled_start(file, sample_rate, at_most or samples, excerpt_of, resampler), sample_rate, samples
    )


def filled_up(audio: np.ndarray, sample_rate: int, samples: int) -> DecodedAudio:
    """Adds zeros to audio that is shorter than a number of samples.

    Raises:
      ClipError: if it is shorter than half of that, or not finite.
    """
    if len(audio) < MIN_SHARE * samples:
        detail = f"{len(audio) / sample_rate:.2f} s of the {samples / sample_rate:.2f} s needed"
        raise ClipError("short", detail)
    if not np.isfinite(audio).all():
        raise ClipError("undecodable", "the decoded audio is not finite")
    missing = samples - len(audio)
    return DecodedAudio(np.pad(audio, (0, missing)) if missing > 0 else audio, padded=missing > 0)


def _resampled_start(
    file: BinaryIO, sample_rate: int, samples: int, excerpt_of: float | None, resampler: str
) -> np.ndarray:
    """Decodes, mixes to mono and resamples; returns up to `samples` float32."""
    seconds = samples / sample_rate + MARGIN_SECONDS
    with decoder_errors_as_clip_errors():
        channels, rate, end = _read_start(file, seconds, excerpt_of)
        if end is not None:
            file.seek(0)
            whole = with_all_frames(file.read(), end)
            if whole is not None:
                take_printed()  # what the decoder found will be found again
                channels, rate, _ = _read_start(io.BytesIO(whole), seconds, excerpt_of)
        if not channels.size:
            raise ClipError("undecodable", "the file holds no audio")
        return resampled_mean(added(channels), len(channels), rate, sample_rate, resampler)[:samples]


def added(channels: np.ndarray) -> np.ndarray:
    """Adds channels: float32 [channel, sample] -> [sample].

    That is thirty times faster than a mean over the last axis. A dot product is as fast, but starts BLAS threads,
    which fight over the cores with the other worker processes.
    """
    return functools.reduce(np.add, channels)


def resampled_mean(total: np.ndarray, channels: int, rate: int, sample_rate: int, resampler: str) -> np.ndarray:
    """Resamples the sum of some channels and returns their mean.

    Resampling is linear, so that the division can wait until there are fewer samples.
    """
    return resample(total, rate, sample_rate, resampler) / np.float32(channels)


def _read_start(file: BinaryIO, seconds: float, excerpt_of: float | None) -> tuple[np.ndarray, int, int | None]:
    """Decodes what is wanted of a file.

    Returns:
      float32 [channel, sample]; their rate in Hz; and, if an MP3 file ended before that, after how many samples.
    """
    # Given the descriptor of a file on disk, libsndfile reads it itself, which saves 2,300 calls of Python a clip.
    handle = file if isinstance(file, io.BytesIO) else file.fileno()
    with soundfile.SoundFile(handle, closefd=False) as audio:
        rate = audio.samplerate
        if excerpt_of is not None:
            audio.seek(min(_excerpt_start(excerpt_of) * rate, audio.frames))
        wanted = int(seconds * rate) + 1
        channels = audio.read(wanted, dtype="float32", always_2d=True).T
        ended = audio.format == "MP3" and channels.shape[1] < wanted
        return channels, rate, audio.tell() if ended else None


@contextlib.contextmanager
def decoder_errors_as_clip_errors() -> Iterator[None]:
    """Turns what libsndfile and soxr raise about audio into a ClipError."""
    try:
        yield
    except soundfile.LibsndfileError as error:  # whose own text holds the address of the BytesIO
        raise ClipError("undecodable", f"libsndfile: {error.error_string}") from error
    except (RuntimeError, ValueError) as error:
        raise ClipError("undecodable", str(error)) from error


def damage_in_words(printed: list[str]) -> str:
    """Sums up what libmpg123, which decodes MP3 for libsndfile, printed about wrong bytes; "" if nothing.

    Args:
      printed: lines; some warn of harmless things.
    """
    errors = [line for line in printed if " error: " in line or "Illegal Audio-MPEG-Header" in line]
    if not errors:
        return ""
    first = errors[0].rpartition(" error: ")[2].removeprefix("Note: ").rstrip(".!")
    return f"{len(errors)} decoding errors, the first: {first}" if len(errors) > 1 else f"a decoding error: {first}"


def _excerpt_start(seconds: float) -> int:
    """The second at which FMA's excerpt of a track begins; a track that is no longer is taken from its start."""
    return int(seconds) // 2 - _EXCERPT_SECONDS // 2 if seconds > _EXCERPT_SECONDS else 0
