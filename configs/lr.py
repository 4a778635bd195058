"""Logistic regression on FMA's features (scikit-learn): a baseline of FMA's paper and of MATT's Table I.

    python -m mgc_jax.main --config configs/lr.py:features=mfcc+spectral_contrast

The argument picks features out of the 518; without it, all are used.
"""

from mgc_jax import presets


def get_config(arg=""):
    given = presets.arguments(arg, features="all")
    return presets.baseline("lr", given["features"], C=1.0, max_iter=2000)
