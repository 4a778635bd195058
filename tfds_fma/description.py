"""What a prepared dataset holds: counts, bags, rejects, storage."""

import collections
import csv
import dataclasses
import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfds_fma import reading
from tfds_fma.errors import UNREADABLE, UserError, in_words
from tfds_fma.paths import local_path
from tfds_fma.progress import progress_bar
from tfds_fma.source import counts
from tfds_fma.source.tracks import SPLITS, UNKNOWN_ID, UNUSED
from tfds_fma.storage import layout

if TYPE_CHECKING:
    import numpy as np


# The row of clips without a top genre, which only large and full have; their class id is -1.
NO_GENRE = "(no top genre)"


NO_GENRE_ID = -1


# Records decoded at a time: few enough that memory stays flat with clips of audio (2.6 MB).
_BATCH = 16


_COLUMNS = ("genre", "artist_id", "album_id")


_EXAMPLES = 3


@dataclass(frozen=True)
class BagStatistics:
    """Statistics of the bags of one split; a bag is the clips of one album and artist (MATT, section III-C a).

    A clip of which neither album nor artist is known is a bag of its own.

    Attributes:
      number: how many bags.
      mean: mean number of clips per bag.
      median: median number of clips per bag.
      largest: number of clips of the largest bag.
      singletons: bags of one clip.
      mixed: bags whose clips have more than one top genre.
      unknown: clips of which album or artist is unknown.
    """

    number: int
    mean: float
    median: float
    largest: int
    singletons: int
    mixed: int
    unknown: int


@dataclass(frozen=True)
class Mismatch:
    """A count that is not the published one.

    Attributes:
      split: train, validation or test.
      genre: name of the genre, or "" where only the whole split can be compared.
      clips: number of clips in the dataset.
      published: published number.
      rejected: number of tracks in rejects.csv of that split and genre.
    """

    split: str
    genre: str
    clips: int
    published: int
    rejected: int


@dataclass(frozen=True)
class Rejects:
    """Tracks that are not in the dataset for one reason: how many, and a line on each of the first few."""

    reason: str
    number: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Storage:
    """Files of one split: number of clips and shards, and bytes on disk."""

    clips: int
    shards: int
    bytes: int


@dataclass(frozen=True)
class Description:
    """A prepared dataset in numbers. Every mapping has all three splits, in the order train, validation, test.

    Attributes:
      path: its folder.
      name: subset and representation, e.g. ``small-mel_1360x96``.
      subset: the subset of FMA.
      representation: name of what is stored of each clip.
      about: one line on subset and representation.
      version: version of the dataset's format.
      demo: whether it is the synthetic demo corpus.
      resampler: what resampled the audio; "" if the clips are not made of audio.
      clips: split -> genre -> number of clips; `NO_GENRE` is among the genres if there is such a clip.
      published: split -> genre -> published number of clips, or None if there is nothing to compare with.
      published_totals: split -> published number of clips, or None likewise.
      mismatches: where `clips` differs from what was published.
      bags: split -> statistics of its bags.
      shared_artists: artists with clips in more than one split.
      rejects: the tracks that could not be used, the most frequent reason first; None if there is no rejects.csv.
      storage: split -> its files.
    """

    path: str
    name: str
    subset: str
    representation: str
    about: str
    version: str
    demo: bool
    resampler: str
    clips: Mapping[str, Mapping[str, int]]
    published: Mapping[str, Mapping[str, int]] | None
    published_totals: Mapping[str, int] | None
    mismatches: tuple[Mismatch, ...]
    bags: Mapping[str, BagStatistics]
    shared_artists: int
    rejects: tuple[Rejects, ...] | None
    storage: Mapping[str, Storage]


