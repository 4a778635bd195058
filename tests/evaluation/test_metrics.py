import itertools
import warnings

import numpy as np
import pytest
import sklearn.metrics
from scipy.special import softmax

from mgc_jax.evaluation import metrics
from mgc_jax.evaluation.mistakes import block_means


def random_case(seed=0, clips=60, genres=5, occurring=5, dtype=np.float64):
    rng = np.random.default_rng(seed)
    scores = np.log(rng.dirichlet(np.ones(genres), clips)).astype(dtype)
    return rng.integers(0, occurring, clips), scores, scores.argmax(axis=1)


def tied_case():
    label, scores, _ = random_case(1)
    scores = np.round(scores)
    return label, scores, scores.argmax(axis=1)


def unscored_genre_named():
    label, scores, predicted = random_case(2, occurring=3)
    return label, scores, np.where(predicted == 1, 4, predicted)


# name: (label, log scores, predicted genres); the label alone may lack genres, the scores may be tied or extreme
CASES = {
    "random": random_case(),
    "float32": random_case(3, dtype=np.float32),
    "missing genres": random_case(4, occurring=3),
    "tied": tied_case(),
    "all tied": (np.array([0, 1, 2, 2]), np.zeros((4, 3)), np.zeros(4, int)),
    "predicted genres that do not occur": unscored_genre_named(),
    "one clip": (np.array([2]), np.log([[0.2, 0.5, 0.3]]), np.array([1])),
    "one clip, right": (np.array([1]), np.log([[0.2, 0.5, 0.3]]), np.array([1])),
    "one genre": (np.zeros(4, int), np.zeros((4, 1)), np.zeros(4, int)),
    "two genres": random_case(5, genres=2, occurring=2),
    "all of one genre": (np.full(9, 1), random_case(6, clips=9)[1], random_case(6, clips=9)[2]),
    "more genres than clips": random_case(7, clips=30, genres=161, occurring=161),
}
cases = pytest.mark.parametrize(("label", "scores", "predicted"), CASES.values(), ids=CASES.keys())


