"""Charts of pages, drawn with Matplotlib as SVG that stands in the page itself; and pictures of spectrograms.

Text in them stays text. Matplotlib is imported where it is needed: it takes a second.
"""

import base64
import dataclasses
import hashlib
import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup, escape

# Distinguishable with any colour vision (Okabe and Ito, Color Universal Design, 2008).
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#8A8A8A")
LEVEL_COLOURS = {"clip": COLOURS[0], "clip_mean": COLOURS[1], "bag": COLOURS[2]}
TRAIN_COLOUR = "#8A8A8A"
_SIZE = (5.2, 3.3)  # inches: on a phone, a chart is shrunk little
_AXES_HEIGHT = 2.4  # of a line chart
_STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a name may hold dollar signs
    "svg.hashsalt": "mgc-jax",  # the same chart is the same text
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.9",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 9,
}
_MOST_POINTS = 300
_MOST_MARKERS = 12
_DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
_SPECTROGRAM_COLOURS = "magma"
_SPECTROGRAM_SHADES = 64


@dataclasses.dataclass(frozen=True)
class Chart:
    """A chart in a page.

    Attributes:
        svg: markup.
        caption: what it shows, in words.
    """

    svg: Markup
    caption: str


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
        name: in the legend; empty: it has no entry.
        x: [point].
        y: [point].
        colour: of the line.
        dash: 0 to 3: solid, dashed, dotted, both; distinguishes lines without colour.
        width: in points.
        marker: of Matplotlib, at each point; at some where there are many.
        sizes: areas of the markers; empty: all alike.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    colour: str
    dash: int = 0
    width: float = 1.8
    marker: str = ""
    sizes: Sequence[float] = ()


