"""Locks on folders, also where the file system has none."""

import errno
import fcntl
import os

import pytest

from tfds_fma import locks
from tfds_fma.locks import only_one, try_lock


def test_a_file_is_locked_once(tmp_path):
    with (tmp_path / ".lock").open("w") as first, (tmp_path / ".lock").open("w") as second:
        assert try_lock(first)
        assert not try_lock(second)


@pytest.fixture
def failing_with(monkeypatch):
    """Has `flock` fail as it does on some file systems."""

    def fail(number: int) -> None:
        def flock(*arguments):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "flock", flock)
        monkeypatch.setattr(locks, "_warned_of", set())

    return fail


@pytest.mark.parametrize("name", ["ENOSYS", "ENOLCK", "EOPNOTSUPP"])
def test_where_the_file_system_has_no_locks_work_goes_on_with_one_warning(tmp_path, failing_with, caplog, name):
    failing_with(getattr(errno, name))
    with only_one(tmp_path / "a"), only_one(tmp_path / "b"):
        pass
    (line,) = caplog.messages
    assert f"the file system of {tmp_path / 'a'} has no locks ({os.strerror(getattr(errno, name))})" in line


def test_another_error_of_a_lock_is_not_hidden(tmp_path, failing_with):
    failing_with(errno.EIO)
    with pytest.raises(OSError, match="Input/output"), only_one(tmp_path):
        pass
