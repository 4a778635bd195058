"""The PRCNN report (University of British Columbia): the settings of its systems."""

from typing import Any

from ml_collections import ConfigDict

from mgc_jax.config.keys import default
from mgc_jax.config.options import encoder_options, pooling_options


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
