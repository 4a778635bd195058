"""The folder of a run: which one, whose it is, and what is written there."""

import contextlib
import datetime
import json
import logging
import socket
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mgc_jax.config import earlier, identity
from mgc_jax.config.loading import read_config
from mgc_jax.errors import UserError
from mgc_jax.runtime import processes
from mgc_jax.runtime.files import writing
from tfds_fma.locks import try_lock


def default_workdir(name: str, config: ConfigDict, mode: str) -> Path:
    """Returns the folder in `runs` to use where the user gives none.

    To train: the latest unfinished run of this configuration, whatever its date; else today's finished one,
    whose results are then shown again; else a new folder. To measure: a new folder. Otherwise: the latest run of this
    configuration.

    Args:
        name: of the configuration file.
        config: the resolved configuration.
        mode: train, cross_validate, eval, export or bench.
    """
    if mode == "bench":
        return _new_workdir(f"bench-{name}")
    if mode == "cross_validate":
        name, mode = f"cross-validation-{name}", "train"
    runs = Path("runs")
    saved = sorted(runs.glob(f"{name}-*/config.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    same = [
        path.parent
        for path in saved
        if not identity.differences(config, read_config(path), moved=False, training=mode == "train", rescaled=False)
    ]
    for workdir in same:
        if mode != "train" or not (workdir / "results.json").exists() or workdir.name.startswith(_of_today(name)):
            return workdir
    if mode != "train":
        raise UserError(f"no run in {runs.resolve()} has this configuration; give --workdir")
    return _new_workdir(name)


def _new_workdir(name: str) -> Path:
    """Returns a folder in `runs` that holds nothing yet, with today's date in its name."""
    workdir = first = Path("runs") / _of_today(name)
    number = 1
    while any((workdir / file).exists() for file in ("config.json", "bench.json")):  # what never began leaves neither
        number += 1
        workdir = first.with_name(f"{first.name}-{number}")
    return workdir


def _of_today(name: str) -> str:
    return f"{name}-{datetime.date.today().isoformat()}"


@contextlib.contextmanager
def claim(workdir: Path, config: ConfigDict, *, create: bool) -> Iterator[None]:
    """Takes a workdir for this process: checks that it fits, keeps others out, logs to `<workdir>/train.log`.

    Of several processes that train together, the first one takes it for all.

    Args:
        workdir: the folder.
        config: the resolved configuration; checkpoints or results of another one must not be mixed with it.
        create: whether the folder may be new.

    Raises:
        UserError: the folder has no checkpoint or results (unless it may be new), cannot be written, is in use, or
            holds those of another configuration.
    """
    if not processes.is_first():
        _wait_for_first(workdir)
        yield
        return
    # A baseline leaves results and no checkpoint.
    has_run = (workdir / "results.json").exists() or any(p.name.isdigit() for p in workdir.glob("checkpoints/*"))
    if not create and not has_run:
        raise UserError(f"{workdir} holds no trained model; train first, or give the right --workdir")
    if has_run and (workdir / "config.json").exists():
        check_same(config, read_config(workdir / "config.json"), workdir, training=create)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = (workdir / ".lock").open("w")
        handler = _LogFile(workdir / "train.log", delay=True)
    except OSError as error:
        raise UserError(f"the workdir {workdir} cannot be written: {error}") from error
    with lock:
        if not try_lock(lock):
            raise UserError(f"another process works in {workdir}; wait for it, or give another --workdir")
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        loggers = [logging.getLogger(name) for name in ("mgc_jax", "tfds_fma")]
        for logger in loggers:
            logger.addHandler(handler)
        try:
            _show_others(workdir)
            yield
        finally:
            for logger in loggers:
                logger.removeHandler(handler)
            handler.close()


def recorded_devices(workdir: Path) -> str:
    """Returns the devices that trained the last checkpoint of a workdir, as it says it; empty: none, or not recorded.

    Read without Orbax, before JAX is used; whether the checkpoint is whole shows later.
    """
    steps = sorted(int(path.name) for path in workdir.glob("checkpoints/*") if path.name.isdigit())
    for step in reversed(steps):
        with contextlib.suppress(OSError, ValueError):
            meta = json.loads((workdir / "checkpoints" / str(step) / "meta" / "metadata").read_text())
            return str(meta.get("devices", "")) if isinstance(meta, dict) else ""
    return ""


_TOKEN = ".processes"  # a file that shows the processes whether they see the same folder


def _show_others(workdir: Path) -> None:
    """Shows the other processes that this one has the workdir."""
    if processes.process_count() > 1:
        token = processes.from_first(lambda: uuid.uuid4().hex)
        with writing(workdir / _TOKEN):
            (workdir / _TOKEN).write_text(token)
        processes.wait_for_all()


def _wait_for_first(workdir: Path) -> None:
    """Waits until the first process has the workdir; raises `UserError` if it is not the same folder here."""
    token = processes.from_first(str)
    processes.wait_for_all()
    file, deadline = workdir / _TOKEN, time.monotonic() + 30  # a network's file system may be late
    while not file.is_file() or file.read_text() != token:
        if time.monotonic() > deadline:
            raise UserError(
                f"the workdir {workdir.absolute()} is not the same folder in process {processes.process_index()} "
                f"(on {socket.gethostname()}) as in process 0: all hosts write their part of a checkpoint there. Give "
                "a --workdir in a folder that they share."
            )
        time.sleep(0.2)


def check_same(config: ConfigDict, before: dict[str, Any], workdir: Path, *, training: bool) -> None:
    """Raises `UserError` if checkpoints were made with a configuration that would train another model."""
    if training and earlier.packed_in_rows(before):
        raise UserError(
            f"the run in {workdir} was trained on batches of several rows, which this version packs in another way: "
            "it can be evaluated (--mode eval) and exported, but not trained on; give a new --workdir to train again."
        )
    different = identity.differences(config, before, training=training)
    if different:
        raise UserError(
            f"the workdir {workdir} holds a run with another configuration ({'; '.join(different)}). "
            "Give a new --workdir, or the flags of that run to resume it."
        )


class OtherCorpusError(UserError):
    """A folder holds a run on another corpus."""


def check_same_corpus(corpus: Any, before: Mapping[str, Any], workdir: Path) -> None:
    """Raises `OtherCorpusError` if the corpus is not the one that a checkpoint or `results.json` names.

    All its clips count where the checksum of all was recorded; otherwise a thousand, which are in the fingerprint.
    """
    theirs, ours = before["fingerprint"], corpus.fingerprint
    if theirs == ours and before.get("clips_digest") and corpus.clips_digest:
        theirs, ours = (f"{theirs}, clips {digest}" for digest in (before["clips_digest"], corpus.clips_digest))
    if theirs != ours:
        raise OtherCorpusError(
            f"the run in {workdir} was trained on corpus {before['corpus']} (fingerprint {theirs}), "
            f"but this one is {corpus.name} ({ours}): its tracks, splits or clips differ. Give a new "
            "--workdir, or the corpus of that run."
        )


class _LogFile(logging.FileHandler):
    """A log file that cannot be written is reported once, and stops nothing."""

    _reported = False

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not self._reported and sys.stderr is not None:
            self._reported = True
            with contextlib.suppress(OSError):
                print(f"{self.baseFilename} cannot be written: {error}", file=sys.stderr)
