"""Writes the page of a run, or compares several: `python -m mgc_jax.report RUN [RUN...]`."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from mgc_jax.errors import UserError
from mgc_jax.report.comparison import write_comparison
from mgc_jax.report.run_page import write_report
from tfds_fma.paths import local_path


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m mgc_jax.report",
        description="Writes the report of a run (report.html in its folder), or the comparison of several.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a finished run")
    parser.add_argument(
        "--out", type=Path, help="file or folder of the comparison; by default compare.html in the current folder"
    )
    given = parser.parse_args(arguments)
    try:
        if len(given.runs) == 1:
            if given.out is not None:
                raise UserError(
                    "--out is for the comparison of several runs; a report is written into its run's folder"
                )
            path = write_report(given.runs[0])
        else:
            path = write_comparison(given.runs, local_path(given.out or Path()))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(path)
    return 0


if __name__ == "__main__":
    logging.getLogger("mgc_jax").setLevel(logging.WARNING)
    sys.exit(main())
