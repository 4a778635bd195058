"""CRNN without bags (Choi et al. 2017): 393,680 parameters, each clip on its own.

    python -m mgc_jax.main --config configs/crnn.py

Published on FMA-medium, best test epoch: 62.95 % accuracy (the repository FishInMedi/CRNN-TF), 63.23 % in MATT's
runs, with 0.624 micro average precision. Not yet run here on FMA-medium. Without prepared FMA it trains on the demo
corpus, in minutes on a CPU.
"""

from mgc_jax.papers import matt


def get_config():
    return matt.system("CRNN").config()
