"""An ordered map over worker processes that keeps memory flat."""

import collections
import concurrent.futures
import contextlib
import ctypes
import multiprocessing
import multiprocessing.connection
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures.process import BrokenProcessPool
from typing import IO, TypeVar

from tfds_fma.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

# Tasks under way per worker: enough that none waits for the consumer, few enough that memory stays flat.
_IN_FLIGHT_PER_WORKER = 8


class WorkerDied(UserError):
    """A worker process died: it was killed, ran out of memory, or a library crashed in it."""


_printed: IO[bytes] | None = None  # standard error of a worker process


def start_pool(workers: int | None = None) -> concurrent.futures.Executor:
    """Returns worker processes for several calls of `ordered_map`; the caller ends them with `shutdown`.

    Workers are started afresh, not forked: the caller may run threads, as JAX does, and a forked process can
    hang on their locks. They start when the first work is given to them.

    Args:
      workers: number of processes; by default one per core that this process may use.

    Raises:
      UserError: if `workers` is less than 1.
    """
    check_workers(workers)
    return concurrent.futures.ProcessPoolExecutor(
        workers or usable_cores(), mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker
    )


def ordered_map(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int | None = None,
    *,
    pool: concurrent.futures.Executor | None = None,
) -> Generator[Result, None, None]:
    """Yields ``function(item)`` for each item, in order, computed in worker processes.

    Workers are started afresh, see `start_pool`. So `function` and the items must be picklable, and a script that
    calls this needs the usual ``if __name__ == "__main__":``.

    Args:
      function: what to compute; importable from its module, or a `functools.partial` of such a function.
      items: its arguments.
      workers: number of processes; by default one per core that this process may use.
      pool: of `start_pool`, with so many workers: it is used and left running. None: a pool for this call.

    Raises:
      UserError: if `workers` is less than 1, or a worker process dies (killed, out of memory, crash in a decoder); a
        pool cannot be used again after that.
    """
    check_workers(workers)
    workers = workers or usable_cores()
    used = pool or start_pool(workers)
    pending: collections.deque[concurrent.futures.Future[Result]] = collections.deque()
    try:
        for item in items:
            pending.append(used.submit(function, item))
            if len(pending) >= _IN_FLIGHT_PER_WORKER * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool as error:
        raise WorkerDied(
            "A worker process died: it was killed, ran out of memory, or a library crashed in it. Run the "
            "same command again with fewer --workers; in a script of your own, call this below "
            '`if __name__ == "__main__":`.'
        ) from error
    finally:
        for future in pending:
            future.cancel()
        if pool is None:
            used.shutdown()


def take_printed() -> list[str]:
    """Returns the lines that libraries have printed to standard error in this worker process since the last call.

    Elsewhere, where standard error belongs to the user, there are none.
    """
    if _printed is None:
        return []
    _printed.seek(0)
    lines = _printed.read().decode(errors="replace").splitlines()
    _printed.seek(0)
    _printed.truncate()
    return lines


def check_workers(workers: int | None) -> None:
    """Raises UserError for a number of processes that makes no sense."""
    if workers is not None and workers < 1:
        raise UserError(f"workers is {workers}; give at least 1.")


def usable_cores() -> int:
    """Returns how many cores this process may use, of a batch system's machine perhaps few; not all systems say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start_worker() -> None:
    """Prepares a worker: quiet, deaf to Ctrl-C (the parent handles it), and gone when the parent is."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_freed_memory()
    # Decoders print about corrupt files straight to the C-level stderr. Python errors still reach the parent.
    global _printed
    _printed = tempfile.TemporaryFile()  # noqa: SIM115  # it lives as long as the worker
    os.dup2(_printed.fileno(), 2)
    # A parent killed with SIGKILL cannot stop its workers.
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def keep_freed_memory() -> None:
    """Has the C library keep what is freed, up to 512 MB, instead of giving it back to the system.

    With every clip arrays of some 10 MB come and go, and clearing new pages for them takes up to a sixth of the time.
    Where the C library is not glibc, nothing happens.
    """
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_threshold, 32 << 20)  # the largest that glibc takes
        mallopt(trim_threshold, 512 << 20)


def _exit_with_parent() -> None:
    """Waits until the parent process is gone, then ends this one."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)
