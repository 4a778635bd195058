"""PRCNN: five convolutions beside a bidirectional GRU, 110,120 parameters (the PRCNN report, Table 2, row 4).

    python -m mgc_jax.main --config configs/prcnn.py

Published on FMA-small: 45 % validation, 36.4 % test accuracy (45 % in the text). Not yet run here on FMA-small.
Without prepared FMA it trains on the demo corpus: DEMO
"""

from mgc_jax import presets


def get_config():
    return presets.ubc("prcnn")
