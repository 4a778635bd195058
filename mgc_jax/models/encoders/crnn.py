"""CRNN: convolutions, then two GRUs over time."""

from collections.abc import Sequence

from flax import nnx
from jaxtyping import Array, Bool, Float

from mgc_jax.models.encoders.common import check_fractions, check_sizes, conv_blocks
from mgc_jax.models.layers import Dropout
from mgc_jax.models.recurrent import ParallelGRU


class Crnn(nnx.Module):
    """CRNN (Choi et al. 2017): four convolution blocks, then two GRUs over time; the last state is the embedding.

    In the form of the repository FishInMedi/CRNN-TF, one of the encoders of MATT: ReLU, no dropout between the blocks,
    and no batch norm on the input.

    With 16 classes on top and the defaults on 96 x 1360 clips it has 393,680 parameters (batch-norm moments
    included, as Keras counts). Attributes: `blocks`, `first_gru`, `second_gru`.
    """

    def __init__(
        self,
        clip_shape: Sequence[int],
        *,
        filters: Sequence[int] = (64, 128, 128, 128),
        pools: Sequence[Sequence[int]] = ((2, 2), (3, 3), (4, 4), (4, 4)),
        gru_units: int = 32,
        dropout: float = 0.3,
        batch_norm_momentum: float = 0.99,
        rngs: nnx.Rngs,
    ):
        """Builds the encoder.

        Args:
            clip_shape: (time, mel) of a clip.
            filters: output channels of each convolution block.
            pools: pool size (mel, time) of each block, rounding up at the edge.
            gru_units: units of both GRUs, the width of the embedding.
            dropout: dropout on the embedding.
            batch_norm_momentum: momentum of the moving averages.
            rngs: source of the initial weights.
        """
        check_sizes(gru_units=gru_units)
        check_fractions(dropout=dropout)
        blocks, (mel, _) = conv_blocks(
            clip_shape,
            filters,
            pools,
            padding="SAME",
            activation=nnx.relu,
            batch_norm_momentum=batch_norm_momentum,
            rngs=rngs,
        )
        self.blocks = nnx.List(blocks)
        self.features = gru_units
        self.first_gru = ParallelGRU(1, mel * filters[-1], gru_units, rngs=rngs)
        self.second_gru = ParallelGRU(1, gru_units, gru_units, rngs=rngs)
        self.dropout = Dropout(dropout)

    def __call__(
        self, clips: Float[Array, "n time mel"], mask: Bool[Array, " n"], train: bool, rngs: nnx.Rngs | None
    ) -> Float[Array, "n feature"]:
        """Returns one embedding per clip."""
        x = clips.swapaxes(1, 2)[..., None]
        for block in self.blocks:
            x = block(x, mask, train)
        x = x.swapaxes(1, 2)
        states = self.first_gru(x.reshape(1, *x.shape[:2], -1), all_steps=True)
        return self.dropout(self.second_gru(states)[0], deterministic=not train, rngs=rngs)
