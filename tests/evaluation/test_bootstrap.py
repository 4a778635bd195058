import warnings

import numpy as np
import pytest
import sklearn.metrics

from mgc_jax.evaluation import metrics
from mgc_jax.evaluation.bootstrap import (
    FEWEST_ARTISTS,
    ArtistBootstrap,
    concentration,
    concentration_warnings,
    interval,
    mcnemar,
    paired,
)


def make_clips(seed=0, clips=80, genres=5, artists=13, decimals=None, dtype=np.float64):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, genres - 1, clips)  # the last genre does not occur
    scores = rng.normal(size=(clips, genres))
    scores[np.arange(clips), label] += 1
    if decimals is not None:
        scores = np.round(scores, decimals)
    # Artists of very different sizes; rows in no order.
    artist = np.array([f"artist {i}" for i in np.minimum(rng.geometric(0.15, clips), artists)])
    return label, scores.astype(dtype), artist


def resampled_rows(bootstrap, artists):
    """The rows of each resample, laid out one by one."""
    for draw in bootstrap.draws:
        rows = [np.flatnonzero(artists == name) for name in bootstrap.artists]
        yield np.concatenate([np.tile(part, int(times)) for part, times in zip(rows, draw, strict=True)])


CASES = {
    "random": make_clips(),
    "tied": make_clips(1, decimals=0),
    "all tied": (make_clips(2)[0], np.zeros((80, 5)), make_clips(2)[2]),
    "float32": make_clips(3, dtype=np.float32),
    "an artist for each clip": (*make_clips(4, clips=20)[:2], np.arange(20).astype(str)),
    "one artist": (*make_clips(5)[:2], np.full(80, "one")),
    "one clip": (np.array([1]), np.log([[0.2, 0.5, 0.3]]), np.array(["one"])),
    "one genre": (np.zeros(6, int), np.zeros((6, 1)), np.array(list("aabbcc"))),
}