def describe(path: str | Path, *, progress: bool = True) -> Description:
    """Reads a prepared dataset once and counts.

    Args:
      path: its folder.
      progress: whether to show a progress bar.

    Raises:
      UserError: if there is no prepared dataset, or it is damaged.
    """
    path = Path(path)
    genres = reading.class_names(path)
    sources = reading.load(path)
    info = next(iter(sources.values())).dataset_info
    subset, _, representation = info.config_name.rpartition("-")
    columns = _read_columns(sources, path, progress)
    rows = read_rejects(path)
    demo = layout.is_demo(path)
    clips = _count_clips(columns, genres, path)
    per_genre = None if demo else counts.clips_per_genre(subset)
    totals = None if demo else counts.clips_per_split(subset)
    return Description(
        path=str(path),
        name=info.config_name,
        subset=subset,
        representation=representation,
        about=info.config_description,
        version=str(info.version),
        demo=demo,
        resampler=reading.resampler_of(path),
        clips=clips,
        published=per_genre,
        published_totals=totals,
        mismatches=_find_mismatches(clips, per_genre, totals, rows or []),
        bags={split: bag_statistics(*columns[split]) for split in columns},
        shared_artists=_count_shared_artists(columns),
        rejects=None if rows is None else _group_rejects(rows),
        storage={split: _storage(info, split) for split in columns},
    )


def read_rejects(path: Path) -> list[dict[str, str]] | None:
    """Reads rejects.csv beside a prepared dataset: its rows as dicts; None if there is no such file.

    Raises:
      UserError: if the file cannot be read.
    """
    from tfds_fma.fma_dataset_builder import REJECTS_COLUMNS, REJECTS_FILE

    file_path = path / REJECTS_FILE
    if not file_path.exists():
        return None
    try:
        with file_path.open(newline="", encoding="utf-8") as file:
            table = csv.DictReader(file, strict=True)
            rows = list(table)
        if tuple(table.fieldnames or ()) != REJECTS_COLUMNS:
            raise ValueError(f"its columns are not {', '.join(REJECTS_COLUMNS)}")
        if any(None in row or None in row.values() for row in rows):
            raise ValueError("not all rows have as many columns as the header")
    except UNREADABLE as error:
        raise UserError(f"{file_path} cannot be read ({in_words(error)}). Remove it, or prepare again.") from error
    return rows


def bag_statistics(genre: "np.ndarray", artist: "np.ndarray", album: "np.ndarray") -> BagStatistics:
    """Groups the clips of one split into bags and counts.

    Args:
      genre: class ids, int64 [clip]; -1 is unknown and makes no bag mixed.
      artist: FMA's ids, int64 [clip]; -1 is unknown.
      album: the same of the album.
    """
    sizes: collections.Counter[tuple[int, ...]] = collections.Counter()
    genres: dict[tuple[int, ...], set[int]] = collections.defaultdict(set)
    unknown = 0
    for number, (label, *key) in enumerate(zip(genre.tolist(), album.tolist(), artist.tolist(), strict=True)):
        unknown += UNKNOWN_ID in key
        bag = (*key,) if any(part != UNKNOWN_ID for part in key) else (*key, number)
        sizes[bag] += 1
        if label != NO_GENRE_ID:
            genres[bag].add(label)
    return BagStatistics(
        number=len(sizes),
        mean=sizes.total() / len(sizes) if sizes else 0.0,
        median=float(statistics.median(sizes.values())) if sizes else 0.0,
        largest=max(sizes.values(), default=0),
        singletons=sum(size == 1 for size in sizes.values()),
        mixed=sum(len(labels) > 1 for labels in genres.values()),
        unknown=unknown,
    )


def _read_columns(
    sources: Mapping[str, Any], path: Path, progress: bool
) -> dict[str, tuple["np.ndarray", "np.ndarray", "np.ndarray"]]:
    """Reads genre, artist and album of all clips: split -> three int64 [clip]; a split that is not there is empty."""
    import numpy as np

    columns = {}
    total = sum(len(source) for source in sources.values())
    with progress_bar("reading", total, "clips", show=progress) as bar:
        for split in (*SPLITS.values(), *({UNUSED} & sources.keys())):
            source = sources.get(split, ())
            table = np.empty((len(_COLUMNS), len(source)), np.int64)
            for start in range(0, len(source), _BATCH):
                stop = min(start + _BATCH, len(source))
                try:
                    examples = source.__getitems__(list(range(start, stop)))
                except Exception as error:  # whatever TFDS, Protocol Buffers and ArrayRecord raise about damaged files
                    raise UserError(
                        f"The {split} split in {path} is damaged ({in_words(error)}). To see where, run "
                        f"python -m tfds_fma.validate --path {path}"
                    ) from error
                for row, name in enumerate(_COLUMNS):
                    table[row, start:stop] = [example[name] for example in examples]
                bar.update(stop - start)
            columns[split] = (table[0], table[1], table[2])
    return columns


