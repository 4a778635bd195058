"""PRCNN with two bidirectional GRUs: 184,616 parameters (the PRCNN report, Table 2, row 5).

    python -m mgc_jax.main --config configs/prcnn_2rnn.py

Published on FMA-small: 46.3 % validation, 35.5 % test accuracy. Not yet run here on FMA-small. Without prepared FMA
it trains on the demo corpus, in minutes on a CPU.
"""

from mgc_jax.papers import ubc


def get_config():
    return ubc.system("CNN and 2-layer RNN").config()
