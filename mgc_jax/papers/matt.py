"""MATT (Liu & Zhang, SMC 2022): the settings of its systems."""

from typing import Any

from ml_collections import ConfigDict

from mgc_jax.config.keys import default
from mgc_jax.config.options import encoder_options, pooling_options

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
