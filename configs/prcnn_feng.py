"""The original PRCNN (Feng et al. 2017): a wider fourth convolution, an embedding before a GRU of 128 units.

    python -m mgc_jax.main --config configs/prcnn_feng.py

Published on GTZAN with short-time Fourier spectrograms: 92 %; here with the PRCNN report's mel-spectrograms. Not yet
run here on FMA-small. Without prepared FMA it trains on the demo corpus, in minutes on a CPU.
"""

from mgc_jax.papers import ubc


def get_config():
    return ubc.system("PRCNN of Feng et al.").config()
