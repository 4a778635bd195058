"""Predictions of songs as a table: for the terminal, as JSON, CSV and Parquet."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from mgc_jax.errors import UserError
from mgc_jax.runtime.files import replacing, write_text
from mgc_jax.songs.files import as_text
from mgc_jax.songs.predict import Song, SongPredictions

OTHER_PLACE = "Make room there, or choose another place."
_TOP = 3  # genres of a line on the terminal
_WIDTH = 44  # characters of a title there


def rows(predictions: SongPredictions) -> list[dict[str, Any]]:
    """Returns a flat row per song: what CSV and Parquet hold; probabilities as `song/GENRE` and `bag/GENRE`.

    Of a multi-label model also `genres`, those from the threshold on, joined by "|".
    """
    return [
        {
            "path": as_text(song.path),
            "title": song.tags.title,
            "artist": song.tags.artist,
            "album": song.tags.album,
            "seconds": round(song.seconds, 3),
            "windows": len(song.start),
            "genre": predictions.genre(song.scores),
            "probability": float(np.exp(song.scores.max())),
            **({"genres": "|".join(predictions.genres_of(song.scores))} if predictions.multi_label else {}),
            "bag": song.album,
            "bag_genre": predictions.genre(album.scores),
            "attention": song.attention,
            "damage": song.damage,
            **_probabilities("song/", predictions.genres, song.scores),
            **_probabilities("bag/", predictions.genres, album.scores),
        }
        for song in predictions.songs
        for album in [predictions.albums[song.album]]
    ]


def as_json(predictions: SongPredictions) -> dict[str, Any]:
    """Returns all of the predictions as JSON holds them, windows too."""
    genres = predictions.genres
    return {
        "genres": list(genres),
        "window_seconds": predictions.window,
        "hop_seconds": predictions.hop,
        "songs": [
            {
                "path": as_text(song.path),
                "title": song.tags.title,
                "artist": song.tags.artist,
                "album": song.tags.album,
                "seconds": song.seconds,
                "genre": predictions.genre(song.scores),
                **({"genres": predictions.genres_of(song.scores)} if predictions.multi_label else {}),
                "scores": _probabilities("", genres, song.scores),
                "bag": song.album,
                "attention": song.attention,
                "damage": song.damage,
                "windows": [
                    {"start": float(start), "scores": _probabilities("", genres, scores)}
                    for start, scores in zip(song.start, song.window_scores, strict=True)
                ],
            }
            for song in predictions.songs
        ],
        "bags": [
            {
                "songs": list(album.songs),
                "genre": predictions.genre(album.scores),
                "scores": _probabilities("", genres, album.scores),
            }
            for album in predictions.albums
        ],
        "failed": [{"path": as_text(failure.path), "reason": failure.reason} for failure in predictions.failed],
    }


def write_predictions(path: Path, predictions: SongPredictions) -> None:
    """Writes predictions as JSON, CSV or Parquet, by the ending of the file.

    Raises:
        UserError: another ending, or the file cannot be written.
    """
    kind = path.suffix.lower()
    if kind == ".json":
        write_text(path, json.dumps(as_json(predictions), indent=1) + "\n", OTHER_PLACE)
    elif kind == ".csv":
        write_text(path, _as_csv(rows(predictions)), OTHER_PLACE)
    elif kind == ".parquet":
        _write_parquet(path, rows(predictions))
    else:
        raise UserError(f"{path}: give a name that ends in .json, .csv or .parquet")


def _as_csv(table: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(table[0]) if table else ["path"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()


def _write_parquet(path: Path, table: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with replacing(path, OTHER_PLACE) as temporary:
        pq.write_table(pa.Table.from_pylist(table), temporary)


def terminal_table(predictions: SongPredictions) -> str:
    """Returns the table for people: each album with its songs, then what failed."""
    lines = []
    for album in predictions.albums:
        songs = [predictions.songs[number] for number in album.songs]
        if len(songs) > 1:
            tags = songs[0].tags
            name = " - ".join(filter(None, [tags.artist, tags.album])) or as_text(songs[0].path.parent)
            lines.append(f"\n{one_line(name)} ({len(songs)} songs): {_top(predictions.genres, album.scores)}")
        for song in songs:
            share = f"{song.attention:5.0%}  " if len(songs) > 1 and song.attention is not None else ""
            title = one_line(song.tags.title or as_text(Path(song.path.name)))[:_WIDTH]
            lines.append(f"  {share}{title:<{_WIDTH}}  {_top(predictions.genres, song.scores)}{_remark(song)}")
    if any(song.attention is not None and len(predictions.albums[song.album].songs) > 1 for song in predictions.songs):
        lines.append("\nThe percentage before a title is the song's attention in its album.")
    lines += [f"not used: {one_line(as_text(failure.path))}: {failure.reason}" for failure in predictions.failed]
    return "\n".join(lines).lstrip("\n")


def _remark(song: Song) -> str:
    return f"  (damaged: {song.damage})" if song.damage else ""


def _top(genres: tuple[str, ...], scores: np.ndarray) -> str:
    best = np.argsort(-scores, kind="stable")[:_TOP]
    return ", ".join(f"{genres[i]} {np.exp(scores[i]):.0%}" for i in best)


def _probabilities(prefix: str, genres: tuple[str, ...], scores: np.ndarray) -> dict[str, float]:
    return {prefix + genre: float(np.exp(score)) for genre, score in zip(genres, scores, strict=True)}


def one_line(text: str) -> str:
    """Returns text for one line: control characters, line ends among them, are shown as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
