"""Probes of frozen encoders: linear, k nearest neighbours or MLP on embeddings that another program computed.

    python -m mgc_jax.main --config configs/probe.py:linear --config.data.arrays.clips=embeddings.npz \\
        --config.data.arrays.table=tracks.csv

The argument is the probe, linear, knn or mlp, and for linear and mlp also a pooling of mgc_jax/models/pooling after a
"+" (mlp+set_transformer), which makes it a bag model. The .npz holds vectors [clip, feature], averaged over time, and
`track_id`. docs/howto/frozen_encoders.md says how to compute them with published encoders, how to choose a layer, and
what the probes reach on VGGish.

Settings:

* linear is that of X-ARES (github.com/jimbozhang/xares, commit 161f0ef: src/xares/models/simple.py, task.py,
  trainer.py). Layer normalization and one linear layer on the embeddings as they are; Adam 1e-3, batches of 32 clips,
  10 epochs (3 in its task on FMA-small: --config.train.epochs=3), best validation accuracy. Its cosine schedule moves
  once an epoch and ends at a tenth of the learning rate; ours moves each step and ends at zero.
* knn is that of X-ARES (trainer.py: KNN): the 10 nearest training clips by cosine similarity, weighted by the softmax
  of the similarity at temperature 0.07. Embeddings as they are.
* mlp is that of MARBLE on GTZAN's genres (github.com/a43992899/MARBLE, commit 938c03a:
  configs/probe.MuQ.GTZANGenre.yaml, marble/modules/decoders.py). 512 units with ReLU and dropout 0.2; Adam 5e-3,
  batches of 8 x 8 accumulated clips, 50 epochs, best validation accuracy; the learning rate is halved where that
  stalls for more than 6 epochs. MARBLE also stops after 20 epochs without progress, and computes in bfloat16.
  It takes embeddings as they are; here they are standardized, which on VGGish (values of 0 to 255) gains 7 points of
  accuracy.

With a pooling, bags are cut at random into sub-bags in training and count as many as their clips, as in
configs/vggish.py.
"""

from mgc_jax.config import options
from mgc_jax.config.keys import default
from mgc_jax.errors import UserError

_PROBES = ("linear", "knn", "mlp")


def get_config(system="linear"):
    probe, plus, pooling = system.partition("+")
    if probe not in _PROBES or (probe == "knn" and plus):
        raise UserError(
            f"{system!r} after the config file is no probe. Write {', '.join(_PROBES)}, or linear or mlp with a "
            "pooling, such as mlp+set_transformer."
        )
    pooling = options.encoder_and_pooling(f"mlp+{pooling if plus else 'none'}", encoder="mlp")[1]
    config = default()
    config.data.corpus = "arrays"
    config.data.bag_key = "pair"
    config.data.arrays.axes = "clip feature"
    config.data.standardize = probe == "mlp"
    if probe == "knn":
        config.baseline.update(name="knn", n_neighbors=10, metric="cosine", weights="softmax")
        return config
    config.model.pooling = options.pooling_options(pooling)
    config.model.head_dropout = 0.0
    config.optimizer.name = "adam"
    if probe == "linear":
        config.model.encoder = options.encoder_options("mlp", hidden=(), layer_norm=True)
        config.batch.clips = 32
        config.optimizer.learning_rate = 1e-3
        config.optimizer.schedule = "cosine"
        config.train.epochs = 10
    else:
        config.model.encoder = options.encoder_options("mlp", hidden=(512,), dropout=0.2)
        config.batch.clips = 64
        config.optimizer.learning_rate = 5e-3
        config.optimizer.plateau_factor = 0.5
        config.optimizer.plateau_patience = 7  # PyTorch's 6: it lowers the rate after one more
        config.optimizer.plateau_min_delta = 1e-4
        config.train.epochs = 50
    if pooling != "none":
        config.batch.clips = 64  # room for whole bags
        config.batch.sub_bags = True
        config.loss.bag_weight = "size"
    config.train.select = "clip/accuracy" if pooling == "none" else "bag/accuracy"
    return config
