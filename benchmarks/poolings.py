"""Every pooling and every remedy for the long tail, over seeds, on features that you bring.

    python benchmarks/poolings.py vggish --clips vggish.npz --table tracks.csv --out poolings.jsonl
    python benchmarks/poolings.py echonest --table echonest.csv --out poolings.jsonl
    python benchmarks/poolings.py vggish --fixed --clips vggish.npz --table tracks.csv --out poolings.jsonl
    python benchmarks/poolings.py echonest --fixed --table echonest.csv --out poolings.jsonl
    python benchmarks/poolings.py echonest --nested --table echonest.csv --out poolings.jsonl
    python benchmarks/poolings.py --show poolings.jsonl

`vggish` trains on FMA-small's split and scores its validation clips; `echonest` scores all clips by 5-fold
cross-validation grouped by artist. With `--fixed` both are cross-validated, for a number of epochs that is fixed
before: nothing selects a checkpoint, and a fold trains on all clips of the others. `--nested` trains those systems for
each fold without a part of the other folds' clips, and says which of them has the highest macro F1 on that part.

A run is what `python -m mgc_jax.main --config configs/vggish.py:POOLING` does, with the flags that the table names.
Every finished run is a line of the output file, and is not made again; its scores are kept in the folder of the file's
name, for the differences from averaged clips, which `--show` prints too.
"""

import argparse
import contextlib
import importlib.util
import io
import json
import logging
import os
import re
import runpy
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir()) / "mgc_jax_poolings"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import numpy as np

from mgc_jax import modes
from mgc_jax.config.checks import validate
from mgc_jax.evaluation.bootstrap import ArtistBootstrap, paired
from mgc_jax.evaluation.levels import LEVELS
from mgc_jax.evaluation.metrics import METRICS, genre_metrics
from mgc_jax.evaluation.predictions_file import PREDICTIONS_FILE, load_predictions, save_predictions
from mgc_jax.evaluation.results import level_metrics
from mgc_jax.report.comparison import compared_metrics

NATURAL = {"batch.sub_bags": False, "loss.bag_weight": "bag"}
SUB_BAGS = {"batch.sub_bags": True, "loss.bag_weight": "size"}


def matt(**options):
    return "matt", {f"model.pooling.{key}": value for key, value in options.items()}


# name: (argument of the configuration, flags)
POOLINGS = {
    "no bags": ("none", {}),
    "mean": ("mean", {}),
    "max": ("max", {}),
    "mean_probability": ("mean_probability", {}),
    "noisy_or": ("noisy_or", {}),
    "MATT additive (eq. 1)": matt(score="additive"),
    "MATT additive, no tanh": matt(score="additive", activation="none"),
    "MATT hidden": matt(score="hidden"),
    "MATT dot, trained queries": matt(),
    "MATT dot, frozen queries": matt(queries="frozen"),
    "MATT dot, frozen_mismatched (published code)": matt(queries="frozen_mismatched"),
    "MATT dot, no tanh": matt(activation="none"),
    "MATT scaled dot": matt(score="scaled_dot"),
    "MATT scaled dot, own queries": matt(score="scaled_dot", train_query="own"),
    "MATT scaled dot, own, no tanh": matt(score="scaled_dot", train_query="own", activation="none"),
    "gated attention": ("gated_attention", {}),
    "set transformer": ("set_transformer", {}),
}
ON_BOTH = ("mean", "MATT dot, trained queries", "MATT dot, frozen_mismatched (published code)")
REMEDIES = {
    "logit adjustment 0.5": {"loss.logit_adjustment": 0.5},
    "logit adjustment 1": {"loss.logit_adjustment": 1.0},
    "post-hoc logit adjustment 1": {"eval.logit_adjustment": 1.0},
    "square-root sampling": {"batch.sampling": "sqrt"},
    "class-balanced sampling": {"batch.sampling": "class_balanced"},
    "class-balanced loss": {"loss.class_weights": "class_balanced"},
    "focal loss": {"loss.name": "focal"},
    "decoupled classifier": {"train.classifier_epochs": 10},
    "mixup 0.4": {"augment.mixup": 0.4},
}


