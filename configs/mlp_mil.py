"""MLP + MIL: the mean of the clips' feature vectors over album-artist bags, and a linear classifier.

    python -m mgc_jax.main --config configs/mlp_mil.py:features=mfcc+spectral_contrast

The arguments, joined by commas: features, any of FMA's feature sets joined by "+" (default: all 518 features); and
hidden, the units of a hidden layer before the pooling (0: none, default 0).

Published on FMA-medium for all features, selected on the test split: 69.22 % accuracy, 0.652 micro average
precision. Not yet run here on FMA-medium. Without prepared FMA it trains on the demo corpus: half a minute on one
CPU core; validation accuracy 0.68 per clip, 0.82 for the clip mean and the bag model, 0.28 for the majority
class.
"""

from mgc_jax.papers import matt


def get_config(argument=""):
    return matt.system("MLP+MIL").config(argument)
