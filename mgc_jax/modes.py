"""What can be done with a configuration in a workdir, whatever kind of system it describes.

Each mode is a function that may be called any number of times in a process. It raises `UserError` for a mistake of the
user, and leaves logging and JAX's settings to the caller. JAX and scikit-learn are imported by the mode that needs
them, when it starts.
"""

import importlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ml_collections import ConfigDict

from mgc_jax.config import keys
from mgc_jax.config.loading import read_config
from mgc_jax.errors import UserError
from mgc_jax.evaluation.levels import LEVELS
from mgc_jax.evaluation.metrics import METRICS, check_selection
from mgc_jax.evaluation.predictions import Predictions, average, concatenate
from mgc_jax.evaluation.predictions_file import PREDICTIONS_FILE, load_predictions
from mgc_jax.evaluation.results import finish, format_table, show_earlier, summaries
from mgc_jax.evaluation.tasks import metrics_of
from mgc_jax.runtime import processes
from mgc_jax.runtime.files import write_json
from mgc_jax.runtime.terminal import clock
from mgc_jax.runtime.workdir import check_same, claim
from tfds_fma.paths import local_path

if TYPE_CHECKING:
    from mgc_jax.experiment import Experiment
    from mgc_jax.training.checkpoint import Checkpoints
    from mgc_jax.training.state import TrainState

log = logging.getLogger(__name__)


def train(config: ConfigDict, workdir: str | Path, *, test: bool = False) -> dict[str, Any]:
    """Trains the model or baseline of a configuration, and evaluates it; resumes a run that was interrupted.

    Examples:
        >>> import mgc_jax
        >>> config = mgc_jax.load_config("configs/matt_crnn_tf.py", {"train.epochs": 3})  # doctest: +SKIP
        >>> results = mgc_jax.train(config, "runs/matt")  # doctest: +SKIP
        >>> results["splits"]["validation"]["bag"]["accuracy"]  # doctest: +SKIP

    Args:
        config: a validated configuration.
        workdir: the run's folder; may hold an interrupted or finished run of the same configuration.
        test: evaluate on the test split, too.

    Returns:
        What `results.json` holds.

    Raises:
        UserError: the corpus is not there, the folder holds another run, or the loss is no longer finite.
    """
    config, workdir = _with_corpus(config, "train"), local_path(workdir)
    _refuse_cross_validation(workdir)
    if config.baseline.name:
        return importlib.import_module("mgc_jax.baselines").train_and_evaluate(config, workdir, test=test)
    from mgc_jax.experiment import Experiment
    from mgc_jax.training import loop
    from mgc_jax.training.checkpoint import check_folder, open_checkpoints
    from mgc_jax.training.optimizer import make_optimizer

    make_optimizer(config.optimizer)  # a mistyped option shows before the corpus is read
    check_folder(workdir)
    with claim(workdir, config, create=True):
        experiment = Experiment(config, workdir)
        with open_checkpoints(workdir, config.train.select, config.train.keep_checkpoints) as checkpoints:
            loop.train(experiment, checkpoints)
            return evaluate_best(experiment, checkpoints, test=test, again=False)


def evaluate(config: ConfigDict, workdir: str | Path, *, test: bool = False) -> dict[str, Any]:
    """Evaluates the model or baseline of a workdir again; the arguments are those of `train`.

    Examples:
        >>> import mgc_jax
        >>> config = mgc_jax.load_config("configs/matt_crnn_tf.py", {"train.epochs": 3})  # doctest: +SKIP
        >>> results = mgc_jax.evaluate(config, "runs/matt", test=True)  # doctest: +SKIP
    """
    workdir = local_path(workdir)
    config = _with_corpus(config, "eval", workdir)
    _refuse_cross_validation(workdir)
    if config.baseline.name:
        return importlib.import_module("mgc_jax.baselines").evaluate_workdir(config, workdir, test=test)
    from mgc_jax.experiment import Experiment
    from mgc_jax.training.checkpoint import open_checkpoints

    with claim(workdir, config, create=False):
        experiment = Experiment(config, workdir)
        with open_checkpoints(workdir, config.train.select, config.train.keep_checkpoints) as checkpoints:
            return evaluate_best(experiment, checkpoints, test=test)


