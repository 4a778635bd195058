"""What every pooling promises; each against plain NumPy loops over bags."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import score_in_rows, segments_of
from pooling_reference import PARENTS, REFERENCES, log_softmax, softmax, weights_of

from mgc_jax.config.keys import default
from mgc_jax.errors import UserError
from mgc_jax.models.classifier import build_model, describe_model
from mgc_jax.models.pooling import POOLINGS, Segments, Target

SEGMENT = np.array([[0, 0, 0, 1, 2, 2, 7], [0, 1, 1, 1, 1, 7, 7]])  # 7: no clip
BAGS = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
REAL_BAG = np.arange(7) < np.array([[3], [2]])
SMALL = {"gated_attention": {"hidden": 6}, "set_transformer": {"width": 8, "heads": 2, "layers": 2}}

CASES = [(name, SMALL.get(name, {})) for name in POOLINGS if "matt" not in name]
CASES += [
    ("matt", {"score": score, "train_query": train_query})
    for score in ("dot", "scaled_dot", "additive", "hidden")
    for train_query in ("gold", "own")
]
CASES += [
    (name, options)
    for name in ("matt", "hierarchical_matt")
    for options in (
        {"activation": "none", "queries": "frozen"},
        {"queries": "frozen_mismatched"},
        {"score": "hidden", "hidden": 3, "activation": "none", "train_query": "own"},
    )
]
CASES += [("hierarchical_matt", {"score": "additive"}), ("hierarchical_matt", {"train_query": "own"})]
every_pooling = pytest.mark.parametrize(
    ("name", "options"),
    [(name, tuple(options.items())) for name, options in CASES],
    ids=["-".join(map(str, (name, *options.values()))) for name, options in CASES],
)


@pytest.fixture
def embeddings():
    return np.random.default_rng(0).normal(size=(2, 7, 5)).astype(np.float32)


@pytest.fixture
def target():
    subgenre = np.random.default_rng(1).integers(0, len(PARENTS), SEGMENT.shape).astype(np.int32)
    return Target(jnp.asarray(np.array(PARENTS, np.int32)[subgenre]), jnp.asarray(subgenre))


def build(name, options=(), features=5):
    """A pooling whose biases and norms are random too, and a linear head."""
    parents = {"subgenre_parents": PARENTS} if "hierarchical" in name else {}
    pooling = POOLINGS[name](features, 3, **parents, **dict(options), rngs=nnx.Rngs(0))
    rng = np.random.default_rng(2)
    state = nnx.state(pooling, nnx.Param)
    nnx.update(pooling, jax.tree.map(lambda p: p + rng.normal(size=p.shape, scale=0.5).astype(np.float32), state))
    kernel, bias = rng.normal(size=(pooling.features, 3)), rng.normal(size=3)
    return pooling, lambda vectors: vectors @ kernel + bias


@functools.cache
def compiled(name, options):
    """A built pooling, its head, and run(embeddings, segment, target, bags) -> (scores, attention, gradients).

    The gradients, by the weights and by the embeddings, are those of the sum of the first genre's scores.
    """
    pooling, classify = build(name, options)
    graph, params, rest = nnx.split(pooling, nnx.Param, ...)

    def loss(params, embeddings, segments, target):
        scores, attention = nnx.merge(graph, params, rest)(embeddings, segments, target, classify)
        return jnp.sum(jnp.where(REAL_BAG[:, : segments.bags], scores[..., 0], 0)), (scores, attention)

    step = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))

    def run(embeddings, segment, target, bags=7):
        (_, outputs), gradients = step(params, embeddings, Segments(jnp.asarray(segment), bags), target)
        return jax.tree.map(np.asarray, (*outputs, gradients))

    return pooling, classify, run


def members(row, bag):
    return np.flatnonzero(np.asarray(SEGMENT)[row] == bag)


def of_bag(target, row, bag):
    return None if target is None else (int(target.label[row, bag]), int(target.subgenre[row, bag]))


@every_pooling
def test_every_pooling_is_its_loop_over_bags(name, options, embeddings, target):
    pooling, classify, run = compiled(name, options)
    weights = weights_of(pooling)
    for truth in (target, None):
        scores, attention, _ = run(embeddings, SEGMENT, truth)
        for row, bag in BAGS:
            clips = np.asarray(embeddings, np.float64)[row, members(row, bag)]
            expected, shares = REFERENCES[name](clips, classify, weights, dict(options), of_bag(truth, row, bag))
            np.testing.assert_allclose(scores[row, bag], expected, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(attention[row, bag][..., members(row, bag)], shares, atol=1e-5)
            np.testing.assert_allclose(attention[row, bag].sum(-1), 1, rtol=1e-5)  # so others have none
            if truth is not None:
                np.testing.assert_allclose(np.exp(scores[row, bag]).sum(), 1, rtol=1e-5)


@every_pooling
def test_neither_the_order_of_the_slots_nor_what_is_in_empty_ones_matters(name, options, embeddings, target):
    run = compiled(name, options)[-1]
    order = np.random.default_rng(3).permutation(7)  # the clips of a bag no longer lie side by side
    real = SEGMENT < 7
    for truth in (target, None):
        results = []
        for slots, padding in ((np.arange(7), 0.0), (order, 1e3)):
            clips = np.where(real[..., None], embeddings, np.float32(padding))[:, slots]
            scores, attention, (by_weight, by_clip) = run(clips, SEGMENT[:, slots], truth)
            assert all(np.isfinite(leaf).all() for leaf in (scores, attention, *jax.tree.leaves(by_weight)))
            back = np.argsort(slots)
            assert np.isfinite(by_clip).all()
            assert not by_clip[:, back][~real].any()
            assert by_clip[:, back][real].any()
            results.append((scores[REAL_BAG], attention[..., back][REAL_BAG], by_weight, by_clip[:, back]))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *results)


@every_pooling
def test_fewer_places_for_bags_change_nothing(name, options, embeddings, target):
    run = compiled(name, options)[-1]
    for truth in (target, None):
        places = truth and jax.tree.map(lambda values: values[:, :4], truth)
        many, few = run(embeddings, SEGMENT, truth), run(embeddings, SEGMENT, places, bags=4)
        for all_places, four in zip(many[:2], few[:2], strict=True):
            assert four.shape == (2, 4, *all_places.shape[2:])
            np.testing.assert_allclose(four[REAL_BAG[:, :4]], all_places[REAL_BAG], rtol=1e-5, atol=1e-6)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), many[2], few[2])


@every_pooling
def test_a_bag_of_equal_clips_is_one_clip(name, options, embeddings):
    _, classify, run = compiled(name, options)
    clips = np.broadcast_to(embeddings[:, :1], embeddings.shape)
    scores, _, _ = run(clips, SEGMENT, None)
    if name != "noisy_or":  # to which three votes are more than one
        np.testing.assert_allclose(scores[0, 0], scores[0, 1], rtol=1e-4, atol=1e-5)
    if name in ("none", "mean", "max", "mean_probability", "noisy_or", "gated_attention"):
        np.testing.assert_allclose(scores[0, 1], log_softmax(classify(clips[0, 0])), rtol=1e-4, atol=1e-5)


def test_the_mean_under_a_linear_head_is_the_mean_of_the_clips_logits(embeddings):
    _, classify, run = compiled("mean", ())
    scores, _, _ = run(embeddings, SEGMENT, None)
    for row, bag in BAGS:
        logits = classify(embeddings[row, members(row, bag)])
        np.testing.assert_allclose(scores[row, bag], log_softmax(logits.mean(0)), rtol=1e-4, atol=1e-5)


def test_equal_maxima_share_weight_and_gradient():
    pooling = POOLINGS["max"](2, 2, rngs=nnx.Rngs(0))
    clips, segment = jnp.array([[[1.0, 0.0], [1.0, 3.0], [0.0, 3.0]]]), jnp.zeros((1, 3), int)
    _, attention = pooling(clips, segments_of(segment), None, lambda vectors: vectors)
    np.testing.assert_allclose(attention[0, 0], [0.25, 0.5, 0.25])
    gradient = jax.grad(lambda x: pooling(x, segments_of(segment), None, lambda v: v)[0][0, 0, 0])(clips)
    p = 1 / (1 + np.exp(1 - 3))  # of the second genre, whose logit is 3
    np.testing.assert_allclose(gradient[0], [[p / 2, 0], [p / 2, -p / 2], [0, -p / 2]], rtol=1e-5, atol=1e-7)


def test_noisy_or_is_exact_for_certain_clips():
    """Probabilities that round to 0 and 1 in float32, where the plain formula gives log 0."""
    pooling = POOLINGS["noisy_or"](3, 3, rngs=nnx.Rngs(0))

    @jax.jit
    def scores(clips):
        return pooling(clips[None], segments_of(jnp.zeros((1, len(clips)), int)), None, lambda vectors: vectors)[0][
            0, 0
        ]

    alone = jnp.array([[200.0, 0.0, -200.0]])
    np.testing.assert_allclose(scores(alone), [0, -200, -400])
    two = jnp.array([[40.0, 0.0, -100.0], [0.0, 40.0, -100.0]])  # 1, 1, and exp(-140) twice; the sum is 2
    np.testing.assert_allclose(scores(two), [-np.log(2), -np.log(2), -140], rtol=1e-6)
    gradient = jax.jit(jax.jacobian(scores))(two)
    assert np.isfinite(np.asarray(gradient)).all()
    # log(2 exp(-140)) / 2: the third genre's score rises as its logit of either clip does, by a half each.
    np.testing.assert_allclose(gradient[2, :, 2], [0.5, 0.5], rtol=1e-5)


def test_noisy_or_needs_one_sure_clip_and_the_mean_does_not():
    clips = jnp.array([[8.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    segment = jnp.zeros((1, 4), int)

    def bag(name):
        return np.exp(
            POOLINGS[name](2, 2, rngs=nnx.Rngs(0))(clips[None], segments_of(segment), None, lambda v: v)[0][0, 0]
        )

    p = softmax(np.asarray(clips, np.float64))
    np.testing.assert_allclose(bag("mean_probability"), p.mean(0), rtol=1e-5)
    either = 1 - (1 - p).prod(0)
    np.testing.assert_allclose(bag("noisy_or"), either / either.sum(), rtol=1e-5)


def model_config(name="matt", **options):
    config = default()
    config.model.encoder.name = "mlp"
    config.model.encoder.hidden = ()
    config.model.pooling.update(name=name, **options)
    config.model.head_dropout = 0.0
    return config


@pytest.mark.parametrize("name", ["mean", "noisy_or", "hierarchical_matt", "set_transformer"])
def test_the_classifier_hands_its_head_to_the_pooling(name, embeddings, target):
    model = build_model(model_config(name, **SMALL.get(name, {})).model, (5,), 3, subgenre_parents=PARENTS, seed=0)
    assert model.head.kernel.shape == (model.pooling.features, 3)
    kernel, weights = np.asarray(model.head.kernel[...], np.float64), weights_of(model.pooling)
    for truth in (target, None):
        run = jax.jit(
            lambda clips, truth: score_in_rows(model, clips, jnp.asarray(SEGMENT), truth, train=truth is not None)
        )
        scores, aux = run(embeddings, truth)
        np.testing.assert_array_equal(aux["embedding"], embeddings.reshape(-1, 5))  # the identity encoder
        for row, bag in BAGS:
            clips = np.asarray(embeddings, np.float64)[row, members(row, bag)]
            options = SMALL.get(name, {})
            expected, _ = REFERENCES[name](clips, lambda v: v @ kernel, weights, options, of_bag(truth, row, bag))
            np.testing.assert_allclose(scores[row, bag], expected, rtol=1e-4, atol=1e-5)


def test_pooling_works_in_float32(embeddings):
    model = build_model(model_config().model, (5,), 3, seed=0)
    half, segment = jnp.asarray(embeddings, jnp.bfloat16), jnp.asarray(SEGMENT)
    scores, attention = model.score_bags(half, segment)
    assert scores.dtype == attention.dtype == jnp.float32
    np.testing.assert_array_equal(scores, model.score_bags(half.astype(jnp.float32), segment)[0])


def test_head_dropout_is_for_training_alone(embeddings, target):
    config = model_config()
    config.model.head_dropout = 0.5
    model = build_model(config.model, (5,), 3, seed=0)
    clips, segment = jnp.asarray(embeddings), jnp.asarray(SEGMENT)
    np.testing.assert_array_equal(*(score_in_rows(model, clips, segment)[0] for _ in range(2)))
    one, two = (
        score_in_rows(model, clips, segment, target, train=True, rngs=nnx.Rngs(dropout=key))[0] for key in (0, 1)
    )
    assert not np.allclose(one, two)


@pytest.mark.parametrize(
    ("pooling", "message"),
    [
        ({"name": "median"}, r"config\.model\.pooling\.name='median': choose one of none, mean, max"),
        ({"name": "mean", "score": "dot"}, "the pooling mean has no option score; it has none"),
        ({"name": "matt", "scores": "dot"}, "the pooling matt has no option scores; it has score, activation"),
        ({"name": "hierarchical_matt", "subgenre_parents": (0,)}, "has no option subgenre_parents"),
        ({"name": "matt", "score": "cosine"}, "matt: score='cosine': choose one of dot, scaled_dot"),
        ({"name": "matt", "activation": "relu"}, "matt: activation='relu': choose one of tanh, none"),
        ({"name": "matt", "queries": "learned"}, "choose one of trained, frozen, frozen_mismatched"),
        ({"name": "hierarchical_matt", "train_query": "top"}, "hierarchical_matt: train_query='top': choose"),
        ({"name": "matt", "queries": "frozen_mismatched", "train_query": "own"}, "needs train_query=gold"),
        ({"name": "matt", "hidden": -1}, "hidden=-1 must be a whole number of at least 0"),
        ({"name": "gated_attention", "hidden": 0}, "hidden=0 must be a whole number of at least 1"),
        ({"name": "set_transformer", "heads": 3}, "width=64 must be a multiple of heads=3"),
        ({"name": "set_transformer", "layers": -1}, "layers=-1"),
    ],
)
def test_an_impossible_pooling_is_named(pooling, message):
    with pytest.raises(UserError, match=message):
        build_model(model_config(**pooling).model, (5,), 3, seed=0)


def test_systems_are_named_by_encoder_pooling_and_what_is_not_the_default():
    def named(name, **options):
        return describe_model(model_config(name, **options).model)

    assert named("none") == "MLP"
    assert named("mean") == "MLP + MIL (mean)"
    assert named("gated_attention", hidden=128) == "MLP + MIL (gated attention)"
    assert named("matt", score="dot") == "MLP + MATT"
    assert named("matt", score="additive", queries="frozen") == "MLP + MATT (score=additive, queries=frozen)"
    assert named("hierarchical_matt", train_query="own") == "MLP + hierarchical MATT (train_query=own)"
