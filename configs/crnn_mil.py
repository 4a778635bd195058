"""CRNN + MIL: the mean of the clips' embeddings over album-artist bags.

    python -m mgc_jax.main --config configs/crnn_mil.py

Published on FMA-medium, selected on the test split: 71.93 % accuracy, 0.696 micro average precision. Not yet run
here on FMA-medium. Without prepared FMA it trains on the demo corpus, in minutes on a CPU.
"""

from mgc_jax.papers import matt


def get_config():
    return matt.system("CRNN+MIL").config()
