"""PRCNN as Feng et al. (2017) had it, on GTZAN: spectrograms of 128 frames and 513 bins, of segments of 5 s.

    python -m tfds_fma.prepare --gtzan genres.tar.gz --representation stft_128x513 --data_dir data
    python -m mgc_jax.main --config configs/gtzan_feng.py --test
    mgc-jax protocols gtzan_feng --seeds 3

Published: 92 % accuracy; how the segments were split is not known to us. The third command trains it on random
segments, on random songs and on the fault-filtered split. The optimizer is that of the PRCNN report. Not yet run here
on GTZAN; docs/howto/gtzan.md has a synthetic one.
"""

from mgc_jax.papers import gtzan


def get_config():
    return gtzan.system("PRCNN of Feng et al., 5 s").config()
