"""Augmentation of standardized clips inside the train step. Every clip has draws of its own.

They do not depend on the number of devices that the clips are dealt to.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mgc_jax.runtime.platform import draw_per_clip


def random_crop(clips: Float[Array, "n time *mel"], frames: int, key: PRNGKeyArray) -> Float[Array, "n frame *mel"]:
    """Cuts a window of `frames` frames from each clip, anywhere."""
    starts = functools.partial(jax.random.randint, key, minval=0, maxval=clips.shape[1] - frames + 1)
    start = draw_per_clip(starts, clips.shape[:1])
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
    draw_widths = functools.partial(jax.random.randint, width_key, minval=0, maxval=min(width, size) + 1)
    widths = draw_per_clip(draw_widths, shape)
    uniform = draw_per_clip(functools.partial(jax.random.uniform, start_key), shape)
    starts = jnp.floor(uniform * (size - widths + 1))
    position = jnp.arange(size)
    hidden = jnp.any((position >= starts) & (position < starts + widths), axis=1)
    return jnp.where(jnp.expand_dims(hidden, 3 - axis), 0, clips)


def add_noise(clips: Float[Array, "n *clip"], deviation: float, key: PRNGKeyArray) -> Float[Array, "n *clip"]:
    """Adds Gaussian noise."""
    normal = functools.partial(jax.random.normal, key, dtype=clips.dtype)
    return clips + deviation * draw_per_clip(normal, clips.shape)
