"""A lock on a folder, for what two processes must not do at once."""

import contextlib
import fcntl
import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path

from tfds_fma.errors import UserError


@contextlib.contextmanager
def only_one(directory: Path, log: Callable[[str], None] | None = None) -> Iterator[None]:
    """Lets one process at a time in. The kernel frees the lock of a process that dies.

    Args:
      directory: folder to lock; made if it is not there. A file ``.lock`` stays in it.
      log: takes a line if another process must be waited for.

    Raises:
      UserError: if the folder cannot be written to, or a worker process that runs the user's script again would wait
        for its own parent.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = (directory / ".lock").open("w")
    except OSError as error:
        raise UserError(f"Cannot write to {directory} ({error.strerror}). Choose another folder.") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _check_not_starting()
            if log:
                log(f"waiting for another process that works in {directory}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _check_not_starting() -> None:
    """Raises UserError in a worker process that is being started: the lock is its own parent's, who waits for it.

    A worker runs the user's script. Where the call that started the worker stands below no
    ``if __name__ == "__main__":``, it comes here again. multiprocessing itself looks at this private attribute.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise UserError(
            "Every worker process runs the script again, and this call in it: move the call below "
            '`if __name__ == "__main__":`.'
        )
