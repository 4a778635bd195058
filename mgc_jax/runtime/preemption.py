"""SIGTERM, which schedulers send before they take a machine away, SIGUSR1, which some send, and Ctrl-C (SIGINT).

SIGUSR1 is also what Open MPI hands on to all processes at once; at SIGTERM its `mpirun` ends them.

While a model trains, the step in progress ends and its state is saved; at other times there is nothing to save. In
both cases the process ends, with the status 130 after Ctrl-C and `EXIT_STATUS` after the others, and the same command
resumes. A second signal ends the process at once, also while XLA compiles and Python handles no signals.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, NoReturn

import numpy as np

EXIT_STATUS = 75  # EX_TEMPFAIL of sysexits.h: try again later
_SIGNALS = {signal.SIGTERM: "SIGTERM", signal.SIGUSR1: "SIGUSR1", signal.SIGINT: "Ctrl-C"}
_SAME = 0.2  # seconds: launchers pass a signal on that the terminal has sent to the whole group, so it comes twice


class Preempted(SystemExit):
    """The process stops after a signal; uncaught, this ends Python with `EXIT_STATUS` and no traceback."""

    def __init__(self, by: str) -> None:
        super().__init__(EXIT_STATUS)
        self._by = by

    def __str__(self) -> str:
        return f"stopped by {self._by}; the same command resumes at the last checkpoint, or begins again without one"


class Notice:
    """Whether this process has been asked to stop.

    Attributes:
        requested: by what, "SIGTERM", "SIGUSR1" or "Ctrl-C"; empty: it has not.
    """

    def __init__(self, *, watched: bool = False) -> None:
        self.requested = ""
        self._deferred = False
        self._watched = watched
        self._process = os.getpid()

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, a signal only sets `requested`: the block saves and calls `stop`.

        If it has not done so when it ends, that happens then.
        """
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        if self.requested:
            self.stop()

    def agreed(self) -> bool:
        """Returns whether any process of this run was asked to stop: all must stop after the same step.

        With several processes this is a collective operation: all must call it after the same steps.
        """
        import jax

        if jax.process_count() == 1:
            return bool(self.requested)
        from jax.experimental import multihost_utils

        return bool(np.any(multihost_utils.process_allgather(np.array(bool(self.requested)))))

    def stop(self) -> NoReturn:
        """Raises what ends the process: `KeyboardInterrupt` after Ctrl-C, else `Preempted`."""
        if self.requested == _SIGNALS[signal.SIGINT]:
            raise KeyboardInterrupt
        raise Preempted(self.requested)

    def handle(self, number: int, frame: Any) -> None:
        """Handles a signal."""
        if os.getpid() != self._process:  # a worker that was forked, and has nothing to save
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        again, self.requested = self.requested, self.requested or _SIGNALS[signal.Signals(number)]
        if again and self._watched:  # `_end_at_second` decides
            return
        if again or not self._deferred:
            self.stop()


_current: Notice | None = None


@contextlib.contextmanager
def notice(*, of_command: bool = False) -> Iterator[Notice]:
    """Handles the signals inside, in the main thread; in other threads nothing is handled.

    Nested, it is the outer one. A signal that the process ignores stays ignored, such as Ctrl-C in background jobs.

    Args:
        of_command: whether the process is a command of this package, which a second signal ends at once. Otherwise, as
            in a notebook, a second signal raises what `Notice.stop` raises.
    """
    global _current
    if _current is not None or threading.current_thread() is not threading.main_thread():
        yield _current or Notice()
        return
    _current = Notice(watched=of_command)
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    with _end_at_second() if of_command else contextlib.nullcontext():
        try:
            for number, theirs in before.items():
                if theirs is not signal.SIG_IGN:
                    signal.signal(number, _current.handle)
            yield _current
        finally:
            for number, theirs in before.items():
                signal.signal(number, theirs or signal.SIG_DFL)  # None: it was not set from Python
            _current = None


@contextlib.contextmanager
def _end_at_second() -> Iterator[None]:
    """Watches for signals in a thread, which Python's handlers cannot: they wait until a call into XLA is over."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    thread = threading.Thread(target=_watch, args=(reading,), name="signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.write(writing, _END)
        thread.join()
        os.close(writing)
        os.close(reading)


_END = b"\0"  # is no signal


def _forget_signals() -> None:
    """In a forked child: its signals shall not be written to the pipe of its parent, and count there."""
    if _current is not None:
        signal.set_wakeup_fd(-1)


os.register_at_fork(after_in_child=_forget_signals)


def _watch(reading: int) -> None:
    """Says at once that the first signal was heard, and ends the process at the second; returns at `_END`."""
    first = None
    while (received := os.read(reading, 1)) != _END:
        if received[0] not in _SIGNALS:
            continue
        if first is None:
            first = time.monotonic()
            name = _SIGNALS[signal.Signals(received[0])]
            _tell(f"\n{name}: stopping as soon as what is running can be saved; once more to stop at once\n")
        elif time.monotonic() - first > _SAME:
            os._exit(128 + received[0])


def _tell(text: str) -> None:
    """Writes to the terminal, if there is one; not by Python's stream, which the main thread may have locked."""
    with contextlib.suppress(OSError):
        os.write(sys.__stderr__.fileno() if sys.__stderr__ is not None else 2, text.encode())
