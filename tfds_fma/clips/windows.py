"""An audio file of any length -> its windows in stored form, each as a clip that begins there would be stored.

Files are read forward and no more than a window is held, so memory does not grow with their length. The audio of a
window is treated as `tfds_fma.clips.decode` treats a clip of FMA.
"""

import contextlib
import io
import itertools
import math
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from tfds_fma.clips.decode import (
    MARGIN_SECONDS,
    MIN_SHARE,
    added,
    damage_in_words,
    decoder_errors_as_clip_errors,
    filled_up,
    resampled_mean,
)
from tfds_fma.clips.feature_extraction import extract
from tfds_fma.clips.mp3_frames import tells_length, with_all_frames
from tfds_fma.errors import ClipError, in_words
from tfds_fma.parallel import take_printed
from tfds_fma.representations.base import AudioRepresentation
from tfds_fma.representations.feature_vector import FeatureVector

# Length of the excerpts of FMA's tracks, of which features are computed, in s.
_FEATURE_SECONDS = 30.0

# Values decoded at a time, of all channels.
_BLOCK_VALUES = 1 << 19

# A decoder leaves at most so many bytes at the end of an MP3 file that it decoded to the end: tags.
_TAG_BYTES = 1 << 16

# Studios use rates up to 768 kHz; a damaged header may tell any.
_MOST_RATE = 768_000

# Larger files are not searched for frames that the decoder left: they would be held in memory.
_MOST_BYTES = 1 << 28


@dataclass(frozen=True)
class Windows:
    """Windows of an audio file.

    Attributes:
      clips: [window, ...] in stored form.
      start: where each begins in the file, float [window], s.
      end: how far the file was decoded, s.
      told: length that its header tells, s; of some files, an estimate.
      damage: what the decoder said of errors in the audio, in a line; "" if nothing.
    """

    clips: np.ndarray
    start: np.ndarray
    end: float
    told: float
    damage: str = ""


def window_seconds(representation: AudioRepresentation | FeatureVector) -> float:
    """Returns the length of the audio that one stored clip is made of, in s."""
    if isinstance(representation, FeatureVector):
        return _FEATURE_SECONDS
    return representation.at_most / representation.sample_rate


def window_count(seconds: float, representation: AudioRepresentation | FeatureVector) -> int:
    """Returns how many windows `cut_windows` makes of a file of that length, one after the other.

    Args:
      seconds: length; NaN: unknown, which counts as one window.
      representation: what to make of each window.
    """
    length = window_seconds(representation)
    if math.isnan(seconds):
        return 1
    whole = int(seconds / length)
    return max(1, whole + (seconds - whole * length >= MIN_SHARE * length))


def cut_windows(
    path: Path,
    representation: AudioRepresentation | FeatureVector,
    hop: float,
    *,
    first: int = 0,
    most: int | None = None,
) -> Windows:
    """Decodes windows of an audio file.

    They begin at 0, `hop`, 2 `hop` ... seconds. What is left at the end gets a window that ends there, if it is at
    least half of `hop`. A file that is shorter than a window is filled up with zeros, as the clips of a corpus are.

    Args:
      path: the file.
      representation: what to make of each window. Features are computed at the file's own rate, as FMA did.
      hop: distance of the windows in s.
      first: number of the first one.
      most: number of windows at most; None: all to the end of the file.

    Returns:
      At least one window if `first` is 0.

    Raises:
      ClipError: there is no such file; or it is empty, no audio, damaged beyond use, or shorter than half a window.
    """
    take_printed()
    with open_audio(path) as file, decoder_errors_as_clip_errors():
        with soundfile.SoundFile(file.fileno(), closefd=False) as audio:
            if not audio.samplerate <= _MOST_RATE:
                raise ClipError("undecodable", f"its header tells a sample rate of {audio.samplerate:,} Hz")
            mono = _Mono(audio)
            clips, start = _cut(mono, representation, hop, first, most)
        left = os.fstat(file.fileno()).st_size - os.lseek(file.fileno(), 0, os.SEEK_CUR)
        too_early = left > _TAG_BYTES or first + len(clips) <= 1
        whole, damage = None, ""
        if audio.format == "MP3" and mono.ended and too_early:
            if file.seek(0, io.SEEK_END) <= _MOST_BYTES:
                file.seek(0)
                whole = with_all_frames(file.read(), mono.end)
            elif left > _TAG_BYTES:
                damage = f"{left / 2**20:,.1f} MiB at its end were not decoded"
        if whole is not None:
            take_printed()  # what the decoder found will be found again
            with soundfile.SoundFile(io.BytesIO(whole)) as audio:
                mono = _Mono(audio)
                clips, start = _cut(mono, representation, hop, first, most)
        lacking = mono.ended and audio.frames - mono.end > audio.samplerate
        seconds, told = mono.end / audio.samplerate, audio.frames / audio.samplerate
        if lacking and audio.format == "MP3" and tells_length(file):
            damage = f"it ends after {seconds:.1f} of the {told:.1f} s that it tells"
    if not clips and not first:
        raise ClipError("short", f"{seconds:.2f} s of the {window_seconds(representation):.2f} s needed")
    damage = "; ".join(filter(None, [damage_in_words(take_printed()), damage]))
    return Windows(np.array(clips), np.array(start), seconds, told, damage)