def best_state(experiment: "Experiment", checkpoints: "Checkpoints") -> "TrainState":
    """Returns the state of the best checkpoint.

    Raises:
        UserError: there is no checkpoint, or one of another configuration or of other code.
    """
    from mgc_jax.training.optimizer import make_optimizer
    from mgc_jax.training.phases import initial_state

    step = checkpoints.best_step()
    if step is None:
        raise UserError(f"{experiment.workdir} has no complete checkpoint to evaluate; train first")
    meta = checkpoints.meta(step)
    experiment.accept(meta, training=False)
    state = checkpoints.restore(step, initial_state(experiment, make_optimizer(experiment.config.optimizer)))
    experiment.check_state(meta, state)
    return state


def evaluate_best(
    experiment: "Experiment", checkpoints: "Checkpoints", *, test: bool, again: bool = True
) -> dict[str, Any]:
    """Evaluates the best checkpoint on training and validation split, and on the test split if asked.

    Args:
        experiment: of the run.
        checkpoints: its checkpoints.
        test: evaluate on the test split, too.
        again: evaluate also where the results of this checkpoint are there already.

    Returns:
        What `results.json` holds.
    """
    from mgc_jax.data.splits import nonempty_splits
    from mgc_jax.models.classifier import describe_model
    from mgc_jax.training.progress import report

    state, config, corpus = best_state(experiment, checkpoints), experiment.config, experiment.corpus
    step, latest = int(state.step), checkpoints.latest_step()
    meta = checkpoints.meta(step)
    selected_by = f"{experiment.selects_on}/{config.train.select}" if experiment.selects_on else keys.LAST_STEP
    if (gone := checkpoints.lost_best()) is not None:
        selected_by += f" of those that are left: that of step {gone:,}, which was better, is gone"
    about = {
        "model": describe_model(config.model),
        "parameters": experiment.num_parameters,
        "corpus": corpus.name,
        "fingerprint": corpus.fingerprint,
        "clips_digest": corpus.clips_digest,
        "best_step": step,
        "last_step": latest,
        "weights": meta.checksums.get("state") or list(map(list, meta.probe)),
        "logit_adjustment": config.eval.logit_adjustment,
        "bag_key": config.data.bag_key,
        "selected_by": selected_by,
        "seconds": checkpoints.meta(latest).seconds if latest is not None else {},
    }
    chosen = "best checkpoint at" if experiment.selects_on else "checkpoint of"
    headline = f"{about['model']} on {corpus.name}, {chosen} step {step} ({about['selected_by']})"
    workdir, splits = experiment.workdir, nonempty_splits(corpus, test=test)
    if not again:
        earlier = processes.from_first(lambda: show_earlier(about, workdir, headline, test="test" in splits))
        if earlier is not None:
            return earlier
    clips = ", ".join(f"{len(experiment.bags[split].clips):,} {split}" for split in splits)
    report(f"evaluating the checkpoint of step {step} ({clips} clips) ...")
    parts = [experiment.predict(split, *state.evaluated) for split in splits]
    results = processes.from_first(lambda: finish(concatenate(parts), about, workdir, headline, corpus))
    trained = clock(sum(about["seconds"].values()))
    log.info("trained for %s; results in %s", trained, workdir / "results.json")
    return results


def export(config: ConfigDict, workdir: str | Path) -> Path:
    """Writes the best weights of a workdir as files; returns their folder."""
    workdir = local_path(workdir)
    _refuse_cross_validation(workdir)
    if config.baseline.name:
        raise UserError("--mode export is for models; the baselines of scikit-learn leave no weights")
    return importlib.import_module("mgc_jax.export").export_workdir(config, workdir)


def bench(config: ConfigDict, workdir: str | Path) -> dict[str, Any]:
    """Measures how fast the model of a configuration trains and evaluates; returns what `bench.json` holds."""
    workdir = local_path(workdir)
    if config.task == keys.MULTI_LABEL:
        raise UserError(
            "--mode bench measures models of one genre per clip, whose steps cost the same but for the loss; set "
            "config.task=single_label"
        )
    if config.baseline.name:
        raise UserError("--mode bench is for models; the baselines of scikit-learn have no training steps to measure")
    return importlib.import_module("mgc_jax.bench.run").run_bench(config, workdir)


