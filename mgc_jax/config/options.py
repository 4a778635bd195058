"""Options of encoders and poolings, and the arguments of a configuration file (`FILE.py:name=value`)."""

from typing import Any

from ml_collections import ConfigDict

from mgc_jax.errors import UserError

# Every option of an encoder or pooling that a flag may change must be in the configuration.
_ENCODERS: dict[str, dict[str, Any]] = {
    "crnn_tf": {
        "filters": (64, 128, 128, 128),
        "pools": ((2, 4), (2, 4), (2, 4), (2, 4)),  # mel, time
        "gru_units": 32,
        "features": 64,
        "dropout": 0.5,
        "batch_norm_momentum": 0.99,
    },
    "crnn": {
        "filters": (64, 128, 128, 128),
        "pools": ((2, 2), (3, 3), (4, 4), (4, 4)),  # mel, time
        "gru_units": 32,
        "dropout": 0.3,
        "batch_norm_momentum": 0.99,
    },
    "fcn4": {
        "filters": (128, 384, 768, 2048),
        "pools": ((2, 4), (4, 5), (3, 8), (4, 8)),  # mel, time
        "batch_norm_momentum": 0.99,
    },
    "mlp": {"hidden": (100,), "dropout": 0.0},
    "cnn": {
        "filters": (16, 32, 64, 64, 64),
        "pools": ((2, 2), (2, 2), (2, 2), (4, 4), (4, 4)),  # time, mel
    },
    "bigru": {"rnn_pool": (2, 1), "rnn_embedding": 0, "gru_units": 64, "gru_layers": 1},
    "prcnn": {
        "filters": (16, 32, 64, 64, 64),
        "pools": ((2, 2), (2, 2), (2, 2), (4, 4), (4, 4)),  # time, mel
        "rnn_pool": (2, 1),
        "rnn_embedding": 0,
        "gru_units": 64,
        "gru_layers": 1,
    },
    "prcnn_attention": {
        "attention": "parallel_cnn",
        "filters": (16, 32, 64),
        "frequency_pools": (4, 4, 4),
        "rnn_pool": (2, 1),
        "gru_units": 128,
        "gru_layers": 1,
    },
    "prcnn_attention_literal": {
        "filters": (16, 32, 64, 64, 64),
        "pools": ((2, 2), (2, 2), (2, 2), (4, 4), (4, 4)),  # time, mel
        "rnn_pool": (2, 1),
        "gru_units": 128,
    },
}


_MATT: dict[str, Any] = {
    "score": "dot",
    "activation": "tanh",
    "queries": "trained",
    "train_query": "gold",
    "hidden": 0,
}


_POOLINGS: dict[str, dict[str, Any]] = {
    "matt": _MATT,
    "hierarchical_matt": _MATT,
    "gated_attention": {"hidden": 128},
    "set_transformer": {"width": 64, "heads": 4, "layers": 1},
}


def encoder_options(name: str, **changes: Any) -> ConfigDict:
    """Returns a `config.model.encoder` with every option of that encoder, so that flags can change them.

    Args:
        name: one of `mgc_jax.models.encoders.ENCODERS`.
        changes: options that differ from the encoder's own defaults.
    """
    return ConfigDict({"name": name} | _ENCODERS.get(name, {}) | changes)


def pooling_options(name: str, **changes: Any) -> ConfigDict:
    """Returns a `config.model.pooling` with every option of that pooling.

    Args:
        name: one of `mgc_jax.models.pooling.POOLINGS`.
        changes: options that differ from the pooling's own defaults.
    """
    return ConfigDict({"name": name} | _POOLINGS.get(name, {}) | changes)


def arguments(text: str, **defaults: str | int) -> dict[str, Any]:
    """Reads what follows the colon in `--config FILE.py:name=value,name=value`.

    Args:
        text: the names and values; may be empty.
        defaults: the names that there are, with the values that hold where none is given; a value is read as the
            kind of its default.

    Raises:
        UserError: there is no such name, or the value is of another kind.
    """
    values: dict[str, Any] = dict(defaults)
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        if name not in defaults or not value:
            raise UserError(
                f"{part!r} after the config file is not an argument. Write {', '.join(f'{n}=...' for n in defaults)}, "
                "joined by commas."
            )
        try:
            values[name] = type(defaults[name])(value)
        except ValueError:
            raise UserError(f"{part!r} after the config file: {value!r} is not a whole number.") from None
    return values
