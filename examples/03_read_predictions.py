"""Computes metrics with intervals from a table of scores, of a run or of other software.

    python examples/03_read_predictions.py runs/own/predictions.parquet

The file needs the columns of docs/howto/predictions.md. Artists are drawn with replacement, all their clips with them.
"""

import sys
from pathlib import Path

import numpy as np

import mgc_jax


def main(file: str) -> None:
    """Prints accuracy and micro average precision of every level, with 95 % intervals."""
    predictions = mgc_jax.load_predictions(Path(file)).of_split("validation")
    bootstrap = mgc_jax.ArtistBootstrap(predictions.artists)
    print(f"{len(predictions)} clips of {len(bootstrap.artists)} artists")
    for level, log_scores in predictions.levels.items():
        values = mgc_jax.genre_metrics(predictions.label, log_scores)
        resampled = bootstrap.metrics(predictions.label, log_scores)
        for name in ("accuracy", "micro_ap"):
            low, high = np.nanquantile(resampled[name], (0.025, 0.975))
            print(f"{level:<10} {name:<9} {values[name]:.3f} ({low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main(*sys.argv[1:])
