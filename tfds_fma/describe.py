"""Describes a prepared dataset: clips per genre, bags, rejects, storage; beside the published counts of FMA.

python -m tfds_fma.describe --data_dir ~/data --subset small --representation mel_1360x96 --plots ~/plots
"""

import argparse
import collections
import csv
import dataclasses
import json
import statistics
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfds_fma import layout, plots, published, reading
from tfds_fma.archives import readable_size
from tfds_fma.dataset_flags import add_dataset_flags, dataset_path
from tfds_fma.errors import UNREADABLE, FmaError, in_words
from tfds_fma.metadata import SPLITS, UNKNOWN_ID
from tfds_fma.prepare import run_command

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
class Bags:
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
    clips: Mapping[str, Mapping[str, int]]
    published: Mapping[str, Mapping[str, int]] | None
    published_totals: Mapping[str, int] | None
    mismatches: tuple[Mismatch, ...]
    bags: Mapping[str, Bags]
    shared_artists: int
    rejects: tuple[Rejects, ...] | None
    storage: Mapping[str, Storage]


def describe(path: str | Path, *, progress: bool = True) -> Description:
    """Reads a prepared dataset once and counts.

    Args:
      path: its folder.
      progress: whether to show a progress bar.

    Raises:
      FmaError: if there is no prepared dataset, or it is damaged.
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
    per_genre = None if demo else published.clips_per_genre(subset)
    totals = None if demo else published.clips_per_split(subset)
    return Description(
        path=str(path),
        name=info.config_name,
        subset=subset,
        representation=representation,
        about=info.config_description,
        version=str(info.version),
        demo=demo,
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
      FmaError: if the file cannot be read.
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
        raise FmaError(f"{file_path} cannot be read ({in_words(error)}). Remove it, or prepare again.") from error
    return rows


def bag_statistics(genre: "np.ndarray", artist: "np.ndarray", album: "np.ndarray") -> Bags:
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
    return Bags(
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
    from tqdm import tqdm

    columns = {}
    total = sum(len(source) for source in sources.values())
    with tqdm(desc="reading", total=total, unit=" clips", disable=None if progress else True) as bar:
        for split in SPLITS.values():
            source = sources.get(split, ())
            table = np.empty((len(_COLUMNS), len(source)), np.int64)
            for start in range(0, len(source), _BATCH):
                stop = min(start + _BATCH, len(source))
                try:
                    examples = source.__getitems__(list(range(start, stop)))
                except Exception as error:  # whatever TFDS, Protocol Buffers and ArrayRecord raise about damaged files
                    raise FmaError(
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
        raise FmaError(
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
        artist for _, artists, _ in columns.values() for artist in set(artists.tolist()) - {UNKNOWN_ID}
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


def render(description: Description) -> str:
    """Returns the report as text."""
    sections = (
        _render_head(description),
        _render_clips(description),
        _render_comparison(description),
        _render_bags(description),
        _render_rejects(description),
        _render_storage(description),
    )
    return "\n\n".join("\n".join(lines) for lines in sections)


def _render_head(description: Description) -> list[str]:
    demo = ["note      the synthetic demo corpus: laid out as FMA, but nothing in it is from FMA"]
    return [
        f"{description.name}, version {description.version}",
        f"contents  {description.about}",
        f"folder    {description.path}",
        *(demo if description.demo else []),
    ]


def _render_clips(description: Description) -> list[str]:
    """The table of clips per genre and split, with the published counts beside them."""
    clips, per_genre, totals = description.clips, description.published, description.published_totals
    ours = {genre: [numbers[genre] for numbers in clips.values()] for genre in next(iter(clips.values()))}
    ours["all"] = [sum(numbers.values()) for numbers in clips.values()]
    theirs: dict[str, list[int]] = {}
    if per_genre is not None:
        theirs |= {genre: [per_genre[split].get(genre, 0) for split in clips] for genre in ours}
    if totals is not None:
        theirs["all"] = [totals[split] for split in clips]
    title, header = "Clips per genre", ["genre"]
    for name in (*clips, "all"):
        header += [name, "FMA"] if theirs else [name]
    rows = [header]
    for genre, numbers in ours.items():
        published_numbers = theirs.get(genre)
        row = [genre]
        for position, number in enumerate([*numbers, sum(numbers)]):
            row.append(str(number))
            if theirs:
                row.append(str([*published_numbers, sum(published_numbers)][position]) if published_numbers else "")
        rows.append(row)
    if theirs:
        title += "; FMA: as published (Defferrard et al. 2017)"
    return [title, *_table(rows)]


def _render_comparison(description: Description) -> list[str]:
    """The mismatches, one a line, and what explains them."""
    if description.demo:
        return ["Published counts: not compared, it is the synthetic demo corpus."]
    if description.published_totals is None:
        return [f"Published counts: there are none of the subset {description.subset!r}."]
    if not description.mismatches:
        return ["Published counts: no difference."]
    lines = ["Published counts: differences"]
    missing, explained = 0, 0
    for cell in description.mismatches:
        lacking = cell.published - cell.clips
        name = f"{cell.split} {cell.genre}" if cell.genre else cell.split
        lines.append(
            f"  {name} {cell.clips} of {cell.published}: "
            f"{f'{lacking} missing' if lacking > 0 else f'{-lacking} too many'}"
        )
        missing += max(lacking, 0)
        explained += min(max(lacking, 0), cell.rejected)
    if missing:
        of = sum(description.published_totals.values())
        lines.append(f"{missing} of FMA's {of} clips are missing in all; rejects.csv explains {explained} of them.")
    if missing > explained:
        lines.append(f"Not in the track table that the dataset was made of: {missing - explained}.")
    return lines


def _render_bags(description: Description) -> list[str]:
    rows = [["", "bags", "mean size", "median", "largest", "of one clip", "of mixed genre", "clips of unknown ids"]]
    for split, bags in description.bags.items():
        rows.append(
            [
                split,
                str(bags.number),
                f"{bags.mean:.2f}",
                f"{bags.median:g}",
                str(bags.largest),
                _share(bags.singletons, bags.number),
                _share(bags.mixed, bags.number),
                str(bags.unknown),
            ]
        )
    artists = description.shared_artists
    verdict = "as it should be" if not artists else "FMA's splits share none: is the track table FMA's own?"
    return [
        "Bags: clips of the same album and artist within a split",
        *_table(rows),
        f"Artists in more than one split: {artists} ({verdict})",
    ]


def _render_rejects(description: Description) -> list[str]:
    if description.rejects is None:
        return ["Rejects: there is no rejects.csv beside the data."]
    if not description.rejects:
        return ["Rejects: none"]
    lines = [f"Rejects: {sum(group.number for group in description.rejects)} tracks that could not be used"]
    for group in description.rejects:
        lines.append(f"  {group.reason}: {group.number}, such as" if group.examples else f"  {group.reason}")
        lines += [f"    {example}" for example in group.examples]
    return lines


def _render_storage(description: Description) -> list[str]:
    parts = list(description.storage.items())
    every = [part for _, part in parts]
    parts.append(
        (
            "all",
            Storage(
                sum(part.clips for part in every),
                sum(part.shards for part in every),
                sum(part.bytes for part in every),
            ),
        )
    )
    rows = [["", "clips", "shards", "size", "bytes", "bytes per clip"]]
    for name, part in parts:
        per_clip = f"{part.bytes / part.clips:.0f}" if part.clips else "-"
        rows.append([name, str(part.clips), str(part.shards), readable_size(part.bytes), str(part.bytes), per_clip])
    return ["Storage", *_table(rows)]


def _table(rows: list[list[str]]) -> list[str]:
    """Aligns a table: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]