# Trained for a fixed time; the first of them is what the others are compared with.
CLIPS_TOO = {"model.clips_too": True}
FIXED = {
    "no bags": ("none", {}),
    "set transformer": ("set_transformer", SUB_BAGS),
    "set transformer, clips too": ("set_transformer", SUB_BAGS | CLIPS_TOO),
}
FIXED_REMEDIES = {
    f"set transformer, clips too, logit adjustment {tau}": (
        "set_transformer",
        SUB_BAGS | CLIPS_TOO | {"loss.logit_adjustment": tau},
    )
    for tau in (0.25, 0.5)
}
FIXED_TIME = runpy.run_path(str(Path(__file__).parents[1] / "configs" / "best_bags.py"))["EPOCHS"]
FOLDS = 5


def fixed_experiments(data, *, nested=False):
    """(name of the row, argument of the configuration, flags) of what is trained for a fixed time.

    Nested, a part of the training folds is set aside, and its macro F1 is measured at the end.
    """
    flags = FIXED_TIME[data] | {
        "data.folds": FOLDS, "optimizer.schedule": "cosine",
        "train.eval_every_epochs": FIXED_TIME[data]["train.epochs"],
    }  # fmt: skip
    for name, (pooling, changes) in (FIXED | (FIXED_REMEDIES if data == "echonest" else {})).items():
        level = "clip_mean" if pooling == "none" else "bag"
        select = f"{level}/macro_f1" if nested else "last"
        yield f"{'inner' if nested else 'fixed'}: {name}", pooling, changes | flags | {"train.select": select}


def experiments(data):
    """(name of the row, argument of the configuration, flags), in the order of the table.

    All poolings are compared on sub-bags where they help (vggish), else on whole bags; those of `ON_BOTH` on both.
    """
    for name, (pooling, flags) in POOLINGS.items():
        if data == "echonest" and "no tanh" in name:
            continue
        for bags, settings in (("whole bags", NATURAL), ("sub-bags", SUB_BAGS)):
            usual = bags == ("sub-bags" if data == "vggish" else "whole bags")
            if pooling == "none" and not usual:
                continue
            if usual or name in ON_BOTH:
                yield (f"{name}, {bags}", pooling, settings | flags) if pooling != "none" else (name, pooling, flags)
    if data == "echonest":
        for name, flags in REMEDIES.items():
            yield f"mean, {name}", "mean", NATURAL | flags


