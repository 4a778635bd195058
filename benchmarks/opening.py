"""How long a prepared dataset takes to open, with and without its columns file, and the memory that it adds.

    python -m benchmarks.opening --clips 25000
    python -m benchmarks.opening --clips 25000 --shape 136 96

Synthetic clips are prepared in a temporary folder, and opened in a new process each time. The page cache is warm.
"""

import argparse
import csv
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

# What a process that opens the dataset is told.
_OPEN = "--open"


def prepare_synthetic(folder: Path, clips: int, shape: tuple[int, ...]) -> Path:
    """Prepares clips of noise: six in an album, two albums of an artist, eight artists of ten in training."""
    from tfds_fma.labels import GENRES
    from tfds_fma.preparation import prepare_arrays
    from tfds_fma.source.arrays import ArrayFiles
    from tfds_fma.source.track_table import parse_columns

    rng = np.random.default_rng(0)
    array = np.lib.format.open_memmap(folder / "clips.npy", mode="w+", dtype=np.float32, shape=(clips, *shape))
    for clip in array:
        clip[...] = rng.normal(size=shape)
    np.save(folder / "ids.npy", np.arange(clips) + 1)
    names = ["track_id", "genre_top", "split", "artist_id", "album_id", "title", "artist_name", "subset"]
    with (folder / "tracks.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        for track in range(1, clips + 1):
            album = track // 6
            artist = album // 2
            split = ("validation", "test", *["training"] * 8)[artist % 10]
            genre = GENRES[album % len(GENRES)]
            writer.writerow([track, genre, split, artist, album, f"Title of {track}", f"Artist {artist}", "medium"])
    files = ArrayFiles(
        str(folder / "tracks.csv"),
        str(folder / "clips.npy"),
        ids=str(folder / "ids.npy"),
        axes="clip feature" if len(shape) == 1 else "clip time mel",
        columns=parse_columns(["title=title", "artist=artist_id", "artist_name=artist_name", "subset=subset"]),
    )
    return prepare_arrays(files, "medium", "noise", folder, progress=False, log=lambda line: None)


def _peak_mib() -> float:
    # Not getrusage: its peak begins with that of the process that started this one.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def open_and_report(data_dir: str, placement: str) -> None:
    """Opens the corpus and prints a row: seconds of imports and of opening, peak memory added, and the fingerprint."""
    start = time.perf_counter()
    import pyarrow.parquet  # noqa: F401

    from mgc_jax.config.keys import default
    from mgc_jax.data.open import open_corpus

    config = default()
    config.data.update(corpus="fma_medium", representation="noise", data_dir=data_dir, placement=placement)
    imported, before = time.perf_counter(), _peak_mib()
    fingerprint = open_corpus(config.data).fingerprint
    opened = time.perf_counter() - imported
    print(f"{opened:8.2f} s {imported - start:12.2f} s {_peak_mib() - before:8.0f} MiB   {fingerprint}")


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=25_000)
    parser.add_argument("--shape", type=int, nargs="+", default=[518], help="of a clip; default: FMA's features")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(_OPEN, nargs=2, metavar=("DIR", "PLACEMENT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.open:
        open_and_report(*args.open)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = prepare_synthetic(Path(folder), args.clips, tuple(args.shape))
        file = path / "columns.parquet"
        print(f"{args.clips} clips of {args.shape}; columns file {file.stat().st_size / 2**20:.2f} MiB")
        print(f"{'':28}{'opened':>10} {'imports':>14} {'peak added':>12}   fingerprint")
        for with_file in (True, False):
            if not with_file:
                file.unlink()
            for placement in ("stream", "host"):
                for _ in range(args.rounds):
                    print(f"{placement:8}{'columns file' if with_file else 'records alone':20}", end="", flush=True)
                    command = [sys.executable, "-m", "benchmarks.opening", _OPEN, folder, placement]
                    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
