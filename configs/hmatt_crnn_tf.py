"""Hierarchical MATT on CRNN-TF: one query per top genre and one per sub-genre of FMA's genre tree.

    python -m mgc_jax.main --config configs/hmatt_crnn_tf.py

Planned in MATT's repository and never built there; after Han et al. 2018. No published figures. Not yet run here on
FMA-medium. Without prepared FMA it trains on the demo
corpus: a minute on 2 CPU cores; validation accuracy 0.62 per clip, 0.73 for the clip mean, 0.73 for the bag
model, 0.28 for the majority class.
"""

from mgc_jax.papers import matt


def get_config():
    return matt.system("CRNN-TF+HMATT").config()
