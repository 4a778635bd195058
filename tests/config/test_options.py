"""Options of encoders, poolings, baselines, optimizers and schedules: what their signatures say."""

import inspect

import pytest
from flax import nnx
from ml_collections import ConfigDict

from mgc_jax.config.options import CHOICES, encoder_and_pooling, encoder_options, pooling_options
from mgc_jax.errors import UserError
from mgc_jax.models import encoders
from mgc_jax.models.encoders import ENCODERS
from mgc_jax.models.pooling import POOLINGS


@pytest.mark.parametrize(
    ("options_of", "registry", "supplied"),
    [
        (encoder_options, ENCODERS, {"self", "clip_shape", "rngs"}),
        (pooling_options, POOLINGS, {"self", "features", "num_genres", "subgenre_parents", "multi_label", "rngs"}),
    ],
)
def test_every_option_is_there_with_its_default(options_of, registry, supplied):
    for name, cls in registry.items():
        parameters = inspect.signature(cls.__init__).parameters
        expected = {p: parameter.default for p, parameter in parameters.items() if p not in supplied}
        given = options_of(name).to_dict()
        assert given == {"name": name} | expected
        ConfigDict(given).lock().to_json()  # it can be held, and written to config.json


def test_an_encoder_from_outside_has_its_options(monkeypatch):
    class Outside(nnx.Module):
        def __init__(self, clip_shape, *, widths=[3, 4], rngs):  # noqa: B006
            self.features = widths[-1]

    monkeypatch.setitem(encoders.ENCODERS, "outside", Outside)
    assert encoder_options("outside") == ConfigDict({"name": "outside", "widths": (3, 4)})
    assert encoder_options("outside", widths=(5,)).widths == (5,)


def test_what_does_not_exist_is_named():
    with pytest.raises(UserError, match=r"config\.model\.encoder\.name='crn': choose one of crnn_tf, crnn"):
        encoder_options("crn")
    with pytest.raises(UserError, match=r"config\.model\.pooling: matt has no option scores; it has score, "):
        pooling_options("matt", scores="dot")
    with pytest.raises(UserError, match="it has none"):
        pooling_options("mean", score="dot")


@pytest.mark.parametrize(
    ("key", "name", "option", "default"),
    [
        ("baseline.name", "knn", "n_neighbors", 5),
        ("optimizer.name", "sgd", "momentum", None),
        ("optimizer.name", "nadam", "b1", 0.9),  # a partial
        ("optimizer.schedule", "exponential_decay", "decay_rate", inspect.Parameter.empty),
    ],
)
def test_arguments_of_other_libraries(key, name, option, default):
    (choice,) = (choice for choice in CHOICES if choice.key == key)
    assert choice.defaults(name)[option] is default or choice.defaults(name)[option] == default
    assert not choice.defaults(name).keys() & choice.supplied
    assert choice.defaults("gone") is None


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("prcnn+set_transformer", ("prcnn", "set_transformer")),
        ("matt", ("crnn_tf", "matt")),
        ("none", ("crnn_tf", "none")),
        ("prcnn", ("prcnn", "none")),
        ("+max", ("crnn_tf", "max")),
    ],
)
def test_an_encoder_and_a_pooling_in_one_argument(text, names):
    assert encoder_and_pooling(text, encoder="crnn_tf") == names


@pytest.mark.parametrize("text", ["", "prcn", "prcnn+", "prcnn+mat", "matt+prcnn"])
def test_an_argument_that_is_neither_is_refused(text):
    with pytest.raises(UserError, match=r"is no encoder\+pooling\. Encoders: crnn_tf, .* poolings: none, mean"):
        encoder_and_pooling(text, encoder="crnn_tf")
