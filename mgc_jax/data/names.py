"""Titles and artists' names of a corpus, for people to read: nothing is trained or scored by them."""

from typing import Any, NamedTuple

import numpy as np

from mgc_jax.data.arrays import ARRAY_FLAGS
from mgc_jax.data.fma import prepared_folder
from tfds_fma.paths import local_path
from tfds_fma.source.track_table import Columns, column_names, read_columns, track_table

# Where the table of arrays has them; in FMA's own tracks.csv `title` alone would be that of the album or of the track.
_TITLE_COLUMNS = ("title", "track_title")
_NAME_COLUMNS = ("artist_name",)


class TrackNames(NamedTuple):
    """What people call tracks.

    Attributes:
        title: str [track], "" where unknown.
        artist_name: str [track], "" where unknown.
    """

    title: np.ndarray
    artist_name: np.ndarray


def track_names(data: Any, track_id: np.ndarray) -> TrackNames:
    """Looks titles and artists' names up where the corpus came from.

    Args:
        data: `config.data` of a corpus that has been opened, and so is there. Arrays have titles where their table
            has a column `title` (in FMA's own tracks.csv `track_title`), and names where it has `artist_name`.
        track_id: int64 [track].
    """
    if data.corpus == "arrays":
        table = str(local_path(data.arrays.table))
        there = column_names(table)
        title, name = (
            next((column for column in wanted if column in there), "") for wanted in (_TITLE_COLUMNS, _NAME_COLUMNS)
        )
        columns = Columns(**{**data.arrays.columns, "title": title, "artist_name": name})
        rows = track_table(table, columns, read_columns(table, columns, (), ARRAY_FLAGS))
        ids, titles, names = rows.track_id, rows.title, rows.artist_name
    else:
        from tfds_fma.reading import open_prepared

        stored = open_prepared(prepared_folder(data)).columns()
        ids, titles, names = stored["track_id"], stored["title"], stored["artist"]
    order = np.argsort(ids)
    found = order[np.searchsorted(ids, track_id, sorter=order)]
    return TrackNames(*(np.asarray(values)[found].astype(str) for values in (titles, names)))
