"""The tables as Markdown, CSV and HTML, all from the same entries."""

import csv
import dataclasses
import html
import io
import string
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mgc_jax.papers import NOTES
from mgc_jax.report.charts import Chart, standalone
from mgc_jax.report.html import render_page
from mgc_jax.runtime.files import write_text
from mgc_jax.tables.measure import PERCENT, Measured
from mgc_jax.tables.plan import Number

SYNTHETIC = "SYNTHETIC MUSIC: these numbers say nothing about music"
_DIMENSIONS = "Dim."
_CHARTS = ("fig2", "fig3", "fig4a", "fig4b", "fig4c")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A place of a table, filled in.

    Attributes:
        number: what belongs there.
        measured: ours; None: there is none.
        error: why there is none, or not of all seeds; empty where the level or the clips do not exist, or all is well.
        comparable: whether the published number is of the same clips.
        per_clip: ours per clip, where bags are counted as in the paper; None: ours is per clip.
    """

    number: Number
    measured: Measured | None
    error: str = ""
    comparable: bool = False
    per_clip: Measured | None = None

    @property
    def difference(self) -> float | None:
        """Ours less the published one; None where there is none, or it is invalid."""
        given = self.number.published
        if self.measured is None or given is None or self.number.metric.startswith("support"):
            return None
        if any(NOTES[note].startswith("INVALID") for note in given.notes):
            return None
        return self.measured.mean - given.value

    @property
    def own_notes(self) -> list[str]:
        """What is to be said of our number, in full."""
        return [NOTES[key] for key in self.number.notes] + ([f"FAILED: {self.error}"] if self.error else [])

    @property
    def paper_notes(self) -> list[str]:
        """What is to be said of the published number, in full."""
        return [NOTES[key] for key in self.number.published.notes] if self.number.published else []

    @property
    def notes(self) -> list[str]:
        """All that is to be said of it."""
        return list(dict.fromkeys(self.own_notes + self.paper_notes))

    @property
    def digits(self) -> int:
        """Decimals of ours."""
        if self.number.metric.startswith("support"):
            return 0
        return 1 if self.number.metric.startswith(PERCENT) else 3


@dataclasses.dataclass(frozen=True)
class Section:
    """A table with all that belongs to it.

    Attributes:
        name: for files.
        title: above it.
        entries: its places; rows come in the order in which they first appear.
        facts: sentences below it.
        warnings: sentences below the facts.
        charts: (file name without extension, chart).
        dimensions: numbers per clip of a row's features, for a column of their own.
    """

    name: str
    title: str
    entries: Sequence[Entry]
    facts: Sequence[str] = ()
    warnings: Sequence[str] = ()
    charts: Sequence[tuple[str, Chart]] = ()
    dimensions: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def columns(self) -> list[str]:
        """Names of the columns, in the order of the fullest row, after that of the dimensions."""
        return ([_DIMENSIONS] if self.dimensions else []) + self._columns

    @property
    def _columns(self) -> list[str]:
        by_row: dict[str, list[str]] = {}
        for entry in self.entries:
            by_row.setdefault(entry.number.row, []).append(entry.number.column)
        fullest_first = sorted(by_row.values(), key=len, reverse=True)
        return list(dict.fromkeys(column for columns in fullest_first for column in columns))

    @property
    def notes(self) -> dict[str, str]:
        """The mark of each note, by its text."""
        texts = dict.fromkeys(note for entry in self.entries for note in entry.notes)
        return dict(zip(texts, _marks(), strict=False))

    @property
    def rows(self) -> list[tuple[str, list["Shown | None"]]]:
        """Rows with their cells; None where a place is empty."""
        marks, columns = self.notes, self._columns
        by_row: dict[str, dict[str, Entry]] = {}
        for entry in self.entries:
            by_row.setdefault(entry.number.row, {})[entry.number.column] = entry
        first = {row: [_plain(self.dimensions.get(row))] if self.dimensions else [] for row in by_row}
        return [
            (row, first[row] + [shown(entries[column], marks) if column in entries else None for column in columns])
            for row, entries in by_row.items()
        ]


@dataclasses.dataclass(frozen=True)
class Shown:
    """The text of a cell.

    Attributes:
        ours: mean, and deviation if there are several seeds.
        interval: its interval, or empty.
        per_clip: ours per clip, where bags are counted as in the paper, or empty.
        paper: the published number and the difference, or empty.
        marks: of the notes on ours.
        paper_marks: of the notes on the published number.
    """

    ours: str
    interval: str
    per_clip: str
    paper: str
    marks: str
    paper_marks: str


def _plain(number: int | None) -> Shown | None:
    return None if number is None else Shown(str(number), "", "", "", "", "")


@dataclasses.dataclass(frozen=True)
class Document:
    """All tables of a paper.

    Attributes:
        paper: matt or ubc.
        title: of the page.
        synthetic: whether the corpus is the demo.
        facts: sentences on data and runs.
        sections: the tables.
        warnings: on the corpus.
    """

    paper: str
    title: str
    synthetic: bool
    facts: Sequence[str]
    sections: Sequence[Section]
    warnings: Sequence[str]


def shown(entry: Entry, marks: dict[str, str]) -> Shown:
    """Writes an entry as text."""
    ours, interval, paper, digits = "-", "", "", entry.digits
    if entry.error:
        ours = "failed"
    if entry.measured is not None:
        measured = entry.measured
        ours = f"{measured.mean:.{digits}f}"
        if measured.deviation is not None:
            ours += f" ± {measured.deviation:.{digits}f}"
        if measured.low is not None and measured.high is not None:
            interval = f"{measured.low:.{digits}f} to {measured.high:.{digits}f}"
    per_clip = f"per clip {entry.per_clip.mean:.{digits}f}" if entry.per_clip is not None else ""
    if entry.number.published is not None:
        paper = f"paper {_printed(entry.number.published.value, digits)}"
        if entry.difference is not None:
            difference = _signed(entry.difference, digits)
            paper += f" ({difference})" if entry.comparable else f" [{difference}]"
    own, theirs = (",".join(sorted(marks[note] for note in notes)) for notes in (entry.own_notes, entry.paper_notes))
    return Shown(ours, interval, per_clip, paper, own, theirs)


def write(document: Document, folder: Path) -> list[Path]:
    """Writes `tables.md`, `tables.csv`, `tables.html` and the charts as SVG files; returns their paths."""
    texts = {"tables.md": markdown(document), "tables.csv": comma_separated(document), "tables.html": page(document)}
    for section in document.sections:
        texts |= {f"{name}.svg": standalone(chart) for name, chart in section.charts}
    for name, text in texts.items():
        write_text(folder / name, text)
    for name in _CHARTS:  # of earlier tables
        if f"{name}.svg" not in texts:
            (folder / f"{name}.svg").unlink(missing_ok=True)
    return [folder / name for name in texts]


def markdown(document: Document) -> str:
    """Returns the tables as Markdown of GitHub's kind."""
    lines = [f"# {_md(document.title)}", ""]
    if document.synthetic:
        lines += [f"# ⚠ {SYNTHETIC}", ""]
    lines += [f"* {_md(fact)}" for fact in document.facts]
    for section in document.sections:
        lines += ["", f"## {_md(section.title)}{' (SYNTHETIC MUSIC)' if document.synthetic else ''}", ""]
        lines.append("| | " + " | ".join(map(_md, section.columns)) + " |")
        lines.append("|---|" + "---|" * len(section.columns))
        for row, cells in section.rows:
            lines.append(f"| {_md(row)} | " + " | ".join(map(_md_cell, cells)) + " |")
        lines.append("")
        lines += [f"* {_md(fact)}" for fact in section.facts]
        lines += [f"* <sup>{mark}</sup> {_md(note)}" for note, mark in section.notes.items()]
        lines += [f"* Warning: {_md(warning)}" for warning in section.warnings]
        lines += [f"\n![{_md(chart.caption)}]({name}.svg)" for name, chart in section.charts]
    if document.warnings:
        lines += ["", "## Genres carried by few artists", ""]
        lines += [f"* {_md(warning)}" for warning in document.warnings]
    return "\n".join(lines) + "\n"


