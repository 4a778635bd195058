"""PRCNN on GTZAN (Tzanetakis and Cook 2002), in segments of 5 s, where Feng et al. (2017) had it.

Their 92 % are from secondary sources, which do not say how the segments were split.
"""

import functools

from ml_collections import ConfigDict

from mgc_jax.config.keys import default
from mgc_jax.papers import ubc
from mgc_jax.papers.system import Paper, Published, System, by_name

# The test clips are those of the fault-filtered split: six segments of each of 290 excerpts.
PAPER = Paper("GTZAN", "GTZAN (Tzanetakis and Cook, 2002)", "own_gtzan", 6 * 290)
PUBLISHED = Published(92.0)  # test accuracy of Feng et al.

# Rule of `mgc_jax.data.splits` -> what it is on GTZAN, where a clip is a segment and an album a song.
PROTOCOLS = {"8-1-1": "random segments", "8-1-1-albums": "random songs", "fma": "fault-filtered"}


def on_segments(system: str, representation: str, standardize: bool) -> ConfigDict:
    """Returns a system of the PRCNN report with its settings, on segments of 5 s of GTZAN.

    Args:
        system: its name.
        representation: of the segments.
        standardize: see `config.data.standardize`.
    """
    config = ubc.system(system).config()
    config.data.corpus, config.data.auto_first = PAPER.corpus, default().data.auto_first
    config.data.representation, config.data.standardize = representation, standardize
    return config


def _system(name: str, file: str, system: str, representation: str, shape: tuple[int, int], **options: bool) -> System:
    return System(name, PAPER, file, functools.partial(on_segments, system, representation, **options), shape, 10)


# Decibels are far from zero and spread wide; the PRCNN report's scale goes from -18.4 to 0, and it takes it as it is.
SYSTEMS = (
    _system(
        "PRCNN, 5 s", "gtzan_prcnn", "PRCNN: CNN and RNN", "mel_107x128", (107, 128), standardize=False
    ),
    _system(
        "PRCNN of Feng et al., 5 s", "gtzan_feng", "PRCNN of Feng et al.", "stft_128x513", (128, 513), standardize=True
    ),
)  # fmt: skip
system = functools.partial(by_name, SYSTEMS)
