"""Writes a model as files, also for other programs: `mgc-jax export MODEL`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mgc_jax.errors import UserError
from mgc_jax.runtime.process_setup import prepare_process
from mgc_jax.runtime.terminal import run_command, say
from tfds_fma.paths import local_path

_FORMATS = ("safetensors", "stablehlo", "onnx")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="mgc-jax export",
        description="Writes a model as files: weights, labels, how its clips are made, clips to check it with, a "
        "model card; and in formats for other programs, each compared with the model first. docs/howto/export.md",
    )
    parser.add_argument(
        "model", type=Path, metavar="MODEL",
        help="folder of a run, whose best checkpoint goes to RUN/export; or an export, to which formats are added",
    )  # fmt: skip
    parser.add_argument(
        "--format", default="safetensors,stablehlo", metavar="NAMES",
        help=f"any of {', '.join(_FORMATS)}, joined by commas; safetensors is always there. Default: %(default)s. "
        "onnx needs an environment of its own: launch/onnx_export.sh EXPORT",
    )  # fmt: skip
    parser.add_argument(
        "--check", action="store_true",
        help="write nothing: compare all formats of an export, here and now, with what the model said when it was "
        "exported",
    )  # fmt: skip
    given = parser.parse_args(arguments)
    prepare_process()
    return run_command(lambda: _run(local_path(given.model), given.format.split(","), given.check))


def _run(model: Path, names: Sequence[str], check_only: bool) -> int:
    """Imports JAX only now: `prepare_process` may start the program again."""
    from mgc_jax.export import formats
    from mgc_jax.inference import load_export

    if unknown := [name for name in names if name not in _FORMATS]:
        raise UserError(f"--format: unknown format {unknown[0]!r}; choose of {', '.join(_FORMATS)}")
    compared = []
    if check_only:
        compared = formats.check(_export_in(model))
    else:
        folder = _exported(model)
        exported = load_export(folder)
        for name, write in formats.WRITERS.items():
            if name in names:
                compared += write(folder, exported)
    if compared:
        lines = [f"{'file':<20}{'bytes':>14}  greatest difference on the probe clips"]
        for line in compared:
            found = "not compared" if line.difference is None else f"{line.difference:.2g}"
            lines.append(f"{line.name:<20}{line.bytes:>14,}  {found}")
        say("\n".join(lines) + "\n", sys.stdout)
    return 0


def _exported(model: Path) -> Path:
    """Exports a run; of an export, or a run whose checkpoints are gone, writes what it lacks. Returns the folder."""
    from mgc_jax.export import files
    from mgc_jax.export.folder import export_workdir, results_of, write_export
    from mgc_jax.inference import load_export

    if (model / "checkpoints").is_dir():
        from mgc_jax.config.loading import load_config

        return export_workdir(load_config(model), model)
    folder = _export_in(model)
    if any(not (folder / name).is_file() for name in (files.FILES, files.PREPROCESSING, files.CARD)):
        exported = load_export(folder)  # of an earlier version
        write_export(folder, exported, results_of(folder.parent, exported.meta))
    return folder


def _export_in(model: Path) -> Path:
    """Returns the folder of the export that a folder is, or has."""
    from mgc_jax.inference import EXPORT, WEIGHTS

    for folder in (model, model / EXPORT):
        if (folder / WEIGHTS).is_file():
            return folder
    raise UserError(f"{model} is neither the folder of a run nor an export ({WEIGHTS})")


if __name__ == "__main__":
    sys.exit(main())