def line_chart(
    title: str,
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    caption: str,
    mark: tuple[float, str] | None = None,
    unit_square: bool = False,
    diagonal: bool = False,
) -> Chart:
    """Draws lines, each thinned to a few hundred points.

    Args:
        title: above the chart.
        lines: what is drawn.
        x_label: of the axis.
        y_label: of the axis.
        caption: what it shows, in words; also for those who do not see it.
        mark: a vertical line at some x, and its name.
        unit_square: both axes go from 0 to 1.
        diagonal: draws the line on which both are equal.
    """

    def draw(axes: Any) -> None:
        axes.set(title=title, xlabel=x_label, ylabel=y_label)
        if diagonal:
            axes.plot([0, 1], [0, 1], color="0.6", linewidth=1)
        entries: dict[str, list[Any]] = {"handles": [], "labels": []}  # given one by one: none is hidden by its name

        def name(handle: Any, label: str) -> None:
            entries["handles"].append(handle)
            entries["labels"].append(label)

        if mark is not None:
            name(axes.axvline(mark[0], color="0.35", linewidth=1.2, linestyle=(0, (3, 2))), mark[1])
        for line in lines:
            keep = thinned(len(line.x))
            x, y = np.asarray(line.x)[keep], np.asarray(line.y)[keep]
            style = {"color": line.colour, "linewidth": line.width, "linestyle": _DASHES[line.dash % len(_DASHES)]}
            marker = "" if len(line.sizes) else line.marker or ("o" if len(x) == 1 else "")
            every = max(1, len(x) // _MOST_MARKERS)
            (handle,) = axes.plot(x, y, marker=marker, markersize=4.5, markevery=every, **style)
            if line.name:
                name(handle, line.name)
            if len(line.sizes):
                sizes = np.asarray(line.sizes)[keep]
                axes.scatter(x, y, sizes, color=line.colour, marker=line.marker, zorder=3)
        if x_label == "epoch":
            axes.xaxis.get_major_locator().set_params(integer=True)
        if unit_square:
            axes.set(xlim=(0, 1.01), ylim=(0, 1.01))
        _legend_below(axes, entries["handles"], entries["labels"])

    return _chart(draw, title, caption, layout="none")


def _legend_below(axes: Any, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """Sets axes of a fixed size, and under them a legend in two columns: charts side by side line up."""
    columns = 1 if max(map(len, labels), default=0) > 24 else 2
    legend = 0.2 * -(-len(labels) // columns)
    top, left, right, bottom = 0.3, 0.65, 0.1, 0.58 + legend
    width, height = _SIZE[0], top + _AXES_HEIGHT + bottom
    axes.figure.set_size_inches(width, height)
    axes.set_position((left / width, bottom / height, 1 - (left + right) / width, _AXES_HEIGHT / height))
    axes.yaxis.set_label_coords(-0.5 / (width - left - right), 0.5)
    for column in range(columns):
        axes.figure.legend(
            handles[column::columns], labels[column::columns], loc="upper left",
            bbox_to_anchor=(column / columns, (legend + 0.05) / height), borderaxespad=0, borderpad=0,
            handlelength=2.6, labelspacing=0.35,
        )  # fmt: skip


def thinned(size: int) -> np.ndarray:
    """Returns indices of at most a few hundred points, evenly spaced, with both ends."""
    return np.unique(np.linspace(0, size - 1, min(size, _MOST_POINTS)).round().astype(int))


def thin_curve(precision: np.ndarray, recall: np.ndarray, points: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Picks at most `points` points of a precision-recall curve [point]: both ends, and others evenly over recall."""
    if len(recall) <= points:
        return precision, recall
    ascending = recall[::-1]
    kept = np.unique(np.r_[np.searchsorted(ascending, np.linspace(0, 1, points - 1)), len(recall) - 1])
    kept = len(recall) - 1 - kept[::-1]
    return precision[kept], recall[kept]


def spectrogram_picture(clip: np.ndarray) -> str:
    """Returns a spectrogram [frame, mel] as a small PNG in a data URI: time to the right, frequency upwards."""
    from matplotlib import image

    values = np.asarray(clip, np.float32)
    low, high = np.percentile(values, [1, 99.5])
    shades = np.clip((values - low) / max(high - low, 1e-6), 0, 1)
    shades = np.round(shades * (_SPECTROGRAM_SHADES - 1)) / (_SPECTROGRAM_SHADES - 1)  # compresses well
    file = io.BytesIO()
    image.imsave(file, shades.T, format="png", origin="lower", cmap=_SPECTROGRAM_COLOURS, vmin=0, vmax=1)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _chart(
    draw: Callable[[Any], None], title: str, caption: str, *, extra: float = 0.0, layout: Any = "constrained"
) -> Chart:
    """Draws on the axes of a new figure, which needs no display."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_SIZE[0], _SIZE[1] + extra), layout=layout)
        draw(figure.subplots())
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None}, transparent=True)
    return Chart(_inline(file.getvalue(), title, caption), caption)


def _inline(svg: str, title: str, caption: str) -> Markup:
    """Makes a part of a page of an SVG file: no addresses, no names that another chart has too."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    head, rest = svg.split(">", 1)
    view_box = re.search(r'viewBox="[^"]*"', head)
    assert view_box is not None
    name = hashlib.blake2b(rest.encode(), digest_size=4).hexdigest()
    used = set(re.findall(r'(?:url\(#|href="#)([\w.-]+)', rest))
    rest = re.sub(r'\s+id="([\w.-]+)"', lambda match: f' id="{name}-{match[1]}"' if match[1] in used else "", rest)
    rest = re.sub(r'url\(#|href="#', lambda match: f"{match[0]}{name}-", rest)
    rest = re.sub(r"font-family: [^;\"]*", "font-family: system-ui, sans-serif", rest)
    rest = re.sub(r"<style.*?</style>|<!--.*?-->", "", rest, flags=re.DOTALL)
    rest = re.sub(r"\s*\n\s*", "\n", rest)
    label = escape(f"{title}. {caption}")
    return Markup(f'<svg role="img" aria-label="{label}" {view_box[0]}>') + Markup(rest)


@dataclasses.dataclass(frozen=True)
class Dots:
    """One series of a dot chart: a value in some of its rows.

    Attributes:
        name: in the legend.
        values: by row.
        intervals: by row, where there is one.
        colour: of the dots.
        marker: of Matplotlib.
    """

    name: str
    values: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    colour: str
    marker: str = "o"


def dot_chart(title: str, rows: Sequence[str], series: Sequence[Dots], *, x_label: str, caption: str) -> Chart:
    """Draws a value per row and series, the first row on top.

    Args:
        title: above the chart.
        rows: their names.
        series: what is drawn.
        x_label: of the axis.
        caption: what it shows, in words.
    """

    def draw(axes: Any) -> None:
        handles = []
        for dots in series:
            places = [place for place, row in enumerate(rows) if row in dots.values]
            values = [dots.values[rows[place]] for place in places]
            handles.append(axes.scatter(values, places, 28, color=dots.colour, marker=dots.marker, zorder=3))
            for place in places:
                if rows[place] in dots.intervals:
                    axes.plot(dots.intervals[rows[place]], (place, place), color=dots.colour, linewidth=1.2)
        axes.set(xlabel=x_label, ylim=(len(rows) - 0.5, -0.5), title=title)
        axes.set_yticks(range(len(rows)), rows)
        names = [dots.name for dots in series]
        axes.figure.legend(handles, names, loc="outside lower left", ncols=2, borderpad=0.1)

    return _chart(draw, title, caption, extra=max(0.0, 0.24 * len(rows) - 1.6))


def standalone(chart: Chart) -> str:
    """Returns the text of an SVG file of a chart, on white: a viewer may be dark."""
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    head, rest = str(chart.svg).replace("<svg ", f"<svg {spaces} ", 1).split(">", 1)
    return f'{head}>\n<rect width="100%" height="100%" fill="#fff"/>{rest}\n'
