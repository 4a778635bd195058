"""Support vector machine on FMA's features (scikit-learn): a baseline of FMA's paper and of MATT's Table I.

    python -m mgc_jax.main --config configs/svm.py:features=mfcc+spectral_contrast+spectral_centroid

The argument picks features out of FMA's 518 (`config.data.features`); without it all are used. They are standardized,
for which gamma = "scale" is the 1 / features that was the default when FMA's figures were made. Published on FMA-
medium's test split: 63 % accuracy with all features, and 63 % with those above, the best of FMA's baselines. Genres
are those that the SVM names, probabilities (for average precision and averages over bags) come from
`mgc_jax.baselines.PairwiseProbabilities`. Not yet run here on FMA-medium. On the demo corpus (5 seconds on 2 busy CPU
cores, and once a minute to make its features): validation accuracy 0.71 per clip, 0.79 for the clip mean, 0.28 for
the majority class.
"""

from mgc_jax.papers import fma


def get_config(argument=""):
    return fma.system("SVM").config(argument)
