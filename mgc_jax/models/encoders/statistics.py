"""Statistics of a spectrogram over time, and a dense layer on them."""

import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float
from scipy.fft import dct

from mgc_jax.errors import UserError
from mgc_jax.models.encoders.common import check_fractions, check_sizes, check_spectrogram
from mgc_jax.models.layers import Dense, Dropout, MaskedBatchNorm
from mgc_jax.runtime import platform

_CORRELATED = 13  # cepstral coefficients whose correlations are features
_SMALLEST = 1e-6  # added to a square before its root is taken
# Edges of the ranges of modulation frequency, in cycles per frame: about an octave each. A clip of fewer than 125
# frames has no frequency of its own in the lowest ranges, which then repeat its lowest one.
_MODULATIONS = (0.004, 0.012, 0.024, 0.048, 0.096, 0.192, 0.32, 0.504)


class Statistics(nnx.Module):
    """Timbre and rhythm without convolutions: summary statistics of the clip, standardized, and one dense layer.

    For spectrograms of some 100 to 2,000 frames: the transform over time is a product with a matrix of frames squared.
    Of neither paper; the features are those of the time before deep networks (Tzanetakis & Cook 2002; McKinney &
    Breebaart 2003): of cepstral coefficients mean, deviation, deviation of their changes over one and four frames, and
    correlations; of groups of mel bands the log energy in ranges of modulation frequency. Attributes: `norm`, `dense`.
    """

    any_length = True  # the weights do not depend on the number of frames

    def __init__(
        self,
        clip_shape: Sequence[int],
        *,
        cepstra: int = 30,
        bands: int = 20,
        hidden: int = 512,
        noise: float = 0.4,
        dropout: float = 0.5,
        rngs: nnx.Rngs,
    ):
        """Builds the encoder.

        Args:
            clip_shape: (time, mel) of a clip.
            cepstra: cepstral coefficients, at most as many as mel bands.
            bands: groups of mel bands, at most as many as those.
            hidden: width of the dense layer, and so of the embedding.
            noise: standard deviation of Gaussian noise on the standardized features in training.
            dropout: dropout on the embedding.
            rngs: source of the initial weights.
        """
        check_spectrogram(clip_shape)
        check_sizes(cepstra=cepstra, bands=bands, hidden=hidden)
        check_fractions(dropout=dropout)
        if not 0 <= noise < math.inf:
            raise UserError(f"config.model.encoder: noise={noise!r} must be a number of at least 0")
        mel = clip_shape[1]
        self.cepstra, self.bands, self.noise, self.features = min(cepstra, mel), min(bands, mel), noise, hidden
        size = jax.eval_shape(self._statistics, jax.ShapeDtypeStruct((1, *clip_shape), jnp.float32)).shape[1]
        self.norm = MaskedBatchNorm(size)
        self.dense = Dense(size, hidden, rngs=rngs)
        self.dropout = Dropout(dropout)

    def __call__(
        self, clips: Float[Array, "n time mel"], mask: Bool[Array, " n"], train: bool, rngs: nnx.Rngs | None
    ) -> Float[Array, "n feature"]:
        """Returns one embedding per clip."""
        x = self._statistics(clips.astype(jnp.float32))[:, None, None]
        x = jnp.clip(self.norm(x, mask, train)[:, 0, 0], -4, 4)  # of a silent clip they are far off
        if train and self.noise:
            if rngs is None:
                raise ValueError("noise in training needs rngs with a stream `dropout`")
            key = rngs.dropout()
            x += self.noise * platform.draw_per_clip(lambda shape: jax.random.normal(key, shape), x.shape)
        x = nnx.relu(self.dense(x.astype(clips.dtype)))
        return self.dropout(x, deterministic=not train, rngs=rngs)

    def _statistics(self, clips: Float[Array, "n time mel"]) -> Float[Array, "n statistic"]:
        transform = dct(np.eye(clips.shape[2], dtype=np.float32), axis=0, norm="ortho")[: self.cepstra]
        cepstra = jnp.matmul(clips, transform.T, precision="highest")
        correlated = _standardized(cepstra[..., :_CORRELATED])
        correlation = jnp.einsum("nti,ntj->nij", correlated, correlated, precision="highest") / clips.shape[1]
        upper = np.triu_indices(correlation.shape[1], 1)
        groups = jnp.stack([band.mean(-1) for band in jnp.array_split(clips, self.bands, axis=-1)], -1)
        parts = [
            cepstra.mean(1),
            _deviation(cepstra),
            _deviation(_changes(cepstra, 1)),
            _deviation(_changes(cepstra, 4)),
            correlation[:, *upper],
            _log_modulation(groups).reshape(clips.shape[0], -1),
        ]
        return jnp.concatenate(parts, -1)


def _changes(x: Float[Array, "n time feature"], frames: int) -> Float[Array, "n change feature"]:
    """How much the features change over so many frames; over fewer in a clip that is shorter."""
    frames = min(frames, x.shape[1] - 1)
    return x[:, frames:] - x[:, : x.shape[1] - frames]


def _deviation(x: Float[Array, "n time feature"]) -> Float[Array, "n feature"]:
    """The standard deviation over time; a gradient exists where nothing changes, too."""
    return jnp.sqrt(x.var(1) + _SMALLEST)


def _standardized(x: Float[Array, "n time feature"]) -> Float[Array, "n time feature"]:
    return (x - x.mean(1, keepdims=True)) / _deviation(x)[:, None]


def _log_modulation(x: Float[Array, "n time band"]) -> Float[Array, "n range band"]:
    """Log of the mean amplitude of each band in ranges of modulation frequency, by the discrete Fourier transform."""
    frames = x.shape[1]
    edges = np.maximum(np.round(np.array(_MODULATIONS) * frames).astype(int), 1)
    numbers = np.arange(edges[0], max(frames // 2, edges[0]) + 1)
    angle = 2 * np.pi * numbers[:, None] * np.arange(frames) / frames
    centred = x - x.mean(1, keepdims=True)
    parts = [
        jnp.einsum("ft,ntb->nfb", wave.astype(np.float32), centred, precision="highest")
        for wave in (np.cos(angle), np.sin(angle))
    ]
    amplitude = jnp.sqrt(jnp.square(parts[0]) + jnp.square(parts[1]) + _SMALLEST)
    bins = [(low, max(high, low + 1)) for low, high in itertools.pairwise(edges)]
    means = [amplitude[:, low - edges[0] : high - edges[0]].mean(1) for low, high in bins]
    return jnp.log(jnp.stack(means, 1) / np.sqrt(frames) + 1e-3)