@pytest.mark.parametrize(("label", "scores", "artists"), CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("named", ["highest", "others"])
def test_metrics_are_those_of_the_resampled_clips(label, scores, artists, named):
    bootstrap = ArtistBootstrap(artists, resamples=25, seed=3)
    predicted = scores.argmax(axis=1) if named == "highest" else (scores.argmin(axis=1) + label) % scores.shape[1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = bootstrap.metrics(label, scores, None if named == "highest" else predicted)
        counts = bootstrap.confusion(label, predicted, scores.shape[1])
    for i, rows in enumerate(resampled_rows(bootstrap, artists)):
        expected = metrics.genre_metrics(label[rows], scores[rows], predicted[rows])
        assert {name: values[i] for name, values in ours.items()} == pytest.approx(expected, abs=1e-12)
        np.testing.assert_array_equal(counts[i], metrics.confusion(label[rows], predicted[rows], scores.shape[1]))


@pytest.mark.parametrize("case", ["random", "tied", "all tied", "float32"])
def test_average_precision_is_scikit_learns_weighted_by_the_draws(case):
    label, scores, artists = CASES[case]
    bootstrap = ArtistBootstrap(artists, resamples=25, seed=4)
    one_hot = np.eye(scores.shape[1])[label].ravel()
    number = np.searchsorted(bootstrap.artists, artists)
    for ours, draw in zip(bootstrap.micro_ap(label, scores), bootstrap.draws, strict=True):
        weights = np.repeat(draw[number], scores.shape[1])
        assert ours == pytest.approx(
            sklearn.metrics.average_precision_score(one_hot, scores.ravel(), sample_weight=weights), abs=1e-12
        )


@pytest.mark.parametrize("case", CASES)
def test_curves_are_those_of_the_resampled_clips(case):
    label, scores, artists = CASES[case]
    bootstrap = ArtistBootstrap(artists, resamples=20)
    levels = (0.1, 0.5, 0.9)
    ours = bootstrap.curve_metrics(label, scores, levels)
    for i, rows in enumerate(resampled_rows(bootstrap, artists)):
        precision, recall = metrics.precision_recall(label[rows], scores[rows])
        np.testing.assert_allclose(ours["precision_at"][i], metrics.precision_at(precision, recall, levels))
        assert ours["max_f1"][i] == pytest.approx(
            np.max(2 * precision * recall / np.maximum(precision + recall, 1e-300))
        )
        there = ours["precision_at_max_f1"][i], ours["recall_at_max_f1"][i]  # of several with this F1, any
        assert 2 * there[0] * there[1] / sum(there) == pytest.approx(ours["max_f1"][i])
        assert np.abs(np.stack([precision, recall], axis=1) - there).sum(axis=1).min() < 1e-9


def test_mean_of_a_subset_is_that_of_the_resampled_clips():
    label, scores, artists = make_clips(6)
    right, subset = scores.argmax(axis=1) == label, label == 2
    bootstrap = ArtistBootstrap(artists, resamples=40)
    expected = [right[rows][subset[rows]].mean() for rows in resampled_rows(bootstrap, artists)]
    np.testing.assert_allclose(bootstrap.mean(right, subset), expected)
    weight = np.random.default_rng(0).random(len(label))
    expected = [np.average(right[rows], weights=weight[rows]) for rows in resampled_rows(bootstrap, artists)]
    np.testing.assert_allclose(bootstrap.mean(right, weight), expected)


def test_a_resample_without_a_clip_that_counts_is_nan():
    artists = np.array(["a", "b", "c", "c"])
    bootstrap = ArtistBootstrap(artists, resamples=200)
    value = np.array([1.0, np.nan, np.nan, np.nan])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        samples = bootstrap.mean(value, artists == "a")
        nothing = bootstrap.mean(value, np.zeros(4, bool))
        assert np.isnan(interval(nothing, 99)).all()
    np.testing.assert_array_equal(np.isnan(samples), bootstrap.draws[:, 0] == 0)
    assert 0.15 < np.isnan(samples).mean() < 0.45  # (2 / 3)^3 = 0.30
    assert interval(samples, 99) == (1, 1)


def test_no_clip_at_all():
    bootstrap = ArtistBootstrap(np.array([], str), resamples=7)
    nothing = bootstrap.metrics(np.array([], int), np.zeros((0, 3)))
    assert all(np.isnan(values).all() and values.shape == (7,) for values in nothing.values())
    assert np.isnan(bootstrap.mean(np.array([]))).all()


def test_variance_of_independent_clips_is_that_of_a_binomial():
    right = np.arange(200) < 70
    samples = ArtistBootstrap(np.arange(200).astype(str), resamples=4000).mean(right)
    assert samples.mean() == pytest.approx(0.35, abs=0.003)
    assert samples.var() == pytest.approx(0.35 * 0.65 / 200, rel=0.08)
    low, high = interval(samples, 99)
    assert (high - low) / 2 == pytest.approx(1.96 * np.sqrt(0.35 * 0.65 / 200), rel=0.06)


def test_clips_of_an_artist_add_nothing_if_they_are_all_alike():
    right = np.arange(40) < 14
    artists = np.arange(40).astype(str)
    alone = ArtistBootstrap(artists, resamples=500)
    copied = ArtistBootstrap(np.repeat(artists, 10), resamples=500)
    np.testing.assert_allclose(copied.mean(np.repeat(right, 10)), alone.mean(right))


def test_one_artist_would_have_an_interval_without_width_and_so_has_none():
    label, scores, artists = CASES["one artist"]
    exact = metrics.genre_metrics(label, scores)
    for name, samples in ArtistBootstrap(artists, resamples=20).metrics(label, scores).items():
        assert interval(samples, FEWEST_ARTISTS) == pytest.approx((exact[name], exact[name]))
        assert np.isnan(interval(samples, 1)).all()
        assert np.isnan(paired(samples, samples, 1)).all()


def test_how_far_an_interval_of_few_artists_can_be_trusted():
    """The percentile interval of a mean covers it less often than it says: of the fewest artists, in nine of ten."""
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(400):
        bootstrap = ArtistBootstrap(np.arange(FEWEST_ARTISTS).astype(str), resamples=400)
        low, high = interval(bootstrap.mean(rng.normal(size=FEWEST_ARTISTS)), FEWEST_ARTISTS)
        covered.append(low <= 0 <= high)
    assert np.mean(covered) == pytest.approx(0.90, abs=0.04)


def test_artists_that_count():
    bootstrap = ArtistBootstrap(np.array(list("aabbc")))
    assert bootstrap.count(np.array([True, True, False, False, True])) == 2
    assert bootstrap.count(np.zeros(5, bool)) == 0


def test_draws_depend_on_names_and_seed_and_not_on_the_order_of_clips():
    label, scores, artists = make_clips(7)
    order = np.random.default_rng(1).permutation(len(label))
    first, shuffled = ArtistBootstrap(artists, 30, seed=5), ArtistBootstrap(artists[order], 30, seed=5)
    np.testing.assert_array_equal(first.draws, shuffled.draws)
    for name, samples in first.metrics(label, scores).items():
        np.testing.assert_allclose(samples, shuffled.metrics(label[order], scores[order])[name])
    assert np.any(first.draws != ArtistBootstrap(artists, 30, seed=6).draws)
    np.testing.assert_array_equal(first.draws.sum(axis=1), len(first.artists))


def test_every_artist_is_drawn_once_on_average_with_the_variance_of_a_multinomial():
    draws = ArtistBootstrap(np.arange(20).astype(str), resamples=5000).draws
    np.testing.assert_allclose(draws.mean(axis=0), 1, atol=0.06)
    np.testing.assert_allclose(draws.var(axis=0), 0.95, rtol=0.12)


def test_interval_holds_the_middle():
    samples = np.r_[np.arange(1001.0), np.nan][::-1]
    assert interval(samples, 99) == pytest.approx((25, 975))
    assert interval(samples, 99, 0.5) == pytest.approx((250, 750))


def test_paired_by_hand():
    difference = np.r_[np.full(3, -1.0), np.zeros(2), np.full(94, 2.0)]
    base = np.random.default_rng(0).random(99)
    result = paired(base + difference, base, 99)
    assert result.p == pytest.approx(2 * (5 + 1) / 100)
    assert (result.low, result.high) == pytest.approx(interval(difference, 99))
    opposite = paired(base, base + difference, 99)
    assert opposite == pytest.approx((-result.high, -result.low, result.p))
    assert paired(base, base, 99) == (0, 0, 1)
    assert np.isnan(paired(np.array([np.nan]), np.array([1.0]), 99)).all()


def test_pairing_sees_a_small_difference_that_intervals_hide():
    rng = np.random.default_rng(2)
    artists = rng.integers(0, 150, 600).astype(str)
    a = rng.random(600) < 0.5
    b = a.copy()
    b[rng.choice(np.flatnonzero(~a), 15, replace=False)] = True  # b is right wherever a is, and 15 times more
    samples_a, samples_b = (ArtistBootstrap(artists).mean(right) for right in (a, b))
    assert interval(samples_a, 99)[1] > interval(samples_b, 99)[0]
    result = paired(samples_b, samples_a, 99)
    assert 0 < result.low < 15 / 600 < result.high
    assert result.p < 0.01
    assert mcnemar(a, b) == pytest.approx(2 / 2**15)


def test_p_values_are_uniform_without_a_difference():
    rng = np.random.default_rng(3)
    artists = np.repeat(np.arange(60), 3).astype(str)
    bootstrap = ArtistBootstrap(artists, resamples=300)
    ps = []
    for _ in range(300):  # clips of an artist are alike
        a, b = (np.repeat(rng.random(60) < 0.5, 3) for _ in range(2))
        ps.append(paired(bootstrap.mean(a), bootstrap.mean(b), 60).p)
    assert np.mean(np.array(ps) < 0.05) == pytest.approx(0.05, abs=0.03)
    assert np.mean(np.array(ps) < 0.5) == pytest.approx(0.5, abs=0.1)


def test_mcnemar_by_hand():
    a = np.array([1] * 5 + [0] * 1 + [1] * 10 + [0] * 4, bool)
    b = np.array([0] * 5 + [1] * 1 + [1] * 10 + [0] * 4, bool)
    assert mcnemar(a, b) == mcnemar(b, a) == pytest.approx(2 * (1 + 6) / 2**6)
    assert mcnemar(a, a) == 1


def test_concentration_by_hand():
    label = np.array([0] * 10 + [1] * 4)
    artists = np.array(["a"] * 5 + ["b"] * 3 + ["c"] * 2 + ["a", "b", "c", "d"])
    table = concentration(label, artists, ("Folk", "Jazz", "Blues"))
    assert table["Folk"] == pytest.approx(
        {"clips": 10, "artists": 3, "largest_share": 0.5, "effective_artists": 1 / (0.25 + 0.09 + 0.04)}
    )
    assert table["Jazz"] == pytest.approx({"clips": 4, "artists": 4, "largest_share": 0.25, "effective_artists": 4})
    assert table["Blues"] == {"clips": 0, "artists": 0, "largest_share": 0, "effective_artists": 0}


def test_warnings_name_the_genres_that_few_artists_carry():
    clips = {
        "Folk": ["a"] * 91 + [f"artist {i}" for i in range(9)],
        "Rock": [f"artist {i}" for i in range(100)],
        "Jazz": ["a", "b", "c", "c"],
        "Pop": ["a"] * 4 + ["b"] * 5,  # half by one, but few clips
        "Country": ["a"] * 9 + ["b"] * 9 + [f"artist {i}" for i in range(4)],
        "Spoken": ["a"],
        "Blues": [],
        "Classical": list("abcde"),  # just enough
    }
    label = np.repeat(np.arange(len(clips)), [len(artists) for artists in clips.values()])
    artists = np.array([artist for names in clips.values() for artist in names])
    assert concentration_warnings(label, artists, tuple(clips)) == [
        "Folk: 91 of 100 clips are by one artist; its recall says little about the genre",
        "Jazz: 4 clips by 3 artists; its recall says little about the genre",
        "Pop: 9 clips by 2 artists; its recall says little about the genre",
        "Country: 22 clips by 6 artists, who count as 2.9 with equal shares; its recall says little about the genre",
        "Spoken: 1 clip by 1 artist; its recall says little about the genre",
    ]
