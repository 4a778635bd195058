"""The comparison of runs as one HTML file: side by side, and paired where they scored the same clips."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mgc_jax.config import keys
from mgc_jax.config.keys import MULTI_LABEL, SINGLE_LABEL
from mgc_jax.errors import UserError
from mgc_jax.evaluation import metrics
from mgc_jax.evaluation.bootstrap import ArtistBootstrap, mcnemar, paired
from mgc_jax.evaluation.levels import LEVELS
from mgc_jax.evaluation.predictions import Predictions, same_bags, shared_clips
from mgc_jax.evaluation.tasks import metric_samples, metric_values, metrics_of
from mgc_jax.report import charts
from mgc_jax.report.finished_run import FinishedRun, levels_of, read_run
from mgc_jax.report.html import render_page
from mgc_jax.runtime.files import write_text

_COMPARISON_FILE = "compare.html"


def write_comparison(folders: Sequence[Path], out: Path) -> Path:
    """Writes the comparison of several runs; returns its path.

    Args:
        folders: the runs' folders; the others are compared with the first.
        out: the file (*.html), or the folder for `compare.html`.

    Raises:
        UserError: a folder holds no finished run, or a damaged one, or the file cannot be written.
    """
    runs = [read_run(folder) for folder in folders]
    names = run_names(runs)
    task = runs[0].task
    if other := next((name for name, run in zip(names, runs, strict=True) if run.task != task), None):
        tasks = (task, MULTI_LABEL if task == SINGLE_LABEL else SINGLE_LABEL)
        raise UserError(
            f"{names[0]} and {other} are of two tasks ({' and '.join(tasks)}), whose metrics cannot be compared; "
            "compare runs of one task"
        )
    # The split that most of them have; of two that as many have, test.
    split = max(("test", "validation"), key=lambda name: sum(name in run.splits for run in runs))
    results = [run.results["splits"].get(split, {}) for run in runs]
    own = compared_levels([levels_of(result) for result in results])
    pairs = [_pair(names[i], run, runs[0], split) for i, run in enumerate(runs) if i]
    evaluated = [(name, run) for name, run in zip(names, runs, strict=True) if split in run.splits]
    unlike = [(name, what) for name, run in evaluated[1:] if (what := mismatches(evaluated[0][1], run, split))]
    page = render_page(
        "compare.html",
        runs=list(zip(names, runs, results, own, strict=True)),
        split=split,
        lacking=[name for name, run in zip(names, runs, strict=True) if split not in run.splits],
        levels=[level for level in LEVELS if any(level in result for result in results)],
        synthetic_music=any(run.synthetic for run in runs),
        unlike=unlike,
        first=names[0],
        pairs=pairs,
        genres=_genre_table(results, own, "AP" if task == MULTI_LABEL else "F1"),
        curves=_validation_curves(runs, names, own),
        precision_recall=_precision_recall(runs, names, own, split),
        options=different_options(runs),
        metrics=metrics_of(task),
        compared=compared_metrics(task),
        genre_measure="AP" if task == MULTI_LABEL else "F1",
    )
    path = out if out.suffix == ".html" else out / _COMPARISON_FILE
    write_text(path, page, remedy="Make room there, or choose another --out.")
    return path


def compared_levels(levels: Sequence[list[str]]) -> list[str | None]:
    """Returns the level in which each run is compared: bag where any of them has it.

    A run without it is compared at clip_mean. None: it has no level at all.
    """
    without_bag = ("clip_mean", "clip") if any("bag" in of_run for of_run in levels) else ("clip", "clip_mean")
    return [next((level for level in ("bag", *without_bag) if level in of_run), None) for of_run in levels]


def run_names(runs: Sequence[FinishedRun]) -> list[str]:
    """Returns the names of the folders, with as many of the folders above them as make them distinct."""
    parts = [run.folder.resolve().parts for run in runs]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise UserError(f"the same run is given twice: {runs[0].folder if len(runs) == 1 else _twice(runs)}")


def _twice(runs: Sequence[FinishedRun]) -> Path:
    folders = [run.folder.resolve() for run in runs]
    return next(folder for folder in folders if folders.count(folder) > 1)


Scores = dict[str, tuple[np.ndarray, np.ndarray]]  # by level: log scores [clip, genre] and predicted genres [clip]


def scores_of(predictions: Predictions, rows: np.ndarray | slice = slice(None)) -> Scores:
    """Returns scores and predicted genres of some clips by level; clip means are of whole bags."""
    return {
        level: (scores[rows], predictions.predicted(level)[rows]) for level, scores in predictions.levels.items()
    }  # fmt: skip


def paired_differences(
    label: np.ndarray, artists: np.ndarray, first: Scores, second: Scores, levels: Sequence[tuple[str, str]]
) -> list[dict[str, Any]]:
    """Compares two systems on the same clips: the second minus the first.

    Args:
        label: int [clip], or bool [clip, genre] where clips have several genres.
        artists: str [clip].
        first: scores of the clips.
        second: scores of the same clips.
        levels: pairs of a level of the second and a level of the first.

    Returns:
        For each pair `levels`; `metrics`, by metric `difference`, `interval` and `p`, the latter two from the
        bootstrap over artists, NaN of too few; and `mcnemar`, the p-value of McNemar's test (None with several
        genres).
    """
    bootstrap = ArtistBootstrap(artists)
    samples: dict[tuple[int, str], dict[str, np.ndarray]] = {}
    values: dict[tuple[int, str], dict[str, float]] = {}
    for pair in levels:
        for key in zip((1, 0), pair, strict=True):
            if key not in samples:
                scores = (first, second)[key[0]][key[1]]
                samples[key] = metric_samples(bootstrap, label, *scores)
                values[key] = metric_values(label, *scores)
    rows = []
    several = label.ndim == 2
    for level, other in levels:
        by_metric = {}
        for name in compared_metrics(MULTI_LABEL if several else SINGLE_LABEL):
            low, high, p = paired(samples[1, level][name], samples[0, other][name], len(bootstrap.artists))
            difference = values[1, level].get(name, np.nan) - values[0, other].get(name, np.nan)
            by_metric[name] = {"difference": difference, "interval": (low, high), "p": p}
        p_value = None if several else mcnemar(second[level][1] == label, first[other][1] == label)
        rows.append({"levels": (level, other), "metrics": by_metric, "mcnemar": p_value})
    return rows


def compared_metrics(task: str = SINGLE_LABEL) -> list[str]:
    """Returns the names of the metrics of a task that are compared, those that can be resampled."""
    return [
        name
        for name, metric in metrics_of(task).items()
        if metric.compared and (metric.from_confusion or metric.resampled)
    ]


def comparable_levels(first: Predictions, second: Predictions) -> list[tuple[str, str]]:
    """Returns pairs of a level of the second and one of the first.

    The same level of both; and where only one has the level bag, that against clip_mean of the other.
    """
    pairs = [(level, level) for level in LEVELS if level in first.levels and level in second.levels]
    if "bag" in second.levels and "bag" not in first.levels and "clip_mean" in first.levels:
        pairs.append(("bag", "clip_mean"))
    if "bag" in first.levels and "bag" not in second.levels and "clip_mean" in second.levels:
        pairs.append(("clip_mean", "bag"))
    return pairs


def _pair(name: str, run: FinishedRun, base: FinishedRun, split: str) -> dict[str, Any]:
    """Compares a run with the first one, or says in a sentence why that cannot be."""
    pair: dict[str, Any] = {"name": name, "why": "", "clips": 0, "artists": 0, "rows": []}
    first, second = base.scored(split), run.scored(split)
    if first is None or second is None:
        which = "the first run" if first is None else "this run"
        pair["why"] = f"not paired: {which} has no predictions on the {split} split (--mode eval writes them)"
        return pair
    at_first, at_second = shared_clips(first, second)
    label, artists = first.label[at_first], first.artists[at_first]
    if first.genres != second.genres:
        pair["why"] = "not paired: it has other genres, or the same in another order"
    elif not _same_corpus(base, run, first, second):
        pair["why"] = "not paired: it is on another corpus"
    elif not len(label):
        pair["why"] = f"not paired: the {split} splits of the two share no clip"
    else:
        levels = comparable_levels(first, second)
        if not same_bags(first.bag[at_first], second.bag[at_second]):
            levels = [pair for pair in levels if pair == ("clip", "clip")]
            if not levels:
                return pair | {"why": "not paired: its bags hold other clips"}
        pair |= {"clips": len(label), "artists": len(np.unique(artists))}
        pair["all"] = len(label) == len(first) == len(second)
        pair["rows"] = paired_differences(
            label, artists, scores_of(first, at_first), scores_of(second, at_second), levels
        )
    return pair


def mismatches(base: FinishedRun, run: FinishedRun, split: str) -> list[str]:
    """Says in what the clips differ that two runs were evaluated on; nothing if their results can be compared.

    Args:
        base: the run that the other is compared with.
        run: the other.
        split: which both have results on.
    """
    ours, theirs = (_on(each, split) for each in (base, run))
    first, second = base.scored(split), run.scored(split)
    if first is None or second is None:  # what the results say has to do
        return [] if ours == theirs else [f"it is on {theirs}; the first on {ours}"]
    if set(first.genres) != set(second.genres):
        alone = sorted(set(first.genres) ^ set(second.genres))
        more = f" and {len(alone) - 3} more" if len(alone) > 3 else ""
        return [f"it has other genres ({', '.join(alone[:3])}{more} in one of the two only), on {theirs}; "
                f"the first is on {ours}"]  # fmt: skip
    if not _same_corpus(base, run, first, second):
        return [f"it is on another corpus: {theirs}; the first is on {ours}"]
    at_first, at_second = shared_clips(first, second)
    differ = []
    if not len(at_first) == len(first) == len(second):
        differ.append(
            f"it scored other clips: {len(at_first):,} of its {len(second):,} are among the {len(first):,} of the "
            "first"
        )
    if not same_bags(first.bag[at_first], second.bag[at_second]):
        differ.append("its bags hold other clips (data.bag_key, or the albums), which concerns all levels but clip")
    return differ


def _on(run: FinishedRun, split: str) -> str:
    """Says what a run was evaluated on."""
    result = run.results["splits"][split]
    return (
        f"{run.corpus} (fingerprint {run.results.get('fingerprint', 'unknown')}, {result['clips']:,} {split} clips in "
        f"{result['bags']:,} bags)"
    )


def _same_corpus(base: FinishedRun, run: FinishedRun, first: Predictions, second: Predictions) -> bool:
    """Whether the fingerprints agree; or corpus, genres and artists do, of clips in another representation."""
    if base.results.get("fingerprint") == run.results.get("fingerprint"):
        return True
    rows_first, rows_second = shared_clips(first, second)
    return (
        base.corpus == run.corpus
        and base.task == run.task
        and _genres_of(first, rows_first) == _genres_of(second, rows_second)
        and np.array_equal(first.artist[rows_first], second.artist[rows_second])
    )


def _genres_of(scored: Predictions, rows: np.ndarray) -> list[list[str]]:
    """Returns the names of the genres of some clips."""
    names = np.array(scored.genres)
    if scored.multi_label:
        return [sorted(names[label].tolist()) for label in scored.label[rows]]
    return [[name] for name in names[scored.label[rows]].tolist()]


def _genre_table(results: Sequence[dict[str, Any]], own: Sequence[str | None], measure: str) -> list[dict[str, Any]]:
    """Returns F1 (or AP) and clips of every genre in every run, the commonest genre first."""
    tables = [result.get("per_genre", {}).get(level, {}) for result, level in zip(results, own, strict=True)]
    support: dict[str, list[int]] = {}
    for table in tables:
        for genre, row in table.items():
            support.setdefault(genre, []).append(row["support"])
    return [
        {
            "genre": genre,
            "support": support[genre][0],
            "cells": [
                (table.get(genre, {}).get(measure.lower()), table.get(genre, {}).get("support")) for table in tables
            ],
        }
        for genre in sorted(support, key=lambda genre: -max(support[genre]))
    ]


def _validation_curves(
    runs: Sequence[FinishedRun], names: Sequence[str], own: Sequence[str | None]
) -> list[charts.Chart]:
    drawn = []
    main = ("macro_ap", "Validation macro AP") if runs[0].task == MULTI_LABEL else ("accuracy", "Validation accuracy")
    for metric, title in (main, ("micro_ap", "Validation average precision")):
        lines = []
        for i, (run, name, level) in enumerate(zip(runs, names, own, strict=True)):
            x, y = validation_curve(run.log, f"validation/{level}/{metric}")
            if level and len(x):
                label = f"{name} ({LEVELS[level].title})"
                lines.append(charts.Line(label, x, y, charts.COLOURS[i % len(charts.COLOURS)], i))
        if lines:
            caption = f"{title} after every evaluation. Baselines have no epochs."
            drawn.append(charts.line_chart(title, lines, x_label="epoch", y_label=title.lower(), caption=caption))
    return drawn


def validation_curve(log: Sequence[dict[str, float]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns epochs and values of a validation metric: [evaluation] each."""
    epochs = [line["epoch"] / line["step"] for line in log if line.get("epoch")]
    there = [(line["step"] * epochs[-1], line[key]) for line in log if key in line] if epochs else []
    x, y = np.array(there, float).reshape(-1, 2).T
    return x, y


