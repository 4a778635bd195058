"""Encoders: from one clip to one embedding.

Every encoder is called as `encoder(clips, mask, train, rngs)`: clips are [n, time, mel] or [n, feature], already
standardized; mask [n] is False for padding clips, which batch statistics leave out; rngs has a stream `dropout` in
training. The attribute `features` is the width of the embedding. If the attribute `any_length` is true, evaluation may
give it longer clips than it was built for (`config.eval.crop = "whole"`).

Clips are float32 or bfloat16. Weights are float32; they are cast to the dtype of the clips, which is the dtype of the
computation and of the embedding.

An encoder is built as `Encoder(clip_shape, *, option=..., rngs)`; its options are the keys of `config.model.encoder`.
To add one, write a module beside these and add it to `ENCODERS`.
"""

from collections.abc import Callable
from typing import Any

from mgc_jax.models.encoders.crnn import Crnn
from mgc_jax.models.encoders.crnn_pooled import CrnnPooled
from mgc_jax.models.encoders.crnn_tf import CrnnTf
from mgc_jax.models.encoders.fcn4 import Fcn4
from mgc_jax.models.encoders.mlp import Mlp
from mgc_jax.models.encoders.prcnn import BiGru, Cnn, Prcnn, PrcnnAttention, PrcnnAttentionLiteral
from mgc_jax.models.encoders.statistics import Statistics

ENCODERS: dict[str, Callable[..., Any]] = {
    "crnn_tf": CrnnTf,
    "crnn": Crnn,
    "crnn_pooled": CrnnPooled,
    "fcn4": Fcn4,
    "mlp": Mlp,
    "cnn": Cnn,
    "bigru": BiGru,
    "prcnn": Prcnn,
    "prcnn_attention": PrcnnAttention,
    "prcnn_attention_literal": PrcnnAttentionLiteral,
    "statistics": Statistics,
}
"""Name in `config.model.encoder.name` -> class: `mgc_jax.ENCODERS["mlp"]((518,), rngs=nnx.Rngs(0))`."""
