"""A lock on a folder, for what two processes must not do at once."""

import contextlib
import errno
import fcntl
import logging
import multiprocessing
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from tfds_fma.errors import UserError

log = logging.getLogger(__name__)

# What file systems without locks say: Lustre mounted without `flock`, NFS without its lock daemon.
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}


_warned_of: set[int] = set()  # devices


@contextlib.contextmanager
def only_one(directory: Path, log: Callable[[str], None] | None = None) -> Iterator[None]:
    """Lets one process at a time in.

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
        if not try_lock(lock):
            _check_not_starting()
            if log:
                log(f"waiting for another process that works in {directory}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def try_lock(file: IO) -> bool:
    """Locks an open file, unless another process has it locked. The kernel frees the lock of a process that dies.

    Where the file system has no locks, a warning says so, once, and the file counts as locked.

    Returns:
      Whether the file is this process's now.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        device = os.fstat(file.fileno()).st_dev
        if device not in _warned_of:
            _warned_of.add(device)
            log.warning(
                "the file system of %s has no locks (%s): see to it that no two processes work in the same folder",
                Path(file.name).parent,
                error.strerror,
            )
    return True


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
