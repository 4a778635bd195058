"""What a representation of a clip is."""

from typing import TYPE_CHECKING, Protocol, runtime_checkable

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


@runtime_checkable
class AudioRepresentation(Representation, Protocol):
    """A representation that is computed from audio."""

    @property
    def sample_rate(self) -> int:
        """Rate in Hz of the audio that `compute` takes."""

    @property
    def samples(self) -> int:
        """Number of mono samples that `compute` needs, counted from the start of the clip."""

    @property
    def at_most(self) -> int:
        """Number of samples that `compute` takes if the clip has as many."""

    def compute(self, audio: "np.ndarray") -> "np.ndarray":
        """Computes the array to store from float32 audio [samples]."""
