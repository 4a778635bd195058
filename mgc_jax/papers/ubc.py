"""The PRCNN report (University of British Columbia): its systems and their settings."""

import functools
from typing import Any

from ml_collections import ConfigDict

from mgc_jax.config.keys import default
from mgc_jax.config.options import encoder_options, pooling_options
from mgc_jax.papers.system import Paper, System, by_name

PAPER = Paper("UBC", "PRCNN at UBC (Fadaviardakani, Chow and Goh, 2020)", "fma_small", 800, "mel_640x128")


def on_spectrograms(encoder: str, **options: Any) -> ConfigDict:
    """Returns a system of the PRCNN report (University of British Columbia) on FMA-small with its settings.

    RMSProp with the equations of TensorFlow 2, batches of 32 (as its script has it), the learning rate halved where
    validation accuracy stalls for 10 epochs, and the checkpoint of the highest validation accuracy.

    Args:
        encoder: cnn, bigru, prcnn, prcnn_attention or prcnn_attention_literal.
        options: of the encoder.
    """
    config = default()
    config.data.auto_first = PAPER.corpus
    config.data.representation = "mel_640x128"
    config.data.standardize = False
    config.model.encoder = encoder_options(encoder, **options)
    config.model.pooling = pooling_options("none")
    config.model.head_dropout = 0.0
    config.batch.clips = 32
    # RMSProp of Keras 2 and TensorFlow 2.0 to 2.10, which add epsilon outside of the root. Today's Keras adds it
    # inside (eps_in_sqrt=True): where gradients are 1e-4, its steps are a third as long.
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


def _system(
    name: str, file: str, published: int | None, encoder: str, *, printed: bool = False, **options: Any
) -> System:
    settings = functools.partial(on_spectrograms, encoder, **options)
    return System(name, PAPER, file, settings, (640, 128), 8, published, printed)


# The report's figure 4 prints the count of the attention model.
SYSTEMS = (
    _system("RNN", "ubc_rnn", 75_528, "bigru"),
    _system("5-layer CNN", "ubc_cnn5", 34_600, "cnn"),
    _system("3-layer CNN", "ubc_cnn3", 646_824, "cnn", filters=(16, 32, 64), pools=((2, 2), (2, 2), (2, 2))),
    _system("PRCNN: CNN and RNN", "prcnn", 110_120, "prcnn"),
    _system("CNN and 2-layer RNN", "prcnn_2rnn", 184_616, "prcnn", gru_layers=2),
    _system(
        "... and attention, as drawn", "prcnn_attention_literal", 232_744, "prcnn_attention_literal", printed=True
    ),
    _system("RNN with attention over time", "prcnn_attention", None, "prcnn_attention"),
    _system(
        "PRCNN of Feng et al.", "prcnn_feng", None, "prcnn",
        filters=(16, 32, 64, 128, 64), rnn_pool=(1, 2), rnn_embedding=128, gru_units=128,
    ),
)  # fmt: skip
system = functools.partial(by_name, SYSTEMS)

# The report says which parts it varied. It gives the pools, but no kernel other than (3, 1), and no dropout or
# activation: these values are ours.
ABLATIONS = (
    _system(
        "3-layer CNN, pools (2, 2), (4, 4), (4, 2)", "ubc_cnn3", 85_672, "cnn",
        filters=(16, 32, 64), pools=((2, 2), (4, 4), (4, 2)),
    ),
    _system("PRCNN, RNN pool (4, 2)", "prcnn", 85_544, "prcnn", rnn_pool=(4, 2)),
    _system("5-layer CNN, kernel (5, 1)", "ubc_cnn5", None, "cnn", kernel=(5, 1)),
    _system("5-layer CNN, kernel (3, 3)", "ubc_cnn5", None, "cnn", kernel=(3, 3)),
    _system("5-layer CNN, dropout 0.25", "ubc_cnn5", 34_600, "cnn", dropout=0.25),
    _system("5-layer CNN, ELU", "ubc_cnn5", 34_600, "cnn", activation="elu"),
)  # fmt: skip
