"""The files of an export, and `files.json`, which names them with size and checksum: so that a cut or swapped one is
found before it is read.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from mgc_jax.errors import UserError
from mgc_jax.export.reference import PROBE
from mgc_jax.inference import CONFIG, LABELS, WEIGHTS
from mgc_jax.runtime.files import write_bytes, write_json

FILES, CARD, PREPROCESSING = "files.json", "MODEL_CARD.md", "preprocessing.json"
STABLEHLO, ONNX, SPECTROGRAM = "model.stablehlo", "model.onnx", "spectrogram.onnx"
_MODEL = (WEIGHTS, LABELS, CONFIG)  # what the others are made of
_OTHERS = (STABLEHLO, ONNX, SPECTROGRAM)
_REMEDY = "Make room there, or make it writable; then give the same command again."
_AGAIN = "export again"


def write(folder: Path, name: str, content: bytes, **about: Any) -> None:
    """Writes a file of an export, and what `files.json` says of it.

    Args:
        folder: of the export.
        name: of the file.
        content: what it holds.
        about: what else `files.json` says.
    """
    write_bytes(folder / name, content, _REMEDY)
    entry = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()} | about
    write_json(folder / FILES, _entries(folder) | {name: entry})


def write_model(folder: Path, contents: dict[str, bytes]) -> None:
    """Writes the files that say what the model is. Those of other formats are deleted if it is another one."""
    before = _entries(folder)
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    if any(before.get(name, {}).get("sha256") != digest for name, digest in digests.items() if name in _MODEL):
        for name in _OTHERS:
            (folder / name).unlink(missing_ok=True)
        write_json(folder / FILES, {})
    for name, content in contents.items():
        write(folder, name, content)


def read(folder: Path, name: str) -> bytes:
    """Reads a file of an export.

    Raises:
        UserError: it is not the file that was written.
    """
    path, entry = folder / name, _entries(folder).get(name)
    try:
        size = path.stat().st_size
        if entry is None:
            raise UserError(f"{path} is not of this export: {FILES} does not name it; {_AGAIN}")
        if size != entry["bytes"]:
            raise UserError(f"{path} has {size:,} bytes, but {entry['bytes']:,} were written; {_AGAIN}")
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != entry["sha256"]:
            raise UserError(f"{path} is not the file that was written: its checksum is another one; {_AGAIN}")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {_AGAIN}") from error
    return content


def present(folder: Path) -> list[str]:
    """Returns which files of models there are, of those that `files.json` names or that are there."""
    named = _entries(folder)
    return [name for name in (*_MODEL, PROBE, *_OTHERS) if name in named or (folder / name).exists()]


def _entries(folder: Path) -> dict[str, dict[str, Any]]:
    """Reads `files.json`; nothing where there is none."""
    path = folder / FILES
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > 2**16:
            raise ValueError("it is too long")
        entries = json.loads(path.read_text())
        if not all(isinstance(entry["bytes"], int) and isinstance(entry["sha256"], str) for entry in entries.values()):
            raise ValueError("an entry has no size and checksum")
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); delete it and {_AGAIN}") from error
    return entries
