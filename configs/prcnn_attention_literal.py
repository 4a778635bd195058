"""PRCNN with attention exactly as its figure draws it: 232,744 parameters (the PRCNN report, Fig. 4, Table 2, row 6).

    python -m mgc_jax.main --config configs/prcnn_attention_literal.py

Published on FMA-small: 41.6 % validation, 26.3 % test accuracy. Not yet run here on FMA-small. Its attention does
nothing: the weights sum to one and are summed over, which leaves the GRU's state (see the class
`PrcnnAttentionLiteral`). configs/prcnn_attention.py has attention over time. Without prepared FMA it trains on the
demo corpus, in minutes on a CPU.
"""

from mgc_jax.papers import ubc


def get_config():
    return ubc.system("... and attention, as drawn").config()
