"""Both papers' tables and figures, ours beside theirs: `python -m mgc_jax.tables matt`.

Trains what is missing, and writes tables.md, tables.csv, tables.html and the figures.
"""

import logging
from pathlib import Path

from absl import app, flags

from mgc_jax.config.flag import define_config
from mgc_jax.config.loading import find_config
from mgc_jax.errors import UserError
from mgc_jax.runtime.process_setup import prepare_process
from mgc_jax.runtime.terminal import parse_flags, run_command
from mgc_jax.tables.plan import PARTS
from tfds_fma.paths import local_path

_CORPUS = flags.DEFINE_enum(
    "corpus", "auto", ["auto", "demo", "fma_small", "fma_medium", "fma_large", "fma_full"],
    "Data. auto: the paper's (matt: fma_medium, ubc: fma_small) if it is prepared, else the demo.",
)  # fmt: skip
_DATA_DIR = flags.DEFINE_string("data_dir", "data", "Folder where tfds_fma.prepare wrote, and where the demo is made.")
_CONFIG = define_config(
    "In place of --corpus: a configuration for arrays, whose argument is encoder and pooling "
    "(configs/fma_small_mels.py, echonest.py, vggish.py); override with --config.key=value. Its data, optimizer, "
    "batch and epochs are used; encoder, pooling and baseline are those of the tables."
)  # fmt: skip
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of tables and runs. Default: tables/<paper>-<corpus>.")
_SEEDS = flags.DEFINE_integer("seeds", 1, "Runs of each system.", lower_bound=1)
_FOLDS = flags.DEFINE_integer(
    "folds", 0, "Number of folds of a cross-validation grouped by artist; 0: none.", lower_bound=0
)
_SPLIT = flags.DEFINE_enum("split", "", ["", "test", "validation"], "Default: test where there is one.")
_EPOCHS = flags.DEFINE_integer(
    "epochs", 0, "Limit of the epochs of each neural system, for a quick trial; 0: none.", lower_bound=0
)
_ONLY = flags.DEFINE_list(
    "only", [], "Only these parts, joined by commas; "
    + "; ".join(f"{paper}: {', '.join(parts)}" for paper, parts in PARTS.items()) + ".",
)  # fmt: skip
_TAIL = flags.DEFINE_list(
    "tail", [], "Genres with fewer training clips than this are rare: two numbers. Default: 100,200; on the demo 5,8."
)

log = logging.getLogger("mgc_jax.tables")


def main(argv: list[str]) -> int:
    """Makes the tables that the flags ask for; returns the exit status."""
    return run_command(lambda: _main(argv))


def _main(argv: list[str]) -> int:
    paper = _paper(argv)
    parts, tail, file = _parts(paper), _tail(), _file()
    if _FOLDS.value == 1:
        raise UserError("--folds 1 is invalid: give at least 2, or 0 for the corpus's own split")
    return _make(paper, parts, tail, file)


def _make(paper: str, parts: tuple[str, ...], tail: tuple[int, int] | None, file: Path | None) -> int:
    """Makes the tables; only now are JAX and scikit-learn imported."""
    from mgc_jax.tables.build import Request, make_tables
    from mgc_jax.tables.sources import FromFile, Prepared, Source, default_corpus

    source: Source
    if file is not None:
        source = FromFile(paper, file, _CONFIG.overrides)
        log.info("corpus of %s", file)
    else:
        corpus, why = _CORPUS.value, f"corpus {_CORPUS.value}, as asked"
        if corpus == "auto":
            corpus, why = default_corpus(paper, _DATA_DIR.value)
        elif corpus == "demo":
            why = "corpus demo: SYNTHETIC MUSIC, as asked"
        log.info(why)
        source = Prepared(paper, corpus, _DATA_DIR.value)
    workdir = local_path(_WORKDIR.value or f"tables/{paper}-{source.name}")
    request = Request(paper, workdir, _SEEDS.value, _FOLDS.value, _SPLIT.value, _EPOCHS.value, parts, tail)
    return 0 if make_tables(request, source) else 1


def _paper(argv: list[str]) -> str:
    choices = " or ".join(PARTS)
    if len(argv) < 2:
        raise UserError(f"name the paper, {choices}: python -m mgc_jax.tables matt; see --help")
    if argv[1] not in PARTS:
        raise UserError(f"there are no tables of {argv[1]!r}: write {choices}; see --help")
    if len(argv) > 2:
        raise UserError(f"unknown argument {argv[2]!r}; flags begin with --, see --help")
    return argv[1]


def _parts(paper: str) -> tuple[str, ...]:
    for part in _ONLY.value:
        if part not in PARTS[paper]:
            raise UserError(f"--only {part} is invalid: the parts of {paper} are {', '.join(PARTS[paper])}")
    return tuple(_ONLY.value)


def _file() -> Path | None:
    """Returns the configuration file, or None for a corpus by name."""
    if _CONFIG.value is None:
        if _CONFIG.overrides:
            raise UserError("--config is missing: --config.KEY=VALUE overrides a configuration; give --config FILE")
        return None
    if _CORPUS.present:
        raise UserError("--config and --corpus exclude each other: give one of them")
    name, colon, _ = _CONFIG.value.partition(":")
    if colon:
        raise UserError(f"--config {name} takes no argument here: the tables give encoder and pooling themselves")
    return find_config(name)


def _tail() -> tuple[int, int] | None:
    if not _TAIL.value:
        return None
    try:
        low, high = map(int, _TAIL.value)
        if not 0 < low < high:
            raise ValueError
    except ValueError:
        raise UserError(
            f"--tail {','.join(_TAIL.value)} is invalid: write two whole numbers, the lower one first, as 100,200"
        ) from None
    return low, high


if __name__ == "__main__":
    prepare_process("mgc_jax.tables", "mgc_jax.data", "tfds_fma")
    app.run(main, flags_parser=lambda argv: parse_flags(argv, __doc__ or ""))