_CSV_COLUMNS = (
    "corpus_is_synthetic", "paper", "table", "row", "column", "level", "metric", "split", "ours", "deviation", "seeds",
    "low", "high", "clips", "ours_per_clip", "published", "difference", "same_clips", "note", "dimensions",
)  # fmt: skip


def comma_separated(document: Document) -> str:
    """Returns one line per place; accuracies in percent, nothing rounded."""
    file = io.StringIO()
    writer = csv.DictWriter(file, _CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for section in document.sections:
        for entry in section.entries:
            number, measured = entry.number, entry.measured
            line: dict[str, object] = {
                "corpus_is_synthetic": "SYNTHETIC" if document.synthetic else "",
                "paper": document.paper, "table": number.part, "row": number.row, "column": number.column,
                "level": number.level, "metric": number.metric, "split": number.split,
                "published": number.published.value if number.published else None,
                "difference": entry.difference,
                "same_clips": ("yes" if entry.comparable else "no") if number.published else "",
                "ours_per_clip": entry.per_clip.mean if entry.per_clip else None,
                "note": " ".join(entry.notes), "dimensions": section.dimensions.get(number.row),
            }  # fmt: skip
            if measured is not None:
                line |= {
                    "ours": measured.mean, "deviation": measured.deviation, "seeds": measured.seeds,
                    "low": measured.low, "high": measured.high, "clips": measured.clips,
                }  # fmt: skip
            writer.writerow(line)
    return file.getvalue()


def page(document: Document) -> str:
    """Returns the tables as a page that needs no other file."""
    return render_page("tables.html", document=document)


def _md(text: str) -> str:
    """Escapes what Markdown or HTML would take for markup."""
    text = html.escape(" ".join(text.split()), quote=False)
    for character in "\\`*_[]|~":
        text = text.replace(character, f"\\{character}")
    return text


def _md_cell(cell: Shown | None) -> str:
    if cell is None:
        return ""
    marks, paper_marks = (f"<sup>{marks}</sup>" if marks else "" for marks in (cell.marks, cell.paper_marks))
    lines = [f"**{_md(cell.ours)}**{marks}", _md(cell.interval), _md(cell.per_clip), _md(cell.paper) + paper_marks]
    return "<br>".join(filter(None, lines))


def _marks() -> Iterator[str]:
    yield from string.ascii_lowercase
    for first in string.ascii_lowercase:
        yield from (first + second for second in string.ascii_lowercase)


def _printed(value: float, digits: int) -> str:
    """Writes a published number with as many decimals as it was printed with, as far as that is known."""
    if digits == 0:
        return f"{value:.0f}"
    if digits == 1:
        return f"{value:.2f}" if round(value, 2) == round(value, 6) or round(value, 3) != value else f"{value:.3f}"
    return f"{value:.4f}".rstrip("0").ljust(4, "0")


def _signed(value: float, digits: int) -> str:
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text
