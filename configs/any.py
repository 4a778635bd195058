"""Any encoder and any pooling, on prepared FMA, the demo, or arrays.

    python -m mgc_jax.main --config configs/any.py:prcnn+set_transformer

The argument is encoder and pooling joined by "+" (mgc_jax/models; default crnn_tf+matt), an encoder alone (prcnn:
without bags), or a pooling alone (matt: on CRNN-TF). The representation is what the encoder was made for:
mel_1360x96 for the CRNNs, FCN-4 and statistics, mel_640x128 for the encoders of the PRCNN report, features_518 for the
MLP. Of arrays, only the files are to be named: --config.data.corpus=arrays --config.data.arrays.clips=mels.npz
--config.data.arrays.table=tracks.csv. AdamW with a cosine schedule, the same for all; no published figures. Not yet
run here on FMA. Without prepared FMA it trains on the demo corpus: the command above takes 4 minutes on 2 busy CPU
cores; validation accuracy about 0.46 per clip, 0.61 averaged over bags, 0.65 for the bag model, 0.28 for the majority
class.
"""

from ml_collections import ConfigDict

from mgc_jax.config import options
from mgc_jax.config.keys import default
from mgc_jax.papers import matt, ubc

_OF_UBC = {system.config().model.encoder.name for system in ubc.SYSTEMS}


def get_config(system="crnn_tf+matt"):
    encoder, pooling = options.encoder_and_pooling(system, encoder="crnn_tf")
    of_vectors, alone = encoder == "mlp", pooling == "none"
    config = default()
    config.data.representation = matt.PAPER.representation
    if of_vectors:
        config.data.representation = "features_518"
        config.data.arrays.axes = "clip feature"
    elif encoder in _OF_UBC:
        config.data.representation = ubc.PAPER.representation
    config.model.encoder = options.encoder_options(encoder)
    config.model.pooling = options.pooling_options(pooling)
    config.model.head_dropout = 0.0 if alone else 0.1
    config.batch.clips = 32 if alone else 256 if of_vectors else 64
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 0.02
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_epochs = 1.0
    config.train.epochs = 30
    config.train.select = "clip_mean/micro_ap" if alone else "bag/micro_ap"
    config.demo.model = ConfigDict({"encoder": matt.NARROW.get(encoder, {})})
    config.demo.batch = ConfigDict({} if of_vectors else {"clips": 32})
    config.demo.optimizer = ConfigDict({"learning_rate": 2e-3})
    config.demo.train = ConfigDict({"epochs": 12})
    return config
