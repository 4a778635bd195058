"""Where a prepared dataset lies: ``DATA_DIR/fma/SUBSET-REPRESENTATION/VERSION``."""

from pathlib import Path

from tfds_fma.labels import own_name
from tfds_fma.paths import local_path

DATASET_NAME = "fma"


VERSION = "1.1.0"


# Beside a version folder: shards that an interrupted run has finished, and the dataset that is being replaced.
STAGING = f".unfinished-{VERSION}"


REPLACED = f".replaced-{VERSION}"


# Data folder in which the dataset is made that will replace it.
REPLACEMENT = f".replacement-{VERSION}"


# What TFDS calls the metadata of a dataset, and what of it is ours.
METADATA_FILE = "metadata.json"


RESAMPLER = "resampler"


def config_name(subset: str, representation: str) -> str:
    """Returns the name of the TFDS builder config, e.g. ``small-mel_1360x96``."""
    return f"{subset}-{representation}"


def version_dir(data_dir: str | Path, subset: str, representation: str) -> Path:
    """Returns the folder in which the prepared dataset lies, or would lie."""
    return local_path(data_dir).absolute() / DATASET_NAME / config_name(subset, representation) / VERSION


def is_complete(path: Path) -> bool:
    """Whether a version folder holds a finished dataset (TFDS writes ``dataset_info.json`` last)."""
    return (path / "dataset_info.json").is_file()


def is_demo(path: Path) -> bool:
    """Whether a prepared dataset is the synthetic demo corpus: `tfds_fma.demo` puts it into ``DATA_DIR/demo``."""
    return data_dir_of(path).name == "demo"


def remedy(path: Path) -> str:
    """Says how to make a damaged dataset anew."""
    if is_demo(path):
        return f"It is the demo corpus: delete {path}, and it will be made again."
    if path.absolute().parent.parent.name != DATASET_NAME:  # a copy, whose folders do not tell what it is
        return "Copy or prepare it again."
    return f"Prepare it again: {prepare_command(path)} --overwrite."


def prepare_command(path: Path) -> str:
    """The command line that prepares the dataset in a version folder."""
    subset, _, representation = path.parent.name.rpartition("-")
    source = "--audio FOLDER" if own_name(subset) else "--source DIR"
    return (
        f"python -m tfds_fma.prepare {source} {subset_flag(subset)} --representation {representation} "
        f"--data_dir {data_dir_of(path)}"
    )


def subset_flag(subset: str) -> str:
    """The flag of ``tfds_fma.prepare`` that names a subset, or a music collection of one's own."""
    return f"--name {own_name(subset)}" if own_name(subset) else f"--subset {subset}"


def columns_remedy(path: Path) -> str:
    """Says how to give a dataset its columns file."""
    if path.absolute().parent.parent.name != DATASET_NAME:  # a copy, whose folders do not tell what it is
        return "Copy it again, with that file, to open it without."
    subset, _, representation = path.absolute().parent.name.partition("-")
    return (
        "To open it without, run once: python -m tfds_fma.prepare "
        f"{subset_flag(subset)} --representation {representation} --data_dir {data_dir_of(path)}"
    )


def data_dir_of(path: Path) -> Path:
    """The data folder that a version folder lies in."""
    return path.absolute().parent.parent.parent
