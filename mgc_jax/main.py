"""Trains, evaluates, exports or measures one configuration.

  mgc-jax --config configs/matt_crnn_tf.py                     train; on the demo if FMA is not prepared
  mgc-jax --config configs/prcnn.py --config.train.epochs=20   override any key of the configuration
  mgc-jax --workdir runs/x                                     resume a run
  mgc-jax --workdir runs/x --mode eval --test                  evaluate its best weights, with the test split
  mgc-jax --workdir runs/x --mode export                       write its best weights as files
  mgc-jax --config configs/prcnn.py --mode bench               measure speed and memory, without data

`python -m mgc_jax.main` is the same command.
"""

import importlib.metadata
import logging
from pathlib import Path

from absl import app, flags
from ml_collections import ConfigDict

from mgc_jax.config import identity
from mgc_jax.config.flag import define_config
from mgc_jax.config.loading import load_config
from mgc_jax.errors import UserError
from mgc_jax.runtime import processes
from mgc_jax.runtime.launch import launch_settings
from mgc_jax.runtime.process_setup import prepare_process
from mgc_jax.runtime.terminal import parse_flags, run_command
from mgc_jax.runtime.workdir import default_workdir, recorded_devices
from mgc_jax.runtime.xla_flags import use_cpu_flags, use_deterministic_gpus, use_recorded_threads
from tfds_fma.paths import local_path

_CONFIG = define_config(
    "Configuration: a file, or an experiment in configs (matt_crnn_tf); FILE.py:ARGUMENT gives it an argument. "
    "--config.KEY=VALUE overrides a key; mgc_jax/config/keys.py lists them. Default: that of --workdir."
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run: checkpoints, metrics, results. Default: runs/<config>-<date>."
)
_MODE = flags.DEFINE_enum(
    "mode", "train", ["train", "cross_validate", "eval", "export", "bench"], "train (default): train or resume. "
    "cross_validate: train once per fold (--config.data.folds). eval: evaluate a run, or --predictions. export: write "
    "the best weights to <workdir>/export. bench: measure speed and memory (--config.bench...).",
)  # fmt: skip
_TEST = flags.DEFINE_bool(
    "test", False, "Evaluate on the test split too: once, when all choices are made. results.json counts how often."
)
_PREDICTIONS = flags.DEFINE_list(
    "predictions", None, "With --mode eval: a file of scores to evaluate, Parquet or CSV, also of other software, or "
    "the folder of a run; several, with commas between them, are averaged. "
    "--config gives the corpus, if the file lacks genres, splits or artists; --workdir receives results and report.",
)  # fmt: skip
_DETERMINISTIC = flags.DEFINE_bool(
    "deterministic", False, "On a GPU: operations that give the same bits every time, which may be slower, by way of "
    "XLA_FLAGS. Without it a run that is repeated or resumed on a GPU is equal but for rounding. CPUs do not need it.",
)  # fmt: skip
_CPU_DEVICES = flags.DEFINE_integer(
    "cpu_devices", 0, "On a CPU: devices that a batch is dealt to. 0: one per core, at most 8; with several processes "
    "one each. Other numbers give the same results but for rounding. XLA_FLAGS come first.", lower_bound=0,
)  # fmt: skip
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "Several processes: HOST:PORT of process 0. Not needed with srun and mpirun. Environment "
    "variables: JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID.",
)  # fmt: skip
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Several processes: how many.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Several processes: the number of this one, from 0.")
_TIMEOUT = flags.DEFINE_float(
    "coordinator_timeout", 300, "Seconds to wait for the other processes at the start.", lower_bound=1
)

log = logging.getLogger("mgc_jax")


def command(about: str = "") -> None:
    """Runs the command `mgc-jax`, also `python -m mgc_jax.main`, and exits with its status.

    Args:
        about: what `--help` prints first.
    """
    prepare_process(cpu_devices=None)  # --cpu_devices says how many
    app.run(main, flags_parser=lambda argv: parse_flags(argv, f"{about}{__doc__}"))


def main(argv: list[str]) -> int:
    """Runs the mode given by the flags; returns the exit status."""
    return run_command(lambda: _main(argv))


def _main(argv: list[str]) -> int:
    mode, workdir = _MODE.value, local_path(_WORKDIR.value) if _WORKDIR.value else None
    if len(argv) > 1:
        raise UserError(f"unknown argument {argv[1]!r}; flags begin with --, see --help")
    if _PREDICTIONS.value and mode != "eval":
        raise UserError("--predictions goes with --mode eval")
    if _TEST.value and mode not in ("train", "eval"):
        raise UserError(f"--test does not go with --mode {mode}")
    source = _CONFIG.value
    if source is None and not _PREDICTIONS.value and workdir is not None and (workdir / "config.json").is_file():
        source = str(workdir)
    if source is None and _CONFIG.overrides:
        raise UserError(
            "--config.KEY=VALUE overrides a configuration: give --config FILE, or a --workdir that holds one"
        )
    launcher = (_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    # Before anything, a configuration's own code included, may start JAX's backend:
    devices, alone = _CPU_DEVICES.value, launch_settings(*launcher) is None
    if workdir is not None and mode in ("train", "cross_validate") and alone and not devices:
        devices = use_recorded_threads(recorded_devices(workdir) or recorded_devices(workdir / "fold-0"))
    use_cpu_flags(devices or (0 if alone else 1))
    if _DETERMINISTIC.value:
        use_deterministic_gpus()
    config = None if source is None else load_config(source, _CONFIG.overrides)
    if _PREDICTIONS.value:
        from mgc_jax import modes

        modes.evaluate_predictions(
            [local_path(path) for path in _PREDICTIONS.value], config, workdir, test=_TEST.value
        )
        return 0
    if source is None or config is None:
        raise UserError("--config is missing, for instance --config configs/matt_crnn_tf.py; see --help")
    processes.start(*launcher, timeout=_TIMEOUT.value)
    with processes.joined():
        _run(Path(source.partition(":")[0]).stem, config, workdir)
    return 0


def _run(name: str, config: ConfigDict, workdir: Path | None) -> None:
    """Chooses corpus and workdir, the same in all processes, and runs the mode."""
    mode = _MODE.value
    if processes.process_count() > 1 and (config.baseline.name or mode in ("export", "bench")):
        what = "a baseline of scikit-learn" if config.baseline.name else f"--mode {mode}"
        raise UserError(f"{what} is the work of one process; start {processes.process_count()} for models only")
    from mgc_jax import modes

    config, why = modes.choose_corpus(config, mode, workdir)
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib")}
    options = {f"--{flag.name}": flag.value for flag in (_MODE, _TEST, _DETERMINISTIC, _WORKDIR)} | versions
    processes.require_same("configuration", identity.shared_values(config) | options)
    workdir = workdir or Path(processes.from_first(lambda: str(default_workdir(name, config, mode))))
    log.info(why)
    log.info("workdir %s", workdir)
    modes.run(mode, config, workdir, test=_TEST.value)


if __name__ == "__main__":
    command()
