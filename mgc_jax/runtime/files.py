"""Files that are written whole or not at all."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mgc_jax.errors import UserError


def write_json(path: Path, value: Any) -> None:
    """Writes JSON as `write_text` writes text."""
    write_text(path, json.dumps(value, indent=1) + "\n")


_RESUME = "Make room there, or make it writable; then the same command resumes at the last checkpoint."


def write_text(path: Path, text: str, remedy: str = _RESUME) -> None:
    """Writes a file in one go, so that an interruption leaves the old one or the new one.

    Raises:
        UserError: it cannot be written; the remedy is what the message then says to do.
    """
    write_bytes(path, text.encode(), remedy)


def write_bytes(path: Path, content: bytes, remedy: str = _RESUME) -> None:
    """Writes a file as `write_text` does."""
    with replacing(path, remedy) as temporary:
        temporary.write_bytes(content)


@contextlib.contextmanager
def replacing(path: Path, remedy: str = _RESUME) -> Iterator[Path]:
    """Yields where to write a file, which then takes the place of the old one; after an error nothing is left of it.

    Raises:
        UserError: it cannot be written.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    with writing(path, remedy):
        try:
            yield temporary
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def writing(path: Path, remedy: str = _RESUME) -> Iterator[None]:
    """Turns an error of the file system into a `UserError` that names the file and says what to do."""
    try:
        yield
    except OSError as error:
        raise UserError(cannot_write(path, error, remedy)) from error


def cannot_write(path: Path, error: Exception, remedy: str = _RESUME) -> str:
    """Says that a file or folder cannot be written, why, how much room there is, and what to do."""
    why = error.strerror if isinstance(error, OSError) and error.strerror else _first_line(error)
    return f"{path} cannot be written: {why} ({free_space(path)}). {remedy}"


def free_space(path: Path) -> str:
    """Says how much room there is where a path is or would be."""
    folder = next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.is_dir())
    try:
        return f"{shutil.disk_usage(folder).free / 2**20:,.1f} MiB free on the disk of {folder}"
    except OSError as error:
        return f"the disk of {folder} does not answer: {error.strerror}"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
