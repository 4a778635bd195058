"""The live progress line, and the means of the steps since the last log line."""

import contextlib
import logging
import math
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from mgc_jax.errors import UserError
from mgc_jax.runtime import processes
from mgc_jax.runtime.terminal import clock, say

log = logging.getLogger(__name__)

# Of a model whose scores in training depend on the genre: nothing to set beside validation, which is not told it.
TOLD_ACCURACY = "train/accuracy_told_genre"


def report(text: str) -> None:
    """Logs a line; where the caller set no logging up, as in a notebook, it goes where the progress line goes."""
    log.info(text)
    if not log.isEnabledFor(logging.INFO) and processes.is_first():
        say(f"{text}\n", sys.stderr)


class Progress:
    """A live line on the terminal: step, rate, time left, and the share of time per part.

    Elsewhere (a file, a notebook) it is a line at most every ten seconds.

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
        start = time.perf_counter()
        try:
            with jax.profiler.TraceAnnotation(part):
                yield
        finally:
            self.seconds[part] = self.seconds.get(part, 0) + time.perf_counter() - start

    def show(self, step: int, clips_per_second: float, loss: float) -> None:
        """Shows the line."""
        now = time.perf_counter()
        if not processes.is_first() or (not self._live and now - self._shown < 10):
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
        if self._live and processes.is_first():
            say("\r\033[K", sys.stderr)


class MetricWindow:
    """Sums of the train steps since the last log line, left on the device until they are asked for."""

    def __init__(self, sums: Sequence[dict[str, float]] = (), *, told_genre: bool = False) -> None:
        """Starts with the sums of steps before, of a run that was stopped between log lines.

        Args:
            sums: of these steps.
            told_genre: whether the scores in training depend on the genre; then their accuracy has another name.
        """
        self._sums: list[Any] = list(sums)
        self._accuracy = TOLD_ACCURACY if told_genre else "train/accuracy"
        self._start = time.perf_counter()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Does not count the time of a block."""
        start = time.perf_counter()
        yield
        self._start += time.perf_counter() - start

    def add(self, sums: dict[str, jax.Array]) -> None:
        """Takes in the sums of one step, or those of several in arrays."""
        self._sums.append(sums)

    def sums(self, step: int) -> list[dict[str, float]]:
        """Returns the sums of each step since the last log line; raises `UserError` if one is not finite."""
        steps = []
        for sums in jax.device_get(self._sums):
            columns = {name: np.atleast_1d(values).tolist() for name, values in sums.items()}
            steps += [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        if not all(math.isfinite(value) for s in steps for value in s.values()):
            raise UserError(
                f"training diverged: loss or weights are no longer finite at step {step}. Lower "
                "--config.optimizer.learning_rate or set --config.optimizer.clip_norm=1. The checkpoints before it "
                "are untouched."
            )
        return steps

    def means(self, step: int) -> dict[str, float]:
        """Returns the means since the last call; raises `UserError` if the loss is not finite.

        The loss is per bag, as they are weighted; the accuracy is per clip, as validation counts it. Where clips have
        several genres there is no accuracy.
        """
        steps = self.sums(step)
        total = {name: float(np.sum(np.array([s[name] for s in steps], np.float32))) for name in steps[0]}
        seconds = time.perf_counter() - self._start
        self._sums, self._start = [], time.perf_counter()
        accuracy = {self._accuracy: total["correct"] / max(total["clips"], 1)} if "correct" in total else {}
        return {
            "train/loss": total["loss"] / max(total["weight"], 1e-9),
            **accuracy,
            "train/gradient_norm": total["gradient_norm"] / len(steps),
            "train/clips_per_second": total["clips"] / seconds,
        }
