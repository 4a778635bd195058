"""Prepares FMA: gets the clips, computes a representation, writes a TFDS dataset.

python -m tfds_fma.prepare --source ~/fma --subset small --representation mel_1360x96 --data_dir ~/data
python -m tfds_fma.prepare --from_arrays mels.npz --table tracks.csv --subset small --representation mel_100x250 \
    --data_dir ~/data
"""

import argparse
import contextlib
import logging
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfds_fma import layout
from tfds_fma.archives import readable_size, remember_verified, verify_checksum
from tfds_fma.errors import FmaError
from tfds_fma.labels import SUBSETS, genres_of
from tfds_fma.locks import only_one
from tfds_fma.parallel import check_workers
from tfds_fma.representations import REPRESENTATIONS, FeatureVector, get_representation, is_name

if TYPE_CHECKING:
    from tfds_fma.arrays import ArrayFiles
    from tfds_fma.clip_sources import ClipSource

# Flags that belong to precomputed arrays, and those that belong to an FMA tree.
_ARRAY_FLAGS = ("from_arrays", "table", "axes", "clips_key", "ids", "ids_key", "features", "genres", "columns")
_TREE_FLAGS = ("source", "workers", "download", "unverified", "beam")


_DEFAULT_REPRESENTATION = "mel_1360x96"


def prepare(
    source: str | Path,
    subset: str,
    representation: str,
    data_dir: str | Path,
    *,
    workers: int | None = None,
    progress: bool = True,
    overwrite: bool = False,
    download: bool = False,
    unverified: bool = False,
    beam_options: list[str] | None = None,
    log: Callable[[str], None] = print,
) -> Path:
    """Prepares a subset of FMA in one representation, unless that has been done.

    An interrupted run leaves nothing that counts as prepared; running again continues it. Two processes that
    prepare the same thing do it once: the second waits.

    Args:
      source: folder that holds FMA's metadata and audio, as folders or zip files.
      subset: see `tfds_fma.labels.SUBSETS`.
      representation: see `tfds_fma.representations.get_representation`.
      data_dir: where TFDS keeps datasets.
      workers: processes that decode; by default one per CPU core.
      progress: whether to show a progress bar.
      overwrite: whether to prepare again what is there. The old dataset is replaced when the new one is complete.
      download: whether to fetch the official archives that `source` lacks.
      unverified: whether to accept zip files of FMA's names that have not FMA's checksums.
      beam_options: make the clips with Apache Beam, given these command-line options of Beam.
      log: takes the lines for people, the summary among them.

    Returns:
      The folder of the prepared dataset. It also holds ``rejects.csv``, the tracks that could not be used.

    Raises:
      FmaError: if something is wrong with the arguments or the source.
    """
    genres_of(subset)
    chosen = get_representation(representation)
    source = Path(source).expanduser()

    verified = Path(data_dir).expanduser() / layout.DATASET_NAME

    def open_source() -> "ClipSource":
        from tfds_fma.clip_sources import fma_source

        if download:
            _download_missing(source, subset, isinstance(chosen, FeatureVector), verified, log, progress)
        verify = (lambda path: None) if unverified else (lambda path: verify_checksum(path, verified, log))
        return fma_source(source, subset, representation, log, verify)

    return prepare_clips(
        open_source,
        subset,
        representation,
        data_dir,
        workers=workers,
        progress=progress,
        overwrite=overwrite,
        beam_options=beam_options,
        log=log,
    )


def prepare_arrays(
    files: "ArrayFiles",
    subset: str,
    representation: str,
    data_dir: str | Path,
    *,
    progress: bool = True,
    overwrite: bool = False,
    log: Callable[[str], None] = print,
) -> Path:
    """Prepares a dataset from precomputed arrays and their track table; otherwise as `prepare`.

    Args:
      files: the arrays and the table.
      subset: first part of the dataset's name; class ids are FMA's of this subset if the genres are.
      representation: second part: a new name, or that of a registered representation that the arrays hold.
      data_dir: where TFDS keeps datasets.
      progress: whether to show a progress bar.
      overwrite: whether to prepare again what is there.
      log: takes the lines for people.

    Returns:
      The folder of the prepared dataset.

    Raises:
      FmaError: if something is wrong with the arguments or the files.
    """
    genres_of(subset)
    if not is_name(representation):
        raise FmaError(
            f"{representation!r} cannot be the name of a representation: use lower-case letters, digits and _ . + "
            "only, as in mel_100x250."
        )

    def open_source() -> "ClipSource":
        from tfds_fma.clip_sources import arrays_source

        return arrays_source(files, subset, representation)

    return prepare_clips(
        open_source, subset, representation, data_dir, progress=progress, overwrite=overwrite, log=log
    )


