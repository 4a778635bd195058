"""Prepares FMA: decodes the clips, computes a representation, writes a TFDS dataset.

python -m tfds_fma.prepare --source ~/fma --subset small --representation mel_1360x96 --data_dir ~/data
"""

import argparse
import contextlib
import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tfds_fma import layout
from tfds_fma.errors import FmaError
from tfds_fma.labels import SUBSETS, genres_of
from tfds_fma.metadata import read_tracks
from tfds_fma.representations import REPRESENTATIONS, get_representation
from tfds_fma.sources import find_containers


def prepare(
    source: str | Path,
    subset: str,
    representation: str,
    data_dir: str | Path,
    *,
    workers: int | None = None,
    progress: bool = True,
    overwrite: bool = False,
    log: Callable[[str], None] = print,
) -> Path:
    """Prepares a subset of FMA in one representation, unless that has been done.

    An interrupted run leaves nothing that counts as prepared; running again starts afresh. Two processes that
    prepare the same thing do it once: the second waits.

    Args:
      source: folder that holds FMA's metadata and audio, as folders or zip files.
      subset: ``"small"`` or ``"medium"``.
      representation: a name in `tfds_fma.representations.REPRESENTATIONS`.
      data_dir: where TFDS keeps datasets.
      workers: processes that decode; by default one per CPU core.
      progress: whether to show a progress bar.
      overwrite: whether to prepare again what is there.
      log: takes the lines for people, the summary among them.

    Returns:
      The folder of the prepared dataset. It also holds ``rejects.csv``, the tracks that could not be used.

    Raises:
      FmaError: if something is wrong with the arguments or the source.
    """
    genres_of(subset)
    get_representation(representation)
    if workers is not None and workers < 1:
        raise FmaError(f"workers is {workers}; give at least 1.")
    target = layout.version_dir(data_dir, subset, representation)
    name = target.parent.name
    with only_one(target.parent):
        if layout.is_complete(target) and not overwrite:
            log(f"{name}: already prepared in {target} (use --overwrite to prepare it again)")
            return target
        if target.exists() and not overwrite:
            raise FmaError(f"{target} exists but holds no complete dataset. Remove it, or use --overwrite.")
        source = Path(source).expanduser()
        find_containers(source, subset)
        if target.exists():  # notice a wrong table before deleting; TFDS cannot overwrite what is damaged
            read_tracks(source, subset)
            shutil.rmtree(target)
        _remove_leftovers(target)
        summary = _build(source, name, Path(data_dir), workers, progress)
        log(summary)
        log(f"{name}: in {target}")
    return target


def _build(source: Path, name: str, data_dir: Path, workers: int | None, progress: bool) -> str:
    """Runs the TFDS builder; returns the line that sums the run up."""
    # Imported here: TFDS takes a second, which --help and a dataset that is there already need not pay.
    from tensorflow_datasets.core.download import DownloadConfig

    from tfds_fma.fma_dataset_builder import Builder, count_reasons

    builder = Builder(config=name, data_dir=data_dir.expanduser(), workers=workers, progress=progress)
    # Nothing is downloaded: silence TFDS's announcement, and let its download folder be a temporary one.
    with contextlib.redirect_stdout(None), tempfile.TemporaryDirectory() as downloads:
        config = DownloadConfig(manual_dir=source)
        builder.download_and_prepare(download_dir=downloads, download_config=config)
    sizes = {split: info.num_examples for split, info in builder.info.splits.items()}
    splits = ", ".join(f"{split} {size}" for split, size in sizes.items())
    reasons = f": {count_reasons(builder.rejects)}" if builder.rejects else ""
    return (
        f"{name}: {sum(sizes.values())} clips written ({splits}); {len(builder.rejects)} rejected{reasons}; "
        f"{builder.padded} padded"
    )


@contextlib.contextmanager
def only_one(directory: Path) -> Iterator[None]:
    """Lets one process at a time in. The kernel frees the lock of a process that dies."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = (directory / ".lock").open("w")
    except OSError as error:
        raise FmaError(f"Cannot write to {directory} ({error.strerror}). Choose another data folder.") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _remove_leftovers(target: Path) -> None:
    """Removes what interrupted runs left: TFDS writes to ``incomplete.XXXXXX_VERSION``, then renames."""
    for path in target.parent.glob(f"incomplete.*_{target.name}"):
        shutil.rmtree(path, ignore_errors=True)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tfds_fma.prepare", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--source",
        required=True,
        metavar="DIR",
        help="folder with fma_metadata and fma_small or fma_medium, extracted or zipped",
    )
    parser.add_argument("--subset", required=True, choices=SUBSETS)
    parser.add_argument(
        "--representation", default="mel_1360x96", choices=tuple(REPRESENTATIONS), help="default: %(default)s"
    )
    parser.add_argument(
        "--data_dir",
        required=True,
        metavar="DIR",
        help="where TFDS keeps datasets, e.g. ~/tensorflow_datasets",
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help=f"processes that decode; default: one per CPU core ({os.cpu_count()})",
    )
    parser.add_argument("--overwrite", action="store_true", help="prepare again what is there already")
    args = parser.parse_args(argv)
    return run_command(
        lambda: prepare(
            args.source,
            args.subset,
            args.representation,
            args.data_dir,
            workers=args.workers,
            overwrite=args.overwrite,
        )
    )


def run_command(command: Callable[[], object]) -> int:
    """Runs `command`; turns an error meant for people into a line and an exit status."""
    try:
        command()
    except FmaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: run the same command again to start afresh", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
