"""What predictions are worth: the metrics of every split and view, as `results.json` and the terminal show them."""

import datetime
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mgc_jax.data.corpus import Corpus
from mgc_jax.errors import UserError
from mgc_jax.evaluation import metrics
from mgc_jax.evaluation.bootstrap import ArtistBootstrap, concentration_warnings, interval
from mgc_jax.evaluation.mistakes import save_examples
from mgc_jax.evaluation.predictions import Predictions, concatenate
from mgc_jax.evaluation.predictions_file import FILE_NAME, load, save
from mgc_jax.runtime.environment import command, describe_environment
from mgc_jax.runtime.files import write_json
from mgc_jax.runtime.terminal import say

log = logging.getLogger(__name__)


RARE_LIMITS = (100, 200)  # training clips; MATT, section IV-C


DEMO_RARE_LIMITS = (5, 8)


def view_metrics(predictions: Predictions) -> dict[str, Any]:
    """Returns the metrics of each view of one split: what is looked at after every epoch.

    Beside them `clips`, `bags`, and `majority_accuracy`, of always naming the commonest training genre.

    The views that give all clips of a bag the same scores also have metrics over bags, whose genre is that of their
    first clip: `bag_accuracy` and `bag_micro_ap`, in which every bag counts as one; and `paper_accuracy`, in which it
    counts as many as its clips (as in MATT's notebooks).
    """
    result: dict[str, Any] = {"clips": len(predictions), "bags": len(predictions.bag_sizes)}
    if predictions.train_clips is not None:
        result["majority_accuracy"] = float(np.mean(predictions.label == predictions.train_clips.argmax()))
    for view, scores in predictions.views.items():
        result[view] = metrics.genre_metrics(predictions.label, scores, predictions.predicted(view))
        if view != "clip" and len(predictions):
            given = predictions.label, scores, predictions.offsets
            result[view]["bag_accuracy"] = metrics.bag_accuracy(*given)
            result[view]["paper_accuracy"] = metrics.paper_accuracy(*given)
            result[view]["bag_micro_ap"] = metrics.bag_micro_ap(*given)
    return result


def summary(predictions: Predictions, rare: Sequence[int] | None = None) -> dict[str, Any]:
    """Returns what `results.json` holds for one split: all metrics, their intervals, and what to beware of.

    Args:
        predictions: of one split.
        rare: a genre with fewer training clips than this is rare, for each of several limits; by default those of
            `rare_limits`.

    Returns:
        What `view_metrics` returns, and: `artists`; `intervals` (95 %, bootstrap over artists), `top_k` on rare
        genres, `frequency` (head, mid and tail) and `per_genre`, each by view; `alone`, for clips that are the only
        one of their bag; `warnings`.
    """
    rare = rare or rare_limits(predictions)
    label, artists = predictions.label, predictions.artists
    result = view_metrics(predictions) | {"artists": len(np.unique(artists))}
    bootstrap = ArtistBootstrap(artists)
    by_view: dict[str, dict[str, Any]] = {"intervals": {}, "top_k": {}, "frequency": {}, "per_genre": {}}
    for view, scores in predictions.views.items():
        predicted = predictions.predicted(view)
        samples = bootstrap.metrics(label, scores, predicted)
        by_view["intervals"][view] = {name: _interval(values) for name, values in samples.items()}
        by_view["per_genre"][view] = metrics.per_genre(label, predicted, predictions.genres)
        if predictions.train_clips is not None:
            by_view["top_k"][view] = {
                name: _top_k(predictions, scores, genres, bootstrap)
                for name, genres in rare_lists(predictions, rare).items()
            }
            by_view["frequency"][view] = {
                name: _part(predictions, predicted, genres)
                for name, genres in metrics.frequency_groups(predictions.train_clips, (rare[-1], 5 * rare[-1])).items()
            }
    if "clip" in predictions.views:
        single = np.repeat(predictions.bag_sizes == 1, predictions.bag_sizes)
        right = predictions.predicted("clip")[single] == label[single]
        result["alone"] = {"clips": int(single.sum()), "accuracy": float(right.mean()) if single.any() else None}
    warnings = concentration_warnings(label, artists, predictions.genres)
    return result | by_view | {"warnings": warnings}


def rare_limits(predictions: Predictions) -> tuple[int, ...]:
    """The numbers of training clips under which a genre is rare: MATT's, or those that mean the same on the demo.

    The demo has 1/25 of FMA-medium's clips, but at least four of each genre for training.
    """
    return DEMO_RARE_LIMITS if predictions.info.get("corpus") == "demo" else RARE_LIMITS


