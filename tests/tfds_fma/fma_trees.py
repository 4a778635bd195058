"""Writes FMA trees by hand."""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np

COLUMNS = {
    "album_id": ("album", "id"),
    "artist_id": ("artist", "id"),
    "artist": ("artist", "name"),
    "split": ("set", "split"),
    "subset": ("set", "subset"),
    "duration": ("track", "duration"),
    "genre": ("track", "genre_top"),
    "genres_all": ("track", "genres_all"),
    "title": ("track", "title"),
}


def write_table(source: Path, rows: list[dict], without: str = "") -> None:
    """Writes fma_metadata/tracks.csv with its three header rows; `without` names a column to leave out."""
    columns = {key: pair for key, pair in COLUMNS.items() if key != without}
    default = {
        "album_id": 5,
        "artist_id": 7,
        "artist": "A",
        "split": "training",
        "subset": "small",
        "duration": 100,
        "genre": "Rock",
        "genres_all": "[12]",
        "title": "T",
    }
    path = source / "fma_metadata" / "tracks.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["", *(group for group, _ in columns.values())])
        writer.writerow(["", *(field for _, field in columns.values())])
        writer.writerow(["track_id", *("" for _ in columns)])
        for row in rows:
            values = default | row
            writer.writerow([values["track_id"], *(values[key] for key in columns)])


def clip_path(source: Path, track_id: int, archive: str = "fma_small") -> Path:
    path = source / archive / f"{track_id // 1000:03d}" / f"{track_id:06d}.mp3"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def corruptions(data: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """Yields `data` with one to four bytes changed; every second time near its end, where a zip file has its list."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        damaged = bytearray(data)
        first = max(0, len(data) - 120) if number % 2 else 0
        for position in rng.integers(first, len(data), rng.integers(1, 5)):
            damaged[position] = rng.integers(256)
        yield bytes(damaged)
