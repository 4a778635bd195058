"""Bags of feature vectors: the eight Echo Nest features of FMA tracks, album-artist bags.

    python -m mgc_jax.main --config configs/echonest.py:matt --config.data.arrays.table=echonest.csv

The argument is the pooling, any of mgc_jax/models/pooling, or that after "mlp+" ("mlp+matt"): no other encoder takes
vectors. The table has one row per track with the columns below. Cross-validation grouped by artist: --mode
cross_validate --config.data.folds=5. On 4,752 tracks of FMA-medium (12 genres) a run takes about ten seconds on one
CPU core; docs/measurements.md has the results of every pooling.
"""

from mgc_jax.config import options
from mgc_jax.config.keys import default


def get_config(system="mlp+matt"):
    encoder, pooling = options.encoder_and_pooling(system, encoder="mlp")
    config = default()
    config.data.corpus = "arrays"
    config.data.bag_key = "pair"
    config.data.arrays.axes = "clip feature"
    config.data.arrays.columns.artist = "artist"
    config.data.arrays.columns.album = "album"
    config.data.arrays.features = (
        "acousticness", "danceability", "energy", "instrumentalness", "liveness", "speechiness", "tempo", "valence",
    )  # fmt: skip
    config.model.encoder = options.encoder_options(encoder, hidden=(256,), dropout=0.3)
    config.model.pooling = options.pooling_options(pooling)
    config.model.head_dropout = 0.0
    config.batch.clips = 256
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 3e-3
    config.optimizer.weight_decay = 0.01
    config.train.epochs = 60
    config.train.eval_every_epochs = 3
    config.train.select = "clip_mean/micro_ap" if pooling == "none" else "bag/micro_ap"
    return config
