"""Draws the figures of docs/results.md from the tables there, so that both show the same numbers.

    python benchmarks/figures.py            # docs/pictures/results_*.svg

A figure `![...](pictures/results_NAME.svg)` is of the table above it. Each row of the table is a row of the figure,
each of its columns with such numbers a panel: 67.0 ± 1.9, a mean and a standard deviation, or +2.6 (-0.4 to +5.9), a
value and its interval, or beside such a bare number, which is a point. Other columns are left out.
"""

import io
import re
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt

PAGE = Path(__file__).parents[1] / "docs" / "results.md"
FIGURE = re.compile(r"^!\[[^\]]*\]\((pictures/results_\w+\.svg)\)$")
MINUS = "\N{MINUS SIGN}"
NUMBER = rf"[+{MINUS}-]?\d+(?:\.\d+)?"
DEVIATION = re.compile(rf"^\**({NUMBER})\** ± ({NUMBER})$")
INTERVAL = re.compile(rf"^\**({NUMBER})\** \(({NUMBER}) to ({NUMBER})\)$")


def tables_of(text):
    """Yields (name of the figure, rows of cells with the head first) for every figure of a page."""
    table = []
    for line in text.splitlines():
        if line.startswith("|"):
            table.append([cell.strip() for cell in line.strip("|").split("|")])
        elif found := FIGURE.match(line):
            if not table:
                raise ValueError(f"{found[1]} has no table above it")
            yield found[1], [table[0], *table[2:]]
        elif line.strip():
            table = []


def value_of(cell):
    """Reads a cell: (value, lowest, highest), or None where there is no such number."""
    if found := DEVIATION.match(cell):
        value, deviation = map(number, found.groups())
        return value, value - deviation, value + deviation
    if found := INTERVAL.match(cell):
        return tuple(map(number, found.groups()))
    if re.fullmatch(NUMBER, cell):
        return (number(cell),) * 3
    return None


def number(text):
    """The number that a text is, with a true minus sign or not."""
    return float(text.replace(MINUS, "-"))


def draw(rows):
    """Returns a figure as SVG: a panel for every column with such numbers."""
    head, *rows = rows
    ranges = re.compile(f"{DEVIATION.pattern}|{INTERVAL.pattern}")
    columns = [i for i in range(1, len(head)) if any(ranges.match(row[i]) for row in rows)]
    mpl.rcParams.update({"svg.hashsalt": "mgc-jax", "font.size": 9, "svg.fonttype": "none"})
    size = (2.6 + 2.1 * len(columns), 0.6 + 0.28 * len(rows))
    figure, axes = plt.subplots(1, len(columns), figsize=size, sharey=True, squeeze=False, layout="constrained")
    for axis, column in zip(axes[0], columns, strict=True):
        for y, row in enumerate(rows):
            if (found := value_of(row[column])) is None:
                continue
            value, low, high = found
            axis.plot([low, high], [y, y], color="#5b6abf", linewidth=2, solid_capstyle="round")
            axis.plot(value, y, "o", color="#303f9f", markersize=5)
        if any(row[column].startswith(("+", MINUS)) for row in rows):
            axis.axvline(0, color="#888888", linewidth=0.8)
        axis.set_title(head[column].replace("**", ""), fontsize=9)
        axis.set_yticks(range(len(rows)), [row[0].replace("**", "").replace("`", "") for row in rows])
        axis.grid(axis="x", color="#dddddd", linewidth=0.6)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(left=False)
    axes[0][0].set_ylim(len(rows) - 0.5, -0.5)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    plt.close(figure)
    return text.getvalue()


def main():
    for name, rows in tables_of(PAGE.read_text()):
        (PAGE.parent / name).write_text(draw(rows))
        print(PAGE.parent / name)


if __name__ == "__main__":
    main()
