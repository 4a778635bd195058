"""The losses against their definitions in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from scipy.special import log_softmax, softmax

from mgc_jax.config.keys import default
from mgc_jax.models.logit_adjustment import log_prior
from mgc_jax.training.losses import bag_loss, class_weights, targets

LOGITS = np.random.default_rng(0).normal(size=(4, 5, 3)).astype(np.float32) * 2
LABEL = np.random.default_rng(1).integers(0, 3, (4, 5))
ONE = np.ones(3, np.float32)
ZERO = np.zeros(3, np.float32)


def options(**changes) -> ConfigDict:
    loss = default().loss
    loss.update(changes)
    return loss


def of_label(values):
    return np.take_along_axis(values, LABEL[..., None], -1)[..., 0]


def loss(weight=ONE, adjustment=ZERO, **changes):
    return bag_loss(
        jnp.asarray(log_softmax(LOGITS, -1)), targets(jnp.asarray(LABEL), 3), options(**changes), weight, adjustment
    )


def test_cross_entropy():
    np.testing.assert_allclose(loss(), -of_label(log_softmax(LOGITS, -1)), rtol=1e-5)


def test_scores_of_a_bag_and_of_its_clips_have_a_loss_each():
    pair = jnp.asarray(log_softmax(np.stack([LOGITS, -LOGITS]), -1))
    both = bag_loss(pair, targets(jnp.asarray(LABEL), 3), options(), ONE, ZERO)
    np.testing.assert_allclose(both, [-of_label(log_softmax(part, -1)) for part in (LOGITS, -LOGITS)], rtol=1e-5)


def test_focal():
    p = of_label(softmax(LOGITS, -1))
    np.testing.assert_allclose(loss(name="focal", focal_gamma=2.0), -((1 - p) ** 2) * np.log(p), rtol=1e-4)
    np.testing.assert_allclose(loss(name="focal", focal_gamma=0.0), loss(), rtol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_has_a_gradient_where_a_bag_is_certain(gamma):
    def total(logits):
        target = targets(jnp.zeros(1, int), 3)
        return jnp.sum(bag_loss(logits, target, options(name="focal", focal_gamma=gamma), ONE, ZERO))

    assert np.isfinite(jax.grad(total)(jnp.array([[40.0, 0.0, 0.0]]))).all()


def test_label_smoothing():
    log_p = log_softmax(LOGITS, -1)
    np.testing.assert_allclose(loss(label_smoothing=0.1), -(0.9 * of_label(log_p) + 0.1 * log_p.mean(-1)), rtol=1e-5)


def test_logit_adjustment_adds_the_log_prior_to_the_logits():
    prior = log_prior(np.array([90, 9, 1]))
    np.testing.assert_allclose(np.exp(prior), [0.9, 0.09, 0.01], rtol=1e-6)
    np.testing.assert_allclose(
        loss(adjustment=1.5 * prior), -of_label(log_softmax(LOGITS + 1.5 * prior, -1)), rtol=1e-5
    )
    assert np.isfinite(log_prior(np.array([3, 0]))).all()


def test_effective_numbers():
    count = np.array([1000, 10, 1])
    beta = 0.99
    effective = [(1 - beta**n) / (1 - beta) for n in count]
    weight = class_weights("class_balanced", count, beta)
    np.testing.assert_allclose(weight * effective, weight[0] * effective[0], rtol=1e-6)
    assert weight @ count / count.sum() == pytest.approx(1)  # examples weigh 1 on average
    np.testing.assert_allclose(class_weights("class_balanced", count, 0.0), 1, rtol=1e-6)
    np.testing.assert_array_equal(class_weights("none", count, beta), 1)
    # near one: the inverse of the number
    inverse = class_weights("class_balanced", count, 1 - 1e-9)
    np.testing.assert_allclose(inverse[1] / inverse[0], 100, rtol=1e-4)
    # a genre that does not occur leaves the others alone
    np.testing.assert_allclose(class_weights("class_balanced", np.array([1000, 10, 1, 0]), beta), [*weight, 0])


def test_weights_multiply_the_loss_of_their_genre():
    weight = np.array([0.5, 1.0, 3.0], np.float32)
    np.testing.assert_allclose(loss(weight=weight), weight[LABEL] * loss(), rtol=1e-5)


def test_mixup_mixes_the_losses():
    partner, share = (LABEL + 1) % 3, np.full(LABEL.shape, 0.7, np.float32)
    mixed = bag_loss(
        jnp.asarray(log_softmax(LOGITS, -1)),
        targets(jnp.asarray(LABEL), 3, jnp.asarray(partner), jnp.asarray(share)), options(), ONE, ZERO,
    )  # fmt: skip
    log_p = log_softmax(LOGITS, -1)
    expected = -0.7 * of_label(log_p) - 0.3 * np.take_along_axis(log_p, partner[..., None], -1)[..., 0]
    np.testing.assert_allclose(mixed, expected, rtol=1e-5)
