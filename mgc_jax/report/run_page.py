"""The report of a run as one HTML file, and the comparison of several: `python -m mgc_jax.report RUN [RUN...]`.

With one folder, (re)writes the `report.html` in it; with several, `compare.html`. Both load nothing from anywhere and
need no JavaScript. A section without anything to show is left out.
"""

import contextlib
import datetime
from pathlib import Path
from typing import Any

import numpy as np

from mgc_jax.config import keys
from mgc_jax.config.keys import MULTI_LABEL
from mgc_jax.evaluation import metrics
from mgc_jax.evaluation.bootstrap import concentration
from mgc_jax.evaluation.levels import LEVELS
from mgc_jax.evaluation.mistakes import block_means, load_examples, most_confused
from mgc_jax.evaluation.predictions import Predictions
from mgc_jax.evaluation.tasks import metrics_of
from mgc_jax.report import charts, multi_label
from mgc_jax.report.attention import attention_of, probabilities
from mgc_jax.report.comparison import compared_metrics, paired_differences, scores_of, validation_curve
from mgc_jax.report.finished_run import FinishedRun, levels_of, main_level, read_run, results_digest
from mgc_jax.report.html import render_page
from mgc_jax.runtime.files import write_text

_REPORT_FILE = "report.html"


def write_report(workdir: Path) -> Path:
    """Writes the `report.html` of a finished run; returns its path.

    Args:
        workdir: the run's folder.

    Raises:
        UserError: the folder holds no finished run, or a damaged one, or cannot be written.
    """
    run = read_run(workdir)
    split = "test" if "test" in run.splits and run.scored("test") is not None else "validation"
    scored = run.scored(split)
    if scored is not None and not scored.levels:
        scored = None
    if run.task == MULTI_LABEL:
        template, of_task = "multi_label.html", multi_label.sections(run, split, scored)
    else:
        template = "report.html"
        of_task = {
            "genres": genre_table(run, split, scored),
            "confusion": confusion_table(scored),
            "quality": quality_charts(scored),
            "attention": attention_of(scored),
            "confused": confused_clips(scored, workdir),
        }
    page = render_page(
        template,
        run=run,
        metrics=metrics_of(run.task),
        date=_date(run),
        digest=results_digest(run.folder),
        split=split,
        has_scores=scored is not None,
        has_test=_has_test(run),
        levels={level: LEVELS[level].meaning for level in _levels(run)},
        own=main_level(_levels(run)) if _levels(run) else "",
        headlines=[(name, run.results["splits"][name]) for name in ("validation", "test") if name in run.splits],
        warnings={name: result.get("warnings", []) for name, result in run.results["splits"].items()},
        gains=_gains(scored),
        compared=compared_metrics(run.task),
        curves=training_curves(run),
        changed=changed_options(run.config),
        options=dict(keys.leaves(run.config)),
        **of_task,
    )
    path = Path(workdir) / _REPORT_FILE
    write_text(path, page, remedy="Make room there, or copy the run to where you may write.")
    return path


def _has_test(run: FinishedRun) -> bool | None:
    """Whether the corpus has a test split; None where the predictions do not say (those of early versions)."""
    splits = run.predictions.info.get("corpus_splits") if run.predictions is not None else None
    return None if splits is None else "test" in splits


def _levels(run: FinishedRun) -> list[str]:
    """The levels that any split has."""
    there = {level for result in run.results["splits"].values() for level in levels_of(result)}
    return [level for level in LEVELS if level in there]


def _date(run: FinishedRun) -> str:
    """When it was evaluated; of runs of early versions, when the file of the results was written."""
    with contextlib.suppress(KeyError, TypeError, ValueError):
        return datetime.datetime.fromisoformat(run.results["date"]).strftime("%Y-%m-%d %H:%M UTC")
    changed = datetime.datetime.fromtimestamp((run.folder / "results.json").stat().st_mtime)
    return changed.strftime("%Y-%m-%d %H:%M")


def _gains(scored: Predictions | None) -> list[dict[str, Any]]:
    """Compares the levels of one model: what the bag is worth, and what the pooling adds."""
    if scored is None:
        return []
    pairs = [pair for pair in (("clip_mean", "clip"), ("bag", "clip_mean")) if set(pair) <= scored.levels.keys()]
    scores = scores_of(scored)
    return paired_differences(scored.label, scored.artists, scores, scores, pairs)


