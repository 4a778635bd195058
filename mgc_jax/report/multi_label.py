"""What the report of a run with several genres per clip shows: their tree instead of confusions."""

from typing import Any

from mgc_jax.evaluation import metrics
from mgc_jax.evaluation.levels import LEVELS
from mgc_jax.evaluation.predictions import Predictions
from mgc_jax.report import charts
from mgc_jax.report.finished_run import FinishedRun, main_level


def sections(run: FinishedRun, split: str, scored: Predictions | None) -> dict[str, Any]:
    """Returns what only this kind of page has: `forest`, `threshold` and the charts `quality`."""
    result = run.results["splits"].get(split, {})
    by_level = result.get("per_genre") or {}
    return {
        "forest": genre_forest(by_level[main_level(list(by_level))]) if by_level else [],
        "threshold": result.get("threshold"),
        "quality": _curves(scored),
    }


def genre_forest(per_genre: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the top genres, each with `name`, `row` and `below`, the same of the genres below it.

    Args:
        per_genre: as from `evaluation.multi_label.genre_table`: every genre after its parent.
    """
    nodes: dict[str | None, dict[str, Any]] = {None: {"below": []}}
    for name, row in per_genre.items():
        nodes[name] = {"name": name, "row": row, "below": []}
        nodes.get(row.get("parent"), nodes[None])["below"].append(nodes[name])
    return nodes[None]["below"]


def _curves(scored: Predictions | None) -> list[charts.Chart]:
    """Draws precision and recall of each level; none without scores."""
    if scored is None:
        return []
    lines = []
    for i, (level, scores) in enumerate(scored.levels.items()):
        precision, recall = charts.thin_curve(*metrics.precision_recall(scored.label, scores))
        name = f"{LEVELS[level].title}: AP {metrics.micro_ap(scored.label, scores):.3f}"
        lines.append(charts.Line(name, recall, precision, charts.LEVEL_COLOURS[level], i))
    return [
        charts.line_chart(
            "Precision and recall", lines, x_label="recall", y_label="precision", unit_square=True,
            caption="All scores of all genres in one ranking (micro average); AP is the average precision.",
        )
    ]  # fmt: skip
