"""The songs whose embeddings are nearest to that of a song."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from mgc_jax.analysis.tables import CLIPS, METADATA
from mgc_jax.errors import UserError
from mgc_jax.songs.table import one_line

_COLUMNS = ("track_id", "title", "artist", "artist_name", "album", "bag", "genre")


def about_table(folder: Path) -> dict[str, Any]:
    """Returns what `clips.parquet` in a folder says of itself; nothing if it is not there, or damaged."""
    try:
        metadata = pyarrow.parquet.read_schema(folder / CLIPS).metadata or {}
        about = json.loads(metadata[METADATA])
        return about if isinstance(about, dict) else {}
    except (OSError, ValueError, KeyError, pa.ArrowException):
        return {}


def neighbours(folder: Path, track_id: int, k: int = 10, *, other_artists: bool = False) -> list[dict[str, Any]]:
    """Returns the songs nearest to one, the nearest first.

    Args:
        folder: holds `clips.parquet`.
        track_id: the song.
        k: how many.
        other_artists: leave out songs of its artist, and of its bag where the artist is unknown.

    Returns:
        Of the song itself and of each neighbour `track_id`, `title`, `artist` (its name where that is known), `album`,
        `genre`, `distance`: 1 - cosine similarity of the embeddings, from 0 to 2.

    Raises:
        UserError: the table cannot be read, or does not have the song.
    """
    path = folder / CLIPS
    try:
        table = pyarrow.parquet.read_table(path, columns=[*_COLUMNS, "embedding"]).combine_chunks()
        embedding = table["embedding"].combine_chunks()
        width = embedding.type.list_size
        embeddings = embedding.flatten().to_numpy().reshape(-1, width)
    except (OSError, ValueError, KeyError, AttributeError, pa.ArrowException) as error:
        raise UserError(f"{path} cannot be read ({error}); leave out --neighbours once to write it again") from error
    columns = {name: table[name].to_numpy() for name in ("track_id", "artist", "bag")}
    found = np.flatnonzero(columns["track_id"] == track_id)
    if not len(found):
        raise UserError(
            f"there is no track {track_id} among the {len(table):,} clips of {path} "
            f"({', '.join(about_table(folder).get('splits', []))}); --splits chooses the splits"
        )
    own = int(found[0])
    distance = np.maximum(1 - cosine_similarity(embeddings, own), 0)  # rounding may leave less
    candidate = np.arange(len(table)) != own
    if other_artists:
        artist = columns["artist"][own]
        candidate &= (columns["artist"] != artist) if artist else (columns["bag"] != columns["bag"][own])
    rows = np.flatnonzero(candidate)
    nearest = rows[np.argsort(distance[rows], kind="stable")][:k]
    songs = table.take([own, *nearest.tolist()]).drop_columns(["embedding", "bag"]).to_pylist()
    for song, row in zip(songs, [own, *nearest.tolist()], strict=True):
        song["artist"] = song.pop("artist_name") or song["artist"]
        song["distance"] = float(distance[row])
    return songs


def cosine_similarity(embeddings: np.ndarray, row: int) -> np.ndarray:
    """Returns the cosine of the angle between each embedding and that of a row: float [clip]; of a zero vector 0."""
    norms = np.linalg.norm(embeddings, axis=1)
    return embeddings @ embeddings[row] / np.maximum(norms * norms[row], np.finfo(np.float32).tiny)


def format_neighbours(songs: list[dict[str, Any]]) -> str:
    """Returns the result of `neighbours` as a table for the terminal."""
    header = ("distance", "track", "title", "artist", "album", "genre")
    rows: list[tuple[str, ...]] = [header]
    for song in songs:
        words = (song["title"] or "-", song["artist"] or "-", song["album"] or "-", song["genre"])
        rows.append((f"{song['distance']:.4f}", str(song["track_id"]), *(_short(one_line(word)) for word in words)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], f"{lines[1]}   (the song itself)", *lines[2:]])


def _short(text: str, most: int = 36) -> str:
    return text if len(text) <= most else text[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"
