"""Shows what a trained model makes of the corpus of its run: `mgc-jax analyse RUN`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mgc_jax.config.overrides import take_overrides
from mgc_jax.errors import UserError
from mgc_jax.runtime.process_setup import prepare_process
from mgc_jax.runtime.terminal import run_command, say
from tfds_fma.paths import local_path

_SPLITS = ("train", "validation", "test")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    given, overrides = _parse(sys.argv[1:] if arguments is None else arguments)
    prepare_process()
    return run_command(lambda: _main(given, overrides))


def _parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    parser = argparse.ArgumentParser(
        prog="mgc-jax analyse",
        description="Writes what the best weights of a run make of its corpus to RUN/analysis: tables of clips and "
        "bags with embeddings, scores and attention, a map as a web page, files for TensorBoard's projector, "
        "and arrays to train on. With OTHER: compares two models on the same corpus.",
        epilog="--config.KEY=VALUE overrides a key of the run's configuration, such as --config.data.data_dir=FOLDER "
        "where the corpus has moved.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument("other", type=Path, nargs="?", metavar="OTHER", help="folder of a run to compare it with")
    parser.add_argument(
        "--splits", nargs="+", choices=_SPLITS, metavar="SPLIT",
        help="train, validation, test; by default train and validation",
    )  # fmt: skip
    parser.add_argument(
        "--map", choices=("auto", "pca", "umap"), default="auto",
        help="auto (default): by UMAP where umap-learn is installed, else by PCA",
    )  # fmt: skip
    parser.add_argument(
        "--neighbours", type=int, metavar="TRACK_ID",
        help="list the songs nearest to this one instead; of an earlier analysis where that is current",
    )  # fmt: skip
    parser.add_argument("-k", type=_at_least_one, default=10, help="how many neighbours (default 10)")
    parser.add_argument("--other_artists", action="store_true", help="leave neighbours of the same artist out")
    parser.add_argument(
        "--cka_clips", type=_at_least_one, default=1000, metavar="CLIPS",
        help="with OTHER: layers are compared on so many clips, drawn at random (default 1000)",
    )  # fmt: skip
    overrides, rest = take_overrides(arguments)
    given = parser.parse_args(rest)
    if given.other is not None and given.neighbours is not None:
        parser.error("--neighbours goes with one run")
    return given, overrides


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return number


def _main(given: argparse.Namespace, overrides: dict[str, str]) -> int:
    from mgc_jax.analysis import work  # imports JAX, which must come after `prepare_process`

    run = local_path(given.run)
    if given.other is not None:
        other = local_path(given.other)
        if run.resolve() == other.resolve():
            raise UserError(f"the same run is given twice: {run}")
        text = work.compare(run, other, given.splits, given.cka_clips, overrides)
    elif given.neighbours is not None:
        text = work.find_neighbours(
            run, given.neighbours, given.k, given.splits, overrides, other_artists=given.other_artists
        )
    else:
        text = work.analyse(run, given.splits, given.map, overrides)
    say(f"{text}\n", sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
