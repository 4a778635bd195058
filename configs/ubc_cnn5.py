"""Five convolutions over time alone: 34,600 parameters (the PRCNN report, Table 2, row 2).

    python -m mgc_jax.main --config configs/ubc_cnn5.py

Published on FMA-small: 51.3 % validation, 44.1 % test accuracy, the report's best. Not yet run here on FMA-small.
Without prepared FMA it trains on the demo corpus: 2 minutes on one busy CPU core; validation accuracy 0.61 per clip,
0.66 for the clip mean, 0.28 for the majority class.
"""

from mgc_jax.papers import ubc


def get_config():
    return ubc.system("5-layer CNN").config()
