"""MLP: dense layers on feature vectors."""

import functools
import itertools
import math
from collections.abc import Sequence

from flax import nnx
from jaxtyping import Array, Bool, Float

from mgc_jax.models.encoders.common import check_fractions, check_sequences
from mgc_jax.models.layers import Dense, Dropout

_EPSILON = 1e-5  # PyTorch's, whose layer the probes of others have


class Mlp(nnx.Module):
    """Dense layers with ReLU on feature vectors; none at all is the identity ("Blank" in MATT's result files).

    MATT's notebooks have hidden=(100,), and hidden=(100, 10) with dropout=0.1. Attributes: `norm` (None without
    layer_norm), `layers`.
    """

    def __init__(
        self,
        clip_shape: Sequence[int],
        *,
        hidden: Sequence[int] = (100,),
        dropout: float = 0.0,
        layer_norm: bool = False,
        rngs: nnx.Rngs,
    ):
        """Builds the encoder.

        Args:
            clip_shape: (feature,); other shapes are flattened.
            hidden: width of each layer; () passes the clip through.
            dropout: dropout after each layer.
            layer_norm: layer normalization of the clip, with a trained scale and bias per feature, before the layers.
            rngs: source of the initial weights.
        """
        check_sequences(hidden=hidden)
        check_fractions(dropout=dropout)
        widths = [math.prod(clip_shape), *hidden]
        self.features = widths[-1]
        # The fast variance is a difference of large numbers where the mean is far from zero.
        norm = functools.partial(nnx.LayerNorm, epsilon=_EPSILON, use_fast_variance=False, rngs=rngs)
        self.norm = norm(widths[0]) if layer_norm else None
        self.layers = nnx.List(Dense(n_in, n_out, rngs=rngs) for n_in, n_out in itertools.pairwise(widths))
        self.dropout = Dropout(dropout)

    def __call__(
        self, clips: Float[Array, "n *shape"], mask: Bool[Array, " n"], train: bool, rngs: nnx.Rngs | None
    ) -> Float[Array, "n feature"]:
        """Returns one embedding per clip."""
        x = clips.reshape(clips.shape[0], -1)
        if self.norm is not None:
            x = self.norm(x).astype(x.dtype)
        for layer in self.layers:
            x = self.dropout(nnx.relu(layer(x)), deterministic=not train, rngs=rngs)
        return x
