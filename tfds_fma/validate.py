"""Checks a prepared dataset: opens every record of every split and looks at all that is in it.

python -m tfds_fma.validate --data_dir ~/data --subset small --representation mel_1360x96
"""

import argparse
import contextlib
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfds_fma import reading
from tfds_fma.command_line import add_dataset_flags, dataset_path, exit_status
from tfds_fma.description import NO_GENRE_ID, read_rejects
from tfds_fma.errors import UserError, in_words
from tfds_fma.progress import progress_bar
from tfds_fma.representations.base import Representation
from tfds_fma.representations.log_mel import LogMel, LogMelBelowPeak, LogStft
from tfds_fma.representations.registry import get_representation
from tfds_fma.source.archives import readable_size
from tfds_fma.source.tracks import SPLITS, STORED_SPLITS, UNKNOWN_ID, UNUSED
from tfds_fma.storage import layout
from tfds_fma.storage.columns import COLUMNS_FILE, Unfit, load_columns

if TYPE_CHECKING:
    import numpy as np

# Findings of one kind that are printed; the others are counted.
_LISTED = 20

# Records read at a time: enough to amortise the call, few enough that memory stays flat with clips of audio (2.6 MB).
_BATCH = 16

# The spectrograms keep 80 dB below their maximum; float16 rounds by up to 1/32 dB at either end.
_MOST_DB = 80.1
# The same 80 dB as a natural logarithm are 8 ln 10 = 18.42, and the maximum of the clip is 0.
_LEAST_LN = -18.43
_MOST_LN = 1e-3


@dataclass
class Findings:
    """Lines of one kind: all are counted, the first are kept."""

    number: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, line: str) -> None:
        """Takes a line."""
        self.number += 1
        if len(self.first) < _LISTED:
            self.first.append(line)

    def listed(self) -> list[str]:
        """Returns the lines to print."""
        more = self.number - len(self.first)
        return [*self.first, f"and {more} more"] if more else list(self.first)


@dataclass
class Validation:
    """What checking a dataset has brought up.

    Attributes:
      name: subset and representation.
      path: folder of the dataset.
      errors: what makes the dataset unusable, wholly or in part.
      warnings: what makes results on it questionable.
      notes: what may be odd and may be right.
      records: split -> number of records that could be read.
      shards: number of files.
      bytes: their size.
      seconds: how long it took.
    """

    name: str
    path: Path
    errors: Findings = field(default_factory=Findings)
    warnings: Findings = field(default_factory=Findings)
    notes: Findings = field(default_factory=Findings)
    records: dict[str, int] = field(default_factory=dict)
    shards: int = 0
    bytes: int = 0
    seconds: float = 0.0

    def summary(self) -> str:
        """Returns the line that sums a sound dataset up."""
        splits = ", ".join(f"{split} {number}" for split, number in self.records.items())
        return (
            f"{self.name}: {sum(self.records.values())} records in {self.shards} shards are sound ({splits}; "
            f"{readable_size(self.bytes)} read in {self.seconds:.1f} s)"
        )


def validate(path: str | Path, *, progress: bool = True) -> Validation:
    """Reads every record of a prepared dataset and checks it.

    Memory stays flat: a few records at a time, and the ids of all tracks and artists.

    Args:
      path: folder of the dataset.
      progress: whether to show a progress bar.

    Returns:
      What was found. Damage to a shard is an error in it, and the other shards are read all the same.

    Raises:
      UserError: if there is no prepared dataset, or the files that describe it are damaged.
    """
    path = Path(path)
    start = time.perf_counter()
    genres = reading.class_names(path)
    info = _open_info(path, len(genres))
    validation = Validation(info.config_name, path)
    check = _RecordCheck(validation, info, genres)
    begin = 0  # of a shard, among all records
    total = sum(split.num_examples for split in info.splits.values())
    with progress_bar(validation.name, total, "records", show=progress) as bar:
        for split in STORED_SPLITS:
            if split == UNUSED and split not in info.splits:
                continue
            validation.records[split] = 0
            if split not in info.splits:
                validation.notes.add(f"{split}: there is no such split, for want of a usable clip")
                continue
            lengths = info.splits[split].shard_lengths
            for file, length in zip(info.splits[split].filepaths, lengths, strict=True):
                shard = Path(file)
                validation.shards += 1
                validation.bytes += shard.stat().st_size if shard.exists() else 0
                for position, record in _read_shard(shard, length, validation.errors):
                    check.record(split, f"{shard.name}, record {position}", record, begin + position)
                    bar.update()
                begin += length
    check.finish()
    validation.seconds = time.perf_counter() - start
    return validation


