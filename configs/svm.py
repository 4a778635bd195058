"""Support vector machine on FMA's features (scikit-learn): a baseline of FMA's paper and of MATT's Table I.

python -m mgc_jax.main --config configs/svm.py:features=mfcc+spectral_contrast+spectral_centroid
"""

from mgc_jax import presets


def get_config(arg=""):
    given = presets.arguments(arg, features="all")
    return presets.baseline("svm", given["features"], kernel="rbf", C=1.0, gamma="scale")
