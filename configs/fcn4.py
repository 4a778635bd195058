"""FCN-4 without bags (Choi et al. 2016): 17,302,928 parameters, a baseline of the CRNN-TF repository.

    python -m mgc_jax.main --config configs/fcn4.py

Published on FMA-medium, best test epoch: 63.88 % accuracy. Not yet run here on FMA-medium. Without prepared FMA it
trains on the demo corpus, in minutes on a CPU.
"""

from mgc_jax.papers import matt


def get_config():
    return matt.system("FCN-4").config()
