"""What is computed from a clip and stored: the registry of representations.

To add one (another spectrogram, raw audio, feature vectors): write a frozen dataclass with the members of
`Representation` and put an instance of it into `REPRESENTATIONS`. The builder, the command line and the
readers take everything they need from there.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from tfds_fma.errors import FmaError

if TYPE_CHECKING:
    import numpy as np


class Representation(Protocol):
    """What the builder needs to know about a representation."""

    @property
    def name(self) -> str:
        """Name on the command line and in the folder name."""

    @property
    def description(self) -> str:
        """One line for people."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the stored array."""

    @property
    def dtype(self) -> str:
        """NumPy name of the stored type."""

    @property
    def sample_rate(self) -> int:
        """Rate in Hz of the audio that `compute` takes."""

    @property
    def samples(self) -> int:
        """Number of mono samples that `compute` takes, counted from the start of the clip."""

    def compute(self, audio: "np.ndarray") -> "np.ndarray":
        """Computes the array to store from float32 audio [samples]."""


@dataclass(frozen=True)
class LogMel:
    """Log-mel spectrogram in decibels, as librosa 0.8 computed it for MATT; stored as float16 [frame, mel].

    Window: periodic Hann of `n_fft`, centred frames with *reflect* padding. Reflect was the default of
    librosa 0.8.0, with which MATT's spectrograms were made; librosa 0.10 and later pad with zeros unless told
    otherwise (``pad_mode``), which changes the first and the last n_fft / (2 hop) frames. Power spectrum,
    Slaney mel scale with area normalisation from 0 Hz to half the sample rate, ``10 log10`` relative to 1.0
    with a floor of 1e-10, and at most 80 dB below the loudest value of the clip.

    float16 steps are 1/16 dB between 64 and 128 dB and finer below, so storage is off by at most 1/32 dB.

    Attributes:
      name: see `Representation`.
      sample_rate: Hz.
      samples: number of audio samples used.
      n_fft: window length in samples.
      hop: distance between frames in samples.
      n_mels: number of mel bands.
    """

    name: str
    sample_rate: int
    samples: int
    n_fft: int
    hop: int
    n_mels: int
    dtype: str = "float16"

    @property
    def shape(self) -> tuple[int, int]:
        """(frames, mel bands)."""
        return 1 + self.samples // self.hop, self.n_mels

    @property
    def description(self) -> str:
        """One line for people."""
        return (
            f"log-mel spectrogram in dB, [{self.shape[0]} frames, {self.n_mels} mel bands], first "
            f"{self.samples / self.sample_rate:g} s at {self.sample_rate} Hz, window {self.n_fft}, "
            f"hop {self.hop}"
        )

    def compute(self, audio: "np.ndarray") -> "np.ndarray":
        """Computes the spectrogram of float32 audio [samples] -> float16 [frame, mel]."""
        from tfds_fma.spectrogram import log_mel

        return log_mel(audio, self.sample_rate, self.n_fft, self.hop, self.n_mels).astype(self.dtype)


_MATT: dict[str, Any] = {"sample_rate": 12_000, "n_fft": 2048, "hop": 256, "n_mels": 96}

REPRESENTATIONS: dict[str, Representation] = {
    representation.name: representation
    for representation in (
        # MATT and CRNN-TF: the first 29 s of the 30 s clip.
        LogMel("mel_1360x96", samples=29 * 12_000, **_MATT),
        # The same settings on the first 5.44 s: for the short clips of the demo corpus.
        LogMel("mel_256x96", samples=255 * 256, **_MATT),
    )
}


# What the demo corpus is prepared in.
DEMO_REPRESENTATION = "mel_256x96"


def get_representation(name: str) -> Representation:
    """Looks a representation up by name.

    Raises:
      FmaError: if there is none of that name.
    """
    if name not in REPRESENTATIONS:
        raise FmaError(f"Unknown representation {name!r}. Choose one of: {', '.join(REPRESENTATIONS)}.")
    return REPRESENTATIONS[name]
