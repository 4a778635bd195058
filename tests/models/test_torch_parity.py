"""Our encoders equal an independent PyTorch implementation with the same weights.

PyTorch computes in float64 and ours in float32, so that what differs is our rounding alone. A tensor's difference is
measured as its largest one relative to the tensor's largest magnitude.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mgc_jax.models.classifier import count_parameters
from mgc_jax.models.encoders import ENCODERS
from mgc_jax.models.recurrent import BidirectionalGRU, ParallelGRU
from mgc_jax.runtime import platform

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install -e '.[torch]'")

import torch_models  # noqa: E402

FORWARD, GRADIENT = 1e-5, 1e-4
ZERO = 1e-6  # of the largest gradient: what is zero but for rounding

_GRU = {"gru_units": 4}
_CNN = {"filters": (3, 4), "pools": ((2, 2), (3, 2))}
_FIVE = {"filters": (2, 3, 4, 5, 3), "pools": ((2, 2), (2, 2), (2, 2), (4, 4), (4, 4))}
_SCORES = {"filters": (3, 4), "frequency_pools": (2, 3), **_GRU}

# Name, shape of a clip, options. Sizes are such that pools of both paddings have a remainder somewhere.
CASES = {
    "crnn": ("crnn", (47, 21), {"filters": (4, 5), "pools": ((2, 2), (3, 4)), **_GRU}),
    "crnn_tf": ("crnn_tf", (42, 21), {"filters": (4, 5), "pools": ((2, 4), (2, 4)), "features": 6, **_GRU}),
    "crnn_pooled": (
        "crnn_pooled",
        (47, 25),
        {"averaged": (2, 3), "filters": (4, 5), "pools": ((2, 2), (3, 2)), "features": 6, **_GRU},
    ),
    "fcn4": ("fcn4", (47, 19), {"filters": (4, 6), "pools": ((2, 4), (4, 5))}),
    "mlp": ("mlp", (9,), {"hidden": (8, 5)}),
    "cnn5": ("cnn", (229, 128), _FIVE),
    "cnn3": ("cnn", (31, 17), {"filters": (3, 4, 5), "pools": ((2, 2), (2, 2), (2, 2))}),
    "cnn, 5 x 1, ELU": ("cnn", (31, 17), {"kernel": (5, 1), "activation": "elu", **_CNN}),
    "cnn, 3 x 3, tanh": ("cnn", (31, 17), {"kernel": (3, 3), "activation": "tanh", **_CNN}),
    "bigru": ("bigru", (21, 7), _GRU),
    "bigru, 2 layers": ("bigru", (21, 7), {"gru_layers": 2, **_GRU}),
    "prcnn": ("prcnn", (31, 13), {**_CNN, **_GRU}),
    "prcnn, 2 layers": ("prcnn", (31, 13), {"gru_layers": 2, **_CNN, **_GRU}),
    "prcnn of Feng et al.": ("prcnn", (31, 13), {"rnn_pool": (1, 2), "rnn_embedding": 5, **_CNN, **_GRU}),
    "prcnn_attention_literal": ("prcnn_attention_literal", (31, 13), {**_CNN, **_GRU}),
    "parallel_cnn": ("prcnn_attention", (23, 13), {"attention": "parallel_cnn", **_SCORES}),
    "parallel_linear": ("prcnn_attention", (23, 13), {"attention": "parallel_linear", **_GRU}),
    "serial_cnn": ("prcnn_attention", (23, 13), {"attention": "serial_cnn", "gru_layers": 2, **_SCORES}),
    "serial_linear": ("prcnn_attention", (23, 13), {"attention": "serial_linear", **_GRU}),
}
WITH_BATCH_NORM = ("crnn", "crnn_pooled", "crnn_tf", "fcn4")
WITH_DROPOUT = ("crnn", "crnn_pooled", "crnn_tf", "mlp")


def _runs(case):
    """In training or not, and the form of our convolutions (the library's, or made for CPUs)."""
    if case in WITH_BATCH_NORM:
        return [(False, "library"), (True, "library"), (True, "cpu")]
    return (
        [(False, "library"), (False, "cpu")]
        if case in ("cnn5", "cnn, 5 x 1, ELU", "parallel_cnn")
        else [(False, "library")]
    )


RUNS = [
    pytest.param(case, train, form, id=f"{case}, {'training' if train else 'evaluation'}, {form} form")
    for case in CASES
    for train, form in _runs(case)
]


def _randomized(build):
    """Our module with random values everywhere: biases not zero, the batch norms' scales of both signs."""
    rng = np.random.default_rng(0)

    def values(name, shape):
        if name == "var":
            return rng.uniform(0.5, 2, shape)
        if name == "count":
            return 5
        deviation = {"scale": 1.0, "bias": 0.3, "recurrent_bias": 0.3, "mean": 0.3}
        return rng.normal(size=shape, scale=deviation.get(name, (shape[-1] / math.prod(shape)) ** 0.5))

    module = nnx.eval_shape(build)  # computing our initial weights would take most of the time
    state = nnx.to_flat_state(nnx.state(module, nnx.Any(nnx.Param, nnx.BatchStat)))
    leaves = [(path, leaf.replace(jnp.asarray(values(path[-1], leaf.shape), leaf.dtype))) for path, leaf in state]
    nnx.update(module, nnx.from_flat_state(leaves))
    return module


def _tree(state):
    return jax.tree.map(np.asarray, nnx.to_pure_dict(state))


def _pair(name, clip_shape, options):
    """Our encoder and PyTorch's with the same weights; neither has a weight that the other lacks."""
    no_dropout = {"dropout": 0.0} if name in WITH_DROPOUT else {}
    ours = _randomized(lambda: ENCODERS[name](clip_shape, **options, **no_dropout, rngs=nnx.Rngs(0)))
    theirs = torch_models.MODELS[name](clip_shape, **options).double()
    tree = _tree(nnx.state(ours, nnx.Any(nnx.Param, nnx.BatchStat)))
    _load(theirs, theirs.layout(tree))
    assert count_parameters(ours) == _count(theirs)
    assert ours.features == theirs.features
    return ours, theirs


def _load(theirs, layout):
    theirs.load_state_dict({name: torch.tensor(value) for name, value in layout.items()})


def _count(theirs):
    """As Keras counts: with the moving averages, without PyTorch's counter of batches."""
    return sum(v.numel() for name, v in theirs.state_dict().items() if not name.endswith("num_batches_tracked"))


def _distance(actual, expected):
    expected = expected.detach().numpy()
    assert actual.shape == expected.shape
    scale = np.abs(expected).max()
    assert scale > 0
    return np.abs(np.asarray(actual) - expected).max() / scale


def _apply(ours, clips, mask, train, upstream):
    """Our output, the moving averages after the call, and the gradients of the output times `upstream`."""
    graph, params, rest = nnx.split(ours, nnx.Param, ...)

    def loss(params, clips):
        encoder = nnx.merge(graph, params, rest, copy=True)
        y = encoder(clips, mask, train, nnx.Rngs(dropout=0))
        return jnp.sum(y * upstream), (y, nnx.state(encoder, nnx.BatchStat))

    gradients = jax.grad(loss, argnums=(0, 1), has_aux=True)
    # Compiling takes most of the time: with LLVM's optimization, twice as long.
    compiled = jax.jit(gradients, compiler_options={"xla_backend_optimization_level": 0})
    (weights, of_clips), (y, stats) = compiled(params, clips)
    return np.asarray(y), _tree(stats), _tree(weights), np.asarray(of_clips)


def _vanishing(name, train, weight):
    """Whether a weight's gradient is zero in exact arithmetic.

    A constant before a batch norm of batch statistics drops out; so does one before a softmax; and so does the whole
    CNN of the figure's attention, whose weights sum to one.
    """
    if name in WITH_BATCH_NORM:
        return train and weight.endswith("conv.bias")
    return {
        "prcnn_attention": weight == "last.bias",
        "prcnn_attention_literal": weight.startswith("cnn."),
    }.get(name, False)


@pytest.mark.parametrize(("case", "train", "form"), RUNS)
def test_encoder_equals_pytorch(case, train, form, monkeypatch):
    """Output, gradients of all weights and of the clips, and moving averages; a padding clip changes none."""
    monkeypatch.setattr(platform, "on_cpu", lambda: form == "cpu")
    name, clip_shape, options = CASES[case]
    ours, theirs = _pair(name, clip_shape, options)
    theirs.train(train)
    rng = np.random.default_rng(1)
    clips = rng.normal(size=(4, *clip_shape)).astype(np.float32)
    upstream = rng.normal(size=(4, ours.features)).astype(np.float32)
    upstream[3] = 0  # the last clip is padding
    y, stats, weights, of_clips = _apply(ours, clips, jnp.arange(4) < 3, train, upstream)

    real = torch.tensor(clips[:3], dtype=torch.float64, requires_grad=True)
    expected = theirs(real)
    (expected * torch.tensor(upstream[:3])).sum().backward()

    assert _distance(y[:3], expected) < FORWARD
    assert _distance(of_clips[:3], real.grad) < GRADIENT
    np.testing.assert_array_equal(of_clips[3], 0)
    gradients = theirs.layout(weights)
    theirs_by_name = dict(theirs.named_parameters())
    assert gradients.keys() == theirs_by_name.keys()
    largest = max(parameter.grad.abs().max().item() for parameter in theirs_by_name.values())
    for weight, parameter in theirs_by_name.items():
        if _vanishing(name, train, weight):
            assert parameter.grad.abs().max() < ZERO * largest
            assert np.abs(gradients[weight]).max() < ZERO * largest
            if weight.endswith("conv.bias"):  # our ConvBlock leaves it out, PyTorch's rounds to about zero
                assert not gradients[weight].any()
        else:
            assert _distance(gradients[weight], parameter.grad) < GRADIENT, weight
    assert bool(stats) == (name in WITH_BATCH_NORM)
    for block, after in stats.get("blocks", {}).items():
        norm = theirs.blocks[block].norm
        assert _distance(after["norm"]["mean"], norm.running_mean) < FORWARD
        assert _distance(after["norm"]["var"], norm.running_var) < FORWARD
        assert int(after["norm"]["count"]) == int(norm.num_batches_tracked) == 5 + train


def test_moving_variance_takes_the_biased_variance():
    """The one place where PyTorch's batch norm is not Keras's, against NumPy."""
    x = np.random.default_rng(0).normal(size=(2, 3, 2, 2))
    norm, plain = torch_models.BatchNorm(3).double(), torch.nn.BatchNorm2d(3, momentum=0.01).double()
    norm.num_batches_tracked += 10_000  # no start to divide out
    for module in (norm, plain):
        module(torch.tensor(x))
    np.testing.assert_allclose(norm.running_var, 0.99 + 0.01 * x.var((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(plain.running_var, 0.99 + 0.01 * x.var((0, 2, 3), ddof=1), rtol=1e-12)


@pytest.mark.parametrize("bidirectional", [False, True], ids=["one direction", "both directions"])
def test_gru_equals_pytorch_at_every_step(bidirectional):
    both, one = BidirectionalGRU, functools.partial(ParallelGRU, 1)
    ours = _randomized(lambda: (both if bidirectional else one)(5, 4, reset_after=True, rngs=nnx.Rngs(0)))
    theirs = torch.nn.GRU(5, 4, batch_first=True, bidirectional=bidirectional).double()
    tree = _tree(nnx.state(ours, nnx.Param))
    layout = {}
    for i, suffix in enumerate(("", "_reverse")[: 1 + bidirectional]):
        weights = torch_models.gru_layout(tree["directions"] if bidirectional else tree, i)
        layout |= {f"{name}_l0{suffix}": value for name, value in weights.items()}
    _load(theirs, layout)
    x = np.random.default_rng(1).normal(size=(3, 11, 5)).astype(np.float32)
    expected, _ = theirs(torch.tensor(x).double())
    actual = ours(jnp.asarray(x), all_steps=True) if bidirectional else ours(jnp.asarray(x)[None], all_steps=True)[0]
    assert _distance(actual, expected) < FORWARD


# Published sizes: name, shape of a clip, options, genres, parameters with the head.
PUBLISHED = {
    "crnn": ("crnn", (1360, 96), {}, 16, 393_680),
    "crnn_tf": ("crnn_tf", (1360, 96), {}, 16, 1_004_112),
    "fcn4": ("fcn4", (1360, 96), {}, 16, 17_302_928),
    "cnn": ("cnn", (640, 128), {}, 8, 34_600),
    "bigru": ("bigru", (640, 128), {}, 8, 75_528),
    "prcnn": ("prcnn", (640, 128), {}, 8, 110_120),
    "prcnn, 2 layers": ("prcnn", (640, 128), {"gru_layers": 2}, 8, 184_616),
    "prcnn_attention_literal": ("prcnn_attention_literal", (640, 128), {}, 8, 232_744),
}


@pytest.mark.parametrize("case", PUBLISHED)
def test_pytorch_models_have_the_published_parameter_counts(case):
    name, clip_shape, options, genres, parameters = PUBLISHED[case]
    with torch.device("meta"):
        model = torch_models.MODELS[name](clip_shape, **options)
    assert _count(model) + (model.features + 1) * genres == parameters


@pytest.mark.parametrize("case", ["crnn", "crnn_tf", "prcnn"])
def test_published_size_equals_pytorch(case):
    name, clip_shape, options, *_ = PUBLISHED[case]
    ours, theirs = _pair(name, clip_shape, options)
    clips = np.random.default_rng(1).normal(size=(2, *clip_shape)).astype(np.float32)
    with torch.no_grad():
        expected = theirs.eval()(torch.tensor(clips).double())
    actual = nnx.jit(lambda encoder, clips: encoder(clips, jnp.ones(2, bool), False, None))(ours, clips)
    assert _distance(actual, expected) < FORWARD
