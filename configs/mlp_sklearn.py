"""Multilayer perceptron on FMA's features (scikit-learn): a baseline of FMA's paper and of MATT's Table I.

python -m mgc_jax.main --config configs/mlp_sklearn.py:features=mfcc
"""

from mgc_jax import presets


def get_config(arg=""):
    given = presets.arguments(arg, features="all")
    return presets.baseline("mlp", given["features"], hidden_layer_sizes=(100,), max_iter=2000)
