"""Mono audio at a lower rate."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tfds_fma.representations.base import SOXR

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Audio:
    """The clip's audio, mono, int16: for spectrograms computed on the device, and for models on raw audio.

    The sample x in [-1, 1] is stored as round(32767 x). The first 29.9 s hold what every spectrogram here needs, and
    nearly every clip of FMA has them (29.98 s), so that zeros at the end are rare. Of the demo corpus, with its clips
    of 5.8 s, the first 5.6 s hold what mel_256x96 and mel_120x128 need.

    Attributes:
      sample_rate: Hz.
      short: whether it is for the demo corpus.
      length: number of samples, if it is another one: of arrays that somebody else made.
    """

    sample_rate: int
    short: bool = False
    length: int | None = None
    dtype: str = "int16"
    resampler: str = SOXR

    @property
    def name(self) -> str:
        """``audio_RATE`` or ``audio_RATE_short``."""
        return f"audio_{self.sample_rate}{'_short' if self.short else ''}"

    @property
    def seconds(self) -> float:
        """Length of what is stored."""
        return 5.6 if self.short else 29.9

    @property
    def samples(self) -> int:
        """As many as `seconds` have."""
        return self.length or round(self.seconds * self.sample_rate)

    @property
    def at_most(self) -> int:
        """As many samples as are needed."""
        return self.samples

    @property
    def shape(self) -> tuple[int]:
        """(samples,)."""
        return (self.samples,)

    @property
    def description(self) -> str:
        """One line for people."""
        return f"audio, mono int16, first {self.seconds:g} s at {self.sample_rate} Hz"

    def compute(self, audio: "np.ndarray") -> "np.ndarray":
        """Rounds float32 audio [samples] -> int16 [samples]; what is louder than full scale is clipped."""
        import numpy as np

        return np.rint(np.clip(audio, -1, 1) * np.float32(32767)).astype(self.dtype)
