"""Trains on arrays of your own, and exports the model.

python examples/01_own_arrays.py runs/own                      # small random spectrograms, whose genres differ
python examples/01_own_arrays.py runs/own mels.npz tracks.csv  # yours: see docs/howto/own_data.md
"""

import sys
from pathlib import Path

import numpy as np

import mgc_jax
from mgc_jax.modes import export

GENRES = ("Rock", "Folk", "Jazz")


def make_arrays(folder: Path, number: int = 300) -> tuple[Path, Path]:
    """Writes spectrograms [clip, time, mel] with track ids, and a table with a row per clip; a bag has 3 clips."""
    folder.mkdir(parents=True, exist_ok=True)
    album = np.arange(number) // 3
    mels = np.random.default_rng(0).normal(size=(number, 64, 32)).astype(np.float32)
    for clip, genre in enumerate(album % len(GENRES)):
        mels[clip, :, 8 * genre : 8 * genre + 8] += 1
    np.savez(folder / "mels.npz", mels=mels, track_id=np.arange(number))
    rows = ["track_id,genre_top,split,artist_id,album_id"]
    for clip, a in enumerate(album):
        split = "validation" if a % 5 == 4 else "train"
        rows.append(f"{clip},{GENRES[a % len(GENRES)]},{split},artist {a // 2},album {a}")
    (folder / "tracks.csv").write_text("\n".join(rows) + "\n")
    return folder / "mels.npz", folder / "tracks.csv"


def main(workdir: str, clips: str = "", table: str = "") -> None:
    """Trains for two epochs."""
    if not clips:
        clips, table = map(str, make_arrays(Path(workdir) / "arrays"))
    config = mgc_jax.load_config(
        "configs/any.py:cnn+matt",
        {
            "data.corpus": "arrays",
            "data.arrays.clips": clips,
            "data.arrays.table": table,
            "model.encoder.filters": (8, 16),  # small, for the example
            "model.encoder.pools": ((4, 4), (4, 4)),
            "batch.clips": 12,
            "optimizer.learning_rate": 0.01,
            "train.epochs": 2,
        },
    )
    results = mgc_jax.train(config, workdir)
    for level, scores in results["splits"]["validation"].items():
        if level in ("clip", "clip_mean", "bag"):
            print(f"{level:<10} accuracy {scores['accuracy']:.3f}, micro AP {scores['micro_ap']:.3f}")
    print("exported to", export(config, Path(workdir)))


if __name__ == "__main__":
    main(*sys.argv[1:])
