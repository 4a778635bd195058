"""The baselines of FMA's own paper (Defferrard et al., ISMIR 2017): the settings of scikit-learn's classifiers."""

from typing import Any

from ml_collections import ConfigDict

from mgc_jax.config.keys import default


def baseline(name: str, features: str, **options: Any) -> ConfigDict:
    """Returns a scikit-learn baseline on FMA-medium's features, as FMA's paper has them.

    Args:
        name: lr, knn, svm or mlp.
        features: which of the 518 features, as `config.data.features` has it.
        options: keyword arguments of the estimator.
    """
    config = default()
    config.data.representation = "features_518"
    config.data.features = features
    config.baseline.name = name
    config.baseline.update(options)
    return config
