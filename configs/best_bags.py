"""A bag model that is better than averaged clips: a set transformer that is also trained on the clips alone.

    python -m mgc_jax.main --config configs/best_bags.py:echonest --config.data.arrays.table=echonest.csv
    python -m mgc_jax.main --config configs/best_bags.py:vggish --config.data.arrays.clips=vggish.npz \\
        --config.data.arrays.table=tracks.csv

The argument is the data: echonest or vggish, with the arrays and the encoder of configs/echonest.py and
configs/vggish.py. Bags are cut at random into sub-bags, which count as many as their clips; a bag's score is the mean
of that of the set transformer for the bag and of those for its clips alone (config.model.clips_too). Trained for a
fixed number of epochs: nothing selects a checkpoint. docs/results.md has the results.
"""

from mgc_jax.config.loading import load_config
from mgc_jax.errors import UserError

EPOCHS = {"echonest": {"train.epochs": 30}, "vggish": {"train.epochs": 20, "optimizer.learning_rate": 1e-3}}


def get_config(data="echonest"):
    if data not in EPOCHS:
        raise UserError(f"{data!r} after the config file is none of the data sets. Write {' or '.join(EPOCHS)}.")
    return load_config(
        f"{data}:set_transformer",
        {
            "model.clips_too": True,
            "batch.sub_bags": True,
            "loss.bag_weight": "size",
            "optimizer.schedule": "cosine",
            "train.select": "last",
        }
        | EPOCHS[data],
    )
