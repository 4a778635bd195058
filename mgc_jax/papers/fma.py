"""The baselines of FMA's own paper (Defferrard et al., ISMIR 2017): scikit-learn's classifiers and their settings."""

import functools
from typing import Any

from ml_collections import ConfigDict

from mgc_jax.config.keys import default
from mgc_jax.papers.system import Paper, System, by_name

PAPER = Paper("FMA", "FMA (Defferrard et al., ISMIR 2017)", "fma_medium", 2573)


def baseline(name: str, features: str, **options: Any) -> ConfigDict:
    """Returns a scikit-learn baseline on FMA-medium's features, as FMA's paper has them.

    Args:
        name: lr, knn, svm or mlp.
        features: which of the 518 features, as `config.data.features` has it.
        options: keyword arguments of the estimator.
    """
    config = default()
    config.data.auto_first = PAPER.corpus
    config.data.representation = "features_518"
    config.data.features = features
    config.baseline.name = name
    config.baseline.update(options)
    return config


def _knn(features: str, k: int) -> ConfigDict:
    return baseline("knn", features, n_neighbors=k)


_lr = functools.partial(baseline, "lr", C=1.0, max_iter=2000)
_svm = functools.partial(baseline, "svm", kernel="rbf", C=1.0, gamma="scale")
_mlp = functools.partial(baseline, "mlp", hidden_layer_sizes=(100,), max_iter=2000)
_ALL = {"features": "all"}

SYSTEMS = (
    System("LR", PAPER, "lr", _lr, (518,), 16, arguments=_ALL),
    System("KNN", PAPER, "knn", _knn, (518,), 16, arguments={"features": "all", "k": 200}),
    System("SVM", PAPER, "svm", _svm, (518,), 16, arguments=_ALL, other_name="SVC on MFCC statistics"),
    System("MLP", PAPER, "mlp_sklearn", _mlp, (518,), 16, arguments=_ALL),
)
system = functools.partial(by_name, SYSTEMS)