def cross_validate(config: ConfigDict, workdir: str | Path) -> dict[str, Any]:
    """Trains once per fold, and evaluates the scores of all folds together: no model was trained on a clip it scores.

    The runs are in `<workdir>/fold-0` and so on; they resume, and finished ones show their results. The test
    split is not used. A model's checkpoint is chosen on a part of the training folds, and the fold is scored once
    (`data.fold_selection=inner`; with `scored` it is chosen on the fold that it then scores, which is optimistic).
    scikit-learn's baselines choose nothing, and are fitted on that part, too. Average precision ranks the scores of
    several models together, as if they had one scale.

    Args:
        config: a validated configuration; `data.folds` says how many folds, grouped by artist, there are.
        workdir: the folder.

    Returns:
        What `results.json` holds.

    Raises:
        UserError: there are no folds, or what a run raises.
    """
    workdir, folds = local_path(workdir), config.data.folds
    if not folds:
        raise UserError("cross-validation needs folds: --config.data.folds=5, for instance")
    if config.data.fold:
        raise UserError(f"cross-validation goes through all folds; leave out --config.data.fold={config.data.fold}")
    check_selection(config.train.select)
    saved = workdir / "config.json"
    if saved.exists():
        if not _is_cross_validation(workdir):
            raise UserError(f"the workdir {workdir} holds a single run, not a cross-validation; give a new --workdir")
        check_same(config, read_config(saved), workdir, training=True)
    with claim(workdir, config, create=True):
        if processes.is_first():
            (workdir / "fold-0").mkdir(exist_ok=True)
            write_json(saved, keys.to_json(config))
        parts: list[Predictions] = []
        results: list[dict[str, Any]] = []
        for fold in range(folds):
            fold_config = config.copy_and_resolve_references()
            fold_config.data.fold = fold
            folder = workdir / f"fold-{fold}"
            log.info("fold %d of %d", fold + 1, folds)
            results.append(train(fold_config, folder))
            parts.append(_of_fold(load_predictions(folder / PREDICTIONS_FILE).of_split("validation"), fold))
        _check_folds(parts, workdir)
        shared = (
            "model", "parameters", "corpus", "fingerprint", "clips_digest", "baseline", "seed", "logit_adjustment",
            "bag_key",
        )  # fmt: skip
        about: dict[str, Any] = {key: results[0][key] for key in shared if key in results[0]}
        if "weights" in results[0]:
            about["weights"] = [result["weights"] for result in results]
        about["folds"] = folds
        about["selected_by"] = results[0].get("selected_by", "")
        about["seconds"] = {part: sum(r["seconds"].get(part, 0) for r in results) for part in results[0]["seconds"]}
        about["per_fold"] = {
            level: {
                metric: [result["splits"]["validation"][level][metric] for result in results] for metric in METRICS
            }
            for level in LEVELS
            if level in results[0]["splits"]["validation"]
        }
        headline = f"{about['model']} on {about['corpus']}, {folds} folds grouped by artist"
        return processes.from_first(
            lambda: (
                show_earlier(about, workdir, headline, test=False) or finish(_pooled(parts), about, workdir, headline)
            )
        )


def _is_cross_validation(workdir: Path) -> bool:
    return (workdir / "fold-0").is_dir()


def _refuse_cross_validation(workdir: Path) -> None:
    if _is_cross_validation(workdir):
        raise UserError(
            f"the workdir {workdir} holds a cross-validation: give --mode cross_validate, or one of its runs, such as "
            f"--workdir {workdir / 'fold-0'} --config.data.fold=0"
        )


def _of_fold(predictions: Predictions, fold: int) -> Predictions:
    return predictions.replace(fold=np.full(len(predictions), fold, np.int32))


def _check_folds(parts: list[Predictions], workdir: Path) -> None:
    """Raises `UserError` if two folds scored the same clip."""
    tracks, counts = np.unique(np.concatenate([part.track_id for part in parts]), return_counts=True)
    if (counts > 1).any():
        track = tracks[counts.argmax()]
        first, second = [fold for fold, part in enumerate(parts) if track in part.track_id][:2]
        raise UserError(
            f"fold-{first} and fold-{second} in {workdir} both scored track {track}, and each clip is in one fold: "
            f"remove the folder whose files were exchanged, and give the command again"
        )


def _pooled(parts: list[Predictions]) -> Predictions:
    """Joins the folds; a genre's training clips are the mean over them."""
    means = {}
    for name in ("train_clips", "train_clips_outside_small"):
        counts = [getattr(part, name) for part in parts]
        means[name] = None if any(count is None for count in counts) else np.mean(counts, axis=0)
    return concatenate(parts).replace(**means)


def run(mode: str, config: ConfigDict, workdir: Path, *, test: bool = False) -> None:
    """Runs a mode of the command line, and writes the report of what was trained or evaluated."""
    if mode in ("train", "eval"):
        {"train": train, "eval": evaluate}[mode](config, workdir, test=test)
    else:
        {"cross_validate": cross_validate, "export": export, "bench": bench}[mode](config, workdir)
    if mode not in ("export", "bench") and processes.is_first():
        _write_report(workdir)