def _count_clips(
    columns: Mapping[str, tuple["np.ndarray", ...]], genres: tuple[str, ...], path: Path
) -> dict[str, dict[str, int]]:
    """Counts clips: split -> genre -> number."""
    counts = {split: collections.Counter(genre.tolist()) for split, (genre, *_) in columns.items()}
    present = {genre_id for counter in counts.values() for genre_id in counter}
    names = dict(enumerate(genres)) | ({NO_GENRE_ID: NO_GENRE} if NO_GENRE_ID in present else {})
    strange = sorted(present - set(names))
    if strange:
        raise UserError(
            f"{path} holds clips of genre {strange[0]}, but genre.labels.txt has {len(genres)} genres. To see where, "
            f"run python -m tfds_fma.validate --path {path}"
        )
    return {split: {name: counter[genre_id] for genre_id, name in names.items()} for split, counter in counts.items()}


def _find_mismatches(
    clips: Mapping[str, Mapping[str, int]],
    per_genre: Mapping[str, Mapping[str, int]] | None,
    totals: Mapping[str, int] | None,
    rejects: list[dict[str, str]],
) -> tuple[Mismatch, ...]:
    """Compares counts per genre where they were published, else per split."""
    rejected = collections.Counter((row["split"], row["genre"]) for row in rejects)
    if per_genre is not None:
        cells = [
            Mismatch(split, genre, clips[split].get(genre, 0), number, rejected[split, genre])
            for split, numbers in per_genre.items()
            for genre, number in numbers.items()
        ]
    elif totals is not None:
        by_split = collections.Counter(row["split"] for row in rejects)
        cells = [
            Mismatch(split, "", sum(clips[split].values()), number, by_split[split])
            for split, number in totals.items()
        ]
    else:
        cells = []
    return tuple(cell for cell in cells if cell.clips != cell.published)


def _count_shared_artists(columns: Mapping[str, tuple["np.ndarray", ...]]) -> int:
    """Counts the known artists with clips in more than one split."""
    splits = collections.Counter(
        artist
        for split, (_, artists, _) in columns.items()
        if split != UNUSED
        for artist in set(artists.tolist()) - {UNKNOWN_ID}
    )
    return sum(number > 1 for number in splits.values())


def _group_rejects(rows: list[dict[str, str]]) -> tuple[Rejects, ...]:
    """Groups rejects by reason, the most frequent first, with examples."""
    by_reason: dict[str, list[str]] = collections.defaultdict(list)
    for row in rows:
        genre = row["genre"] or NO_GENRE
        by_reason[row["reason"]].append(f"{row['path']} ({row['split']}, {genre}): {row['detail']}")
    groups = [Rejects(reason, len(lines), tuple(lines[:_EXAMPLES])) for reason, lines in by_reason.items()]
    return tuple(sorted(groups, key=lambda group: -group.number))


def _storage(info: Any, split: str) -> Storage:
    """Sums the files of a split up."""
    if split not in info.splits:
        return Storage(0, 0, 0)
    files = [Path(file) for file in info.splits[split].filepaths]
    return Storage(info.splits[split].num_examples, len(files), sum(file.stat().st_size for file in files))


def write_json(description: Description, path: str | Path) -> None:
    """Writes a description as JSON.

    Raises:
      UserError: if the file cannot be written.
    """
    text = json.dumps(dataclasses.asdict(description), indent=2, ensure_ascii=False)
    try:
        local_path(path).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"Cannot write {path} ({error.strerror}). Choose another file.") from error