def rare_lists(predictions: Predictions, limits: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Returns the lists of rare genres, by name: for each limit, and the paper's own where they can be told.

    MATT's lists were made without the clips of FMA-small, by a slip.
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
        result[str(k)] = _or_none(metrics.top_k(predictions.label, scores, genres, k))
        right = metrics.among_top_k(predictions.label, scores, k)
        result["intervals"][str(k)] = _interval(bootstrap.mean(right, counted))
    return result


def _interval(samples: np.ndarray) -> list[float | None]:
    return [None, None] if np.isnan(samples).all() else [float(bound) for bound in interval(samples)]


def _or_none(value: float) -> float | None:
    """JSON has no NaN."""
    return None if np.isnan(value) else float(value)


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
        split: (view_metrics(part) if split == "train" else summary(part, rare))
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

    Results on the test split that the same weights had before stay. `results.json` counts how often the test split
    has been looked at.

    Args:
        predictions: of all splits that were evaluated.
        about: what `results.json` holds beside the splits.
        workdir: the run's folder.
        headline: what stands above the table.
        corpus: keeps examples of what is most wrong, for the report.
        keep_test: whether earlier results on the test split may be of the same scores.
    """
    before = _results_before(workdir)
    test_before = before["splits"].get("test") if keep_test else None
    looks = before.get("test_evaluations", int("test" in before["splits"]))  # older versions always looked
    splits_kept: dict[str, Any] = {}
    if "test" in predictions.splits:
        looks += 1
    elif test_before is not None and not _same_scores(before, about):
        log.warning("the earlier results on the test split are not of this evaluation and are left out; --test")
    elif test_before is not None:
        try:
            predictions = concatenate([predictions, load(workdir / FILE_NAME).of_split("test")])
        except UserError as error:  # the file is gone or damaged
            log.warning("the results on the test split are kept without its scores: %s", error)
        if "test" not in predictions.splits:
            splits_kept["test"] = test_before
    predictions = predictions.replace(info=predictions.info | {"model": about["model"]})
    save(predictions, workdir / FILE_NAME)
    splits = summaries(predictions) | splits_kept
    results = about | {
        "test_evaluations": looks,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command(),
        "environment": describe_environment(),
        "splits": splits,
    }
    write_json(workdir / "results.json", results)
    say(f"\n{headline}\n{format_table(splits)}\n", sys.stdout)
    if corpus is not None:
        save_examples(predictions, corpus, workdir)
    return results


def _results_before(workdir: Path) -> dict[str, Any]:
    """Returns what `results.json` held; nothing where there is none, or a damaged one."""
    try:
        results = json.loads((workdir / "results.json").read_text())
    except (OSError, ValueError):
        results = None
    results = results if isinstance(results, dict) else {}
    return results | {"splits": results.get("splits") or {}}


def _same_scores(before: dict[str, Any], about: dict[str, Any]) -> bool:
    return all(before.get(key) == about.get(key) for key in ("model", "fingerprint", "best_step", "logit_adjustment"))


def format_table(splits: dict[str, dict[str, Any]]) -> str:
    """Formats the results of the splits for the terminal.

    Args:
        splits: as from `summary` or `view_metrics`, by split.
    """
    names = {"clip": "clip", "clip_mean": "clip, bag average", "bag": "bag model"}
    columns = (("accuracy", 9), ("macro_f1", 10), ("micro_ap", 10))
    titles = f"{'accuracy':>9}{'95 %':>14}{'macro F1':>10}{'micro AP':>10}{'clips':>9}{'bags':>8}"
    lines = [f"{'split':<11}{'scores':<19}{titles}"]
    lines.append("-" * len(lines[0]))
    for split, result in splits.items():
        for view, name in names.items():
            if view not in result:
                continue
            accuracy, *others = (f"{result[view][metric]:>{width}.3f}" for metric, width in columns)
            low, high = result.get("intervals", {}).get(view, {}).get("accuracy", (None, None))
            between = "" if low is None else f"{low:.3f}-{high:.3f}"
            lines.append(
                f"{split:<11}{name:<19}{accuracy}{between:>14}{''.join(others)}{result['clips']:>9,}{result['bags']:>8,}"
            )
    validation = splits.get("validation", {})
    if "majority_accuracy" in validation:
        lines.append(f"(majority class on validation: {validation['majority_accuracy']:.3f})")
    for split, result in splits.items():
        warnings = result.get("warnings", [])
        if warnings:
            more = f" ({len(warnings) - 1} more such genres: results.json)" if len(warnings) > 1 else ""
            lines.append(f"beware, {split}: {warnings[0]}{more}")
    return "\n".join(lines)
