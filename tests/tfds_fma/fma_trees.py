"""Writes FMA trees by hand."""

import csv
from pathlib import Path

COLUMNS = {
    "album_id": ("album", "id"),
    "artist_id": ("artist", "id"),
    "artist": ("artist", "name"),
    "split": ("set", "split"),
    "subset": ("set", "subset"),
    "duration": ("track", "duration"),
    "genre": ("track", "genre_top"),
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
