"""CRNN-TF without bags: 1,004,112 parameters, each clip on its own.

    python -m mgc_jax.main --config configs/crnn_tf.py

Published on FMA-medium, best test epoch: 65.09 % accuracy (its repository), 64.76 % in MATT's runs, with 0.624 micro
average precision. Not yet run here on FMA-medium. Without prepared FMA it trains on the demo corpus, in a few
minutes on a CPU.
"""

from mgc_jax.papers import matt


def get_config():
    return matt.system("CRNN-TF").config()
