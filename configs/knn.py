"""k nearest neighbours on FMA's features (scikit-learn): a baseline of FMA's paper and of MATT's Table I.

python -m mgc_jax.main --config configs/knn.py:features=mfcc,k=200
"""

from mgc_jax import presets


def get_config(arg=""):
    given = presets.arguments(arg, features="all", k=200)
    return presets.baseline("knn", given["features"], n_neighbors=given["k"])