def prepare_clips(
    open_source: "Callable[[], ClipSource]",
    subset: str,
    representation: str,
    data_dir: str | Path,
    *,
    workers: int | None = None,
    progress: bool = True,
    overwrite: bool = False,
    beam_options: list[str] | None = None,
    log: Callable[[str], None] = print,
) -> Path:
    """Prepares a dataset from any source of clips; see `prepare` for the arguments that it shares.

    Args:
      open_source: returns the tracks and the way to their clips; called only if there is something to do.
      subset: first part of the dataset's name.
      representation: second part of the dataset's name.
      data_dir: where TFDS keeps datasets.
      workers: processes that decode.
      progress: whether to show a progress bar.
      overwrite: whether to prepare again what is there.
      beam_options: make the clips with Apache Beam, given these options.
      log: takes the lines for people.

    Returns:
      The folder of the prepared dataset.
    """
    check_workers(workers)
    target = layout.version_dir(data_dir, subset, representation)
    name = target.parent.name
    with only_one(target.parent, log):
        _restore(target)
        if layout.is_complete(target) and not overwrite:
            log(f"{name}: already prepared in {target} (use --overwrite to prepare it again)")
            return target
        if target.exists() and not overwrite:
            raise FmaError(f"{target} exists but holds no complete dataset. Remove it, or use --overwrite.")
        from tfds_fma.shards import write_errors_explained

        source = open_source()
        _tell_space(source, target, log)
        root = target.parent / layout.REPLACEMENT if target.exists() else Path(data_dir)
        _remove_leftovers(target)
        with write_errors_explained(target.parent):
            summary = _build(source, target, root, workers, progress, beam_options, log)
            _replace(target, layout.version_dir(root, subset, representation))
        log(summary)
        log(f"{name}: in {target}")
    return target


def _download_missing(
    source: Path, subset: str, features_only: bool, verified: Path, log: Callable[[str], None], progress: bool
) -> None:
    """Fetches the official archives that are there neither as zip files nor as folders."""
    from tfds_fma.download import download

    names = ["fma_metadata", *([] if features_only else [f"fma_{subset}"])]
    missing = [name for name in names if not ((source / name).is_dir() or (source / f"{name}.zip").is_file())]
    download(missing, source, log=log, progress=progress)
    for name in missing:
        remember_verified(source / f"{name}.zip", verified, log)


def _tell_space(source: "ClipSource", target: Path, log: Callable[[str], None]) -> None:
    """Says how much the dataset may take and what room there is.

    Not an error if that is too little: clips may be missing, compression saves a quarter, and nothing is lost on a
    full disk.
    """
    from tfds_fma.shards import clip_bytes, free_bytes

    needed = len(source.tracks) * clip_bytes(source.representation)
    staged = sum(path.stat().st_size for path in (target.parent / layout.STAGING).glob("*.array_record"))
    free = free_bytes(target.parent)
    sizes = f"up to {len(source.tracks)} clips, {readable_size(needed)}; the disk has {readable_size(free)} left"
    log(f"{target.parent.name}: {sizes}{', which may be too little' if needed - staged > free else ''}")


