"""Describes a prepared dataset: clips per genre, bags, rejects, storage; beside the published counts of FMA.

python -m tfds_fma.describe --data_dir ~/data --subset small --representation mel_1360x96 --plots ~/plots
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tfds_fma import plots
from tfds_fma.command_line import add_dataset_flags, dataset_path, exit_status
from tfds_fma.errors import UserError
from tfds_fma.source.archives import readable_size

if TYPE_CHECKING:
    pass
from tfds_fma.description import Description, Storage, describe, write_json


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
        *([f"resampler {description.resampler}"] if description.resampler else []),
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


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tfds_fma.describe", description=__doc__.splitlines()[0])
    add_dataset_flags(parser)
    parser.add_argument("--plots", metavar="DIR", help="also draw the genres and an example of each, as PNG files")
    parser.add_argument("--json", metavar="FILE", help="also write the numbers as JSON")
    args = parser.parse_args(argv)
    return exit_status(lambda: _run(args))


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
        raise UserError(f"Cannot write to {directory} ({error.strerror}). Choose another folder.") from error
    genres, examples = directory / f"{description.name}-genres.png", directory / f"{description.name}-examples.png"
    plots.plot_genres(description, genres)
    print(f"\nDrawn: {genres}")
    if plots.plot_examples(description.path, examples):
        print(f"Drawn: {examples}")
    else:
        print(f"No picture of examples: the axes of {description.representation} are not time and frequency.")


if __name__ == "__main__":
    sys.exit(main())