def _open_info(path: Path, genres: int) -> Any:
    """Opens TFDS's description of a dataset: its splits and features.

    Raises:
      UserError: if it is damaged.
    """
    import tensorflow_datasets as tfds

    try:
        info = tfds.builder_from_directory(path).info
        if info.features["genre"].num_classes != genres:
            raise ValueError(f"genre.labels.txt has {genres} of {info.features['genre'].num_classes} genres")
        if not info.config_name:
            raise ValueError("dataset_info.json names no subset and representation")
    except Exception as error:  # whatever TFDS and Protocol Buffers raise about damaged files
        raise UserError(
            f"The files that describe the dataset in {path} are damaged ({in_words(error)}). {layout.remedy(path)}"
        ) from error
    return info


def _read_shard(shard: Path, length: int, errors: Findings) -> Iterator[tuple[int, bytes]]:
    """Yields (position, record) of all records of a shard that can be read; damage goes to `errors`.

    ArrayRecord checks a hash of every record, so that no changed byte passes for data.
    """
    if not shard.is_file():
        errors.add(f"{shard.name}: the file is not there ({length} records lost)")
        return
    try:
        reader = _open_shard(shard)
    except Exception as error:  # whatever ArrayRecord raises about damaged files
        errors.add(f"{shard.name}: cannot be read ({in_words(error)}; {length} records lost)")
        return
    number = reader.num_records()
    if number != length:
        errors.add(f"{shard.name}: has {number} records, and dataset_info.json says {length}")
    damaged: dict[int, str] = {}
    for start in range(0, number, _BATCH):
        positions = list(range(start, min(start + _BATCH, number)))
        try:
            records = reader.read(positions)
        except Exception:  # one of them is damaged; the others may not be
            records = [_read_record(reader, position, damaged) for position in positions]
        yield from (pair for pair in zip(positions, records, strict=True) if pair[1] is not None)
    if damaged:
        first, reason = next(iter(damaged.items()))
        errors.add(f"{shard.name}: {len(damaged)} of {number} records are damaged (the first is {first}: {reason})")
    with contextlib.suppress(Exception):  # what is wrong with the file has been said
        reader.close()


def _open_shard(shard: Path) -> Any:
    """Opens a shard; raises an error if its index, which lies at the end, cannot be read."""
    from array_record.python.array_record_module import ArrayRecordReader

    reader = ArrayRecordReader(str(shard))
    if not reader.ok():
        reader.close()  # says what is wrong
        raise ValueError("it has no index")
    return reader


def _read_record(reader: Any, position: int, damaged: dict[int, str]) -> bytes | None:
    """Reads one record; if it is damaged, notes why and returns None."""
    try:
        return reader.read([position])[0]
    except Exception as error:  # whatever ArrayRecord raises about damaged files
        damaged[position] = in_words(error)
        return None


