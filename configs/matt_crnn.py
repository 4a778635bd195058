"""MATT on CRNN: multiple-instance attention over album-artist bags (Liu & Zhang, SMC 2022).

    python -m mgc_jax.main --config configs/matt_crnn.py

Published on FMA-medium, selected on the test split: 69.09 % accuracy, 0.736 micro average precision. Not yet run
here on FMA-medium. Without prepared FMA it trains on the demo corpus, in minutes on a CPU.
"""

from mgc_jax.papers import matt


def get_config():
    return matt.system("CRNN+MATT").config()
