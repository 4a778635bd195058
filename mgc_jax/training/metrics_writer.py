"""Metrics over time, as JSON lines and TensorBoard event files."""

import contextlib
import json
import os
import time
from pathlib import Path

from mgc_jax.runtime import processes
from mgc_jax.runtime.files import write_text, writing


class MetricsWriter:
    """Appends to `<workdir>/metrics.jsonl` (one JSON object per step and group) and TensorBoard event files."""

    def __init__(self, workdir: Path, first_step: int):
        """Opens the files; lines after `first_step`, left by an interrupted run, are dropped.

        Of several processes, the first one alone writes.

        Raises:
            UserError: they cannot be written.
        """
        self._writes = processes.is_first()
        if not self._writes:
            return
        # Not tensorboardX's SummaryWriter: its thread dies where the disk is full, and the next writes wait forever.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self._path, self._folder = workdir / "metrics.jsonl", workdir / "tensorboard"
        with writing(self._path):
            if self._path.exists():
                lines = self._path.read_text(errors="replace").splitlines()
                write_text(self._path, "".join(line + "\n" for line in lines if _step_of(line) <= first_step))
            self._lines = self._path.open("a")
        with writing(self._folder):
            self._folder.mkdir(exist_ok=True)
            self._events = EventsWriter(str(self._folder / "events"), f".{os.getpid()}.{first_step}")
            start = SessionLog(status=SessionLog.START)  # TensorBoard drops what is after this step, as above
            self._events.write_event(Event(wall_time=time.time(), step=first_step + 1, session_log=start))
            self._events.flush()

    def write(self, step: int, values: dict[str, float]) -> None:
        """Writes scalars of one step.

        Raises:
            UserError: they cannot be written.
        """
        if not self._writes:
            return
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        with writing(self._path):
            self._lines.write(json.dumps({"step": step, **values}) + "\n")
            self._lines.flush()
        scalars = Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()])
        with writing(self._folder):
            self._events.write_event(Event(wall_time=time.time(), step=step, summary=scalars))
            self._events.flush()

    def close(self) -> None:
        """Closes the files; all is written already."""
        if not self._writes:
            return
        for file in (self._lines, self._events):
            with contextlib.suppress(OSError):  # reported when it was written
                file.close()


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):  # cut off by a crash
        return float("inf")
