import os

import pytest

from tfds_fma import UserError
from tfds_fma.parallel import ordered_map


def test_results_come_in_order():
    assert list(ordered_map(abs, range(-100, 0), workers=2)) == list(range(100, 0, -1))


def test_an_exception_in_a_worker_reaches_the_caller():
    with pytest.raises(ValueError, match="invalid literal"):
        list(ordered_map(int, ["1", "x"], workers=1))


def test_a_worker_that_dies_is_an_error_and_not_a_hang():
    with pytest.raises(UserError, match="A worker process died"):
        list(ordered_map(os._exit, [3], workers=1))
