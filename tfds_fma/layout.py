"""Where a prepared dataset lies: ``DATA_DIR/fma/SUBSET-REPRESENTATION/VERSION``."""

from pathlib import Path

DATASET_NAME = "fma"
VERSION = "1.0.0"


def config_name(subset: str, representation: str) -> str:
    """Returns the name of the TFDS builder config, e.g. ``small-mel_1360x96``."""
    return f"{subset}-{representation}"


def version_dir(data_dir: str | Path, subset: str, representation: str) -> Path:
    """Returns the folder in which the prepared dataset lies, or would lie."""
    return Path(data_dir).expanduser().absolute() / DATASET_NAME / config_name(subset, representation) / VERSION


def is_complete(path: Path) -> bool:
    """Whether a version folder holds a finished dataset (TFDS writes ``dataset_info.json`` last)."""
    return (path / "dataset_info.json").is_file()
