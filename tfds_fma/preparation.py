"""Makes a dataset: from FMA's archives, or from arrays, to shards that TFDS reads."""

import contextlib
import logging
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfds_fma.errors import UserError
from tfds_fma.labels import genres_of, own_subset
from tfds_fma.locks import only_one
from tfds_fma.parallel import check_workers
from tfds_fma.paths import local_path
from tfds_fma.representations.feature_vector import FeatureVector
from tfds_fma.representations.registry import get_representation, is_name
from tfds_fma.source.archives import readable_size, remember_verified, verify_checksum
from tfds_fma.storage import layout
from tfds_fma.storage.columns import COLUMNS_FILE

if TYPE_CHECKING:
    from tfds_fma.clips.sources import ClipSource
    from tfds_fma.collection.source import Collection
    from tfds_fma.source.arrays import ArrayFiles


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

    What is prepared already gets its columns file, if that is missing or does not fit.

    An interrupted run leaves nothing that counts as prepared; running again continues it. Two processes that
    prepare the same thing do it once: the second waits.

    Args:
      source: folder that holds FMA's metadata and audio, as folders or zip files.
      subset: see `tfds_fma.labels.SUBSETS`.
      representation: see `tfds_fma.representations.registry.get_representation`.
      data_dir: where TFDS keeps datasets.
      workers: processes that decode; by default one per usable core.
      progress: whether to show a progress bar.
      overwrite: whether to prepare again what is there. The old dataset is replaced when the new one is complete.
      download: whether to fetch the official archives that `source` lacks.
      unverified: whether to accept zip files of FMA's names that have not FMA's checksums.
      beam_options: make the clips with Apache Beam, given these command-line options of Beam.
      log: takes the lines for people, the summary among them.

    Returns:
      The folder of the prepared dataset. It also holds ``rejects.csv``, the tracks that could not be used, and
      ``damaged.csv``, those whose audio has errors, if there are any.

    Raises:
      UserError: if something is wrong with the arguments or the source.
    """
    genres_of(subset)
    chosen = get_representation(representation)
    source = local_path(source)

    verified = local_path(data_dir) / layout.DATASET_NAME

    def open_source() -> "ClipSource":
        from tfds_fma.clips.sources import fma_source

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
      UserError: if something is wrong with the arguments or the files.
    """
    genres_of(subset)
    if not is_name(representation):
        raise UserError(
            f"{representation!r} cannot be the name of a representation: use lower-case letters, digits and _ . + "
            "only, as in mel_100x250."
        )

    def open_source() -> "ClipSource":
        from tfds_fma.clips.sources import arrays_source

        return arrays_source(files, subset, representation, log)

    return prepare_clips(
        open_source, subset, representation, data_dir, progress=progress, overwrite=overwrite, log=log
    )


