"""Predictions of a drop, as the page takes them: JSON with the names that the user gave."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mgc_jax.page.uploads import Drop
from mgc_jax.songs.predict import Song, SongPredictions
from tfds_fma.source.audio_files import AUDIO_SUFFIXES

_SENTENCES = {
    "empty": "it is empty",
    "undecodable": "it cannot be decoded as audio",
    "short": "it is too short",
    "low-rate": "its sample rate is too low",
}
_NO_AUDIO = f"its name does not end as that of an audio file does: {', '.join(AUDIO_SUFFIXES)}"


def answer_of(drop: Drop, predictions: SongPredictions, pictures: Mapping[Path, str | None]) -> dict[str, Any]:
    """Returns what the page shows of a drop.

    Args:
        drop: the files.
        predictions: of those that are audio by their names.
        pictures: the spectrogram of each song, as a data URI.

    Returns:
        `genres`: their names. `songs`: in the order given, each with `file`, its number in the drop, `probabilities`
        [genre], and over time `start` [window] and `windows` [window][genre]. `albums`: each with its `songs`, their
        numbers in `songs`. `failed`: files that could not be used, and why.
    """
    number = {file.path: number for number, file in enumerate(drop.files)}
    reasons = {place: _NO_AUDIO for place, file in enumerate(drop.files) if file.path is None}
    reasons |= {number[one.path]: _sentence(one.reason) for one in predictions.failed}
    return {
        "genres": list(predictions.genres),
        "window": predictions.window,
        "songs": [_song(song, number[song.path], pictures[song.path]) for song in predictions.songs],
        "albums": [
            {"songs": list(album.songs), "probabilities": _probabilities(album.scores)} for album in predictions.albums
        ],
        "failed": [{"name": drop.files[place].name, "reason": reasons[place]} for place in sorted(reasons)],
    }


def _song(song: Song, file: int, picture: str | None) -> dict[str, Any]:
    return {
        "file": file,
        "title": song.tags.title,
        "artist": song.tags.artist,
        "album": song.tags.album,
        "tagged": song.tags.genre,
        "seconds": round(song.seconds, 3),
        "damage": song.damage,
        "attention": song.attention,
        "probabilities": _probabilities(song.scores),
        "start": [round(float(start), 3) for start in song.start],
        "windows": [_probabilities(scores) for scores in song.window_scores],
        "picture": picture,
    }


def _probabilities(scores: np.ndarray) -> list[float]:
    return [round(float(p), 4) for p in np.exp(scores)]


def _sentence(reason: str) -> str:
    """Says in words why a file cannot be used; `reason` is that of a `mgc_jax.songs.predict.Failure`."""
    word, _, detail = reason.partition(": ")
    detail = detail.rstrip(".")
    return f"{_SENTENCES[word]} ({detail})" if word in _SENTENCES else detail or word
