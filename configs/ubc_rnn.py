"""A bidirectional GRU alone: 75,528 parameters (the PRCNN report, Table 2, row 1).

    python -m mgc_jax.main --config configs/ubc_rnn.py

Published on FMA-small: 40.4 % validation, 29.5 % test accuracy. Not yet run here on FMA-small. Without prepared FMA
it trains on the demo corpus, in minutes on a CPU.
"""

from mgc_jax.papers import ubc


def get_config():
    return ubc.system("RNN").config()