def _precision_recall(
    runs: Sequence[FinishedRun], names: Sequence[str], own: Sequence[str | None], split: str
) -> list[charts.Chart]:
    lines = []
    for i, (run, name, level) in enumerate(zip(runs, names, own, strict=True)):
        scored = run.scored(split)
        if scored is None or level not in scored.levels:
            continue
        precision, recall = charts.thin_curve(*metrics.precision_recall(scored.label, scored.levels[level]))
        label = f"{name} ({LEVELS[level].title})"
        lines.append(charts.Line(label, recall, precision, charts.COLOURS[i % len(charts.COLOURS)], i))
    if not lines:
        return []
    caption = f"All scores of all genres in one ranking (micro average), on the {split} split."
    return [
        charts.line_chart(
            "Precision and recall", lines, x_label="recall", y_label="precision", caption=caption, unit_square=True
        )
    ]


def different_options(runs: Sequence[FinishedRun]) -> list[tuple[str, list[Any]]]:
    """Returns the options in which the runs differ, with the value of each run; "" where it has none."""
    options = [dict(keys.leaves(run.config)) for run in runs]
    names = sorted({key for option in options for key in option if not key.startswith("demo.")})
    table = [(key, [option.get(key, "") for option in options]) for key in names]
    return [(key, values) for key, values in table if any(value != values[0] for value in values)]
