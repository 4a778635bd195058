"""Bags of VGGish embeddings (or other vectors) of FMA-small's clips, pseudo-album bags.

    python -m mgc_jax.main --config configs/vggish.py:matt --config.data.arrays.clips=vggish.npz \\
        --config.data.arrays.table=tracks.csv

The argument is the pooling, any of mgc_jax/models/pooling, or that after "mlp+" ("mlp+matt"): no other encoder takes
vectors. The .npz holds `vggish` [clip, feature] and `track_id`; the table has track_id, split, genre_top and
artist_id. Bags are cut at random into sub-bags in training, and count as many as their clips. docs/measurements.md has
the results of every pooling; a run takes about ten seconds on one CPU core.
"""

from mgc_jax.config import options
from mgc_jax.config.keys import default


def get_config(system="mlp+matt"):
    encoder, pooling = options.encoder_and_pooling(system, encoder="mlp")
    config = default()
    config.data.corpus = "arrays"
    config.data.bag_key = "pair"
    config.data.arrays.clips_key = "vggish"
    config.data.arrays.axes = "clip feature"
    config.data.arrays.columns.album = ""
    config.model.encoder = options.encoder_options(encoder, hidden=(256,), dropout=0.5)
    config.model.pooling = options.pooling_options(pooling)
    config.model.head_dropout = 0.0
    config.batch.clips = 64  # the longest bag has 36 clips
    config.batch.sub_bags = pooling != "none"
    config.loss.bag_weight = "size"
    config.augment.noise = 0.3
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 5e-4
    config.train.epochs = 40
    config.train.eval_every_epochs = 2
    config.train.select = "clip_mean/micro_ap" if pooling == "none" else "bag/micro_ap"
    return config
