"""Finds and reads prepared datasets.

`find_prepared` and `class_names` are quick; the others import TFDS.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfds_fma import layout
from tfds_fma.errors import FmaError
from tfds_fma.metadata import SPLITS

if TYPE_CHECKING:
    import numpy as np

# Records decoded at a time: many enough to amortise the call, few enough to add nothing to memory.
_BATCH = 256


def find_prepared(data_dir: str | Path, subset: str, representation: str) -> Path | None:
    """Returns the folder of a prepared dataset, or None if it has not been prepared (completely)."""
    path = layout.version_dir(data_dir, subset, representation)
    return path if layout.is_complete(path) else None


def class_names(path: str | Path) -> tuple[str, ...]:
    """Returns the genre names of a prepared dataset; class ids are positions in the tuple."""
    labels = Path(path) / "genre.labels.txt"
    if not labels.is_file():
        raise FmaError(f"{path} holds no prepared dataset: there is no {labels.name}. Run python -m tfds_fma.prepare.")
    return tuple(labels.read_text(encoding="utf-8").splitlines())


def load(path: str | Path) -> Mapping[str, Any]:
    """Opens a prepared dataset.

    Args:
      path: its folder, from `find_prepared` or `tfds_fma.prepare.prepare`.

    Returns:
      Split name -> TFDS data source (random access; ``source[i]`` is a dict of NumPy values, text as bytes).
      A split in which no clip could be used is not there.

    Raises:
      FmaError: if there is no prepared dataset.
    """
    class_names(path)  # for its error
    import tensorflow_datasets as tfds

    return tfds.builder_from_directory(path).as_data_source()


def read_split(path: str | Path, split: str) -> tuple[dict[str, "np.ndarray"], "np.ndarray"]:
    """Reads a whole split in one pass.

    Args:
      path: folder of the prepared dataset.
      split: ``train``, ``validation`` or ``test``. One that was left out, for want of a usable clip, reads as empty.

    Returns:
      The columns, each [clip] in the order of the track table: track_id, genre, artist_id, album_id (int64), duration
      (float32, seconds), title, artist (str objects), split (str); and the clips [clip, ...] in the stored type.
    """
    return _read(path, (split,))


def read_dataset(path: str | Path) -> tuple[dict[str, "np.ndarray"], "np.ndarray"]:
    """Reads all splits, train first, into one array; otherwise as `read_split`."""
    return _read(path, tuple(SPLITS.values()))


def _read(path: str | Path, splits: tuple[str, ...]) -> tuple[dict[str, "np.ndarray"], "np.ndarray"]:
    class_names(path)  # for its error
    import numpy as np
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(path)
    features = builder.info.features
    sources = {split: builder.as_data_source(split=split) for split in splits if split in builder.info.splits}
    size = sum(len(source) for source in sources.values())
    columns = {
        name: np.empty(size, object if isinstance(feature, tfds.features.Text) else feature.np_dtype)
        for name, feature in features.items()
        if name != "clip"
    }
    columns["split"] = np.repeat(list(sources), [len(source) for source in sources.values()]).astype(str)
    clips = np.empty((size, *features["clip"].shape), features["clip"].np_dtype)
    row = 0
    for source in sources.values():
        for start in range(0, len(source), _BATCH):
            for example in source.__getitems__(list(range(start, min(start + _BATCH, len(source))))):
                clips[row] = example["clip"]
                for name in features:
                    if name != "clip":
                        value = example[name]
                        columns[name][row] = value.decode() if isinstance(value, bytes) else value
                row += 1
    return columns, clips
