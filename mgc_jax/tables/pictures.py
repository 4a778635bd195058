"""The figures of both papers, ours and theirs in one chart."""

from collections.abc import Mapping, Sequence

import numpy as np

from mgc_jax.evaluation import metrics
from mgc_jax.evaluation.predictions import Predictions
from mgc_jax.papers import NOTES, matt_tables
from mgc_jax.report.charts import COLOURS, Chart, Dots, Line, dot_chart, line_chart, thin_curve
from mgc_jax.tables.plan import CRNN_FAMILIES, KNN_5, MLP_FAMILY
from mgc_jax.tables.write import Entry

_FAMILIES = {
    "fig4a": ("Precision and recall: features", ("LR", KNN_5, "SVM", "MLP", *MLP_FAMILY)),
    "fig4b": ("Precision and recall: spectrograms", CRNN_FAMILIES),
}
_MARKERS = "os^Dv*"  # distinguish the systems without colour


def curves(part: str, runs: Mapping[str, Predictions], clips: str, synthetic: bool) -> Chart | None:
    """Draws figure 4 a or b of MATT: the curve of each system's first seed, and what can be compared with it.

    Args:
        part: fig4a or fig4b.
        runs: predictions of the split, by system.
        clips: what the published curves are of, in words.
        synthetic: whether the corpus is the demo.
    """
    title, systems = _FAMILIES[part]
    lines = []
    for number, system in enumerate(system for system in systems if system in runs):
        run, colour, marker = runs[system], COLOURS[number % len(COLOURS)], _MARKERS[number % len(_MARKERS)]
        level = "bag" if "bag" in run.levels else "clip"
        precision, recall = thin_curve(*metrics.precision_recall(run.label, run.levels[level]))
        lines.append(Line(system, recall, precision, colour, marker=marker))
        printed = matt_tables.FIG4[system]
        if not is_invalid(printed.notes):
            recalls = np.array(matt_tables.RECALLS)
            lines.append(
                Line(f"{system}, published", recalls, np.array(printed.precision_at), colour, dash=2, marker=marker)
            )
    if not lines:
        return None
    caption = (
        "Micro-averaged over all scores of all clips; the scores of bags are copied to their clips. Solid: ours, the "
        f"first seed. Dotted, with the same marker: published, {clips}."
    )
    if any(is_invalid(matt_tables.FIG4[system].notes) for system in systems):
        caption += " The published curves of LR, KNN, SVM and MLP are invalid and left out."
    if synthetic:
        title += " (SYNTHETIC MUSIC)"
    return line_chart(title, lines, x_label="recall", y_label="precision", caption=caption, unit_square=True)


def dots(title: str, entries: Sequence[Entry], x_label: str, clips: str, synthetic: bool) -> Chart | None:
    """Draws one number per row, ours with its interval and the published one.

    Args:
        title: above the chart.
        entries: one per row.
        x_label: of the axis.
        clips: what the published values are of, in words.
        synthetic: whether the corpus is the demo.
    """
    ours, intervals, theirs = {}, {}, {}
    for entry in entries:
        if entry.measured is not None:
            ours[entry.number.row] = entry.measured.mean
            if entry.measured.low is not None and entry.measured.high is not None:
                intervals[entry.number.row] = (entry.measured.low, entry.measured.high)
        if entry.number.published is not None:
            theirs[entry.number.row] = entry.number.published.value
    rows = [entry.number.row for entry in entries if entry.number.row in ours or entry.number.row in theirs]
    if not ours:
        return None
    series = [Dots("ours, 95 % interval", ours, intervals, COLOURS[0])]
    if theirs:
        series.append(Dots("published", theirs, {}, COLOURS[3], marker="x"))
    caption = f"{title}: ours with the 95 % interval of a bootstrap over artists"
    caption += f", and the published values, {clips}." if theirs else "."
    return dot_chart(
        title + (" (SYNTHETIC MUSIC)" if synthetic else ""), rows, series, x_label=x_label, caption=caption
    )


def is_invalid(notes: Sequence[str]) -> bool:
    """Whether published figures with these notes cannot be compared with anything."""
    return any(NOTES[note].startswith("INVALID") for note in notes)
