"""Computes FMA's 518 features from audio: of FMA's tracks, or of one's own music.

    python -m tfds_fma.extract_features --source ~/fma --subset small
    python -m tfds_fma.extract_features --audio ~/music --out music.csv

The definition is that of FMA (features.py of mdeff/fma), which ran it with librosa 0.5.0 on the whole tracks. Some of
librosa's defaults have changed since, so this module sets them as they were:

* The signal is continued by reflection at both ends. librosa 0.10 and later put zeros there, which makes the first and
  the last frames outliers: minimum, skewness and kurtosis of MFCCs and contrast change most.
* The constant-Q transform has 12 bins per octave, and the chroma features are told so: their default is now 36, for
  which these 84 bins would be mixed up.
* Its filters are 3 % shorter than today's, and CENS smooths with a periodic window, not a symmetric one.
* ``rmse`` is the root of the mean of the squared STFT magnitudes, not scaled to the amplitude of the signal.

What uses the constant-Q transform (chroma_cqt, chroma_cens, tonnetz) still differs by some thousandths of the chroma,
because its filters are designed otherwise today; the rest equals librosa 0.5.0 to about 1e-5.

An interrupted run continues where it was: rows are appended to ``.NAME.partial`` beside the table NAME.
"""

import argparse
import collections
import functools
import hashlib
import importlib.metadata
import io
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from tfds_fma.clips.feature_extraction import BLOCK_SAMPLES, extract
from tfds_fma.command_line import exit_status
from tfds_fma.errors import ClipError, UserError, in_words
from tfds_fma.labels import SUBSETS
from tfds_fma.locks import only_one
from tfds_fma.parallel import check_workers, ordered_map, usable_cores
from tfds_fma.paths import local_path
from tfds_fma.progress import progress_bar
from tfds_fma.representations.feature_names import COLUMNS
from tfds_fma.source.audio_files import AUDIO_SUFFIXES, Container, find_containers
from tfds_fma.source.feature_table import format_row, write_rows
from tfds_fma.source.tracks import read_tracks

# Tracks without features that are listed one by one at the end of a run.
_LISTED = 20


