"""PRCNN of the PRCNN report on GTZAN: its log-mels, of segments of 5 s, six of each song.

    python -m tfds_fma.prepare --gtzan genres.tar.gz --representation mel_107x128 --data_dir data
    python -m mgc_jax.main --config configs/gtzan_prcnn.py --test

No published figures. The clip mean is the score of a song. Not yet run here on GTZAN.
"""

from mgc_jax.papers import gtzan


def get_config():
    return gtzan.system("PRCNN, 5 s").config()
