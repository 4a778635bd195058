"""The results of predictions: metrics of every split and level, in `results.json` and in the terminal."""

import datetime
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mgc_jax.config.keys import MULTI_LABEL
from mgc_jax.data.corpus import Corpus
from mgc_jax.errors import UserError
from mgc_jax.evaluation import metrics, multi_label
from mgc_jax.evaluation.bootstrap import FEWEST_ARTISTS, ArtistBootstrap, concentration_warnings, json_interval
from mgc_jax.evaluation.identity import belong_together, identity, same_evaluation, says_all
from mgc_jax.evaluation.levels import LEVELS
from mgc_jax.evaluation.metrics import Metric, or_none
from mgc_jax.evaluation.mistakes import save_examples
from mgc_jax.evaluation.predictions import Predictions, concatenate
from mgc_jax.evaluation.predictions_file import PREDICTIONS_FILE, load_predictions, save_predictions
from mgc_jax.evaluation.tasks import metrics_of
from mgc_jax.runtime.environment import command, describe_environment
from mgc_jax.runtime.files import write_json
from mgc_jax.runtime.terminal import say

log = logging.getLogger(__name__)

RARE_LIMITS = (100, 200)  # training clips; MATT, section IV-C
DEMO_RARE_LIMITS = (5, 8)


def level_metrics(predictions: Predictions) -> dict[str, Any]:
    """Returns the metrics of each level of one split, as computed after every epoch.

    Also `clips`, `bags`, and `majority_accuracy`, of always predicting the most common training genre.

    The levels clip_mean and bag also have metrics over bags, whose genre is that of their first clip: `bag_accuracy`
    and `bag_micro_ap`, in which every bag counts once; and `paper_accuracy`, in which it counts as many times as it
    has clips (as in MATT's notebooks).

    Where clips have several genres: `evaluation.multi_label.level_metrics`.
    """
    if predictions.multi_label:
        return multi_label.level_metrics(predictions)
    result: dict[str, Any] = {"clips": len(predictions), "bags": len(predictions.bag_sizes)}
    if predictions.train_clips is not None:
        result["majority_accuracy"] = float(np.mean(predictions.label == predictions.train_clips.argmax()))
    for level, scores in predictions.levels.items():
        result[level] = metrics.genre_metrics(predictions.label, scores, predictions.predicted(level))
        if level != "clip" and len(predictions):
            given = predictions.label, scores, predictions.offsets
            result[level]["bag_accuracy"] = metrics.bag_accuracy(*given)
            result[level]["paper_accuracy"] = metrics.paper_accuracy(*given)
            result[level]["bag_micro_ap"] = metrics.bag_micro_ap(*given)
    return result


def summary(predictions: Predictions, rare: Sequence[int] | None = None) -> dict[str, Any]:
    """Returns what `results.json` holds for one split: all metrics, their intervals, and warnings.

    Args:
        predictions: of one split.
        rare: a genre with fewer training clips than this is rare, for each of several limits; by default those of
            `rare_limits`.

    Returns:
        What `level_metrics` returns, and: `artists`; `intervals` (95 %, bootstrap over artists; None of
        too few), `top_k` on rare
        genres, `frequency` (head, mid and tail) and `per_genre`, each by level; `alone`, for clips that are the only
        one of their bag; `warnings`. Where clips have several genres: `evaluation.multi_label.summary`.
    """
    if predictions.multi_label:
        return multi_label.summary(predictions)
    rare = rare or rare_limits(predictions)
    label, artists = predictions.label, predictions.artists
    result = level_metrics(predictions) | {"artists": len(np.unique(artists))}
    bootstrap = ArtistBootstrap(artists)
    by_level: dict[str, dict[str, Any]] = {"intervals": {}, "top_k": {}, "frequency": {}, "per_genre": {}}
    for level, scores in predictions.levels.items():
        predicted = predictions.predicted(level)
        samples = bootstrap.metrics(label, scores, predicted)
        by_level["intervals"][level] = {
            name: json_interval(values, len(bootstrap.artists)) for name, values in samples.items()
        }
        by_level["per_genre"][level] = metrics.per_genre(label, predicted, predictions.genres)
        if predictions.train_clips is not None:
            by_level["top_k"][level] = {
                name: _top_k(predictions, scores, genres, bootstrap)
                for name, genres in rare_lists(predictions, rare).items()
            }
            by_level["frequency"][level] = {
                name: _part(predictions, predicted, genres)
                for name, genres in metrics.frequency_groups(predictions.train_clips, (rare[-1], 5 * rare[-1])).items()
            }
    if "clip" in predictions.levels:
        single = np.repeat(predictions.bag_sizes == 1, predictions.bag_sizes)
        right = predictions.predicted("clip")[single] == label[single]
        result["alone"] = {"clips": int(single.sum()), "accuracy": float(right.mean()) if single.any() else None}
    warnings = concentration_warnings(label, artists, predictions.genres)
    return result | by_level | {"warnings": warnings}


