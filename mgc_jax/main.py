"""Trains, evaluates, exports or measures one configuration: `python -m mgc_jax.main --config configs/matt_crnn_tf.py`.

This file is short on purpose: it turns flags into a call. Everything worth importing lives elsewhere, and
nothing heavy is imported before the flags are known to be good.
"""

import importlib.metadata
import logging
from pathlib import Path

from absl import app, flags
from ml_collections import ConfigDict

from mgc_jax.config import identity, keys
from mgc_jax.config.flag import define_config
from mgc_jax.config.loading import load_config
from mgc_jax.errors import UserError
from mgc_jax.runtime import processes
from mgc_jax.runtime.compilation_cache import keep_compiled_programs
from mgc_jax.runtime.huge_pages import restart_with_huge_pages
from mgc_jax.runtime.terminal import log_to_terminal, parse_flags, run_command
from mgc_jax.runtime.workdir import default_workdir, new_workdir, read_config

_CONFIG = define_config(
    "The configuration: a file, or an experiment in configs (matt_crnn_tf); FILE.py:argument gives it an argument, "
    "--config.key=value overrides a key."
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run: checkpoints, metrics, results. Default: runs/<config>-<date>. Give the "
    "folder of an interrupted run to resume it."
)  # fmt: skip
_MODE = flags.DEFINE_enum(
    "mode", "train", ["train", "cross_validate", "eval", "export", "bench"],
    "train (or resume); train once per fold (--config.data.folds) and evaluate all folds together; evaluate a trained "
    "workdir, or the scores in --predictions; write a workdir's best weights as files (<workdir>/export); or measure "
    "speed and memory on synthetic clips (--config.bench...), for which no data are needed.",
)  # fmt: skip
_TEST = flags.DEFINE_bool(
    "test", False, "Evaluate on the test split, too: once, when all choices are made. results.json counts how often."
)
_PREDICTIONS = flags.DEFINE_string(
    "predictions", None, "With --mode eval: evaluate the scores in this file (predictions.parquet of a run, or a "
    "Parquet or CSV file of other software; mgc_jax/evaluation/predictions_file.py says what is in it). --config "
    "names the corpus, if the file lacks genres, splits or artists. With --workdir, results.json and report.html are "
    "written there.",
)  # fmt: skip

_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "To train with several processes: host:port of process 0. With srun and mpirun no such flags "
    "are needed; the environment may say the same (JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID).",
)  # fmt: skip
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes there are.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "The number of this one, from 0.")
_COORDINATOR_TIMEOUT = flags.DEFINE_float(
    "coordinator_timeout", 300, "Seconds to wait for the other processes at the start.", lower_bound=1
)

log = logging.getLogger("mgc_jax")


def main(argv: list[str]) -> int:
    """Runs the mode that the flags ask for; returns the exit status."""
    log_to_terminal("mgc_jax", "tfds_fma")
    return run_command(lambda: _main(argv))


def _main(argv: list[str]) -> int:
    if len(argv) > 1:
        raise UserError(f"unknown argument {argv[1]!r}; flags begin with --, see --help")
    if _PREDICTIONS.value:
        _evaluate_predictions(Path(_PREDICTIONS.value))
        return 0
    if _CONFIG.value is None:
        raise UserError("--config is missing, for instance --config configs/matt_crnn_tf.py; see --help")
    config = load_config(_CONFIG.value, _CONFIG.overrides)
    processes.start(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value, timeout=_COORDINATOR_TIMEOUT.value)
    with processes.joined():
        _run_config(Path(_CONFIG.value.partition(":")[0]).stem, config)
    return 0


def _run_config(name: str, config: ConfigDict) -> None:
    """Settles corpus and workdir, in all processes alike, and runs."""
    if processes.process_count() > 1 and (config.baseline.name or _MODE.value in ("export", "bench")):
        what = "a baseline of scikit-learn" if config.baseline.name else f"--mode {_MODE.value}"
        raise UserError(f"{what} is the work of one process; start {processes.process_count()} for models only")
    if _MODE.value != "train" and _WORKDIR.value:
        config = _with_corpus_of(config, Path(_WORKDIR.value))
    config, why = _resolve(config)
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib")}
    options = {"--mode": _MODE.value, "--test": _TEST.value, "--workdir": _WORKDIR.value} | versions
    processes.require_same("configuration", identity.shared_values(config) | options)
    default = processes.from_first(lambda: "" if _WORKDIR.value else str(_default_workdir(name, config)))
    workdir = Path(_WORKDIR.value or default)
    log.info(why)
    log.info("workdir %s", workdir)
    _run(config, workdir)