def _build(
    source: "ClipSource",
    target: Path,
    data_dir: Path,
    workers: int | None,
    progress: bool,
    beam_options: list[str] | None,
    log: Callable[[str], None],
) -> str:
    """Runs the TFDS builder for `target`, in `data_dir`; returns the line that sums the run up."""
    # Imported here: TFDS takes a second, which --help and a dataset that is there already need not pay.
    from tensorflow_datasets.core.download import DownloadConfig

    from tfds_fma.fma_dataset_builder import Builder, count_reasons, make_config

    name = target.parent.name
    subset, _, representation = name.partition("-")
    listed = name in {config.name for config in Builder.BUILDER_CONFIGS}
    with _quiet_tfds():
        builder = Builder(
            config=name if listed else make_config(subset, representation, source.representation.description),
            data_dir=data_dir.expanduser(),
            clip_source=source,
            staging_dir=target.parent / layout.STAGING,
            workers=workers,
            progress=progress,
            log=_past_redirection(log),
        )
    config = DownloadConfig(beam_options=_pipeline_options(beam_options))
    # Nothing is downloaded: silence TFDS's announcement, and let its download folder be a temporary one.
    with contextlib.redirect_stdout(None), tempfile.TemporaryDirectory() as downloads:
        builder.download_and_prepare(download_dir=downloads, download_config=config)
    sizes = {split: info.num_examples for split, info in builder.info.splits.items()}
    splits = ", ".join(f"{split} {size}" for split, size in sizes.items())
    reasons = f": {count_reasons(builder.rejects)}" if builder.rejects else ""
    return (
        f"{name}: {sum(sizes.values())} clips written ({splits}); {len(builder.rejects)} rejected{reasons}; "
        f"{builder.padded} padded"
    )


def _past_redirection(log: Callable[[str], None]) -> Callable[[str], None]:
    """Returns `log`, writing to what is the standard output now, also while that is redirected."""
    now = sys.stdout

    def write(line: str) -> None:
        with contextlib.redirect_stdout(now):
            log(line)

    return write


@contextlib.contextmanager
def _quiet_tfds() -> Iterator[None]:
    """Keeps TFDS from warning of a config that is not in the builder's list."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _pipeline_options(flags: list[str] | None) -> Any:
    """Parses Beam's command-line options; None without Beam."""
    if flags is None:
        return None
    try:
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise FmaError("Apache Beam is not installed. Install it with: pip install 'mgc-jax[beam]'") from error
    return PipelineOptions(flags)


def _replace(target: Path, made: Path) -> None:
    """Puts the dataset that was made in the place of the old one, if it is not there already."""
    if made == target:
        return
    target.rename(target.parent / layout.REPLACED)
    made.rename(target)
    shutil.rmtree(target.parent / layout.REPLACED, ignore_errors=True)
    shutil.rmtree(target.parent / layout.REPLACEMENT, ignore_errors=True)


def _restore(target: Path) -> None:
    """Brings the old dataset back if a run was killed while it put the new one in its place."""
    replaced = target.parent / layout.REPLACED
    if target.exists():
        shutil.rmtree(replaced, ignore_errors=True)
    elif replaced.exists():
        replaced.rename(target)


def _remove_leftovers(target: Path) -> None:
    """Removes what interrupted runs left: TFDS writes to ``incomplete.XXXXXX_VERSION``, then renames."""
    for path in target.parent.glob(f"incomplete.*_{target.name}"):
        shutil.rmtree(path, ignore_errors=True)
    shutil.rmtree(target.parent / layout.REPLACEMENT, ignore_errors=True)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    args = _parse(argv)
    return run_command(lambda: _run(args))


