"""k nearest neighbours on FMA's features (scikit-learn): a baseline of FMA's paper and of MATT's Table I.

    python -m mgc_jax.main --config configs/knn.py:features=mfcc,k=5

The arguments pick features out of FMA's 518 (`config.data.features`; without it all are used) and the number of
neighbours: 200 as in FMA's paper, 5 in the precision-recall curves of MATT's published code. Features are
standardized. Published on FMA-medium's test split, all features, k = 200: 52 % accuracy. Not yet run here on FMA-
medium. On the demo corpus (a second on 2 busy CPU cores, and once a minute to make its features), validation accuracy
per clip and for the clip mean: 0.45 and 0.44, with k = 5 0.55 and 0.61; 0.28 for the majority class. (200 of its 805
training clips are more than all but two genres have.)
"""

from mgc_jax.papers import fma


def get_config(argument=""):
    return fma.system("KNN").config(argument)