_OF_SCORES = ("model", "corpus", "fingerprint", "corpus_splits")  # what a file of scores says that is not of its run


def evaluate_predictions(
    paths: Sequence[Path], config: ConfigDict | None, workdir: Path | None, *, test: bool = False
) -> None:
    """Evaluates the scores in a file, or the average of several; prints the results, or writes them to a new folder.

    Args:
        paths: the files, or folders of runs; see `mgc_jax.evaluation.predictions_file`.
        config: describes the corpus; None if the file has all that is needed.
        workdir: the folder, if any.
        test: evaluate the test split, too.

    Raises:
        UserError: the file or the corpus cannot be read, the folder holds a run, or nothing is left to evaluate.
    """
    from mgc_jax.data.open import open_corpus

    corpus, bags = None, {}
    if config is not None:
        config, why = choose_corpus(config, "eval")
        log.info(why)
        corpus = open_corpus(config.data, config.task)
        bags = {"bag_key": config.data.bag_key, "pseudo_album_gap": config.data.pseudo_album_gap}
    files = [path / PREDICTIONS_FILE if path.is_dir() else path for path in paths]
    parts = {str(file): load_predictions(file, corpus, **bags) for file in files}
    of_test = sum(int(np.sum(part.split == "test")) for part in parts.values())
    if of_test and not test:
        log.info("%d clips of the test split are left out; --test evaluates them", of_test)
        parts = {name: part.take(part.split != "test") for name, part in parts.items()}
    for name, part in parts.items():
        if not len(part):
            raise UserError(f"{name} has nothing but the test split; --test evaluates it")
    predictions = next(iter(parts.values())) if len(parts) == 1 else average(parts)
    if len(files) == 1:
        name, headline = files[0].stem, f"the scores in {files[0]}"
    else:
        name = " + ".join(f.resolve().parent.name if f.name == PREDICTIONS_FILE else f.stem for f in files)
        headline = f"the average of {len(files)} models' scores: {name}"
    if workdir is None:
        task = keys.MULTI_LABEL if predictions.multi_label else keys.SINGLE_LABEL
        print(f"\n{headline}\n{format_table(summaries(predictions), metrics_of(task))}")
        return
    if (workdir / "config.json").exists():
        raise UserError(f"--workdir {workdir} holds a run; give a new folder for the results of --predictions")
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the workdir {workdir} cannot be written: {error}") from error
    said = {key: value for key, value in predictions.info.items() if key in _OF_SCORES}
    finish(predictions, {"model": name, **said}, workdir, headline, corpus, keep_test=False)
    _write_report(workdir)


def choose_corpus(config: ConfigDict, mode: str, workdir: Path | None = None) -> tuple[ConfigDict, str]:
    """Returns a configuration whose corpus is chosen, and a sentence that says which one and why.

    Args:
        config: a validated configuration; a corpus `auto` becomes that of the workdir, or what is prepared.
        mode: of the command line.
        workdir: the run's folder, if it is given.
    """
    from mgc_jax.data.open import resolve_corpus

    config = config.copy_and_resolve_references()
    saved = None if workdir is None or mode == "train" else workdir / "config.json"
    if config.data.corpus == "auto" and saved is not None and saved.is_file():
        config.data.corpus = read_config(saved)["data"]["corpus"]
    if mode == "bench" and config.bench.data == "synthetic":
        why = "synthetic clips; --config.bench.data=corpus measures on the corpus"
        return keys.resolve_demo(config) if config.data.corpus == "demo" else config, why
    return resolve_corpus(config)


def _with_corpus(config: ConfigDict, mode: str, workdir: Path | None = None) -> ConfigDict:
    """Chooses the corpus where that was not done yet, as a library user may leave it."""
    if config.data.corpus != "auto" and not (config.data.corpus == "demo" and config.demo):
        return config
    config, why = choose_corpus(config, mode, workdir)
    log.info(why)
    return config


def _write_report(workdir: Path) -> None:
    """Writes report.html, unless that of these results is there already.

    Without Matplotlib and Jinja2 (a machine without network) a run is complete all the same.
    """
    report = workdir / "report.html"
    try:
        from mgc_jax.report.finished_run import results_digest

        if report.is_file() and results_digest(workdir) in report.read_text(errors="replace"):
            log.info("report: %s", report)
            return
        from mgc_jax.report.run_page import write_report

        log.info("report: %s", write_report(workdir))
    except ImportError as error:
        log.warning("no report.html: %s", error)