def training_curves(run: FinishedRun) -> list[charts.Chart]:
    """Draws loss, accuracy (or macro AP) and average precision over epochs; none if the run has no steps."""
    train = [line for line in run.log if "train/loss" in line and "epoch" in line]
    if not train:
        return []
    epochs_per_step = train[-1]["epoch"] / train[-1]["step"]
    mark = None
    if "best_step" in run.results:
        mark = (run.results["best_step"] * epochs_per_step, "checkpoint")
    x = np.array([line["epoch"] for line in train])

    def trained(key: str) -> charts.Line:
        points = block_means(np.stack([x, [line.get(key, np.nan) for line in train]], axis=1))
        return charts.Line("training", points[:, 0], points[:, 1], charts.TRAIN_COLOUR)

    def validated(metric: str) -> list[charts.Line]:
        lines: list[charts.Line] = []
        for level, colour in charts.LEVEL_COLOURS.items():
            epochs, values = validation_curve(run.log, f"validation/{level}/{metric}")
            if len(epochs):
                lines.append(charts.Line(LEVELS[level].title, epochs, values, colour, len(lines)))
        return lines

    best = f" The dashed vertical line is the checkpoint, chosen by {run.results.get('selected_by', 'nothing')}."
    best = best if mark else ""
    drawn = [
        charts.line_chart(
            "Training loss", [trained("train/loss")], x_label="epoch", y_label="loss", mark=mark,
            caption="Mean loss per bag (per clip for a model without pooling), with dropout and augmentation." + best,
        )
    ]  # fmt: skip
    selects_on = "inner validation" if run.results.get("selected_by", "").startswith("inner") else "validation"
    main = ("macro_ap", "Macro average precision") if run.task == MULTI_LABEL else ("accuracy", "Accuracy")
    for metric, title in (main, ("micro_ap", "Micro average precision")):
        lines = validated(metric)
        in_training = ""
        if metric == "accuracy" and "train/accuracy" in train[-1]:
            lines.append(trained("train/accuracy"))
            in_training = ", and on training batches as the loss saw them, with dropout and augmentation"
        elif metric == "accuracy":
            in_training = ". There is none in training, where the model is told the genre of the bag"
        if lines:
            drawn.append(
                charts.line_chart(
                    title, lines, x_label="epoch", y_label=title.lower(), mark=mark,
                    caption=f"{title} on the {selects_on} split, by level{in_training}.{best}",
                )
            )  # fmt: skip
    return drawn


def genre_table(run: FinishedRun, split: str, scored: Predictions | None) -> dict[str, Any] | None:
    """Returns what the section of the genres shows; None if the results have no genres."""
    result = run.results["splits"].get(split, {})
    by_level = result.get("per_genre")
    if not by_level:
        return None
    own = main_level(list(by_level))
    train: dict[str, float] = {}
    artists: dict[str, dict[str, float]] = {}
    if scored is not None:
        artists = concentration(scored.label, scored.artists, scored.genres)
        if scored.train_clips is not None:
            train = dict(zip(scored.genres, scored.train_clips.tolist(), strict=True))
    top_k = result.get("top_k", {})
    rare: dict[str, str] = {}
    for name, row in sorted(top_k.get(own, {}).items(), key=lambda item: -len(item[1]["genres"])):
        if "paper" not in name:  # whose lists hold some genres by a slip
            rare |= dict.fromkeys(row["genres"], name)
    order = sorted(by_level[own], key=lambda genre: (-train.get(genre, 0), -by_level[own][genre]["support"]))
    return {
        "rows": [
            {
                "genre": genre,
                "rare": rare.get(genre),
                "train": train.get(genre),
                "artists": artists.get(genre),
                "own": by_level[own][genre],
                "f1": {level: by_level[level][genre]["f1"] for level in by_level if level != own},
            }
            for genre in order
        ],
        "own": own,
        "others": [level for level in by_level if level != own],
        "frequency": _with_clips(result.get("frequency", {}), own),
        "top_k": _with_clips(top_k, own),
    }