# Raise it when the numbers change: rows of different versions must not end up in one table.
_VERSION = 2


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
      text: as in the file; without numbers if there are no features.
      reason: why there are no features, in one word; "" if there are.
      detail: one line that says more.
    """

    text: str
    reason: str = ""
    detail: str = ""


def extract_tracks(
    source: str | Path,
    subset: str,
    out: str | Path | None = None,
    *,
    workers: int | None = None,
    progress: bool = True,
    overwrite: bool = False,
    log: Callable[[str], None] = print,
) -> Path:
    """Writes the feature table of a subset of FMA. Continues a run that was interrupted.

    A track without usable audio gets a row of empty cells, as in FMA's table.

    Args:
      source: folder that holds FMA's metadata and audio, as folders or zip files.
      subset: a name in `tfds_fma.labels.SUBSETS`.
      out: the table; by default ``source/fma_metadata/features.csv``.
      workers: processes; by default one per usable core.
      progress: whether to show a progress bar.
      overwrite: whether to replace a table that is there.
      log: takes the lines for people.

    Returns:
      The path of the table.

    Raises:
      UserError: if something is wrong with the arguments or the source, or no track could be used.
    """
    source = local_path(source)
    target = local_path(out) if out else source / "fma_metadata" / "features.csv"
    _check_target(target, overwrite)
    if not out and (source / "fma_metadata.zip").is_file():
        # It would be taken instead of FMA's own, which was computed from whole tracks.
        archive = source / "fma_metadata.zip"
        raise UserError(f"{archive} holds FMA's own features.csv. Give another place for this one with --out FILE.")
    track_ids = sorted(track.track_id for track in read_tracks(source, subset))
    containers = find_containers(source, subset)
    run = _Run(
        index="track_id",
        items=track_ids,
        compute=functools.partial(_row_of_track, containers),
        origin=[container.identity for container in containers],
        state=lambda track_id: " ".join(container.state(track_id) for container in containers),
    )
    return _write_table(run, target, workers, progress, overwrite, log)


def extract_folder(
    folder: str | Path,
    out: str | Path,
    *,
    workers: int | None = None,
    progress: bool = True,
    overwrite: bool = False,
    log: Callable[[str], None] = print,
) -> Path:
    """Writes the feature table of all audio files below a folder, with their relative paths in place of track ids.

    Args:
      folder: the folder; files whose names begin with a dot are passed over.
      out: the table.
      workers: see `extract_tracks`, as for the other arguments.
      progress: whether to show a progress bar.
      overwrite: whether to replace a table that is there.
      log: takes the lines for people.

    Returns:
      The path of the table.

    Raises:
      UserError: if there is no audio, or no file could be used.
    """
    folder, target = local_path(folder), local_path(out)
    _check_target(target, overwrite)
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise UserError(f"{folder} {what}. Give the folder of your music.")
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    audio = sorted(path.relative_to(folder).as_posix() for path in files if path.suffix.lower() in AUDIO_SUFFIXES)
    if not audio:
        raise UserError(f"There is no audio in {folder}: looked for files that end in {', '.join(AUDIO_SUFFIXES)}.")
    others = collections.Counter(path.suffix.lower() for path in files) - collections.Counter(
        Path(name).suffix.lower() for name in audio
    )
    if others:
        some = ", ".join(f"{count} {suffix or 'without ending'}" for suffix, count in others.most_common(5))
        log(f"{folder}: {others.total()} files are not looked at ({some})")
    run = _Run(
        index="path",
        items=audio,
        compute=functools.partial(_row_of_file, folder),
        origin=[str(folder.absolute())],
        state=lambda name: f"{(folder / name).stat().st_size} {(folder / name).stat().st_mtime_ns}",
    )
    return _write_table(run, target, workers, progress, overwrite, log)


@dataclass(frozen=True)
class _Run:
    """What a table is made of.

    Attributes:
      index: name of the first column.
      items: track ids or paths, in the order of the rows.
      compute: makes the row of an item, in a worker process.
      origin: where the audio is.
      state: item -> text that differs if its audio is another than before.
    """

    index: str
    items: Sequence[Any]
    compute: Callable[[Any], Row]
    origin: list[str]
    state: Callable[[Any], str]

    def stamp(self) -> str:
        """One line that tells whether rows computed earlier belong to this run."""
        states = [(item, self.state(item)) for item in self.items]
        items = hashlib.sha256("\n".join(map(repr, states)).encode()).hexdigest()
        # Another librosa may compute other numbers.
        librosa = importlib.metadata.version("librosa")
        return json.dumps({"version": _VERSION, "librosa": librosa, "origin": self.origin, "items": items}) + "\n"


def _check_target(target: Path, overwrite: bool) -> None:
    """Raises UserError if the table is there and must not be replaced."""
    if target.is_dir():
        raise UserError(f"{target} is a folder. Give the name of the file with --out.")
    if target.exists() and not overwrite:
        raise UserError(f"{target} exists. Replace it with --overwrite, or choose another file with --out.")


def _write_table(
    run: _Run, target: Path, workers: int | None, progress: bool, overwrite: bool, log: Callable[[str], None]
) -> Path:
    """Computes the rows that are not there yet, then puts the table in its place."""
    check_workers(workers)
    partial = target.with_name(f".{target.name}.partial")
    with only_one(target.parent, log):
        _check_target(target, overwrite)  # another process may have made it meanwhile
        try:
            with partial.open("a+b") as file:
                done = _resume(file, run, partial)
                if done:
                    log(f"{target}: {done} of {len(run.items)} rows are there from an interrupted run")
                rows = ordered_map(run.compute, run.items[done:], workers)
                with progress_bar("features", len(run.items), "tracks", initial=done, show=progress) as bar:
                    for row in rows:
                        file.write(json.dumps([row.text, row.reason, row.detail]).encode() + b"\n")
                        file.flush()
                        bar.update()
                failures = [row for row in _rows(file) if row.reason]
                if len(failures) < len(run.items):
                    write_rows(target, run.index, (row.text for row in _rows(file)))
            partial.unlink()
        except OSError as error:
            raise UserError(f"{partial} cannot be written ({in_words(error)}). Choose another --out.") from error
    reasons = collections.Counter(row.reason for row in failures)
    counts = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    if len(failures) == len(run.items):
        raise UserError(f"No features were computed: {counts}; the first one: {failures[0].detail}.")
    log(f"{target}: {len(run.items)} rows, {len(failures)} of them without features{f': {counts}' if counts else ''}")
    for row in failures[:_LISTED]:
        log(f"  {row.reason}: {row.detail}")
    if len(failures) > _LISTED:
        log(f"  and {len(failures) - _LISTED} more")
    return target


def _resume(file: IO[bytes], run: _Run, partial: Path) -> int:
    """Keeps the good rows that an earlier run left, returns their number, and leaves the file open at their end.

    Raises:
      UserError: if the file belongs to another run.
    """
    file.seek(0)
    stamp = run.stamp().encode()
    first = file.readline()
    if first.endswith(b"\n") and first != stamp:
        raise UserError(
            f"{partial} is of an interrupted run on other tracks, other audio or with another librosa. Finish that "
            "one with the same arguments, or delete the file."
        )
    if first != stamp:  # new, or interrupted at once
        file.truncate(0)
        file.write(stamp)
        return 0
    done, end = 0, file.tell()
    for line in file:
        try:
            Row(*json.loads(line))
        except (ValueError, TypeError):
            break
        if not line.endswith(b"\n"):
            break
        done, end = done + 1, end + len(line)
    file.truncate(end)  # what was cut off when the run was
    return done


def _rows(file: IO[bytes]) -> Iterator[Row]:
    """Reads the rows of a partial file."""
    file.seek(0)
    file.readline()  # the stamp
    for line in file:
        yield Row(*json.loads(line))


def _row_of_track(containers: tuple[Container, ...], track_id: int) -> Row:
    """Computes the row of a track of FMA from the first usable copy (runs in a worker process)."""
    failures = []
    for container in containers:
        try:
            return Row(format_row(str(track_id), _features(container.read(track_id))))
        except ClipError as error:
            failures.append((error.reason, f"{container.location(track_id)}: {error.detail}"))
    reason, detail = next((failure for failure in failures if failure[0] != "missing"), failures[0])
    return Row(_empty_row(str(track_id)), reason, detail)


def _row_of_file(folder: Path, name: str) -> Row:
    """Computes the row of an audio file (runs in a worker process)."""
    try:
        return Row(format_row(name, _features((folder / name).read_bytes())))
    except ClipError as error:
        return Row(_empty_row(name), error.reason, f"{name}: {error.detail}")
    except OSError as error:
        return Row(_empty_row(name), "unreadable", f"{name}: {in_words(error)}")


def _empty_row(index: str) -> str:
    return format_row(index, np.full(len(COLUMNS), np.nan))


def _features(data: bytes) -> np.ndarray:
    """Decodes an audio file and computes all its features."""
    _use_one_thread()
    return extract(*_load_mono(data))


@functools.cache
def _use_one_thread() -> None:
    """Keeps NumPy's BLAS to one thread: those of several workers fight over the cores."""
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)


