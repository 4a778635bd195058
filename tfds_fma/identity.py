"""What tells two corpora apart: a short hash of the table and of a thousand clips.

It is here and not in mgc_jax, which compares it with what checkpoints hold, so that `tfds_fma.prepare` can compute
it once: the hash ends with the clips, and cannot be had later without reading them again.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tfds_fma.labels import GENRE_IDS
from tfds_fma.sub_genres import find_subgenres

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class LabelledTable:
    """The clips of a prepared dataset that have a top genre; row i of every array but `rows` is one of them.

    Attributes:
      rows: int [clip], where they are among all clips of the dataset.
      track_id: int64 [clip].
      label: int32 [clip], indexes the genres.
      split: str [clip].
      artist: str [clip], the artist's id, "" where unknown.
      album: str [clip], likewise.
      subset: str [clip], FMA's label, "" where unknown.
      subgenres: names; see `find_subgenres`.
      subgenre_parents: the genre that each belongs to.
      subgenre: int32 [clip], indexes `subgenres`.
    """

    rows: "np.ndarray"
    track_id: "np.ndarray"
    label: "np.ndarray"
    split: "np.ndarray"
    artist: "np.ndarray"
    album: "np.ndarray"
    subset: "np.ndarray"
    subgenres: tuple[str, ...]
    subgenre_parents: tuple[int, ...]
    subgenre: "np.ndarray"


def labelled_table(columns: Mapping[str, "np.ndarray"], genres: Sequence[str]) -> LabelledTable:
    """Picks the clips that have a top genre.

    Args:
      columns: of all clips, as `tfds_fma.reading.read_dataset` returns them.
      genres: label names of the dataset.
    """
    import numpy as np

    rows = np.flatnonzero(columns["genre"] >= 0)
    table = {name: column[rows] for name, column in columns.items()}
    label = table["genre"].astype(np.int32)
    subgenres, parents, subgenre = find_subgenres(
        [list(ids) for ids in table["genres_all"]],
        label,
        table["split"] == "train",
        genres,
        set(GENRE_IDS.values()),
    )
    return LabelledTable(
        rows=rows,
        label=label,
        subgenres=subgenres,
        subgenre_parents=parents,
        subgenre=subgenre,
        **table_columns(table),
    )


def table_columns(columns: Mapping[str, "np.ndarray"]) -> dict[str, "np.ndarray"]:
    """Returns `track_id`, `split`, `artist`, `album` and `subset` of clips, as a `LabelledTable` has them.

    Args:
      columns: [clip] each, as `tfds_fma.reading.read_dataset` returns them.
    """
    import numpy as np

    return {
        "track_id": columns["track_id"],
        "split": columns["split"],
        "artist": np.where(columns["artist_id"] >= 0, columns["artist_id"].astype(str), ""),
        "album": np.where(columns["album_id"] >= 0, columns["album_id"].astype(str), ""),
        "subset": columns["subset"].astype(str),
    }


def table_digest(genres: tuple[str, ...], shape: Sequence[int], dtype: "np.dtype", table: Any) -> "hashlib.blake2b":
    """Hashes all of a corpus but its clips: the first part of its fingerprint.

    Args:
      genres: label names.
      shape: [clip, ...] of all clips together.
      dtype: of the clips.
      table: has `track_id`, `label`, `subgenre`, `split`, `artist`, `album`, as a `LabelledTable`.

    Returns:
      A hash that every `sample_step`-th clip is still to be added to.
    """
    import numpy as np

    digest = hashlib.blake2b(digest_size=8)
    digest.update(repr((genres, tuple(shape), str(dtype))).encode())
    for column in (table.track_id, table.label, table.subgenre):
        digest.update(np.ascontiguousarray(column).tobytes())
    for column in (table.split, table.artist, table.album):
        digest.update("\n".join(column.tolist()).encode())
    return digest


def sample_step(clips: int) -> int:
    """Returns which clips the fingerprint of so many covers: every n-th, about a thousand."""
    return max(1, clips // 1000)
