"""The best from-scratch recipes on precomputed 100 x 250 mel-spectrograms of FMA-small.

    python -m mgc_jax.main --config configs/best_fma_small_mels.py:crnn_tf --config.data.arrays.clips=mels.npz \\
        --config.data.arrays.table=tracks.csv --workdir runs/crnn_tf-0 --config.seed=0

The argument is the encoder:

* crnn_tf: CRNN-TF as in configs/fma_small_mels.py, with mixup, SpecAugment, label smoothing and a moving average of
  the weights. About 20 minutes a seed on one CPU core.
* statistics: summary statistics of the spectrogram and one dense layer. About a minute a seed on one CPU core.

The average of both is better than either: --mode eval --predictions runs/crnn_tf-0,runs/statistics-0. The arrays and
the table are those of configs/fma_small_mels.py; the checkpoint is the one with the highest average precision of
averaged clips on validation. docs/results.md has the results, and what was tried and did not help.
"""

from mgc_jax.config.loading import load_config
from mgc_jax.errors import UserError

RECIPES = {
    "crnn_tf": {
        "augment.mixup": 0.3,
        "augment.time_masks": 1,
        "augment.time_mask_frames": 40,
        "augment.mel_masks": 1,
        "augment.mel_mask_bands": 16,
        "loss.label_smoothing": 0.05,
        "optimizer.ema": 0.99,
        "train.epochs": 12,
        "train.eval_every_epochs": 3,
    },
    "statistics": {"optimizer.weight_decay": 0.05, "train.epochs": 20, "train.eval_every_epochs": 5},
}


def get_config(encoder="crnn_tf"):
    if encoder not in RECIPES:
        raise UserError(f"{encoder!r} after the config file is no recipe. Write {' or '.join(RECIPES)}.")
    return load_config(f"fma_small_mels:{encoder}", RECIPES[encoder])
