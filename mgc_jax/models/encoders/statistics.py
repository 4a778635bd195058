"""Statistics of a spectrogram over time, and a dense layer on them."""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float
from scipy.fft import dct

from mgc_jax.models.encoders.common import check_fractions, check_sizes, check_spectrogram
from mgc_jax.models.layers import Dense, Dropout, MaskedBatchNorm
from mgc_jax.runtime import platform

_CORRELATED = 13  # cepstral coefficients whose correlations are features
# Edges of the modulation frequencies, in cycles per frame: about an octave each, up to half a cycle.
_MODULATIONS = (0.004, 0.012, 0.024, 0.048, 0.096, 0.192, 0.32, 0.504)


class Statistics(nnx.Module):
    """Timbre and rhythm without convolutions: summary statistics of the clip, standardized, and one dense layer.

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
        x = jnp.clip(self.norm(x, mask, train)[:, 0, 0], -4, 4)  # of a silent clip they are far from all others
        if train and self.noise and rngs is not None:
            key = rngs.dropout()
            x += self.noise * platform.draw_per_clip(lambda shape: jax.random.normal(key, shape), x.shape)
        x = nnx.relu(self.dense(x.astype(clips.dtype)))
        return self.dropout(x, deterministic=not train, rngs=rngs)

    def _statistics(self, clips: Float[Array, "n time mel"]) -> Float[Array, "n statistic"]:
        transform = dct(np.eye(clips.shape[2], dtype=np.float32), axis=0, norm="ortho")[: self.cepstra]
        cepstra = clips @ transform.T
        correlated = _standardized(cepstra[..., :_CORRELATED])
        correlation = jnp.einsum("nti,ntj->nij", correlated, correlated) / clips.shape[1]
        upper = np.triu_indices(correlation.shape[1], 1)
        groups = jnp.stack([band.mean(-1) for band in jnp.array_split(clips, self.bands, axis=-1)], -1)
        parts = [
            cepstra.mean(1),
            cepstra.std(1),
            _changes(cepstra, 1).std(1),
            _changes(cepstra, 4).std(1),
            correlation[:, *upper],
            _log_modulation(groups).reshape(clips.shape[0], -1),
        ]
        return jnp.concatenate(parts, -1)


def _changes(x: Float[Array, "n time feature"], frames: int) -> Float[Array, "n change feature"]:
    """How much the features change over so many frames; over fewer in a clip that is shorter."""
    frames = min(frames, x.shape[1] - 1)
    return x[:, frames:] - x[:, : x.shape[1] - frames]


def _standardized(x: Float[Array, "n time feature"]) -> Float[Array, "n time feature"]:
    centred = x - x.mean(1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.square(centred).mean(1, keepdims=True) + 1e-6)


def _log_modulation(x: Float[Array, "n time band"]) -> Float[Array, "n range band"]:
    """Log of the mean amplitude of each band in ranges of modulation frequency, by the discrete Fourier transform."""
    frames = x.shape[1]
    edges = np.maximum(np.round(np.array(_MODULATIONS) * frames).astype(int), 1)
    numbers = np.arange(edges[0], max(frames // 2, edges[0]) + 1)
    angle = 2 * np.pi * numbers[:, None] * np.arange(frames) / frames
    centred = x - x.mean(1, keepdims=True)
    amplitude = jnp.hypot(
        *(jnp.einsum("ft,ntb->nfb", wave.astype(np.float32), centred) for wave in (np.cos(angle), np.sin(angle)))
    )
    ranges = [amplitude[:, low - edges[0] : max(high, low + 1) - edges[0]] for low, high in itertools.pairwise(edges)]
    means = [part.mean(1) if part.shape[1] else jnp.zeros_like(x[:, 0]) for part in ranges]
    return jnp.log(jnp.stack(means, 1) / np.sqrt(frames) + 1e-3)
