"""The folder of a run: which one, whose it is, and what is written there."""

import contextlib
import datetime
import fcntl
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mgc_jax import config as config_lib
from mgc_jax.errors import UserError


def default_workdir(name: str, config: ConfigDict, mode: str) -> Path:
    """Returns today's folder of this configuration: one to go on with, or else a new one.

    Args:
        name: of the configuration file.
        config: the resolved configuration.
        mode: train, or eval, for which the folder must be there.
    """
    first = Path("runs") / f"{name}-{datetime.date.today().isoformat()}"
    workdir, number = first, 1
    while (workdir / "config.json").exists():
        try:
            config_lib.check_same(config, workdir / "config.json")
            return workdir
        except UserError:  # made with other flags
            number += 1
            workdir = first.with_name(f"{first.name}-{number}")
    if mode == "eval":
        raise UserError(f"no run of today has this configuration ({first} does not exist or differs); give --workdir")
    return workdir


@contextlib.contextmanager
def claim(workdir: Path, config: ConfigDict, *, create: bool) -> Iterator[None]:
    """Takes a workdir for this process: checks that it fits, keeps others out, writes `config.json`.

    Args:
        workdir: the folder.
        config: the resolved configuration; a run of another one must not be mixed with it.
        create: whether the folder may be new.

    Raises:
        UserError: the folder is missing, not writable, in use, or of another configuration.
    """
    saved = workdir / "config.json"
    if not create and not saved.exists():
        raise UserError(f"{workdir} holds no run; train first, or give the right --workdir")
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = (workdir / ".lock").open("w")
    except OSError as error:
        raise UserError(f"the workdir {workdir} cannot be written: {error}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # freed by the kernel when the process dies
        except BlockingIOError:
            raise UserError(f"another process works in {workdir}; wait for it, or give another --workdir") from None
        if saved.exists():
            config_lib.check_same(config, saved)
        if create:
            write_json(saved, config_lib.to_json(config))
        yield


def write_json(path: Path, value: Any) -> None:
    """Writes JSON in one go, so that an interruption leaves the old file or the new one."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value, indent=1) + "\n")
    temporary.replace(path)
