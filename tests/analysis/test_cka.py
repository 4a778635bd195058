"""Linear CKA against the formula of Kornblith et al. (2019), and what it must not depend on."""

import numpy as np
import pytest
import scipy.stats

from mgc_jax.analysis.cka import gram_matrices, linear_cka

RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 7)) * np.arange(1, 8) + 5
Y = np.tanh(X[:, :4] @ RNG.normal(size=(4, 3))) + 0.1 * RNG.normal(size=(30, 3))


def cka(x, y):
    return linear_cka(x @ x.T, y @ y.T)


def test_it_is_the_closed_form_of_the_features():
    x, y = X - X.mean(0), Y - Y.mean(0)
    expected = np.linalg.norm(y.T @ x) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))
    assert 0.05 < expected < 0.95
    assert cka(X, Y) == pytest.approx(expected, rel=1e-12)
    assert cka(Y, X) == pytest.approx(expected, rel=1e-12)


def test_a_layer_and_itself_have_1_whatever_rotation_shift_and_scale():
    rotation = scipy.stats.ortho_group.rvs(7, random_state=0)
    assert cka(X, X) == pytest.approx(1)
    assert cka(X, -3 * X @ rotation + 2) == pytest.approx(1)
    assert cka(X @ rotation, Y) == pytest.approx(cka(X, Y))
    assert cka(X @ np.diag(np.arange(1.0, 8)), X) < 0.99  # not of any linear map


def test_features_that_are_the_same_for_all_clips_have_none():
    assert np.isnan(cka(np.ones((5, 2)), X[:5]))


@pytest.mark.parametrize(("hold", "chunk"), [(30, 30), (8, 4), (12, 7), (1, 1), (100, 8)])
def test_blocks_of_clips_give_the_same(hold, chunk):
    asked = []

    def features(rows):
        asked.append(len(rows))
        return {"x": X[rows].astype(np.float32), "y": Y[rows].astype(np.float32)}

    order = RNG.permutation(30)
    grams = gram_matrices(features, order, hold, chunk)
    assert max(asked) <= max(hold, chunk)
    assert linear_cka(grams["x"], grams["y"]) == pytest.approx(cka(X, Y), rel=1e-5)
    x = X[order] - X.mean(0)
    centre = np.eye(30) - 1 / 30
    np.testing.assert_allclose(centre @ grams["x"] @ centre, x @ x.T, atol=1e-3)


def test_a_large_mean_costs_no_precision():
    """In float32 the squares of the mean would drown the differences."""
    far = (X + 1e4).astype(np.float32)
    grams = gram_matrices(lambda rows: {"x": far[rows]}, np.arange(30), 30, 30)
    assert linear_cka(grams["x"], X @ X.T) == pytest.approx(1, abs=1e-5)
