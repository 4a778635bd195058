"""FCN-4: convolutions all the way."""

from collections.abc import Sequence

from flax import nnx
from jaxtyping import Array, Bool, Float

from mgc_jax.models.encoders.common import conv_blocks


class Fcn4(nnx.Module):
    """FCN-4 (Choi et al. 2016): four wide convolution blocks, whose last map is the embedding.

    The widths of Choi et al. with pools that leave one position of a 96 x 1360 clip, as the repository
    FishInMedi/CRNN-TF compares with. With 16 classes on top it has 17,302,928 parameters (batch-norm moments
    included, as Keras counts; published as 17.30 M). Attribute: `blocks`.
    """

    def __init__(
        self,
        clip_shape: Sequence[int],
        *,
        filters: Sequence[int] = (128, 384, 768, 2048),
        pools: Sequence[Sequence[int]] = ((2, 4), (4, 5), (3, 8), (4, 8)),
        batch_norm_momentum: float = 0.99,
        rngs: nnx.Rngs,
    ):
        """Builds the encoder.

        Args:
            clip_shape: (time, mel) of a clip.
            filters: output channels of each convolution block.
            pools: pool size (mel, time) of each block, rounding down.
            batch_norm_momentum: momentum of the moving averages.
            rngs: source of the initial weights.
        """
        blocks, (mel, time) = conv_blocks(
            clip_shape,
            filters,
            pools,
            padding="VALID",
            activation=nnx.relu,
            batch_norm_momentum=batch_norm_momentum,
            rngs=rngs,
        )
        self.blocks = nnx.List(blocks)
        self.features = mel * time * filters[-1]

    def __call__(
        self, clips: Float[Array, "n time mel"], mask: Bool[Array, " n"], train: bool, rngs: nnx.Rngs | None
    ) -> Float[Array, "n feature"]:
        """Returns one embedding per clip."""
        x = clips.swapaxes(1, 2)[..., None]
        for block in self.blocks:
            x = block(x, mask, train)
        return x.reshape(x.shape[0], -1)  # which may be a symbol, in jax.export
