"""MATT on CRNN-TF: multiple-instance attention over album-artist bags (Liu & Zhang, SMC 2022).

    python -m mgc_jax.main --config configs/matt_crnn_tf.py

Published on FMA-medium, selected on the test split: 69.05 % accuracy, 0.727 micro average precision. Not yet run
here on FMA-medium. Without prepared FMA it trains on the demo corpus: four minutes on one busy CPU core; validation
accuracy 0.66 to 0.68 per clip, 0.70 to 0.75 for the clip mean and for the bag model (it depends on the CPU), 0.28 for
the majority class.
"""

from mgc_jax.papers import matt


def get_config():
    return matt.system("CRNN-TF+MATT").config()
