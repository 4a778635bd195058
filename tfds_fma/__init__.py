"""The Free Music Archive (FMA) as a TensorFlow Datasets (TFDS) dataset, prepared and read without TensorFlow.

* ``python -m tfds_fma.prepare`` turns an FMA tree (folders or the official zip files) into ArrayRecord files,
* ``tfds_fma.reading`` reads them,
* ``tfds_fma.demo`` writes a small synthetic FMA tree for those who have no FMA at hand.

Importing the package is quick: whatever needs TFDS or audio libraries is imported when it is used.
"""

from tfds_fma.errors import FmaError, UserError
from tfds_fma.labels import GENRES, SUBSETS, genres_of

__all__ = ["GENRES", "SUBSETS", "FmaError", "UserError", "genres_of"]
