"""The layers' operations as XLA has them: convolution, max pooling, moments, and the GRU's recursion."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def conv2d(
    x: Float[Array, "n h w cin"], kernel: Float[Array, "kh kw cin cout"], padding: str = "SAME"
) -> Float[Array, "n h2 w2 cout"]:
    """Convolves maps with stride 1.

    Args:
      x: Input maps.
      kernel: Convolution kernel (cross-correlation, as in TensorFlow and Flax).
      padding: "SAME" (zeros) or "VALID".

    Returns:
      The maps; with "SAME" padding of the size of the input.
    """
    return lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def max_pool(x: Float[Array, "n h w c"], window: tuple[int, int], padding: str = "SAME") -> Float[Array, "n h2 w2 c"]:
    """Max-pools with stride = window.

    Args:
      x: Input maps.
      window: Pool size in height and width.
      padding: "SAME", TensorFlow's, rounds sizes up; "VALID" drops the last rows and columns that fill no window.

    Returns:
      The pooled maps, of size h / window[0] by w / window[1], rounded as said.
    """
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, *window, 1), (1, *window, 1), padding)


def weight_fraction(weight: jax.Array, x: jax.Array) -> jax.Array:
    """Fraction of the total weight at each position of a clip's map; weight is per clip."""
    return weight / (jnp.maximum(jnp.sum(weight), 1.0) * (x.shape[1] * x.shape[2]))


def moments(x: jax.Array, weight: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Weighted mean and biased variance per channel of maps [n, h, w, c], in float32; weight is per clip."""
    x = x.astype(jnp.float32)
    fraction = weight_fraction(weight, x)
    mean = jnp.einsum("nc,n->c", jnp.sum(x, axis=(1, 2)), fraction, precision="highest")
    sums = jnp.sum(jnp.square(x - mean), axis=(1, 2))
    return mean, jnp.einsum("nc,n->c", sums, fraction, precision="highest")


def hard_sigmoid(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Keras 2's `hard_sigmoid`, the gate of its GRU until 2.3: clip(0.2 x + 0.5, 0, 1)."""
    return jnp.clip(0.2 * x + 0.5, 0, 1)


def gru_projections(
    x: Float[Array, "gru n step feature"], kernel: Float[Array, "gru feature units3"], bias: Float[Array, "gru units3"]
) -> Float[Array, "step gru n units3"]:
    """Computes W x + b of the gates z, r, c for all steps at once, in the dtype of x."""
    return jnp.einsum("gnsf,gfu->sgnu", x, kernel.astype(x.dtype)) + bias.astype(x.dtype)[:, None]


def _times(h: jax.Array, kernel: jax.Array) -> jax.Array:
    return jnp.einsum("...gnh,ghu->...gnu", h, kernel.astype(h.dtype))


def gru_gates(
    recurrent: jax.Array, bias: jax.Array | None, h: jax.Array, x: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Computes the gates z, r and the candidate c of a step (or of all steps at once).

    Args:
      recurrent: U, [gru, units, 3 units].
      bias: d, [gru, 3 units], or None for GRUs with `reset_after=False`; see `recurrent.ParallelGRU`.
      h: States before the step, [..., gru, n, units].
      x: Projected inputs, [..., gru, n, 3 units].
    """
    units = h.shape[-1]
    x_gates, x_candidate = jnp.split(x, [2 * units], -1)
    if bias is None:
        z, r = jnp.split(hard_sigmoid(x_gates + _times(h, recurrent[..., : 2 * units])), 2, -1)
        return z, r, jnp.tanh(x_candidate + _times(r * h, recurrent[..., 2 * units :]))
    h_gates, h_candidate = jnp.split(_times(h, recurrent) + bias[:, None].astype(h.dtype), [2 * units], -1)
    z, r = jnp.split(jax.nn.sigmoid(x_gates + h_gates), 2, -1)
    return z, r, jnp.tanh(x_candidate + r * h_candidate)


def gru_scan(recurrent: jax.Array, bias: jax.Array | None, projected: jax.Array) -> jax.Array:
    """States after every step, [step, gru, n, units], from zero states; the arguments are those of `gru_gates`."""

    def step(h, x_t):
        z, _, candidate = gru_gates(recurrent, bias, h, x_t)
        h = z * h + (1 - z) * candidate
        return h, h

    start = jnp.zeros((*projected.shape[1:3], projected.shape[3] // 3), projected.dtype)
    return lax.scan(step, start, projected)[1]
