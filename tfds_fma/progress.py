"""How far long work has come: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

# Between two lines, where there is no terminal.
LINE_SECONDS = 15.0


class Progress(Protocol):
    """What counts the work that is done; a context manager around it."""

    def update(self, n: int = 1) -> object:
        """Counts `n` more items."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> object: ...


def progress_bar(what: str, total: int, unit: str, *, initial: int = 0, show: bool = True) -> Progress:
    """Returns a tqdm bar on standard error; lines where that is not a terminal (a file, a notebook, CI).

    Args:
      what: begins the bar or line.
      total: number of items.
      unit: plural of an item, or ``B`` for bytes.
      initial: items that were done before.
      show: False shows nothing.
    """
    if show and not sys.stderr.isatty():
        return ProgressLines(what, total, unit, initial)
    from tqdm import tqdm

    bytes_only = {"unit": "B", "unit_scale": True, "unit_divisor": 1024, "leave": False} if unit == "B" else {}
    return tqdm(desc=what, total=total, initial=initial, disable=not show, **({"unit": f" {unit}"} | bytes_only))


class ProgressLines:
    """Writes a line every `LINE_SECONDS`; none if the work takes less."""

    def __init__(
        self, what: str, total: int, unit: str, initial: int = 0, clock: Callable[[], float] = time.monotonic
    ):
        """Starts at once; arguments as in `progress_bar`."""
        self._what, self._total, self._unit, self._clock = what, total, unit, clock
        self._initial, self._done = initial, initial
        self._start = self._written = clock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def update(self, n: int = 1) -> None:
        """Counts `n` more items, and writes a line if it is time."""
        self._done += n
        now = self._clock()
        if now - self._written < LINE_SECONDS or self._done >= self._total:
            return
        self._written = now
        left = (now - self._start) * (self._total - self._done) / max(1, self._done - self._initial)
        done, total, unit = f"{self._done:,}", f"{self._total:,}", self._unit
        if unit == "B":
            done, total, unit = f"{self._done / 2**20:,.0f}", f"{self._total / 2**20:,.0f}", "MiB"
        share = self._done / self._total
        print(f"{self._what}: {done} of {total} {unit} ({share:.0%}), about {left:.0f} s left", file=sys.stderr)
