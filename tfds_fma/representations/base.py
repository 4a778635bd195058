"""What a representation of a clip is."""

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np


# How audio gets to the rate of a representation (`tfds_fma.clips.resampling`): python-soxr's quality HQ, which librosa
# 0.10 and later use by default, and what librosa 0.8 used.
SOXR = "soxr HQ"


KAISER_BEST = "kaiser_best of resampy 0.2"


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


@runtime_checkable
class AudioRepresentation(Representation, Protocol):
    """A representation that is computed from audio."""

    @property
    def sample_rate(self) -> int:
        """Rate in Hz of the audio that `compute` takes."""

    @property
    def resampler(self) -> str:
        """What brings the audio to that rate: `SOXR` or `KAISER_BEST`."""

    @property
    def samples(self) -> int:
        """Number of mono samples that `compute` needs, counted from the start of the clip."""

    @property
    def at_most(self) -> int:
        """Number of samples that `compute` takes if the clip has as many."""

    def compute(self, audio: "np.ndarray") -> "np.ndarray":
        """Computes the array to store from float32 audio [samples]."""
