"""Settings that several files in `configs/` share: the systems of both papers."""

from typing import Any

from ml_collections import ConfigDict

from mgc_jax.config import default
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


# One optimizer for all on the demo, whose clips are short and few: it needs little tuning.
_DEMO_OPTIMIZER = {
    "name": "adamw", "learning_rate": 2e-3, "weight_decay": 0.02, "schedule": "cosine", "warmup_epochs": 1.0
}  # fmt: skip


def matt(encoder: str, pooling: str) -> ConfigDict:
    """Returns a spectrogram system of MATT on FMA-medium with the published settings.

    Those of the CRNN-TF repository for encoders alone; for bags, the hyper-parameters in the names of MATT's result
    files. On the demo corpus the layers are narrower, so that a run takes a minute or two.

    Args:
        encoder: crnn_tf, crnn or fcn4.
        pooling: none, mean, matt, or another of `mgc_jax.models.pooling.POOLINGS`.
    """
    config = default()
    config.model.encoder = encoder_options(encoder)
    config.model.pooling = pooling_options(pooling)
    if pooling == "none":
        config.model.head_dropout = 0.0
        config.batch.rows = 32  # bags of one clip: rows of one clip, for any number of devices that divides 32
        config.batch.clips_per_row = 1
        config.optimizer.name = "adam"
        config.optimizer.learning_rate = 1e-3
        config.train.epochs = 30
        config.train.select = "clip/micro_ap"
    else:  # 12 to 14 bags a step, here packed into 50 clips
        config.model.head_dropout = 0.5
        config.batch.rows = 1
        config.batch.clips_per_row = 50  # no album of FMA-medium is longer
        config.optimizer.name = "sgd"
        config.optimizer.learning_rate = _MATT_RATES.get((encoder, pooling), 0.1)
        config.optimizer.weight_decay = 1e-5
        config.train.epochs = 60
        config.train.select = "bag/micro_ap"

    narrow: dict[str, dict[str, Any]] = {
        "crnn_tf": {"filters": (24, 48, 64, 64), "pools": ((2, 4), (2, 4), (2, 2), (2, 2))},
        "crnn": {"filters": (24, 48, 64, 64)},
        "fcn4": {"filters": (24, 48, 64, 128), "pools": ((2, 4), (4, 4), (3, 4), (4, 4))},
    }
    config.demo.model = ConfigDict({"encoder": narrow[encoder] | {"batch_norm_momentum": 0.9}})
    config.demo.batch = ConfigDict({"clips_per_row": 1 if pooling == "none" else 32})
    config.demo.optimizer = ConfigDict(_DEMO_OPTIMIZER)
    config.demo.train = ConfigDict({"epochs": 12})
    return config


# In the names of the result files.
_MATT_RATES = {
    ("crnn", "mean"): 0.1, ("crnn", "matt"): 0.3, ("crnn_tf", "mean"): 0.2, ("crnn_tf", "matt"): 0.1
}  # fmt: skip


def features(pooling: str, feature_sets: str, hidden: tuple[int, ...]) -> ConfigDict:
    """Returns a neural system of MATT on FMA-medium's features with the published settings.

    Args:
        pooling: none, mean, matt, or another of `mgc_jax.models.pooling.POOLINGS`.
        feature_sets: which of the 518 features, as `config.data.features` has it.
        hidden: layers of the MLP; () is the identity, the encoder named "Blank" in MATT's result files.
    """
    config = default()
    config.data.representation = "features_518"
    config.data.features = feature_sets
    config.model.encoder = encoder_options("mlp", hidden=hidden)
    config.model.pooling = pooling_options(pooling)
    config.batch.rows = 8
    if pooling == "none":  # as the notebooks train it, but on logits: they apply the softmax twice
        config.model.head_dropout = 0.0
        config.batch.clips_per_row = 125
        config.optimizer.name = "adam"
        config.optimizer.learning_rate = 1e-3
        config.optimizer.weight_decay = 1e-4
        config.train.epochs = 200
        config.train.eval_every_epochs = 2
        config.train.select = "clip/micro_ap"
    else:  # 160 bags a step, of 3.2 clips
        config.model.head_dropout = 0.5
        config.batch.clips_per_row = 64
        config.optimizer.learning_rate = 0.2
        config.optimizer.weight_decay = 1e-5
        config.train.epochs = 60
    config.demo.train = ConfigDict({"epochs": 60})
    return config


def ubc(encoder: str, **options: Any) -> ConfigDict:
    """Returns a system of the PRCNN report (University of British Columbia) on FMA-small with its settings.

    RMSProp with the equations of TensorFlow 2, batches of 32 (as its script has it), the learning rate halved where
    validation accuracy stalls for 10 epochs, and the checkpoint of the highest validation accuracy.

    Args:
        encoder: cnn, bigru, prcnn, prcnn_attention or prcnn_attention_literal.
        options: of the encoder.
    """
    config = default()
    config.data.representation = "mel_640x128"
    config.data.standardize = False
    config.model.encoder = encoder_options(encoder, **options)
    config.model.pooling = pooling_options("none")
    config.model.head_dropout = 0.0
    config.batch.rows = 32
    config.batch.clips_per_row = 1
    config.optimizer.name = "rmsprop"
    config.optimizer.options = ConfigDict({"decay": 0.9, "eps": 1e-7, "eps_in_sqrt": False})
    config.optimizer.learning_rate = 5e-4
    config.optimizer.plateau_factor = 0.5
    config.optimizer.plateau_patience = 10
    config.optimizer.plateau_min_delta = 0.01
    config.train.epochs = 50
    config.train.select = "clip/accuracy"
    config.demo.train = ConfigDict({"epochs": 25})
    return config


def baseline(name: str, features: str, **options: Any) -> ConfigDict:
    """Returns a scikit-learn baseline on FMA-medium's features, as FMA's paper has them.

    Args:
        name: lr, knn, svm or mlp.
        features: which of the 518 features, as `config.data.features` has it.
        options: keyword arguments of the estimator.
    """
    config = default()
    config.data.representation = "features_518"
    config.data.features = features
    config.baseline.name = name
    config.baseline.update(options)
    return config


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
