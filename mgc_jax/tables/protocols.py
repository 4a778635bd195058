"""One configuration under several splits, in one table: `mgc-jax protocols CONFIG`."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from mgc_jax.config.keys import MULTI_LABEL
from mgc_jax.config.loading import load_config
from mgc_jax.config.overrides import take_overrides
from mgc_jax.data.splits import SPLITS
from mgc_jax.errors import UserError
from mgc_jax.runtime.files import write_text
from mgc_jax.runtime.process_setup import prepare_process
from mgc_jax.runtime.terminal import run_command, say
from tfds_fma.paths import local_path

log = logging.getLogger(__name__)

_RULES = ("8-1-1", "8-1-1-albums", "fma")  # from the most that training and test share to the least


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    given, overrides = _parse(sys.argv[1:] if arguments is None else arguments)
    prepare_process("mgc_jax.tables", "mgc_jax.data", "tfds_fma")
    return run_command(lambda: _main(given, overrides))


def _parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    parser = argparse.ArgumentParser(
        prog="mgc-jax protocols",
        description="Trains a configuration under several splits and writes one table of its test accuracy, with what "
        "training and test share: protocols.md.",
        epilog="--config.KEY=VALUE overrides a key of the configuration, such as --config.train.epochs=5.",
    )
    parser.add_argument("config", metavar="CONFIG", help="a file, or an experiment in configs, such as gtzan_feng")
    parser.add_argument(
        "--splits", nargs="+", choices=sorted(SPLITS.keys() - {"folds"}), default=_RULES, metavar="RULE",
        help=f"default: {' '.join(_RULES)}",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, default=1, help="runs under each split (default 1)")
    parser.add_argument("--workdir", type=Path, help="folder of the table and the runs; default: protocols/CONFIG")
    overrides, rest = take_overrides(arguments)
    given = parser.parse_args(rest)
    if given.seeds < 1:
        parser.error("--seeds must be at least 1")
    return given, overrides


def _main(given: argparse.Namespace, overrides: dict[str, str]) -> int:
    from mgc_jax.modes import choose_corpus
    from mgc_jax.tables.leakage import compare, markdown  # imports JAX, which must come after `prepare_process`

    config, why = choose_corpus(load_config(given.config, overrides), "train")
    if config.task == MULTI_LABEL:
        raise UserError("protocols compares accuracies, of models of one genre per clip; set config.task=single_label")
    log.info(why)
    name = Path(given.config).stem
    workdir = local_path(given.workdir or Path("protocols") / name)
    rows = compare(config, given.splits, workdir / "runs", given.seeds)
    if len({row.error for row in rows}) == 1 and rows[0].error:
        raise UserError(rows[0].error)  # the corpus is not there, say
    text = markdown(rows, f"{name} on {config.data.corpus}", config.data.corpus)
    write_text(workdir / "protocols.md", text)
    say(text, sys.stdout)
    return 1 if any(row.error for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
