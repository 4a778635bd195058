"""MATT on CRNN-TF, the paper's settings for FMA-medium (SPEC 3.4, 3.6 and 4).

    python -m mgc_jax.main --config configs/matt_crnn_tf.py
"""

from mgc_jax.config import default


def get_config():
    config = default()
    config.model.encoder.name = "crnn_tf"
    config.model.encoder.filters = (64, 128, 128, 128)
    config.model.encoder.pools = ((2, 4), (2, 4), (2, 4), (2, 4))
    config.model.encoder.gru_units = 32
    config.model.encoder.features = 64
    config.model.encoder.dropout = 0.5
    config.model.encoder.batch_norm_momentum = 0.99
    config.model.pooling = "matt"
    config.model.head_dropout = 0.5
    return config
