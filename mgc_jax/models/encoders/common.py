"""Shared by the encoders: checks of options, and stacks of convolution blocks."""

import logging
from collections.abc import Callable, Sequence

import jax
from flax import nnx

from mgc_jax.errors import UserError
from mgc_jax.models.layers import ConvBlock

_log = logging.getLogger(__name__)


def _are_sizes(values: Sequence[object]) -> bool:
    return all(isinstance(value, int) and value > 0 for value in values)


def check_spectrogram(clip_shape: Sequence[int]) -> None:
    """Raises `UserError` where the corpus has feature vectors."""
    if len(clip_shape) != 2:
        raise UserError(
            f"this encoder needs clips of time x mel, this corpus has {tuple(clip_shape)}; use the encoder mlp for "
            "feature vectors"
        )


def check_sizes(**options: object) -> None:
    """Raises `UserError` for an option that is not a whole number above 0."""
    for name, value in options.items():
        if not _are_sizes([value]):
            raise UserError(f"config.model.encoder: {name}={value!r} must be a whole number above 0")


def check_sequences(**options: object) -> None:
    """Raises `UserError` for an option that is not a sequence of whole numbers above 0."""
    for name, value in options.items():
        if not (isinstance(value, Sequence) and _are_sizes(value)):
            raise UserError(f"config.model.encoder: {name}={value!r} must hold whole numbers above 0, as (100,)")


def check_pair(name: str, value: object) -> None:
    """Raises `UserError` for an option that is not a pair of sizes."""
    if not (isinstance(value, Sequence) and len(value) == 2 and _are_sizes(value)):
        raise UserError(f"config.model.encoder: {name}={value!r} must be two whole numbers above 0, as (2, 1)")


def check_fractions(**options: float) -> None:
    """Raises `UserError` for an option that is not at least 0 and below 1."""
    for name, value in options.items():
        if not 0 <= value < 1:
            raise UserError(f"config.model.encoder: {name}={value!r} must be at least 0 and below 1")


def check_blocks(filters: Sequence[int], pools: Sequence[Sequence[int]]) -> None:
    """Raises `UserError` unless there are as many pools as filters, and all are sizes."""
    check_sequences(filters=filters)
    if not isinstance(pools, Sequence):
        raise UserError(f"config.model.encoder: pools={pools!r}: write two sizes per block, as ((2, 4), (2, 4))")
    if len(filters) != len(pools):
        raise UserError(
            f"config.model.encoder: {len(filters)} filters but {len(pools)} pools; give one pool per block"
        )
    if not all(isinstance(pool, Sequence) and len(pool) == 2 and _are_sizes(pool) for pool in pools):
        raise UserError(f"config.model.encoder: pools={pools!r}: write two sizes per block, as ((2, 4), (2, 4))")


def fit_pool(name: str, pool: Sequence[int], size: tuple[int, int]) -> tuple[int, int]:
    """Returns the pool, shrunk to the map where it is larger, so that the map does not vanish.

    Args:
        name: name of the pool in the log, where it is shrunk.
        pool: pool size along both axes of the map.
        size: size of the map.
    """
    fitted = (min(pool[0], size[0]), min(pool[1], size[1]))
    if fitted != tuple(pool):
        _log.info("%s: the map is only %d x %d there, so that the pool %s became %s", name, *size, tuple(pool), fitted)
    return fitted


def conv_blocks(
    clip_shape: Sequence[int],
    filters: Sequence[int],
    pools: Sequence[Sequence[int]],
    *,
    padding: str,
    activation: Callable[[jax.Array], jax.Array],
    batch_norm_momentum: float,
    rngs: nnx.Rngs,
) -> tuple[list[ConvBlock], tuple[int, int]]:
    """Checks the options of a stack of `ConvBlock`s on [n, mel, time, 1] maps, and builds it.

    Args:
        clip_shape: (time, mel) of a clip.
        filters: output channels of each block.
        pools: pool size (mel, time) of each block.
        padding: "SAME": pools round sizes up; "VALID": down, but never to 0.
        activation: activation of each block.
        batch_norm_momentum: momentum of the moving averages.
        rngs: source of the initial weights.

    Returns:
        The blocks, and the size (mel, time) of the last block's map.
    """
    check_spectrogram(clip_shape)
    check_blocks(filters, pools)
    check_fractions(batch_norm_momentum=batch_norm_momentum)
    time, mel = clip_shape
    channels, blocks = 1, []
    for number, (out_channels, (pool_mel, pool_time)) in enumerate(zip(filters, pools, strict=True), 1):
        pool = (pool_mel, pool_time)
        if padding == "VALID":
            pool = fit_pool(f"block {number}", pool, (mel, time))
            mel, time = mel // pool[0], time // pool[1]
        else:
            mel, time = -(-mel // pool[0]), -(-time // pool[1])
        blocks.append(
            ConvBlock(
                channels,
                out_channels,
                pool,
                padding=padding,
                activation=activation,
                batch_norm_momentum=batch_norm_momentum,
                rngs=rngs,
            )
        )
        channels = out_channels
    return blocks, (mel, time)
