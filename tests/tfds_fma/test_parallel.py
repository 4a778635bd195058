import concurrent.futures
import os
import subprocess
import sys

import pytest

from tfds_fma import UserError
from tfds_fma.parallel import ordered_map, start_pool


def test_results_come_in_order():
    assert list(ordered_map(abs, range(-100, 0), workers=2)) == list(range(100, 0, -1))


def test_by_default_there_is_a_worker_per_core_that_the_process_may_use(monkeypatch):
    pools = []

    class Pool(concurrent.futures.ProcessPoolExecutor):
        def __init__(self, workers, **options):
            pools.append(workers)
            super().__init__(workers, **options)

    monkeypatch.setattr(concurrent.futures, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(os, "cpu_count", lambda: 192)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5}, raising=False)
    assert list(ordered_map(abs, [-1])) == [1]
    assert pools == [1]


def test_an_exception_in_a_worker_reaches_the_caller():
    with pytest.raises(ValueError, match="invalid literal"):
        list(ordered_map(int, ["1", "x"], workers=1))


def test_a_worker_that_dies_is_an_error_and_not_a_hang():
    with pytest.raises(UserError, match="A worker process died"):
        list(ordered_map(os._exit, [3], workers=1))


def test_a_script_without_the_main_guard_is_an_error_and_not_a_hang(tmp_path):
    """Each worker runs it again: it must not wait for the lock of its own parent."""
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from tfds_fma.locks import only_one\n"
        "from tfds_fma.parallel import ordered_map\n"
        f"with only_one(Path({str(tmp_path)!r})):\n"
        "    list(ordered_map(abs, [1], workers=1))\n"
    )
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=30)
    assert ended.returncode == 1
    assert "UserError: Every worker process runs the script again" in ended.stderr
    assert ended.stderr.endswith('in a script of your own, call this below `if __name__ == "__main__":`.\n')


def test_a_pool_serves_several_calls_and_forgets_what_was_not_wanted():
    pool = start_pool(1)
    try:
        first = ordered_map(abs, range(-100, 0), workers=1, pool=pool)
        assert next(first) == 100
        first.close()  # its other items are not waited for
        (one,) = ordered_map(_process, [0], workers=1, pool=pool)
        (two,) = ordered_map(_process, [0], workers=1, pool=pool)
        assert one == two != os.getpid()
    finally:
        pool.shutdown()


def _process(_):
    return os.getpid()