def _parse(argv: list[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(prog="python -m tfds_fma.prepare", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--source",
        metavar="DIR",
        help="folder with fma_metadata and fma_small, fma_medium, ..., extracted or zipped",
    )
    parser.add_argument("--subset", required=True, choices=SUBSETS)
    parser.add_argument(
        "--representation",
        metavar="NAME",
        help=f"one of {', '.join(REPRESENTATIONS)}; or audio_RATE; or any name for precomputed arrays. Default, with "
        f"--source: {_DEFAULT_REPRESENTATION}",
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
    parser.add_argument(
        "--download", action="store_true", help="first get the official archives that are not in the source folder"
    )
    parser.add_argument(
        "--unverified", action="store_true", help="accept zip files whose checksums are not those of FMA"
    )
    parser.add_argument(
        "--beam",
        nargs="?",
        const="",
        metavar="OPTIONS",
        help="make the clips with Apache Beam; e.g. --beam='--runner=FlinkRunner --parallelism=64'. Every worker must "
        "see the folders under the same paths",
    )
    _add_array_flags(parser)
    return parser.parse_args(argv)


def _add_array_flags(parser: argparse.ArgumentParser) -> None:
    """Adds `_ARRAY_FLAGS`. Those that are not given are absent from the namespace: `ArrayFiles` has the defaults."""
    flags = parser.add_argument_group(
        "precomputed arrays",
        "instead of --source: arrays and a track table, or feature columns of the table",
        argument_default=argparse.SUPPRESS,
    )
    clips = flags.add_mutually_exclusive_group()
    clips.add_argument(
        "--from_arrays", metavar="FILE", help=".npz or .npy of per-clip arrays: uint8, float16 or float32"
    )
    flags.add_argument("--table", metavar="FILE", help="CSV file with a header row and a row per clip")
    flags.add_argument(
        "--axes",
        metavar="NAMES",
        help="order of the axes: 'clip time mel' (default), 'clip mel time' or 'clip feature'; stored with time first",
    )
    flags.add_argument(
        "--clips_key", metavar="NAME", help="the clips in the .npz; default: its only array beside the ids"
    )
    flags.add_argument("--ids", metavar="FILE", help=".npy of track ids; default: those in the .npz, else the table's")
    flags.add_argument("--ids_key", metavar="NAME", help="the track ids in the .npz; default: track_id")
    clips.add_argument(
        "--features", nargs="+", metavar="COLUMN", help="instead of --from_arrays: columns of the table"
    )
    flags.add_argument(
        "--genres",
        nargs="+",
        metavar="NAME",
        help="label list; default: FMA's of the subset, or the table's own genres",
    )
    flags.add_argument(
        "--columns",
        nargs="+",
        metavar="WHAT=NAME",
        help="columns of the table; default: track_id=track_id genre=genre_top split=split artist=artist_id "
        "album=album_id title= artist_name= subset= (the last five may be empty: unknown)",
    )


def _check_flags(args: argparse.Namespace) -> None:
    """Raises FmaError unless the clips come from one place, and all flags are that place's."""
    of_arrays = [f"--{name}" for name in _ARRAY_FLAGS if name in args]
    of_tree = [f"--{name}" for name in _TREE_FLAGS if getattr(args, name) not in (None, False)]
    if of_arrays and of_tree:
        raise FmaError(
            f"{of_tree[0]} is for an FMA tree, {of_arrays[0]} for precomputed arrays: leave out the one or the other."
        )
    if not of_arrays and args.source is None:
        raise FmaError(
            "Say what to prepare: --source DIR for an FMA tree, or --from_arrays FILE --table FILE for precomputed "
            "arrays."
        )
    if of_arrays and args.representation is None:
        raise FmaError("Give what the arrays hold a name of its own: --representation NAME, such as mel_100x250.")


def _array_files(args: argparse.Namespace) -> "ArrayFiles":
    """Turns the flags of precomputed arrays into what they name."""
    from tfds_fma.arrays import ArrayFiles, parse_columns

    given = {name: value for name, value in vars(args).items() if name in _ARRAY_FLAGS}
    return ArrayFiles(
        table=given.pop("table", ""),
        clips=given.pop("from_arrays", ""),
        columns=parse_columns(given.pop("columns", ())),
        **given,
    )


def _run(args: argparse.Namespace) -> None:
    """Prepares what the flags name; downloads it first if asked to."""
    _check_flags(args)
    if args.source is None:
        prepare_arrays(_array_files(args), args.subset, args.representation, args.data_dir, overwrite=args.overwrite)
        return
    try:
        beam_options = None if args.beam is None else shlex.split(args.beam)
    except ValueError as error:
        raise FmaError(f"--beam={args.beam!r} cannot be split into options: {error}.") from error
    prepare(
        args.source,
        args.subset,
        args.representation or _DEFAULT_REPRESENTATION,
        args.data_dir,
        workers=args.workers,
        overwrite=args.overwrite,
        download=args.download,
        unverified=args.unverified,
        beam_options=beam_options,
    )


def run_command(command: Callable[[], object]) -> int:
    """Runs `command`; turns an error meant for people into a line and an exit status."""
    try:
        command()
    except FmaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: run the same command again to continue", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, `head` perhaps, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