class _Mono:
    """Reads the sum of a file's channels forward.

    Attributes:
      audio: the open file.
      end: samples per channel that were decoded, counted from the start of the file.
      ended: whether there are no more.
    """

    def __init__(self, audio: soundfile.SoundFile):
        self.audio, self.end, self.ended = audio, 0, False
        self._kept = np.empty(0, np.float32)  # what ends at `end`, from the sample before the last one taken on

    def take(self, begin: int, length: int) -> np.ndarray:
        """Returns float32 [length] from the sample `begin` on, fewer at the end of the file; never goes back.

        What was taken the time before is kept, for `last`.
        """
        if begin > self.end:
            # `last` may reach back from the end of the file.
            place = min(begin, max(self.end, self.audio.frames - length))
            self.end, self._kept = self.audio.seek(place), self._kept[:0]
        parts = [self._kept]
        block = max(1, _BLOCK_VALUES // self.audio.channels)
        while self.end < begin + length and not self.ended:
            channels = self.audio.read(min(block, begin + length - self.end), dtype="float32", always_2d=True).T
            self.ended = not channels.shape[1]
            if not self.ended:
                parts.append(added(channels))
                self.end += channels.shape[1]
        before = np.concatenate(parts)
        taken = before[max(0, len(before) - (self.end - begin)) :] if self.end > begin else before[:0]
        self._kept = before[max(0, len(before) - len(taken) - length) :]
        return taken[:length]

    def last(self, length: int) -> np.ndarray:
        """Returns the last samples that were decoded: float32 [length], fewer if not so many are kept."""
        return self._kept[max(0, len(self._kept) - length) :]


def _cut(
    mono: _Mono, representation: AudioRepresentation | FeatureVector, hop: float, first: int, most: int | None
) -> tuple[list[np.ndarray], list[float]]:
    """Returns windows in stored form, and where they begin, in s; the arguments are those of `cut_windows`."""
    clips: list[np.ndarray] = []
    start: list[float] = []
    rate = mono.audio.samplerate
    window, step = round(window_seconds(representation) * rate), hop * rate
    if first:
        mono.take(round((first - 1) * step), window)  # the last window may reach back into it
    for number in itertools.count(first):
        begin = round(number * step)
        if len(clips) == most:
            break
        audio = mono.take(begin, window + int(MARGIN_SECONDS * rate) + 1)
        at_the_end = number > 0 and len(audio) < window
        if at_the_end:
            begin, audio = mono.end - window, mono.last(window)
            if len(audio) < window or begin - round((number - 1) * step) < MIN_SHARE * step:
                break
        try:
            clips.append(_stored(audio, mono.audio, representation))
        except ClipError as error:
            if error.reason == "short":
                break
            raise
        start.append(begin / rate)
        if at_the_end:
            break
    return clips, start


def _stored(
    total: np.ndarray, file: soundfile.SoundFile, representation: AudioRepresentation | FeatureVector
) -> np.ndarray:
    """Returns a window in stored form.

    Args:
      total: float32 [sample], the sum of the channels.
      file: that it is of.
      representation: what to make of it.

    Raises:
      ClipError: it is short or not finite.
    """
    rate = file.samplerate
    if isinstance(representation, FeatureVector):
        samples = round(_FEATURE_SECONDS * rate)
        if len(total) < MIN_SHARE * samples:
            raise ClipError("short", "less than half a window")
        return extract(total[:samples] / np.float32(file.channels), rate, representation.groups)
    if not total.size:
        raise ClipError("short", "no audio")
    to = representation.sample_rate
    audio = resampled_mean(total, file.channels, rate, to, representation.resampler)[: representation.at_most]
    return representation.compute(filled_up(audio, to, representation.samples).samples)


@contextlib.contextmanager
def open_audio(path: Path) -> Iterator[BinaryIO]:
    """Opens a file that has bytes, unbuffered; raises ClipError if it is none."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would block
            raise ClipError("unreadable", "it is no file")
        if not path.stat().st_size:
            raise ClipError("empty", "the file has no bytes")
        file = path.open("rb", buffering=0)
    except FileNotFoundError as error:
        raise ClipError("missing", "there is no such file") from error
    except (OSError, ValueError) as error:
        raise ClipError("unreadable", in_words(error)) from error
    with file:
        yield file