def prepare_collection(
    collection: "Collection",
    name: str,
    representation: str,
    data_dir: str | Path,
    *,
    workers: int | None = None,
    progress: bool = True,
    overwrite: bool = False,
    beam_options: list[str] | None = None,
    log: Callable[[str], None] = print,
) -> Path:
    """Prepares a music collection of one's own, whose corpus is then called ``own_NAME``; otherwise as `prepare`.

    Args:
      collection: the folder of audio, and how it is to become a dataset.
      name: of the collection: lower-case letters, digits and underscores.
      representation: see `tfds_fma.representations.registry.get_representation`; one that is computed from audio.
      data_dir: where TFDS keeps datasets.
      workers: processes that decode.
      progress: whether to show a progress bar.
      overwrite: whether to prepare again what is there.
      beam_options: make the clips with Apache Beam, given these options.
      log: takes the lines for people.

    Returns:
      The folder of the prepared dataset.

    Raises:
      UserError: if something is wrong with the arguments or the collection.
    """

    def open_source() -> "ClipSource":
        from tfds_fma.collection.source import collection_source

        return collection_source(collection, representation, log, workers=workers, progress=progress)

    return prepare_clips(
        open_source,
        own_subset(name),
        representation,
        data_dir,
        workers=workers,
        progress=progress,
        overwrite=overwrite,
        beam_options=beam_options,
        log=log,
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
            _add_columns(target, log)
            log(f"{name}: already prepared in {target} (use --overwrite to prepare it again)")
            return target
        if target.exists() and not overwrite:
            raise UserError(f"{target} exists but holds no complete dataset. Remove it, or use --overwrite.")
        from tfds_fma.storage.beam import pipeline_options
        from tfds_fma.storage.shards import write_errors_explained

        options = None if beam_options is None else pipeline_options(beam_options)  # before what may take hours
        source = open_source()
        _tell_space(source, target, log)
        root = target.parent / layout.REPLACEMENT if target.exists() else Path(data_dir)
        _remove_leftovers(target)
        with write_errors_explained(target.parent):
            summary = _build(source, target, root, workers, progress, options, log)
            _replace(target, layout.version_dir(root, subset, representation))
        log(summary)
        log(f"{name}: in {target}")
    return target


def complete_prepared(
    subset: str, representation: str, data_dir: str | Path, log: Callable[[str], None]
) -> Path | None:
    """Adds what a prepared dataset of an earlier version lacks: its columns file. Needs no source.

    Returns:
      The folder of the dataset, or None if it has not been prepared.

    Raises:
      UserError: if it is damaged, or cannot be written to.
    """
    target = layout.version_dir(data_dir, subset, representation)
    if not layout.is_complete(target):
        return None
    with only_one(target.parent, log):
        _add_columns(target, log)
    log(f"{target.parent.name}: already prepared in {target}")
    return target


def _add_columns(target: Path, log: Callable[[str], None]) -> None:
    """Writes the columns file of a dataset that was prepared without, or whose file does not fit."""
    from tfds_fma.reading import add_columns

    if add_columns(target):
        log(f"{target.parent.name}: {COLUMNS_FILE} has been written, so that opening it reads no clip")


def _download_missing(
    source: Path, subset: str, features_only: bool, verified: Path, log: Callable[[str], None], progress: bool
) -> None:
    """Fetches the official archives that are there neither as zip files nor as folders."""
    from tfds_fma.source.download import download

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
    from tfds_fma.storage.shards import clip_bytes, free_bytes

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
    pipeline_options: Any,
    log: Callable[[str], None],
) -> str:
    """Runs the TFDS builder for `target`, in `data_dir`; returns the line that sums the run up."""
    # Imported here: TFDS takes a second, which --help and a dataset that is there already need not pay.
    import tensorflow_datasets as tfds

    from tfds_fma.fma_dataset_builder import DAMAGED_FILE, Builder, count_reasons, make_config

    name = target.parent.name
    subset, _, representation = name.partition("-")
    listed = name in {config.name for config in Builder.BUILDER_CONFIGS}
    with _quiet_tfds():
        builder = Builder(
            config=name if listed else make_config(subset, representation, source.representation.description),
            data_dir=local_path(data_dir),
            clip_source=source,
            staging_dir=target.parent / layout.STAGING,
            workers=workers,
            progress=progress,
            log=_past_redirection(log),
        )
    config = tfds.download.DownloadConfig(beam_options=pipeline_options)
    # Nothing is downloaded: silence TFDS's announcement, and let its download folder be a temporary one.
    with contextlib.redirect_stdout(None), tempfile.TemporaryDirectory() as downloads:
        builder.download_and_prepare(download_dir=downloads, download_config=config)
    sizes = {split: info.num_examples for split, info in builder.info.splits.items()}
    splits = ", ".join(f"{split} {size}" for split, size in sizes.items())
    reasons = f": {count_reasons(builder.rejects)}" if builder.rejects else ""
    return (
        f"{name}: {sum(sizes.values())} clips written ({splits}); {len(builder.rejects)} rejected{reasons}; "
        f"{builder.padded} padded"
        + (f"; {len(builder.damaged)} with decoding errors ({DAMAGED_FILE})" if builder.damaged else "")
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
