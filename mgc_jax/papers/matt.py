"""MATT (Liu & Zhang, SMC 2022): its systems and their settings."""

import functools
from typing import Any

from ml_collections import ConfigDict

from mgc_jax.config.keys import default
from mgc_jax.config.options import encoder_options, pooling_options
from mgc_jax.papers.system import Paper, System, by_name

PAPER = Paper("MATT", "MATT (Liu and Zhang, SMC 2022)", "fma_medium", 2573, "mel_1360x96")

# One optimizer for all on the demo, whose clips are short and few: it needs little tuning.
_DEMO_OPTIMIZER = {
    "name": "adamw", "learning_rate": 2e-3, "weight_decay": 0.02, "schedule": "cosine", "warmup_epochs": 1.0
}  # fmt: skip


def on_spectrograms(encoder: str, pooling: str) -> ConfigDict:
    """Returns a spectrogram system of MATT on FMA-medium with the published settings.

    Those of the CRNN-TF repository for encoders alone; for bags, the hyper-parameters in the names of MATT's result
    files. MATT is the repaired one with trained queries; `MattPooling` says how the published code differs. On the
    demo corpus the layers are narrower, so that a run takes a minute or two.

    Spectrograms are standardized per mel band. In what is published of the code no log-mel is: they are made in dB
    (notebook manu_version/2) and taken as they are. `config.data.standardize=False` is that.

    Args:
        encoder: crnn_tf, crnn or fcn4.
        pooling: none, mean, matt, or another of `mgc_jax.models.pooling.POOLINGS`.
    """
    config = default()
    config.data.auto_first = PAPER.corpus
    config.model.encoder = encoder_options(encoder)
    config.model.pooling = pooling_options(pooling)
    if pooling == "none":
        config.model.head_dropout = 0.0
        config.batch.clips = 32
        config.optimizer.name = "adam"
        config.optimizer.options = ConfigDict({"eps": 1e-7})  # Keras 2's; Optax and PyTorch have 1e-8
        config.optimizer.learning_rate = 1e-3
        config.train.epochs = 30
        config.train.select = "clip/micro_ap"
    else:  # 12 to 14 bags a step, here packed into 50 clips
        config.model.head_dropout = 0.5
        config.batch.clips = 50  # no album of FMA-medium is longer
        config.optimizer.name = "sgd"
        config.optimizer.learning_rate = _MATT_RATES.get((encoder, pooling), 0.1)
        config.optimizer.weight_decay = 1e-5
        config.train.epochs = 60
        config.train.select = "bag/micro_ap"

    config.demo.model = ConfigDict({"encoder": NARROW[encoder]})
    config.demo.batch = ConfigDict({"clips": 32})
    config.demo.optimizer = ConfigDict(_DEMO_OPTIMIZER | {"options": dict.fromkeys(config.optimizer.options, 1e-8)})
    config.demo.train = ConfigDict({"epochs": 12})
    return config


# Encoders for the demo.
NARROW: dict[str, dict[str, Any]] = {
    "crnn_tf": {
        "filters": (24, 48, 64, 64), "pools": ((2, 4), (2, 4), (2, 2), (2, 2)), "batch_norm_momentum": 0.9
    },
    "crnn": {"filters": (24, 48, 64, 64), "batch_norm_momentum": 0.9},
    "fcn4": {
        "filters": (24, 48, 64, 128), "pools": ((2, 4), (4, 4), (3, 4), (4, 4)), "batch_norm_momentum": 0.9
    },
}  # fmt: skip
# In the names of the result files.
_MATT_RATES = {
    ("crnn", "mean"): 0.1, ("crnn", "matt"): 0.3, ("crnn_tf", "mean"): 0.2, ("crnn_tf", "matt"): 0.1
}  # fmt: skip


def on_features(pooling: str, features: str, hidden: int) -> ConfigDict:
    """Returns a neural system of MATT on FMA-medium's features with the published settings.

    The attention is the repaired one, as in `on_spectrograms`.

    The features are standardized. The notebooks train networks on arrays made before the scaling (fma_version/3.2.1
    and 4.1), so on features as they are. `config.data.standardize=False` is that.

    Args:
        pooling: none, mean, matt, or another of `mgc_jax.models.pooling.POOLINGS`.
        features: which of the 518 features, as `config.data.features` has it.
        hidden: units of the MLP's layer; 0 is the identity, the encoder named "Blank" in MATT's result files.
    """
    config = default()
    config.data.auto_first = PAPER.corpus
    config.data.representation = "features_518"
    config.data.features = features
    config.model.encoder = encoder_options("mlp", hidden=(hidden,) if hidden else ())
    config.model.pooling = pooling_options(pooling)
    if pooling == "none":  # as the notebooks train it, but on logits: they apply the softmax twice
        config.model.head_dropout = 0.0
        config.batch.clips = 1000
        config.optimizer.name = "adam"
        config.optimizer.learning_rate = 1e-3
        config.optimizer.weight_decay = 1e-4
        config.train.epochs = 200
        config.train.eval_every_epochs = 2
        config.train.select = "clip/micro_ap"
    else:  # 160 bags a step, of 3.2 clips
        config.model.head_dropout = 0.5
        config.batch.clips = 512
        config.optimizer.learning_rate = 0.2
        config.optimizer.weight_decay = 1e-5
        config.train.epochs = 60
    config.demo.train = ConfigDict({"epochs": 60})
    return config


def _spectrograms(
    name: str, file: str, encoder: str, pooling: str, published: int | None = None, *, printed: bool = False
) -> System:
    settings = functools.partial(on_spectrograms, encoder, pooling)
    return System(name, PAPER, file, settings, (1360, 96), 16, published, printed)


def _features(name: str, file: str, pooling: str, hidden: int = 0) -> System:
    settings = functools.partial(on_features, pooling)
    return System(name, PAPER, file, settings, (518,), 16, arguments={"features": "all", "hidden": hidden})


# The notebooks of FishInMedi/CRNN-TF print the counts of both CRNNs. "MLP" in MATT's tables is FMA's.
SYSTEMS = (
    _features("MLP of the notebooks", "mlp", "none", 100),
    _features("MLP+MIL", "mlp_mil", "mean"),
    _features("MLP+MATT", "matt_mlp", "matt"),
    _spectrograms("CRNN", "crnn", "crnn", "none", 393_680, printed=True),
    _spectrograms("CRNN+MIL", "crnn_mil", "crnn", "mean"),
    _spectrograms("CRNN+MATT", "matt_crnn", "crnn", "matt"),
    _spectrograms("CRNN-TF", "crnn_tf", "crnn_tf", "none", 1_004_112, printed=True),
    _spectrograms("CRNN-TF+MIL", "crnn_tf_mil", "crnn_tf", "mean"),
    _spectrograms("CRNN-TF+MATT", "matt_crnn_tf", "crnn_tf", "matt"),
    _spectrograms("CRNN-TF+HMATT", "hmatt_crnn_tf", "crnn_tf", "hierarchical_matt"),
    _spectrograms("FCN-4", "fcn4", "fcn4", "none", 17_302_928),
)
system = functools.partial(by_name, SYSTEMS)
