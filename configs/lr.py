"""Logistic regression on FMA's features (scikit-learn): a baseline of FMA's paper and of MATT's Table I.

    python -m mgc_jax.main --config configs/lr.py:features=mfcc+spectral_contrast

The argument picks features out of FMA's 518 (`config.data.features`); without it all are used. They are standardized.
Published on FMA-medium's test split, all features: 61 % accuracy, by scikit-learn 0.18 with its defaults: one
classifier per genre against the rest, by liblinear, C = 1. Here it is the multinomial one, by L-BFGS, with as many
steps as it takes to converge. Not yet run here on FMA-medium. On the demo corpus (5 seconds on 2 busy CPU cores, and
once a minute to make its features): validation accuracy 0.74 per clip, 0.81 for the clip mean, 0.28 for the majority
class.
"""

from mgc_jax.papers import fma


def get_config(argument=""):
    return fma.system("LR").config(argument)
