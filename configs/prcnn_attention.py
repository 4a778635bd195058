"""PRCNN with attention over time: a CNN beside the GRU weighs its states (Yu et al. 2020).

    python -m mgc_jax.main --config configs/prcnn_attention.py

What the PRCNN report meant to use; no published figures for FMA. Not yet run here on FMA-small.
--config.model.encoder.attention=parallel_linear, serial_cnn or serial_linear are the other forms of Yu et al.
Without prepared FMA it trains on the demo corpus, in minutes on a CPU.
"""

from mgc_jax.papers import ubc


def get_config():
    return ubc.system("RNN with attention over time").config()
