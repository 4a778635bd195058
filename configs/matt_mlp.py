"""MLP + MATT: attention over the feature vectors of album-artist bags (Liu & Zhang, SMC 2022).

    python -m mgc_jax.main --config configs/matt_mlp.py:features=mfcc+spectral_contrast

The arguments, joined by commas: features, any of FMA's feature sets joined by "+" (default: all 518 features); and
hidden, the units of a hidden layer before the pooling (0: none, default 0).

Published on FMA-medium for all features, selected on the test split: 68.83 % accuracy, 0.732 micro average
precision. In MATT's result files the encoder of this system is "Blank": there is no MLP. Not yet run here on
FMA-medium. Without prepared FMA it trains on the demo corpus: half a minute on one CPU core, and once a minute to
make its features; validation accuracy with the two sets above 0.66 per clip, 0.77 for the clip mean, 0.77 for the
bag model, 0.28 for the majority class.
"""

from mgc_jax.papers import matt


def get_config(argument=""):
    return matt.system("MLP+MATT").config(argument)
