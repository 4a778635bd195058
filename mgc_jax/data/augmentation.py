"""Augmentation of standardized clips inside the train step. Every clip has draws of its own."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


def random_crop(clips: Float[Array, "n time *mel"], frames: int, key: PRNGKeyArray) -> Float[Array, "n frame *mel"]:
    """Cuts a window of `frames` frames from each clip, anywhere."""
    start = jax.random.randint(key, clips.shape[:1], 0, clips.shape[1] - frames + 1)
    return jax.vmap(lambda clip, first: jax.lax.dynamic_slice_in_dim(clip, first, frames))(clips, start)


def middle_crop(clips: Float[Array, "n time *mel"], frames: int) -> Float[Array, "n frame *mel"]:
    """Cuts the middle `frames` frames from each clip: what evaluation sees of a model trained on random crops."""
    start = (clips.shape[1] - frames) // 2
    return clips[:, start : start + frames]


def mask_bands(
    clips: Float[Array, "n time mel"], axis: int, masks: int, width: int, key: PRNGKeyArray
) -> Float[Array, "n time mel"]:
    """SpecAugment (Park et al. 2019): sets `masks` bands along an axis to zero, the mean of standardized clips.

    Args:
        clips: standardized clips.
        axis: 1: time, 2: mel.
        masks: number of bands; they may overlap.
        width: largest width of a band; it is drawn from 0 to this, both included.
        key: for the draws.
    """
    size = clips.shape[axis]
    width_key, start_key = jax.random.split(key)
    shape = (clips.shape[0], masks, 1)
    widths = jax.random.randint(width_key, shape, 0, min(width, size) + 1)
    starts = jnp.floor(jax.random.uniform(start_key, shape) * (size - widths + 1))
    position = jnp.arange(size)
    hidden = jnp.any((position >= starts) & (position < starts + widths), axis=1)
    return jnp.where(jnp.expand_dims(hidden, 3 - axis), 0, clips)


def add_noise(clips: Float[Array, "*shape"], deviation: float, key: PRNGKeyArray) -> Float[Array, "*shape"]:
    """Adds Gaussian noise."""
    return clips + deviation * jax.random.normal(key, clips.shape, clips.dtype)
