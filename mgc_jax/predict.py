"""Classifies audio files and albums with a trained model: `mgc-jax predict MODEL SONG...`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mgc_jax.errors import UserError
from mgc_jax.runtime.process_setup import prepare_process
from mgc_jax.runtime.terminal import run_command, say
from mgc_jax.songs.files import BAGS
from tfds_fma.paths import local_path

_KINDS = ("json", "csv", "parquet")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status: 1 if a file could not be used."""
    parser = argparse.ArgumentParser(
        prog="mgc-jax predict",
        description="Classifies songs and albums. Every file that libsndfile reads is taken (MP3, FLAC, Ogg, Opus, "
        "WAV, AIFF), at any rate and of any length. It is divided into windows of the length that the model was "
        "trained on; a song has the mean of their log scores, an album those of the model's pooling.",
        epilog="Exit status: 0 if all files were used, 1 if one was not, or nothing could be done.",
    )
    add_songs(parser)
    parser.add_argument(
        "--bags", choices=BAGS, default="tags",
        help="what is an album: songs whose tags name the same album and artist, else of the same folder (tags, the "
        "default); songs of the same folder; or none",
    )  # fmt: skip
    for kind in _KINDS:
        parser.add_argument(f"--{kind}", type=Path, metavar="FILE", help=f"write the table as {kind.upper()} too")
    parser.add_argument("--plot", type=Path, metavar="FOLDER", help="draw the genres of every song over time")
    given = parser.parse_args(arguments)
    prepare_process()
    return run_command(lambda: _predict(given))


def add_songs(parser: argparse.ArgumentParser) -> None:
    """Adds what `predict` and `embed` have in common: the model, the songs, their windows."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="workdir of a run, or an export")
    parser.add_argument("songs", nargs="+", type=Path, metavar="SONG", help="audio file, or folder of such files")
    parser.add_argument(
        "--hop", type=float, metavar="SECONDS", help="distance of windows; by default their length: no overlap"
    )
    parser.add_argument("--workers", type=int, help="processes that decode; by default one per core")


def check_place(flag: str, path: Path, ending: str) -> None:
    """Raises `UserError`, before any work, if a file of that name cannot be written."""
    if path.suffix != ending:
        raise UserError(f"{flag} {path}: give a name that ends in {ending}")
    if not path.parent.is_dir() or path.is_dir():
        what = f"{path} is a folder" if path.is_dir() else f"there is no folder {path.parent}"
        raise UserError(f"{flag} {path}: {what}; choose another place")


def _predict(given: argparse.Namespace) -> int:
    from mgc_jax.loading import load_model
    from mgc_jax.songs.plot import write_curves
    from mgc_jax.songs.table import terminal_table, write_predictions

    files = {kind: local_path(getattr(given, kind)) for kind in _KINDS if getattr(given, kind) is not None}
    for kind, path in files.items():
        check_place(f"--{kind}", path, f".{kind}")
    model = load_model(given.model)
    predictions = model.predict(given.songs, bags=given.bags, hop=given.hop, workers=given.workers, progress=True)
    say(terminal_table(predictions) + "\n", sys.stdout)
    for path in files.values():
        write_predictions(path, predictions)
    if given.plot is not None:
        write_curves(local_path(given.plot), predictions)
    return 1 if predictions.failed else 0


if __name__ == "__main__":
    sys.exit(main())
