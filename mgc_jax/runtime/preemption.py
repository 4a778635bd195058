"""SIGTERM, which schedulers send before they take a machine away.

While a model trains, the step in progress ends and its state is saved; at other times there is nothing to save. In
both cases the process ends with the status `EXIT_STATUS`, and the same command resumes. A second SIGTERM ends the
process at once.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

EXIT_STATUS = 75  # EX_TEMPFAIL of sysexits.h: try again later


class Preempted(SystemExit):
    """The process stops after SIGTERM; uncaught, this ends Python with `EXIT_STATUS` and no traceback."""

    def __init__(self) -> None:
        super().__init__(EXIT_STATUS)

    def __str__(self) -> str:
        return "stopped by SIGTERM; the same command resumes at the last checkpoint, or begins again without one"


class Notice:
    """Whether this process has received SIGTERM.

    Attributes:
        requested: whether it has.
    """

    def __init__(self) -> None:
        self.requested = False
        self._deferred = False
        self._process = os.getpid()

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, SIGTERM only sets `requested`: the block saves and raises `Preempted`.

        If it has not done so when it ends, `Preempted` is raised then.
        """
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        if self.requested:
            raise Preempted

    def agreed(self) -> bool:
        """Returns whether any process of this run has received SIGTERM: all must stop after the same step.

        With several processes this is a collective operation: all must call it after the same steps.
        """
        import jax

        if jax.process_count() == 1:
            return self.requested
        from jax.experimental import multihost_utils

        return bool(np.any(multihost_utils.process_allgather(np.array(self.requested))))

    def handle(self, number: int, frame: Any) -> None:
        """Handles SIGTERM."""
        signal.signal(number, signal.SIG_DFL)  # the next one ends the process at once
        if os.getpid() != self._process:  # a worker that was forked, and has nothing to save
            os.kill(os.getpid(), number)
        self.requested = True
        if not self._deferred:
            raise Preempted


_current: Notice | None = None


@contextlib.contextmanager
def notice() -> Iterator[Notice]:
    """Handles SIGTERM inside, in the main thread; in other threads nothing is handled. Nested, it is the outer one."""
    global _current
    if _current is not None or threading.current_thread() is not threading.main_thread():
        yield _current or Notice()
        return
    _current = Notice()
    before = signal.signal(signal.SIGTERM, _current.handle)
    try:
        yield _current
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)  # None: it was not set from Python
        _current = None