def load_config(data, pooling, flags, arguments):
    path = Path(__file__).parents[1] / "configs" / f"{data}.py"
    spec = importlib.util.spec_from_file_location(data, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config(pooling)
    config.data.arrays.table = arguments.table
    if arguments.clips:
        config.data.arrays.clips = arguments.clips
    config.update_from_flattened_dict(flags)
    validate(config)
    return config


def scores_file(out, data, name, seed):
    """Where the scores of a run are kept."""
    return out.with_suffix("") / f"{data}-{re.sub('[^a-z0-9]+', '_', name.lower())}-seed{seed}.parquet"


def run_one(data, pooling, flags, seed, arguments, scores):
    """Trains in a folder that is thrown away; metrics of one seed by level, of the validation split or all folds.

    The scores go to the file `scores`.
    """
    start = time.perf_counter()
    folds = flags.get("data.folds", FOLDS if data == "echonest" else 0)
    config = load_config(data, pooling, flags | {"seed": seed, "data.folds": folds}, arguments)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        workdir = Path(folder) / "run"
        (modes.cross_validate if folds else modes.train)(config, workdir)
        predictions = load_predictions(workdir / PREDICTIONS_FILE).of_split("validation")
        inner = (
            [inner_score(workdir / f"fold-{fold}", config.train.select) for fold in range(folds)]
            if arguments.nested
            else []
        )
    scores.parent.mkdir(exist_ok=True)
    save_predictions(predictions, scores)
    metrics = level_metrics(predictions)
    levels = {level: metrics[level] for level in LEVELS if level in metrics}
    return levels, inner, time.perf_counter() - start


def inner_score(folder, select):
    """The last value of the selecting metric in a run's log."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line[f"validation/{select}"] for line in lines if f"validation/{select}" in line][-1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", choices=["vggish", "echonest"])
    parser.add_argument("--clips", default="", help="the .npz of the features (vggish)")
    parser.add_argument("--table", default="", help="the CSV track table")
    parser.add_argument("--out", default="poolings.jsonl", help="file of the finished runs")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", default="", help="only the rows whose name contains this")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--fixed", action="store_true", help="five folds of training and validation, for a fixed time")
    group.add_argument("--nested", action="store_true", help="these systems on a part of each fold's training clips")
    parser.add_argument("--show", default="", help="print the tables of such a file")
    arguments = parser.parse_args()
    if arguments.show:
        show(Path(arguments.show))
        return
    if not arguments.data or not arguments.table:
        parser.error("name the data (vggish, echonest) and give --table")
    logging.getLogger("mgc_jax").setLevel(logging.ERROR)
    out = Path(arguments.out)
    lines = out.read_text().splitlines() if out.exists() else []
    done = {(line["data"], line["name"], line["seed"]) for line in map(json.loads, lines)}
    fixed = arguments.fixed or arguments.nested
    rows = list(fixed_experiments(arguments.data, nested=arguments.nested) if fixed else experiments(arguments.data))
    for seed in range(arguments.seeds):
        for name, pooling, flags in rows:
            if (arguments.data, name, seed) in done or arguments.only not in name:
                continue
            with contextlib.redirect_stderr(io.StringIO()):
                scores = scores_file(out, arguments.data, name, seed)
                levels, inner, seconds = run_one(arguments.data, pooling, flags, seed, arguments, scores)
            line = {"data": arguments.data, "name": name, "seed": seed, "seconds": round(seconds, 1)}
            line |= {"levels": levels, "inner": inner}
            with out.open("a") as file:
                file.write(json.dumps(line) + "\n")
            main_level = levels.get("bag", levels["clip"])
            print(f"{seconds:6.1f} s  seed {seed}  {main_level['accuracy']:.3f} {main_level['micro_ap']:.3f}  {name}")


def show(path):
    """Prints a Markdown table per data set: mean and standard deviation over seeds."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    metrics = [name for name, metric in METRICS.items() if metric.compared]
    titles = " | ".join(METRICS[name].title for name in metrics)
    groups = {
        (data, group): [row for row in rows if any((line["data"], line["name"]) == (data, row) for line in lines)]
        for data in dict.fromkeys(line["data"] for line in lines)
        for group, rows in (
            ("", [name for name, *_ in experiments(data)]),
            ("fixed", [name for name, *_ in fixed_experiments(data)]),
        )
    }
    show_nested(path, lines)
    for (data, group), names in groups.items():
        if not names:
            continue
        print(f"\n### {data} {group}\n\n| system | level | {titles} | seeds |\n|---|---|{'---|' * len(metrics)}---|")
        for name in names:
            runs = [
                line.get("levels") or line["views"] for line in lines if line["data"] == data and line["name"] == name
            ]
            for level in LEVELS:
                if not runs or level not in runs[0] or (level == "clip" and "bag" in runs[0]):
                    continue
                values = np.array([[100 * run[level][metric] for metric in metrics] for run in runs])
                deviation = values.std(axis=0, ddof=1) if len(runs) > 1 else np.zeros(len(metrics))
                cells = " | ".join(f"{m:.1f} ± {d:.1f}" for m, d in zip(values.mean(axis=0), deviation, strict=True))
                print(f"| {name} | {LEVELS[level].title} | {cells} | {len(runs)} |")
        show_differences(path, data, [line for line in lines if line["data"] == data and line["name"] in names])


def show_nested(path, lines):
    """Prints which system has the highest macro F1 on what was set aside in each fold, and what these score."""
    for data in dict.fromkeys(line["data"] for line in lines):
        scores, seeds = {}, {}
        for line in lines:
            group, _, name = line["name"].partition(": ")
            if line["data"] == data and group == "inner":
                scores.setdefault(name, []).append(line["inner"])
            elif line["data"] == data and group == "fixed":
                seeds.setdefault(name, set()).add(line["seed"])
        if not scores:
            continue
        mean = {name: np.mean(values, axis=0) for name, values in scores.items()}
        print(f"\n### {data}, set aside\n\n| system | macro F1 in each fold | seeds |\n|---|---|---|")
        for name, values in mean.items():
            print(f"| {name} | {', '.join(f'{100 * value:.1f}' for value in values)} | {len(scores[name])} |")
        chosen = [list(mean)[int(np.argmax(values))] for values in zip(*mean.values(), strict=True)]
        for fold, name in enumerate(chosen):
            print(f"fold {fold}: {name}")
        of_seeds = []
        for seed in sorted(set.intersection(*(seeds.get(name, set()) for name in chosen))):
            of_seeds.append(nested_scores([scores_file(path, data, f"fixed: {name}", seed) for name in chosen]))
        if of_seeds:
            label = of_seeds[0][0]
            each = [genre_metrics(label, values, values.argmax(1)) for _, values in of_seeds]
            together = sum(values for _, values in of_seeds)
            averaged = genre_metrics(label, together, together.argmax(1))
            for metric in ("accuracy", "macro_f1", "micro_ap"):
                found = [100 * values[metric] for values in each]
                spread = f"{np.mean(found):.1f} ± {np.std(found, ddof=1):.1f}"
                print(f"{metric}: {spread}; seeds averaged {100 * averaged[metric]:.1f}")


def nested_scores(files):
    """Labels and log probabilities of all clips, by track id: those of fold k from the k-th file."""
    parts = [load_predictions(file) for file in files]
    label, scores = [], []
    for fold, part in enumerate(parts):
        rows = np.flatnonzero(part.fold == fold)
        rows = rows[np.argsort(part.track_id[rows])]
        values = part.levels["bag" if "bag" in part.levels else "clip_mean"][rows].astype(np.float64)
        scores.append(values - np.logaddexp.reduce(values, axis=1, keepdims=True))
        label.append(part.label[rows])
    return np.concatenate(label), np.concatenate(scores)


def show_differences(path, data, lines):
    """Prints every system minus the averaged clips of the one without bags, paired over artists, seeds averaged."""
    seeds = {}
    for line in lines:
        if scores_file(path, data, line["name"], line["seed"]).exists():
            seeds.setdefault(line["name"], []).append(line["seed"])
    baseline = next((name for name in seeds if name.removeprefix("fixed: ") == "no bags"), None)
    if baseline is None:
        return
    titles = " | ".join(METRICS[name].title for name in compared_metrics())
    print(f"\n| minus averaged clips, no bags | {titles} | seeds |\n|---|{'---|' * (len(compared_metrics()) + 1)}")
    base, artists = resampled(path, data, baseline, seeds[baseline])
    for name in seeds:
        if name == baseline:
            continue
        values, _ = resampled(path, data, name, seeds[name])
        cells = []
        for metric, (value, samples) in values.items():
            low, high, _ = paired(samples, base[metric][1], artists)
            cells.append(f"{100 * (value - base[metric][0]):+.1f} ({100 * low:+.1f} to {100 * high:+.1f})")
        print(f"| {name} | {' | '.join(cells)} | {len(seeds[name])} |")


def resampled(path, data, name, seeds):
    """Means over seeds of each metric, of bags or else averaged clips: (value, [resample]); and artists."""
    values, draws = {}, {}
    for seed in seeds:
        run = load_predictions(scores_file(path, data, name, seed))
        level = "bag" if "bag" in run.levels else "clip_mean"
        scores, predicted, bootstrap = run.levels[level], run.predicted(level), ArtistBootstrap(run.artists)
        for metric, samples in bootstrap.metrics(run.label, scores, predicted).items():
            draws.setdefault(metric, []).append(samples)
        for metric, value in genre_metrics(run.label, scores, predicted).items():
            values.setdefault(metric, []).append(value)
    means = {metric: (np.mean(values[metric]), np.mean(draws[metric], axis=0)) for metric in compared_metrics()}
    return means, len(bootstrap.artists)


if __name__ == "__main__":
    sys.exit(main())
