"""Vectors of FMA's features, and arrays computed elsewhere."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tfds_fma.representations.feature_names import GROUPS, STATISTICS

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class FeatureVector:
    """Statistics of audio features from ``features.csv``, FMA's own or made by `tfds_fma.extract_features`.

    FMA's file was computed from whole tracks with librosa 0.5 (Defferrard et al. 2017, section 3.4).

    Attributes:
      name: see `Representation`.
      groups: the features, in the order of FMA's columns.
    """

    name: str
    groups: tuple[str, ...]
    dtype: str = "float32"

    @property
    def shape(self) -> tuple[int]:
        """(columns,)."""
        return (len(STATISTICS) * sum(GROUPS[group] for group in self.groups),)

    @property
    def description(self) -> str:
        """One line for people."""
        return f"{self.shape[0]} columns of features.csv: {', '.join(self.groups)}"


@dataclass(frozen=True)
class Precomputed:
    """Arrays that someone else computed and `tfds_fma.prepare` takes as they are.

    Attributes:
      name: see `Representation`; it satisfies `is_name`.
      shape: (frames, mel bands) or (features,).
      dtype: uint8, float16 or float32.
      description: see `Representation`.
      scale: unit of the values; what it is the arrays do not tell.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    description: str
    scale: str = "as given"
