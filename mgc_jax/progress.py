"""Where the numbers of a run go while it trains: JSON lines, TensorBoard event files, and the progress line."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from mgc_jax import distributed
from mgc_jax.workdir import write_text, writing


class MetricsWriter:
    """Appends to `<workdir>/metrics.jsonl` (one JSON object per step and group) and TensorBoard event files."""

    def __init__(self, workdir: Path, first_step: int):
        """Opens the files; lines after `first_step`, left by an interrupted run, are dropped.

        Of several processes, the first one alone writes.

        Raises:
            UserError: they cannot be written.
        """
        self._writes = distributed.is_first()
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
        """Closes both; all is written already."""
        if not self._writes:
            return
        for file in (self._lines, self._events):
            with contextlib.suppress(OSError):  # told when it was written
                file.close()


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):  # cut off by a crash
        return float("inf")


class Progress:
    """A live line on the terminal: step, rate, time left, and the share of time per part.

    Attributes:
        seconds: time spent in each part, of this run and those before it.
    """

    def __init__(self, total_steps: int, first_step: int, seconds: dict[str, float]):
        self.seconds = dict(seconds)
        self._total, self._first, self._start = total_steps, first_step, time.perf_counter()
        self._shown = self._start
        self._live = sys.stderr is not None and sys.stderr.isatty()

    @contextlib.contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Adds the time of a block to a part: data, compile, train, evaluate, checkpoint; a profile names it too."""
        import jax  # what only formats a duration needs none

        start = time.perf_counter()
        try:
            with jax.profiler.TraceAnnotation(part):
                yield
        finally:
            self.seconds[part] = self.seconds.get(part, 0) + time.perf_counter() - start

    def show(self, step: int, clips_per_second: float, loss: float) -> None:
        """Redraws the line; where the output is not a terminal, writes one at most every ten seconds."""
        now = time.perf_counter()
        if not distributed.is_first() or (not self._live and now - self._shown < 10):
            return
        self._shown = now
        left = (now - self._start) / max(1, step - self._first) * (self._total - step)
        total = sum(self.seconds.values()) or 1.0
        shares = ", ".join(f"{100 * s / total:.0f}% {part}" for part, s in self.seconds.items())
        line = (
            f"step {step}/{self._total} ({100 * step / self._total:.0f}%)  loss {loss:.3f}  "
            f"{clips_per_second:,.0f} clips/s  {clock(left)} left  ({shares})"
        )
        say(f"\r\033[K{line}" if self._live else f"{line}\n", sys.stderr)

    def clear(self) -> None:
        """Wipes the live line, so that a log line can take its place."""
        if self._live and distributed.is_first():
            say("\r\033[K", sys.stderr)


def say(text: str, stream: TextIO | None) -> None:
    """Writes to the terminal; a reader that went away, or was never there, does not stop the work."""
    if stream is None:
        return
    try:
        stream.write(text)
        stream.flush()
    except (OSError, ValueError):  # what is left of it would fail again when Python ends
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def clock(seconds: float) -> str:
    """Formats a duration: 45s, 3m20s, 2h05m."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds}s"
    minutes, seconds = divmod(seconds, 60)
    return f"{minutes}m{seconds:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"
