"""Any encoder on precomputed 100 x 250 mel-spectrograms of FMA-small, alone or over pseudo-album bags.

    python -m mgc_jax.main --config configs/fma_small_mels.py:crnn_tf+matt --config.data.arrays.clips=mels.npz \\
        --config.data.arrays.table=tracks.csv

The argument is encoder and pooling joined by "+" (mgc_jax/models), an encoder alone (prcnn: without bags), or a
pooling alone (matt: on CRNN-TF).
The arrays are [clip, mel, time] uint8 with `track_id` beside them; the table has track_id, split, genre_top and
artist_id. Layers of CRNN, CRNN-TF and FCN-4 are narrower than published, and pools shorter, so that an epoch of
6,394 clips takes about a minute on a CPU. docs/measurements.md has the results of every encoder.
"""

from mgc_jax.config import options
from mgc_jax.config.keys import default

_NARROW = {
    "crnn_tf": {"filters": (32, 64, 128, 128), "pools": ((2, 4), (2, 4), (2, 2), (2, 2)), "batch_norm_momentum": 0.95},
    "crnn": {"filters": (32, 64, 128, 128), "pools": ((2, 2), (3, 3), (4, 4), (4, 4)), "batch_norm_momentum": 0.95},
    "fcn4": {"filters": (32, 64, 128, 256), "pools": ((2, 4), (4, 4), (3, 4), (4, 3)), "batch_norm_momentum": 0.95},
}


def get_config(system="crnn_tf+matt"):
    encoder, pooling = options.encoder_and_pooling(system, encoder="crnn_tf")
    config = default()
    config.data.corpus = "arrays"
    config.data.bag_key = "pair"
    config.data.arrays.clips_key = "mel"
    config.data.arrays.axes = "clip mel time"
    config.data.arrays.columns.album = ""
    config.model.encoder = options.encoder_options(encoder, **_NARROW.get(encoder, {}))
    config.model.pooling = options.pooling_options(pooling)
    config.model.head_dropout = 0.0 if pooling == "none" else 0.1
    config.batch.clips = 32
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 0.02
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_epochs = 1.0
    config.train.epochs = 14
    config.train.select = "clip_mean/micro_ap" if pooling == "none" else "bag/micro_ap"
    return config