def _run(config: ConfigDict, workdir: Path) -> None:
    """Does what the mode says, and writes the report."""
    from mgc_jax import modes

    if not config.baseline.name:
        keep_compiled_programs()
    mode = _MODE.value
    if mode in ("export", "cross_validate", "bench"):
        if _TEST.value:
            raise UserError(f"--test does not go with --mode {mode}")
        {"export": modes.export, "cross_validate": modes.cross_validate, "bench": modes.bench}[mode](config, workdir)
    else:
        (modes.train if mode == "train" else modes.evaluate)(config, workdir, test=_TEST.value)
    if mode not in ("export", "bench") and processes.is_first():
        _write_report(workdir)


def _evaluate_predictions(path: Path) -> None:
    """Evaluates the scores in a file."""
    from mgc_jax.data.open import open_corpus
    from mgc_jax.evaluation import results
    from mgc_jax.evaluation.predictions_file import load

    if _MODE.value != "eval":
        raise UserError("--predictions goes with --mode eval")
    corpus, bags = None, {}
    if _CONFIG.value is None and _CONFIG.overrides:
        raise UserError("--config.KEY=VALUE overrides a configuration: give --config FILE")
    if _CONFIG.value is not None:
        config, why = _resolve(load_config(_CONFIG.value, _CONFIG.overrides))
        log.info(why)
        corpus = open_corpus(config.data)
        bags = {"bag_key": config.data.bag_key, "pseudo_album_gap": config.data.pseudo_album_gap}
    predictions = load(path, corpus, **bags)
    of_test = predictions.split == "test"
    if of_test.any() and not _TEST.value:
        log.info("%d clips of the test split are left out; --test evaluates them", of_test.sum())
        predictions = predictions.take(~of_test)
    if not len(predictions):
        raise UserError(f"{path} has nothing but the test split; --test evaluates it")
    headline = f"the scores in {path}"
    if not _WORKDIR.value:
        print(f"\n{headline}\n{results.format_table(results.summaries(predictions))}")
        return
    workdir = Path(_WORKDIR.value)
    if (workdir / "config.json").exists():
        raise UserError(f"--workdir {workdir} holds a run; give a new folder for the results of --predictions")
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the workdir {workdir} cannot be written: {error}") from error
    about = {"model": path.stem, **predictions.info}
    results.finish(predictions, about, workdir, headline, corpus, keep_test=False)
    _write_report(workdir)


def _default_workdir(name: str, config: ConfigDict) -> Path:
    if _MODE.value == "cross_validate":
        return default_workdir(f"cross-validation-{name}", config, "train")
    if _MODE.value == "bench":
        return new_workdir(f"bench-{name}")
    return default_workdir(name, config, _MODE.value)


def _with_corpus_of(config: ConfigDict, workdir: Path) -> ConfigDict:
    """Returns a configuration whose corpus, if it is left to what is there, is that of a trained workdir."""
    file = workdir / "config.json"
    if config.data.get("corpus") == "auto" and file.is_file():
        config.data.corpus = read_config(file)["data"]["corpus"]
    return config


def _resolve(config: ConfigDict) -> tuple[ConfigDict, str]:
    """Returns the configuration with its corpus chosen, and a sentence that says which and why."""
    from mgc_jax.data.open import resolve_corpus

    if _MODE.value == "bench" and config.bench.data == "synthetic":
        config = keys.resolve_demo(config) if config.data.corpus == "demo" else config
        return config, "synthetic clips; --config.bench.data=corpus measures on the corpus"
    return resolve_corpus(config)


def _write_report(workdir: Path) -> None:
    """Writes report.html; without Matplotlib and Jinja2 (a machine without network) a run is complete all the same."""
    try:
        from mgc_jax.report.run_page import write_report

        log.info("report: %s", write_report(workdir))
    except ImportError as error:
        log.warning("no report.html: %s", error)


if __name__ == "__main__":
    restart_with_huge_pages()
    app.run(main, flags_parser=parse_flags)