@cases
def test_metrics_are_scikit_learns_and_do_not_warn(label, scores, predicted):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = metrics.genre_metrics(label, scores, predicted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that genres are missing
        expected = {
            "accuracy": sklearn.metrics.accuracy_score(label, predicted),
            "balanced_accuracy": sklearn.metrics.balanced_accuracy_score(label, predicted),
            "macro_f1": sklearn.metrics.f1_score(label, predicted, average="macro"),
            "weighted_f1": sklearn.metrics.f1_score(label, predicted, average="weighted"),
            "micro_ap": sklearn.metrics.average_precision_score(
                np.eye(scores.shape[1])[label].ravel(), scores.ravel()
            ),
        }
    assert ours.pop("ece") == pytest.approx(naive_calibration_error(label, scores), abs=1e-12)
    assert ours == pytest.approx(expected, abs=1e-12)
    assert all(type(value) is float for value in ours.values())


def test_the_highest_score_names_the_genre():
    label, scores, predicted = random_case()
    assert metrics.genre_metrics(label, scores) == metrics.genre_metrics(label, scores, predicted)


def test_average_precision_ranks_scores_whose_probabilities_underflow():
    label = np.array([0, 1, 1])
    scores = np.array([[-800.0, -900.0], [-1000.0, -850.0], [-2000.0, -950.0]])  # exp gives 0 for all
    # In order: right, right, wrong, right.
    assert metrics.genre_metrics(label, scores)["micro_ap"] == pytest.approx((1 + 1 + 3 / 4) / 3)


def test_a_probability_of_zero_ranks_last():
    scores = np.array([[0.0, -np.inf], [-np.inf, -1.0]])
    assert metrics.genre_metrics(np.array([0, 1]), scores)["micro_ap"] == 1


@cases
def test_confusion_is_scikit_learns(label, scores, predicted):
    genres = scores.shape[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is one genre
        expected = sklearn.metrics.confusion_matrix(label, predicted, labels=range(genres))
    np.testing.assert_array_equal(metrics.confusion(label, predicted, genres), expected)


@cases
def test_per_genre_is_scikit_learns(label, scores, predicted):
    genres = [f"genre {i}" for i in range(scores.shape[1])]
    expected = sklearn.metrics.precision_recall_fscore_support(
        label, predicted, labels=range(len(genres)), zero_division=0
    )
    table = metrics.per_genre(label, predicted, genres)
    assert list(table) == genres
    np.testing.assert_allclose(
        [[row[name] for row in table.values()] for name in ("precision", "recall", "f1", "support")], expected
    )


@cases
def test_curve_is_scikit_learns(label, scores, predicted):
    one_hot = np.eye(scores.shape[1])[label].ravel()
    precision, recall = metrics.precision_recall(label, scores)
    expected = sklearn.metrics.precision_recall_curve(one_hot, scores.ravel())
    np.testing.assert_allclose(precision, expected[0])
    np.testing.assert_allclose(recall, expected[1])


@pytest.mark.parametrize("case", ["random", "tied", "all tied", "one clip", "one genre"])
def test_the_curve_has_the_f1_of_the_best_threshold(case):
    label, scores, _ = CASES[case]
    one_hot = np.eye(scores.shape[1], dtype=bool)[label].ravel()
    f1 = [sklearn.metrics.f1_score(one_hot, scores.ravel() >= threshold) for threshold in np.unique(scores)]
    precision, recall = metrics.precision_recall(label, scores)
    ours = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
    assert max(ours) == pytest.approx(max(f1))


def test_precision_at_a_recall_by_hand():
    # Ranked: right, wrong, right, wrong, wrong, right: precision 1, 2/3 and 1/2 where recall reaches 1/3, 2/3 and 1.
    label = np.array([0, 0, 0])
    scores = np.array([[6.0, 5.0], [4.0, 3.0], [1.0, 2.0]])
    precision, recall = metrics.precision_recall(label, scores)
    recalls = (0.0, 0.1, 1 / 3, 0.34, 2 / 3, 0.9, 1.0)
    assert metrics.precision_at(precision, recall, recalls) == pytest.approx([1, 1, 1, 2 / 3, 2 / 3, 1 / 2, 1 / 2])


@cases
def test_precision_at_is_that_of_the_smallest_recall_not_below(label, scores, predicted):
    precision, recall = metrics.precision_recall(label, scores)
    recalls = (0.0, 0.1, 0.25, 0.5, 0.7, 0.75, 1.0)
    for least, ours in zip(recalls, metrics.precision_at(precision, recall, recalls), strict=True):
        smallest = recall[recall >= least - 1e-9].min()
        assert ours == precision[recall == smallest].max()


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("case", ["random", "float32", "missing genres", "tied", "all of one genre"])
def test_top_k_is_scikit_learns_with_its_ties(case, k):
    label, scores, _ = CASES[case]
    every = range(scores.shape[1])
    assert metrics.top_k(label, scores, every, k) == pytest.approx(
        sklearn.metrics.top_k_accuracy_score(label, scores, k=k, labels=every)
    )
    some = np.isin(label, [1, 2])
    assert metrics.top_k(label, scores, (1, 2), k) == pytest.approx(
        sklearn.metrics.top_k_accuracy_score(label[some], scores[some], k=k, labels=every)
    )


def test_top_k_of_no_clip_is_nan_and_of_all_genres_one():
    label, scores, _ = random_case(occurring=3)
    assert np.isnan(metrics.top_k(label, scores, (4,), 2))
    assert np.isnan(metrics.top_k(label, scores, (), 2))
    assert metrics.top_k(label, scores, (0,), 5) == metrics.top_k(label, scores, (0,), 9) == 1
    assert metrics.top_k(np.array([0, 1]), np.array([[1.0, 0.0], [1.0, 0.0]]), (0, 1), 1) == 0.5


def naive_calibration_error(label, scores, bins=15):
    probability = softmax(scores.astype(np.float64), axis=1)
    confidence, right = probability.max(axis=1), scores.argmax(axis=1) == label
    edges = np.linspace(0, 1, bins + 1)
    total = 0.0
    for low, high in itertools.pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return total


def test_calibration_by_hand():
    probability = np.array([[0.9, 0.1], [0.95, 0.05], [0.4, 0.6], [0.45, 0.55]])
    scaled = np.log(probability) + np.array([[0.0], [3.0], [-700.0], [-2000.0]])  # need not sum to one
    reliability = metrics.calibration(np.array([0, 1, 1, 1]), scaled, bins=4)
    np.testing.assert_array_equal(reliability.count, [0, 0, 2, 2])
    np.testing.assert_allclose(reliability.confidence, [np.nan, np.nan, 0.575, 0.925])
    np.testing.assert_allclose(reliability.accuracy, [np.nan, np.nan, 1, 0.5])
    error = metrics.expected_calibration_error(np.array([0, 1, 1, 1]), scaled, bins=4)
    assert error == pytest.approx((0.425 + 0.425) / 2)


def test_calibrated_scores_have_little_error():
    rng = np.random.default_rng(9)
    probability = rng.dirichlet(np.ones(4), 20_000)
    label = (rng.random((20_000, 1)) > probability.cumsum(axis=1)).sum(axis=1)
    assert metrics.expected_calibration_error(label, np.log(probability)) < 0.015
    assert metrics.expected_calibration_error(label, 3 * np.log(probability)) > 0.1


def test_paper_accuracy_weighs_bags_and_trusts_the_first_label():
    label, offsets = np.array([0, 1, 1, 1, 2, 0]), np.array([0, 3, 5, 6])
    scores = np.repeat(np.log([[0.6, 0.3, 0.1], [0.2, 0.3, 0.5], [0.5, 0.4, 0.1]]), [3, 2, 1], axis=0)
    assert metrics.paper_accuracy(label, scores, offsets) == pytest.approx((3 + 0 + 1) / 6)
    assert metrics.bag_accuracy(label, scores, offsets) == pytest.approx(2 / 3)
    assert metrics.bag_micro_ap(label, scores, offsets) == pytest.approx(
        sklearn.metrics.average_precision_score(np.eye(3)[[0, 1, 0]].ravel(), scores[[0, 3, 5]].ravel())
    )


def test_one_bag():
    scores = np.log([[0.6, 0.3, 0.1]] * 2)
    for label, right in (([0, 1], 1.0), ([1, 0], 0.0)):
        assert metrics.paper_accuracy(np.array(label), scores, np.array([0, 2])) == right
    assert metrics.bag_micro_ap(np.array([1, 0]), scores, np.array([0, 2])) == pytest.approx(1 / 2)


FMA_GENRES = (
    "Rock", "International", "Folk", "Experimental", "Instrumental", "Pop", "Hip-Hop", "Electronic",
    "Soul-RnB", "Blues", "Old-Time / Historic", "Jazz", "Country", "Classical", "Spoken", "Easy Listening",
)  # fmt: skip
FMA_TRAIN = np.array([5681, 814, 1215, 1801, 1045, 945, 1761, 5050, 94, 58, 408, 306, 142, 495, 94, 13])
FMA_OUTSIDE_SMALL = FMA_TRAIN - 800 * (np.arange(16) < 8)  # FMA-small has 800 training clips of eight genres
FMA_TEST = np.array([711, 102, 152, 225, 174, 119, 220, 632, 42, 8, 51, 39, 18, 62, 12, 6])


def test_the_papers_rare_genres_are_found_from_the_counts_of_fma():
    def names(indexes):
        return {FMA_GENRES[i] for i in indexes}

    paper_100 = metrics.paper_rare_genres(FMA_TRAIN, FMA_OUTSIDE_SMALL, 100)
    paper_200 = metrics.paper_rare_genres(FMA_TRAIN, FMA_OUTSIDE_SMALL, 200)
    assert names(paper_100) == {"International", "Soul-RnB", "Blues", "Spoken", "Easy Listening"}
    assert names(paper_200) == names(paper_100) | {"Country"}
    assert [FMA_TEST[list(genres)].sum() for genres in (paper_100, paper_200)] == [170, 188]
    right = [metrics.rare_genres(FMA_TRAIN, below) for below in (100, 200)]
    assert [FMA_TEST[list(genres)].sum() for genres in right] == [68, 86]


def test_frequency_groups_of_fma_take_every_genre_once():
    groups = metrics.frequency_groups(FMA_TRAIN)
    assert [FMA_GENRES[i] for i in groups["head"]] == [
        "Rock", "Folk", "Experimental", "Instrumental", "Hip-Hop", "Electronic"
    ]  # fmt: skip
    assert [FMA_GENRES[i] for i in groups["tail"]] == ["Soul-RnB", "Blues", "Country", "Spoken", "Easy Listening"]
    assert sorted(sum(groups.values(), ())) == list(range(16))


def test_limits_belong_to_the_group_above():
    assert metrics.frequency_groups(np.array([199, 200, 999, 1000])) == {"head": (3,), "mid": (1, 2), "tail": (0,)}
    assert metrics.rare_genres(np.array([99, 100, 0]), 100) == (0, 2)


def test_bag_average_is_the_normalized_geometric_mean():
    probability = np.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [0.2, 0.2, 0.6]])
    mean = np.exp(metrics.mean_log_scores(np.log(probability), np.array([0, 1, 3])))
    np.testing.assert_allclose(mean[0], probability[0])
    geometric = np.sqrt(probability[1] * probability[2])
    np.testing.assert_allclose(mean[1], geometric / geometric.sum())


def test_pictures_average_neighbours():
    np.testing.assert_allclose(block_means(np.arange(10.0)[:, None], 5), [[0.5], [2.5], [4.5], [6.5], [8.5]])
    np.testing.assert_array_equal(block_means(np.eye(3), 5), np.eye(3))
