"""Flags that the commands share, and their exit status."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from tfds_fma.errors import UserError
from tfds_fma.labels import SUBSETS, own_name
from tfds_fma.paths import local_path
from tfds_fma.representations.registry import get_representation
from tfds_fma.storage import layout

DEFAULT_REPRESENTATION = "mel_1360x96"


def add_dataset_flags(parser: argparse.ArgumentParser) -> None:
    """Adds ``--data_dir``, ``--subset`` and ``--representation``, and ``--path`` instead of the three."""
    flags = parser.add_argument_group("the dataset", "either where it was prepared and what, or its folder")
    flags.add_argument("--data_dir", metavar="DIR", help="where TFDS keeps datasets, as given to tfds_fma.prepare")
    flags.add_argument(
        "--subset", type=_subset, metavar="NAME", help=f"{', '.join(SUBSETS)}; or own_NAME, a music collection"
    )
    flags.add_argument("--representation", metavar="NAME", help=f"default: {DEFAULT_REPRESENTATION}")
    flags.add_argument(
        "--path", metavar="VERSION_DIR", help="the folder that holds dataset_info.json, instead of the three above"
    )


def _subset(text: str) -> str:
    if text not in SUBSETS and not own_name(text):
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(SUBSETS)} and no collection, own_NAME")
    return text


def dataset_path(args: argparse.Namespace) -> Path:
    """Returns the folder of the prepared dataset that the flags name.

    Args:
      args: parsed arguments of a parser that went through `add_dataset_flags`.

    Raises:
      UserError: if the flags name none, or it has not been prepared. The message lists what is prepared.
    """
    if args.path is not None:
        if args.data_dir or args.subset or args.representation:
            raise UserError("--path says it all: leave out --data_dir, --subset and --representation.")
        path = Path(os.path.abspath(local_path(args.path)))
        if not layout.is_complete(path):
            raise UserError(
                f"{path} holds no prepared dataset: there is no dataset_info.json in it. Give the folder of one "
                f"version, such as DATA_DIR/{layout.DATASET_NAME}/small-{DEFAULT_REPRESENTATION}/{layout.VERSION}."
            )
        return path
    if not (args.data_dir and args.subset):
        raise UserError("Say which dataset: give --data_dir and --subset (and --representation), or --path.")
    representation = args.representation or DEFAULT_REPRESENTATION
    path = layout.version_dir(args.data_dir, args.subset, representation)
    if not layout.is_complete(path):
        get_representation(representation)  # of a name that can be prepared only from arrays it says so
        raise UserError(_not_prepared(path))
    return path


def prepared_below(data_dir: Path) -> list[Path]:
    """Returns the folders of all datasets prepared in a data folder, whatever their version, the demo's included."""
    patterns = [f"{home}{layout.DATASET_NAME}/*/*/dataset_info.json" for home in ("", "demo/")]
    found = sorted(path.parent for pattern in patterns for path in data_dir.glob(pattern))
    return [path for path in found if not path.name.startswith((".", "incomplete."))]


def _not_prepared(path: Path) -> str:
    """The message about a dataset that is not there."""
    data_dir = layout.data_dir_of(path)
    there = ", ".join(str(found.relative_to(data_dir)) for found in prepared_below(data_dir))
    return (
        f"{path.parent.name} has not been prepared in {data_dir} (version {path.name}). Prepared there: "
        f"{f'{there} (--path takes such a folder)' if there else 'nothing'}. To prepare it: "
        f"{layout.prepare_command(path)}."
    )


def exit_status(command: Callable[[], object]) -> int:
    """Runs `command`; turns an error meant for people into a line and an exit status."""
    try:
        command()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: run the same command again to continue", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, `head` perhaps, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
