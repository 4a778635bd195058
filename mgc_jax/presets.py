"""Settings that several files in `configs/` share."""

from ml_collections import ConfigDict

from mgc_jax.config import default

_MATT: dict[str, str | int] = {
    "score": "dot",
    "activation": "tanh",
    "queries": "trained",
    "train_query": "gold",
    "hidden": 0,
}
_POOLING_OPTIONS: dict[str, dict[str, str | int]] = {
    "matt": _MATT,
    "hierarchical_matt": _MATT,
    "gated_attention": {"hidden": 128},
    "set_transformer": {"width": 64, "heads": 4, "layers": 1},
}


def pooling_options(name: str) -> ConfigDict:
    """Returns the `config.model.pooling` of a pooling with every option that it has, so that flags can change them.

    Args:
        name: none, mean, matt, ... (`mgc_jax.models.pooling.POOLINGS`).
    """
    return ConfigDict({"name": name} | _POOLING_OPTIONS.get(name, {}))


def crnn_tf(pooling: str) -> ConfigDict:
    """Returns CRNN-TF on FMA-medium with the published settings (CRNN-TF's repository; for MATT, the
    hyper-parameters in the names of its result files).

    On the demo corpus, where clips are shorter and few, the layers are narrower and the optimizer is one that
    needs little tuning, so that a run takes a minute or two.

    Args:
        pooling: none, mean, matt, or another of `mgc_jax.models.pooling.POOLINGS`.
    """
    config = default()
    config.model.encoder.name = "crnn_tf"
    config.model.encoder.filters = (64, 128, 128, 128)
    config.model.encoder.pools = ((2, 4), (2, 4), (2, 4), (2, 4))  # mel, time
    config.model.encoder.gru_units = 32
    config.model.encoder.features = 64
    config.model.encoder.dropout = 0.5
    config.model.encoder.batch_norm_momentum = 0.99
    config.model.pooling = pooling_options(pooling)
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
        config.optimizer.learning_rate = 0.1 if "matt" in pooling else 0.2
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
