"""Multilayer perceptron on FMA's features (scikit-learn): a baseline of FMA's paper and of MATT's Table I.

    python -m mgc_jax.main --config configs/mlp_sklearn.py:features=mfcc

One layer of 100 rectified units, Adam, at most 2,000 epochs, as in FMA's paper. The argument picks features out of
FMA's 518 (`config.data.features`); without it all are used. They are standardized. Published on FMA-medium's test
split, all features: 58 % accuracy. Not yet run here on FMA-medium. On the demo corpus (9 seconds on 2 busy CPU cores,
and once a minute to make its features): validation accuracy 0.70 per clip, 0.80 for the clip mean, 0.28 for the
majority class.
"""

from mgc_jax.papers import fma


def get_config(argument=""):
    return fma.system("MLP").config(argument)
