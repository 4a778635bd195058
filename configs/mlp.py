"""MLP on feature vectors without bags: one hidden layer of 100 units, as in MATT's notebooks.

    python -m mgc_jax.main --config configs/mlp.py:features=mfcc+spectral_contrast

The arguments, joined by commas: features, any of FMA's feature sets joined by "+" (default: all 518 features); and
hidden, the units of a hidden layer before the pooling (0: none, default 100).

Published on FMA-medium for all features: 58.14 % test accuracy (FMA's scikit-learn MLP, which Table I of MATT
quotes). Not yet run here on FMA-medium. Without prepared FMA it trains on the demo corpus: half a minute on one CPU
core; validation accuracy 0.73 per clip, 0.77 for the clip mean, 0.28 for the majority class.
"""

from mgc_jax.papers import matt


def get_config(argument=""):
    return matt.system("MLP of the notebooks").config(argument)
