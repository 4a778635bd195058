import numpy as np
import pytest

from mgc_jax.bench.statistics import paired_ratio, percentiles


def test_percentiles_are_numpys():
    values = np.random.default_rng(0).random(101)
    found = percentiles(values)
    assert found["p50"] == np.median(values)
    assert (found["p5"], found["max"]) == (np.sort(values)[5], values.max())


def test_a_ratio_of_pairs_is_told_although_the_machine_got_slower():
    machine = np.array([1.0, 1.1, 2.0, 2.3, 4.0])  # shared by both of a pair
    ratio = paired_ratio(3 / machine, 2 / machine)
    assert ratio.median == pytest.approx(1.5)
    assert not ratio.refused
    assert str(ratio) == "1.5 (quartiles 1.5 to 1.5, 5 pairs)"
    assert ratio.to_json() == {"median": ratio.median, "low": ratio.low, "high": ratio.high, "pairs": 5}
    assert paired_ratio(3 / machine, 2 / machine, scale=2).median == pytest.approx(0.75)


def test_quartiles_of_ten_percent_are_the_most_that_is_told():
    below = np.ones(5)
    assert not paired_ratio([1.0, 0.951, 1.0, 1.049, 1.0], below).refused
    told = paired_ratio([0.9, 0.951, 1.0, 1.049, 1.1], below)  # quartiles 0.951 and 1.049
    assert (told.low, told.high, told.refused) == (pytest.approx(0.951), pytest.approx(1.049), "")
    noisy = paired_ratio([0.9, 0.949, 1.0, 1.051, 1.1], below)
    assert "interquartile range is 10% of the median" in noisy.refused
    assert noisy.to_json() == {"pairs": 5, "refused": noisy.refused}
    assert "1.0" not in str(noisy)


def test_fewer_than_five_pairs_are_not_told():
    assert "4 pairs of runs are too few" in paired_ratio([1.0] * 4, [1.0] * 4).refused


def test_what_does_not_pair_up_is_an_error():
    with pytest.raises(ValueError, match="5 and 4"):
        paired_ratio([1.0] * 5, [1.0] * 4)
    with pytest.raises(ValueError, match="not above 0"):
        paired_ratio([1.0, 0.0], [1.0, 1.0])