def _load_mono(data: bytes) -> tuple[np.ndarray, int]:
    """Decodes an audio file at its own rate and mixes its channels.

    Returns:
      Mono float32 [sample], and the rate in Hz.

    Raises:
      ClipError: if it is empty or cannot be decoded.
    """
    from tfds_fma.clips.decode import decoder_errors_as_clip_errors
    from tfds_fma.clips.mp3_frames import with_all_frames

    if not data:
        raise ClipError("empty", "the file has no bytes")
    with decoder_errors_as_clip_errors():
        samples, rate, kind = _decode_mono(data)
        whole = with_all_frames(data, len(samples)) if kind == "MP3" else None
        if whole is not None:
            samples, rate, _ = _decode_mono(whole)
        return samples, rate


def _decode_mono(data: bytes) -> tuple[np.ndarray, int, str]:
    """Returns mono float32 [sample], their rate in Hz, and the format of the file."""
    import soundfile

    pieces = [np.empty(0, np.float32)]
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        while len(block := file.read(BLOCK_SAMPLES, dtype="float32", always_2d=True)):
            pieces.append(functools.reduce(np.add, block.T) / np.float32(block.shape[1]))
        return np.concatenate(pieces), file.samplerate, file.format


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tfds_fma.extract_features", description=__doc__.splitlines()[0])
    music = parser.add_mutually_exclusive_group(required=True)
    music.add_argument(
        "--source", metavar="DIR", help="folder with fma_metadata and FMA's audio, extracted or zipped; needs --subset"
    )
    music.add_argument("--audio", metavar="DIR", help="folder of any other music; needs --out")
    parser.add_argument("--subset", choices=SUBSETS)
    parser.add_argument("--out", metavar="FILE", help="the table; default: SOURCE/fma_metadata/features.csv")
    parser.add_argument(
        "--workers", type=int, metavar="N", help=f"processes; default: one per usable core ({usable_cores()})"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a table that is there")
    args = parser.parse_args(argv)
    if args.source is not None and args.subset is None:
        parser.error("--source needs --subset")
    if args.audio is not None and args.out is None:
        parser.error("--audio needs --out")
    options = {"workers": args.workers, "overwrite": args.overwrite}
    if args.audio is not None:
        return exit_status(lambda: extract_folder(args.audio, args.out, **options))
    return exit_status(lambda: extract_tracks(args.source, args.subset, args.out, **options))


if __name__ == "__main__":
    sys.exit(main())
