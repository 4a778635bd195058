"""A corpus of noise with a plausible track table, to measure speed."""

from typing import Any

import numpy as np

from mgc_jax.data.corpus import Corpus
from mgc_jax.errors import UserError
from tfds_fma.labels import GENRES
from tfds_fma.representations.feature_names import columns_of
from tfds_fma.representations.registry import get_representation

_MOST_CLIPS_OF_A_BAG = 50  # no album of FMA-medium has more
_DIFFERENT_CLIPS = 64
_ALBUMS_OF_AN_ARTIST = 2


def synthetic_corpus(config: Any) -> Corpus:
    """Returns the corpus that `config.bench` describes; its clips are like those that `config.data` names.

    About every tenth bag is in the validation split, the others in training.

    Raises:
        UserError: nothing says which shape a clip has.
    """
    bench, rng = config.bench, np.random.default_rng(config.seed)
    shape, dtype = _clip_type(config)
    sizes = bag_sizes(bench.clips, bench.bag_length, rng)
    album = np.repeat(np.arange(len(sizes)), sizes)
    chance = 1 / np.arange(1, len(GENRES) + 1)
    label = rng.choice(len(GENRES), len(sizes), p=chance / chance.sum()).astype(np.int32)[album]
    split = np.where(rng.random(len(sizes)) < 0.1, "validation", "train")
    split[0] = "train"
    if len(sizes) > 1:
        split[-1] = "validation"
    scale = 1000 if dtype == "int16" else 10
    noise = np.abs(rng.normal(size=(min(_DIFFERENT_CLIPS, bench.clips), *shape)) * scale).astype(dtype)
    return Corpus(
        name="synthetic",
        genres=GENRES,
        clips=noise[rng.integers(0, len(noise), bench.clips)],
        track_id=np.arange(bench.clips, dtype=np.int64),
        label=label,
        split=split[album],
        artist=(album // _ALBUMS_OF_AN_ARTIST).astype(str),
        album=album.astype(str),
    )


def bag_sizes(clips: int, bag_length: int, rng: np.random.Generator) -> np.ndarray:
    """Draws bags until they have `clips` clips together; the last one is cut to fit.

    Args:
        clips: in all.
        bag_length: of every bag; 0: log-normal with a mean of 3 and a few long ones, as albums in FMA-medium.
        rng: for the draws.

    Returns:
        int64 [bag].
    """
    if bag_length:
        sizes = np.full(-(-clips // bag_length), bag_length)
    else:
        sizes = np.exp(rng.normal(0.7, 0.9, clips)).round().astype(np.int64).clip(1, _MOST_CLIPS_OF_A_BAG)
    ends = np.minimum(np.cumsum(sizes), clips)
    return np.diff(ends[: 1 + np.searchsorted(ends, clips)], prepend=0)


def _clip_type(config: Any) -> tuple[tuple[int, ...], str]:
    """Returns shape and stored type of a clip."""
    data, given = config.data, tuple(config.bench.clip_shape)
    if data.corpus == "arrays" and not given:
        raise UserError(
            "a synthetic corpus has clips of the shape of config.data.representation, and this configuration is for "
            "your own arrays: give their shape, for instance --config.bench.clip_shape='(128,)', or measure with "
            "the arrays themselves, --config.bench.data=corpus"
        )
    try:
        representation = get_representation(data.representation)
        shape = (len(columns_of([data.features])),) if data.features else representation.shape
    except UserError as error:
        if given:  # the name of arrays of the user's own
            return given, "float16"
        raise UserError(
            f"{str(error).rstrip('.')}. If that is the name of prepared arrays of your own, give the shape of a clip, "
            "for instance --config.bench.clip_shape='(128,)', or measure with the arrays themselves, "
            "--config.bench.data=corpus"
        ) from error
    if data.frames and not given:
        shape = (min(data.frames, shape[0]), *shape[1:])
    return given or shape, representation.dtype
