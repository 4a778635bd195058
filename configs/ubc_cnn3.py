"""Three convolutions over time alone: 646,824 parameters (the PRCNN report, Table 2, row 3).

    python -m mgc_jax.main --config configs/ubc_cnn3.py

Published on FMA-small: 39.4 % validation, 26 % test accuracy. Not yet run here on FMA-small. The report does not
give the pools of this row. --config.model.encoder.pools='((2, 2), (4, 4), (4, 2))' has 85,672 parameters. Without
prepared FMA it trains on the demo corpus, in minutes on a CPU.
"""

from mgc_jax.papers import ubc


def get_config():
    return ubc.system("3-layer CNN").config()
