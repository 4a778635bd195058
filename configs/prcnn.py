"""PRCNN: five convolutions beside a bidirectional GRU, 110,120 parameters (the PRCNN report, Table 2, row 4).

    python -m mgc_jax.main --config configs/prcnn.py

Published on FMA-small: 45 % validation, 36.4 % test accuracy (45 % in the text). Not yet run here on FMA-small.
Without prepared FMA it trains on the demo corpus: 2 minutes on one busy CPU core; validation accuracy 0.71 per clip,
0.80 for the clip mean, 0.28 for the majority class.
"""

from mgc_jax.papers import ubc


def get_config():
    return ubc.system("PRCNN: CNN and RNN").config()
