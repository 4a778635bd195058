"""Settings that several files in `configs/` share."""

from typing import Any

from ml_collections import ConfigDict

from mgc_jax.config import default
from mgc_jax.errors import UserError


def crnn_tf(pooling: str) -> ConfigDict:
    """Returns CRNN-TF on FMA-medium with the published settings (CRNN-TF's repository; for MATT, the
    hyper-parameters in the names of its result files).

    On the demo corpus, where clips are shorter and few, the layers are narrower and the optimizer is one that
    needs little tuning, so that a run takes a minute or two.

    Args:
        pooling: none, mean or matt.
    """
    config = default()
    config.model.encoder.name = "crnn_tf"
    config.model.encoder.filters = (64, 128, 128, 128)
    config.model.encoder.pools = ((2, 4), (2, 4), (2, 4), (2, 4))  # mel, time
    config.model.encoder.gru_units = 32
    config.model.encoder.features = 64
    config.model.encoder.dropout = 0.5
    config.model.encoder.batch_norm_momentum = 0.99
    config.model.pooling = pooling
    if pooling == "none":  # as the CRNN-TF repository trains it
        config.model.head_dropout = 0.0
        config.batch.rows = 32  # bags of one clip: rows of one clip, for any number of devices that divides 32
        config.batch.clips_per_row = 1
        config.optimizer.name = "adam"
        config.optimizer.learning_rate = 1e-3
        config.train.epochs = 30
        config.train.select = "clip/micro_ap"
    else:  # as MATT's result files say: 12 to 14 bags a step, here packed into 50 clips
        config.model.head_dropout = 0.5
        config.batch.rows = 1
        config.batch.clips_per_row = 50  # no album of FMA-medium is longer
        config.optimizer.name = "sgd"
        config.optimizer.learning_rate = 0.1 if pooling == "matt" else 0.2
        config.optimizer.weight_decay = 1e-5
        config.train.epochs = 60
        config.train.select = "bag/micro_ap"

    demo = config.demo
    demo.model = ConfigDict()
    demo.model.encoder = ConfigDict()
    demo.model.encoder.filters = (24, 48, 64, 64)
    demo.model.encoder.pools = ((2, 4), (2, 4), (2, 2), (2, 2))
    demo.model.encoder.batch_norm_momentum = 0.9
    demo.batch = ConfigDict({"clips_per_row": 1 if pooling == "none" else 32})
    demo.optimizer = ConfigDict(
        {"name": "adamw", "learning_rate": 2e-3, "weight_decay": 0.02, "schedule": "cosine", "warmup_epochs": 1.0}
    )
    demo.train = ConfigDict({"epochs": 12})
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