def _share(number: int, of: int) -> str:
    """A number and its share in percent."""
    return f"{number} ({100 * number / of:.1f} %)" if of else f"{number}"


def write_json(description: Description, path: str | Path) -> None:
    """Writes a description as JSON.

    Raises:
      FmaError: if the file cannot be written.
    """
    text = json.dumps(dataclasses.asdict(description), indent=2, ensure_ascii=False)
    try:
        Path(path).expanduser().write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise FmaError(f"Cannot write {path} ({error.strerror}). Choose another file.") from error


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tfds_fma.describe", description=__doc__.splitlines()[0])
    add_dataset_flags(parser)
    parser.add_argument("--plots", metavar="DIR", help="also draw the genres and an example of each, as PNG files")
    parser.add_argument("--json", metavar="FILE", help="also write the numbers as JSON")
    args = parser.parse_args(argv)
    return run_command(lambda: _run(args))


def _run(args: argparse.Namespace) -> None:
    path = dataset_path(args)
    if args.plots is not None:
        plots.require_matplotlib()  # before the minutes that reading may take
    description = describe(path)
    print(render(description))
    if args.json is not None:
        write_json(description, args.json)
    if args.plots is not None:
        _draw(description, Path(args.plots).expanduser())


def _draw(description: Description, directory: Path) -> None:
    """Draws the pictures into a folder, and says what was drawn."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FmaError(f"Cannot write to {directory} ({error.strerror}). Choose another folder.") from error
    genres, examples = directory / f"{description.name}-genres.png", directory / f"{description.name}-examples.png"
    plots.plot_genres(description, genres)
    print(f"\nDrawn: {genres}")
    if plots.plot_examples(description.path, examples):
        print(f"Drawn: {examples}")
    else:
        print(f"No picture of examples: the axes of {description.representation} are not time and frequency.")


if __name__ == "__main__":
    sys.exit(main())