def _with_clips(by_level: dict[str, dict[str, Any]], own: str) -> dict[str, dict[str, Any]]:
    """Leaves out the groups of genres without clips, whose values are all missing; nothing if none has clips."""
    kept = [name for name, part in by_level.get(own, {}).items() if part["clips"]]
    return {level: {name: parts[name] for name in kept} for level, parts in by_level.items()} if kept else {}


def confusion_table(scored: Predictions | None) -> dict[str, Any] | None:
    """Returns the confusion matrix of the own level, the commonest training genres first; None without scores."""
    if scored is None:
        return None
    own = main_level(list(scored.levels))
    counts = metrics.confusion(scored.label, scored.predicted(own), len(scored.genres))
    weight = counts.sum(axis=1) if scored.train_clips is None else scored.train_clips
    order = np.argsort(-weight, kind="stable")
    counts = counts[np.ix_(order, order)]
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return {
        "own": own,
        "genres": [scored.genres[i] for i in order],
        "counts": counts.tolist(),
        "share": share.tolist(),
        "support": counts.sum(axis=1).tolist(),
    }


def quality_charts(scored: Predictions | None) -> list[charts.Chart]:
    """Draws precision and recall, and reliability, of each level; none without scores."""
    if scored is None:
        return []
    curves, reliability = [], []
    for i, (level, scores) in enumerate(scored.levels.items()):
        colour = charts.LEVEL_COLOURS[level]
        precision, recall = charts.thin_curve(*metrics.precision_recall(scored.label, scores))
        values = metrics.genre_metrics(scored.label, scores, scored.predicted(level))
        curves.append(charts.Line(f"{LEVELS[level].title}: AP {values['micro_ap']:.3f}", recall, precision, colour, i))
        bins = metrics.calibration(scored.label, scores)
        full = bins.count > 0
        sizes = 12 + 140 * bins.count[full] / len(scored)
        name = f"{LEVELS[level].title}: ECE {values['ece']:.3f}"
        reliability.append(
            charts.Line(name, bins.confidence[full], bins.accuracy[full], colour, i, 1.2, "o", sizes.tolist())
        )
    return [
        charts.line_chart(
            "Precision and recall", curves, x_label="recall", y_label="precision", unit_square=True,
            caption="All scores of all genres in one ranking (micro average); AP is the average precision.",
        ),
        charts.line_chart(
            "Reliability", reliability, x_label="probability of the predicted genre", y_label="accuracy",
            unit_square=True, diagonal=True,
            caption="Clips in 15 bins by the probability of the predicted genre; larger dots are more clips. On the "
            "grey line the model is calibrated; below it, overconfident. ECE is the mean distance from it.",
        ),
    ]  # fmt: skip


def confused_clips(scored: Predictions | None, workdir: Path) -> dict[str, Any] | None:
    """Returns the clips that get a wrong genre with the highest probability; None without scores."""
    if scored is None:
        return None
    level = next(iter(scored.levels))
    predicted, probability = scored.predicted(level), probabilities(scored.levels[level])
    examples = load_examples(workdir)
    clips = [
        {
            "track": int(scored.track_id[row]),
            "artist": scored.artist[row],
            "genre": scored.genres[scored.label[row]],
            "predicted": scored.genres[predicted[row]],
            "probability": float(probability[row, predicted[row]]),
            "true_probability": float(probability[row, scored.label[row]]),
            "picture": None,
        }
        for row in most_confused(scored)
    ]
    for clip in clips:
        if clip["track"] in examples:
            clip["picture"] = charts.spectrogram_picture(examples[clip["track"]])
    why = "" if examples or not clips else "There are no spectrograms of them: the run has not kept any."
    return {
        "level": level,
        "clips": clips,
        "wrong": int(np.sum(predicted != scored.label)),
        "of": len(scored),
        "why": why,
    }


def changed_options(saved: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Returns the options that are not at their default: key, value, default (None: the key has none)."""
    defaults = dict(keys.leaves(keys.to_json(keys.default())))
    return [
        (key, value, defaults.get(key))
        for key, value in keys.leaves(saved)
        if not key.startswith("demo.") and (key not in defaults or defaults[key] != value)
    ]