class _RecordCheck:
    """Checks records one by one, and against those before."""

    def __init__(self, validation: Validation, info: Any, genres: tuple[str, ...]):
        """Prepares the check.

        Args:
          validation: takes what is found.
          info: TFDS's description of the dataset.
          genres: genre names.
        """
        self._found = validation
        self._features = info.features
        subset, _, name = info.config_name.rpartition("-")
        self._representation = self._known_representation(name)
        # Of small and medium, every track has a top genre.
        self._genre_ids = range(0 if subset in ("small", "medium") else NO_GENRE_ID, len(genres))
        self._rejected = self._rejected_tracks()
        self._stored = self._stored_columns()
        self._split_of_track: dict[int, str] = {}
        self._splits_of_artist: dict[int, set[str]] = {}

    def record(self, split: str, where: str, record: bytes, row: int) -> None:
        """Checks one record, the one of number `row` in the dataset; `where` names it in messages."""
        try:
            example = self._features.deserialize_example_np(record)
        except Exception as error:  # whatever TFDS and Protocol Buffers raise, also about clips of a wrong size
            self._found.errors.add(f"{where}: cannot be decoded ({in_words(error)})")
            return
        self._found.records[split] += 1
        track, artist, genre = (int(example[name]) for name in ("track_id", "artist_id", "genre"))
        where = f"{where} (track {track})"
        if genre not in self._genre_ids:
            self._found.errors.add(f"{where}: genre {genre} is not from {self._genre_ids[0]} to {self._genre_ids[-1]}")
        self._check_track(split, where, track)
        if artist != UNKNOWN_ID and split != UNUSED:
            self._splits_of_artist.setdefault(artist, set()).add(split)
        self._check_clip(where, example["clip"])
        self._check_stored(where, example, row)

    def finish(self) -> None:
        """Reports what only all records together show."""
        for artist, splits in self._splits_of_artist.items():
            if len(splits) > 1:
                names = " and ".join(split for split in SPLITS.values() if split in splits)
                self._found.warnings.add(f"artist {artist} has clips in {names}; FMA's splits share no artist")

    def _check_track(self, split: str, where: str, track: int) -> None:
        if track <= 0:
            self._found.errors.add(f"{where}: a track id is positive")
        if track in self._split_of_track:
            self._found.errors.add(f"{where}: the track is there before, in {self._split_of_track[track]}")
        self._split_of_track.setdefault(track, split)
        if track in self._rejected:
            self._found.errors.add(f"{where}: rejects.csv says that the track was left out")

    def _check_clip(self, where: str, clip: "np.ndarray") -> None:
        low, high = value_range(clip)
        problem = range_problem(low, high, self._representation)
        if problem:
            self._found.errors.add(f"{where}: {problem}")
        elif low == high:
            self._found.notes.add(f"{where}: all values of the clip are {low:g}: silence?")

    def _check_stored(self, where: str, example: Mapping[str, Any], row: int) -> None:
        """Compares a record with its row of the columns file."""
        for name, column in self._stored.items():
            if name not in example or row >= len(
                column
            ):  # not in a dataset of before; more records than there should be
                continue
            found, expected = column[row], example[name]
            expected = expected.decode() if isinstance(expected, bytes) else expected
            unknown = found != found and expected != expected  # NaN: a duration that is not known
            if not unknown and (list(expected) if name == "genres_all" else expected) != found:
                self._found.errors.add(f"{where}: {COLUMNS_FILE} has another {name}: delete that file")

    def _stored_columns(self) -> "Mapping[str, np.ndarray]":
        """Reads the columns file; none where it is not used either."""
        try:
            return load_columns(self._found.path).columns
        except Unfit as error:
            remedy = layout.columns_remedy(self._found.path)
            self._found.notes.add(
                f"{COLUMNS_FILE} cannot be used, so that opening reads every record: {error}. {remedy}"
            )
            return {}

    def _known_representation(self, name: str) -> Representation | None:
        """Looks the representation up; None if the clips are not as it makes them, so that ranges mean nothing."""
        try:
            representation = get_representation(name)
        except UserError:
            self._found.warnings.add(f"the representation {name!r} is unknown here: only checked that it is finite")
            return None
        clip = self._features["clip"]
        declared, expected = (clip.shape, clip.np_dtype), (representation.shape, representation.dtype)
        if declared != expected:
            self._found.errors.add(
                f"features.json declares clips of {clip.np_dtype} {list(clip.shape)}, and {name} is "
                f"{representation.dtype} {list(representation.shape)}"
            )
            return None
        return representation

    def _rejected_tracks(self) -> frozenset[int]:
        """Reads the ids in rejects.csv."""
        try:
            rows = read_rejects(self._found.path)
            if rows is None:
                self._found.notes.add("there is no rejects.csv beside the data")
            return frozenset(int(row["track_id"]) for row in rows or [])
        except UserError as error:
            self._found.errors.add(str(error))
        except ValueError as error:
            self._found.errors.add(f"rejects.csv: {error}")
        return frozenset()


def value_range(clip: "np.ndarray") -> tuple[float, float]:
    """Returns the least and the greatest value of a clip; both are NaN if one of its values is."""
    import numpy as np

    # float16 is widened first: NumPy finds the extremes of float32 many times faster.
    values = clip.astype(np.float32) if clip.dtype == np.float16 else clip
    return float(values.min()), float(values.max())


def range_problem(low: float, high: float, representation: Representation | None) -> str:
    """Says what is wrong with the values of a clip, given the least and the greatest; "" if nothing is.

    The maximum of a `LogMelBelowPeak` may be below 0, as it is relative to frames that are not stored, too.
    """
    import numpy as np

    if not (np.isfinite(low) and np.isfinite(high)):
        return "the clip has values that are not finite"
    if isinstance(representation, LogMel | LogStft) and high - low > _MOST_DB:
        return f"the clip's values span {high - low:.1f} dB, more than the 80 dB that are kept"
    if isinstance(representation, LogMelBelowPeak) and not _LEAST_LN <= low <= high <= _MOST_LN:
        return f"the clip's values go from {low:.3f} to {high:.3f}, beyond -18.42 (80 dB below the maximum) to 0"
    return ""


def render(validation: Validation) -> str:
    """Returns all findings as text, "" if there are none."""
    kinds: Mapping[str, Findings] = {
        "errors": validation.errors,
        "warnings": validation.warnings,
        "notes": validation.notes,
    }
    lines = []
    for kind, findings in kinds.items():
        if findings.number:
            lines += [f"{findings.number} {kind if findings.number > 1 else kind[:-1]}:"]
            lines += [f"  {line}" for line in findings.listed()]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tfds_fma.validate", description=__doc__.splitlines()[0])
    add_dataset_flags(parser)
    args = parser.parse_args(argv)
    return exit_status(lambda: _run(args))


def _run(args: argparse.Namespace) -> None:
    path = dataset_path(args)
    validation = validate(path)
    findings = render(validation)
    if findings:
        print(findings)
    if validation.errors.number:
        raise UserError(f"{validation.name} in {path} is not sound. {layout.remedy(path)}")
    print(validation.summary())


if __name__ == "__main__":
    sys.exit(main())