def rare_limits(predictions: Predictions) -> tuple[int, ...]:
    """The numbers of training clips below which a genre is rare: MATT's, or their equivalents on the demo.

    The demo has 1/25 of FMA-medium's clips, but at least four of each genre for training.
    """
    return DEMO_RARE_LIMITS if predictions.info.get("corpus") == "demo" else RARE_LIMITS


def rare_lists(predictions: Predictions, limits: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Returns the lists of rare genres, by name: one for each limit, and the paper's where the subsets are known.

    MATT's lists were made without the clips of FMA-small, by mistake.
    """
    assert predictions.train_clips is not None
    lists = {f"<{limit}": metrics.rare_genres(predictions.train_clips, limit) for limit in limits}
    if predictions.train_clips_outside_small is not None:
        counts = predictions.train_clips, predictions.train_clips_outside_small
        lists |= {f"<{limit} (paper)": metrics.paper_rare_genres(*counts, limit, limits[0]) for limit in limits}
    return lists


def _top_k(
    predictions: Predictions, scores: np.ndarray, genres: tuple[int, ...], bootstrap: ArtistBootstrap
) -> dict[str, Any]:
    counted = np.isin(predictions.label, genres)
    result: dict[str, Any] = {"genres": [predictions.genres[g] for g in genres], "clips": int(counted.sum())}
    result["intervals"] = {}
    for k in (2, 3, 5):
        result[str(k)] = or_none(metrics.top_k(predictions.label, scores, genres, k))
        right = metrics.among_top_k(predictions.label, scores, k)
        result["intervals"][str(k)] = json_interval(bootstrap.mean(right, counted), bootstrap.count(counted))
    return result


def _part(predictions: Predictions, predicted: np.ndarray, genres: tuple[int, ...]) -> dict[str, Any]:
    """Returns accuracy and balanced accuracy on the clips of some genres; None where there are no clips."""
    counted = np.isin(predictions.label, genres)
    label, predicted = predictions.label[counted], predicted[counted]
    recall = [float(np.mean(predicted[label == genre] == genre)) for genre in np.unique(label)]
    return {
        "genres": [predictions.genres[genre] for genre in genres],
        "clips": len(label),
        "accuracy": float(np.mean(predicted == label)) if len(label) else None,
        "balanced_accuracy": float(np.mean(recall)) if recall else None,
    }


def summaries(predictions: Predictions, rare: Sequence[int] | None = None) -> dict[str, dict[str, Any]]:
    """Returns the summary of every split; of the training split, whose scores say little, only the metrics."""
    return {
        split: (level_metrics(part) if split == "train" else summary(part, rare))
        for split, part in ((split, predictions.of_split(split)) for split in predictions.splits)
    }


def finish(
    predictions: Predictions,
    about: dict[str, Any],
    workdir: Path,
    headline: str,
    corpus: Corpus | None = None,
    *,
    keep_test: bool = True,
) -> dict[str, Any]:
    """Writes `predictions.parquet` and `results.json`, prints the table, and returns the results.

    Earlier results of the same weights on the test split stay. `results.json` counts the evaluations of that split.

    Args:
        predictions: of all splits that were evaluated.
        about: what `results.json` holds beside the splits.
        workdir: the run's folder.
        headline: printed above the table.
        corpus: where the spectrograms of the report's examples come from; None: there are none.
        keep_test: whether earlier results on the test split may be of the same scores.
    """
    before = _results_before(workdir)
    evaluations = _test_evaluations(before) + ("test" in predictions.splits)
    splits_kept: dict[str, Any] = {}
    if keep_test:
        predictions, splits_kept = _with_earlier_test(predictions, before, about, workdir)
    about = about | ({"task": MULTI_LABEL} if predictions.multi_label else {})  # the usual one is not named
    predictions = predictions.replace(info=predictions.info | identity(about))
    splits = summaries(predictions) | splits_kept
    results = about | {
        "test_evaluations": max(evaluations, int("test" in splits)),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command(),
        "environment": describe_environment(),
        "splits": splits,
    }
    # One right after the other; where an interruption comes between, each says which evaluation it is of.
    save_predictions(predictions, workdir / PREDICTIONS_FILE)
    write_json(workdir / "results.json", results)
    say(f"\n{headline}\n{format_table(splits, metrics_of(results.get('task')))}\n", sys.stdout)
    if corpus is not None and not predictions.multi_label:
        save_examples(predictions, corpus, workdir)
    return results


def show_earlier(about: dict[str, Any], workdir: Path, headline: str, *, test: bool) -> dict[str, Any] | None:
    """Prints the results that a workdir holds already, and leaves them as they are.

    Args:
        about: what says whose results they are, as for `finish`; all of it but the seconds must be the same.
        workdir: the run's folder.
        headline: printed above the table.
        test: whether results on the test split must be among them.

    Returns:
        What `results.json` holds; None where there are no such results, or their predictions are gone, or are of
        another evaluation.
    """
    before = _results_before(workdir)
    exact = {key: value for key, value in about.items() if key not in ("seconds", "clips_digest")}
    same = same_evaluation(before, about) and all(before.get(key) == value for key, value in exact.items())
    if not same or not before["splits"] or (test and "test" not in before["splits"]):
        return None
    try:
        predictions = load_predictions(workdir / PREDICTIONS_FILE)
    except UserError:  # gone or damaged
        return None
    if not belong_together(predictions, before):
        log.warning("%s is of another evaluation than results.json: both are made again", PREDICTIONS_FILE)
        return None
    say(f"\n{headline}\n{format_table(before['splits'], metrics_of(before.get('task')))}\n", sys.stdout)
    log.info("these are the results of %s; nothing was computed again (--mode eval does)", before.get("date"))
    return before


def _test_evaluations(before: dict[str, Any]) -> int:
    """How often the test split was evaluated; older versions always evaluated it and did not count."""
    return int(before.get("test_evaluations", "test" in before["splits"]))


def _with_earlier_test(
    predictions: Predictions, before: dict[str, Any], about: dict[str, Any], workdir: Path
) -> tuple[Predictions, dict[str, Any]]:
    """Adds the earlier predictions on the test split, if the same weights made them.

    Returns:
        The predictions; and the earlier results on the test split where its predictions cannot be read, or are of
        another evaluation.
    """
    if "test" in predictions.splits:
        return predictions, {}
    results = before["splits"].get("test")
    try:
        earlier = load_predictions(workdir / PREDICTIONS_FILE) if (workdir / PREDICTIONS_FILE).exists() else None
        why = "they are gone" if earlier is None else "they are of another evaluation"
    except UserError as error:
        earlier, why = None, str(error)
    if earlier is not None and "test" in earlier.splits and _is_of(earlier, about, before):
        return concatenate([predictions, earlier.of_split("test")]), {}
    if results is not None and _same_scores(before, about):
        log.warning("the results on the test split are kept without its scores: %s", why)
        return predictions, {"test": results}
    if results is not None or (earlier is not None and "test" in earlier.splits):
        log.warning("the earlier results on the test split are not of this evaluation and are left out; --test")
    return predictions, {}


def _is_of(predictions: Predictions, about: dict[str, Any], before: dict[str, Any]) -> bool:
    """Whether earlier predictions are of an evaluation; those of early versions leave it to their results."""
    if says_all(predictions.info):
        return same_evaluation(predictions.info, about)
    return _same_scores(before, about) and belong_together(predictions, before)


def _results_before(workdir: Path) -> dict[str, Any]:
    """Returns what `results.json` held; nothing where there is none, or a damaged one.

    Early versions did not record the logit adjustment of a model, which `config.json` has.
    """
    results = _read_object(workdir / "results.json")
    if "best_step" in results and "logit_adjustment" not in results:
        options = _read_object(workdir / "config.json").get("eval")
        results["logit_adjustment"] = options.get("logit_adjustment", 0.0) if isinstance(options, dict) else 0.0
    return results | {"splits": results.get("splits") or {}}


def _read_object(path: Path) -> dict[str, Any]:
    """Returns the JSON object in a file; an empty one where there is none."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        value = None
    return value if isinstance(value, dict) else {}


def _same_scores(before: dict[str, Any], about: dict[str, Any]) -> bool:
    named = all(before.get(key) == about.get(key) for key in ("model", "fingerprint", "best_step"))
    return named and same_evaluation(before, about)


def format_table(splits: dict[str, dict[str, Any]], shown: Mapping[str, Metric] = metrics.METRICS) -> str:
    """Formats the results of the splits for the terminal.

    Args:
        splits: as from `summary` or `level_metrics`, by split.
        shown: the metrics of the task; the first one has its interval beside it.
    """
    columns = _terminal_columns(shown)
    titles = "".join(f"{title:>{width}}" for _, title, width in columns)
    lines = [_row("split", "level", titles, "clips", "bags")]
    lines.append("-" * len(lines[0]))
    for split, result in splits.items():
        for level in LEVELS:
            if level in result:
                values = _values(columns, result[level], result.get("intervals", {}).get(level, {}))
                sizes = f"{result['clips']:,}", f"{result['bags']:,}"
                lines.append(_row(split, LEVELS[level].title, values, *sizes))
    if any(result.get("artists", FEWEST_ARTISTS) < FEWEST_ARTISTS for result in splits.values()):
        lines.append(f"({_DASH}: fewer than {FEWEST_ARTISTS} artists, too few for an interval)")
    validation = splits.get("validation", {})
    if "majority_accuracy" in validation:
        lines.append(f"(majority class on validation: {validation['majority_accuracy']:.3f})")
    if "chance_macro_ap" in validation:
        lines.append(f"(macro AP of chance on validation: {validation['chance_macro_ap']:.3f})")
    for split, result in splits.items():
        warnings = result.get("warnings", [])
        if warnings:
            more = f" ({len(warnings) - 1} more such genres: results.json)" if len(warnings) > 1 else ""
            lines.append(f"warning, {split}: {warnings[0]}{more}")
    return "\n".join(lines)


def _row(split: str, level: str, cells: str, clips: str, bags: str) -> str:
    return f"{split:<11}{level:<10}{cells}{clips:>9}{bags:>8}"


_Columns = list[tuple[str, str, int]]  # metric, title and width of each


def _values(columns: _Columns, values: dict[str, float], intervals: dict[str, Sequence[float | None]]) -> str:
    """Formats the metrics of one level, each as wide as its column; blank where there is none."""
    cells = []
    for name, title, width in columns:
        if title == _INTERVAL:
            low, high = intervals.get(name, (None, None))
            missing = _DASH if name in intervals else ""
            cells.append(f"{missing if low is None else f'{low:.3f}-{high:.3f}':>{width}}")
        else:
            cells.append(f"{f'{values[name]:.3f}' if name in values else '':>{width}}")
    return "".join(cells)


_INTERVAL = "95 %"
_DASH = "-"  # of ASCII, which every terminal can show


def _terminal_columns(shown: Mapping[str, Metric]) -> _Columns:
    """Returns the columns of the table; the interval is that of the first metric: more would be too wide."""
    columns = []
    for name, metric in shown.items():
        if metric.in_terminal:
            columns.append((name, metric.title, max(10, len(metric.title) + 2)))
            if len(columns) == 1:
                columns.append((name, _INTERVAL, 14))
    return columns
