"""FMA's 518 audio features: their names, their order, and the feature sets of the papers.

Defferrard et al. ("FMA: A Dataset for Music Analysis", ISMIR 2017) describe every track by 518 numbers: seven
statistics over time of eleven features computed with librosa. `tfds_fma.source.feature_table` reads and writes the
table, ``fma_metadata/features.csv``; `tfds_fma.extract_features` computes the features from audio.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from tfds_fma.errors import UserError

if TYPE_CHECKING:
    import numpy as np


# Number of values per frame of each feature, in the order of the table.
GROUPS: dict[str, int] = {
    "chroma_cens": 12,
    "chroma_cqt": 12,
    "chroma_stft": 12,
    "mfcc": 20,
    "rmse": 1,
    "spectral_bandwidth": 1,
    "spectral_centroid": 1,
    "spectral_contrast": 7,
    "spectral_rolloff": 1,
    "tonnetz": 6,
    "zcr": 1,
}


# Over the frames of a track, in the order of the table.
STATISTICS: tuple[str, ...] = ("kurtosis", "max", "mean", "median", "min", "skew", "std")


Column = tuple[str, str, str]  # feature, statistic, number


COLUMNS: tuple[Column, ...] = tuple(
    (group, statistic, f"{number:02d}")
    for group, size in GROUPS.items()
    for statistic in STATISTICS
    for number in range(1, size + 1)
)


# The feature sets of MATT's Table I, which are those of FMA's own baselines (baselines.ipynb of mdeff/fma). "Chroma"
# is chroma_stft there, and MATT quotes FMA's accuracies for it; MATT's published notebooks read chroma_cens instead.
FEATURE_SETS: dict[str, tuple[str, ...]] = {
    "chroma": ("chroma_stft",),
    "tonnetz": ("tonnetz",),
    "mfcc": ("mfcc",),
    "spectral_centroid": ("spectral_centroid",),
    "spectral_bandwidth": ("spectral_bandwidth",),
    "spectral_contrast": ("spectral_contrast",),
    "spectral_rolloff": ("spectral_rolloff",),
    "rmse": ("rmse",),
    "zcr": ("zcr",),
    "mfcc+spectral_contrast": ("mfcc", "spectral_contrast"),
    "mfcc+spectral_contrast+spectral_centroid": ("mfcc", "spectral_contrast", "spectral_centroid"),
    "all": tuple(GROUPS),
}


def groups_of(name: str) -> tuple[str, ...]:
    """Returns the features that a name stands for, in the order of GROUPS.

    Args:
      name: a feature set (a key of FEATURE_SETS), a feature (a key of GROUPS), or several of them joined by "+".

    Raises:
      UserError: if there is no such set or feature.
    """
    choices = {group: (group,) for group in GROUPS} | FEATURE_SETS
    wanted: set[str] = set()
    for part in name.split("+"):
        if part not in choices:
            raise UserError(
                f"Unknown features {part!r}{f' in {name!r}' if part != name else ''}. Choose from: "
                f'{", ".join(sorted(choice for choice in choices if "+" not in choice))}; join several with "+".'
            )
        wanted.update(choices[part])
    return tuple(group for group in GROUPS if group in wanted)


def columns_of(groups: Iterable[str]) -> "np.ndarray":
    """Returns the positions in COLUMNS of the columns of some features, int64 [column], ascending.

    Raises:
      UserError: if there is no such feature.
    """
    import numpy as np

    wanted = {group for name in groups for group in groups_of(name)}
    return np.array([position for position, column in enumerate(COLUMNS) if column[0] in wanted], np.int64)
