"""A probe: the log scores of a few fixed clips, saved with the weights.

They are computed again when weights are restored. Where they differ, the code of the model has changed since, and
neither evaluation nor further training of these weights would mean what the run's figures mean.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mgc_jax.data.inputs import Inputs
from mgc_jax.errors import UserError
from mgc_jax.models.classifier import BagClassifier, split_model
from mgc_jax.runtime.devices import gather

BAG_OF_CLIP = (0, 1, 1, 1)
AUDIO_LEVEL = 3000  # standard deviation of noise as 16-bit samples

# Greatest difference of two log scores that rounding explains, absolute and relative to them. Between kernels, numbers
# of devices and versions of JAX an untrained CRNN-TF + MATT differed by 5e-7 on a CPU; training and other processors
# have some room. GPUs multiply with fewer bits, and so does bfloat16.
_ROUNDING, _COARSE_ROUNDING = 1e-3, 0.1


class ChangedCodeError(UserError):
    """Weights were saved by code whose model computed other scores from them."""


class Probe:
    """Scores fixed clips, a bag of one and a bag of three, with one model structure and changing weights."""

    def __init__(self, model: BagClassifier, inputs: Inputs, stored_shape: Sequence[int]):
        """Compiles nothing yet.

        Args:
            model: its structure counts.
            inputs: what the encoder sees.
            stored_shape: of a clip of the corpus.
        """
        graph, *_ = split_model(model)
        self._inputs, self._shape = inputs, tuple(stored_shape)

        def scores(params, batch_stats, clips):
            at, segment = jnp.arange(len(BAG_OF_CLIP))[None], jnp.array(BAG_OF_CLIP)[None]
            mask = jnp.ones(len(BAG_OF_CLIP), bool)
            model = nnx.merge(graph, params, batch_stats)
            of_bags, _ = model(inputs.evaluation(clips), mask, at, segment, bags=max(BAG_OF_CLIP) + 1)
            return of_bags[0].astype(jnp.float32)

        self._scores = jax.jit(scores)

    def __call__(self, params: Any, batch_stats: Any) -> list[list[float]]:
        """Returns the log scores [bag, genre], without logit adjustment, as JSON holds them."""
        return gather(self._scores(params, batch_stats, probe_clips(self._inputs, self._shape))).tolist()


def probe_clips(inputs: Inputs, stored_shape: tuple[int, ...]) -> np.ndarray:
    """Returns clips [clip, ...] of noise with the mean and deviation of the standardization: of the training clips, or
    0 and 1 without it; audio: white noise.
    """
    noise = np.random.default_rng(0).normal(size=(len(BAG_OF_CLIP), *stored_shape))
    if inputs.frontend is not None:
        return (AUDIO_LEVEL * noise).astype(np.int16)
    return (inputs.statistics.mean + inputs.statistics.std * noise).astype(np.float32)


def require_same_scores(
    saved: Sequence[Sequence[float]], now: Sequence[Sequence[float]], *, coarse: bool, what: str, code: Sequence[str]
) -> None:
    """Raises `ChangedCodeError` where a probe differs from the saved one by more than rounding.

    Args:
        saved: what `Probe` returned when the weights were saved; empty: an early version, which saved none.
        now: what it returns for the restored weights.
        coarse: whether another kind of device, or bfloat16, computed one of them.
        what: names the weights.
        code: what saved them, and what runs now (`environment.code_version`).
    """
    tolerance = _COARSE_ROUNDING if coarse else _ROUNDING
    then, current = np.array(saved), np.array(now)
    if not saved or np.allclose(current, then, rtol=tolerance, atol=tolerance, equal_nan=True):
        return
    with np.errstate(invalid="ignore"):
        difference = np.abs(current - then).max()
    before = code[0] or "a version that did not record itself"
    why = (
        "its files are not those that were saved together"
        if code[0] == code[1]
        else f"the code of the model has changed. It was {before}, and is {code[1]}"
    )
    raise ChangedCodeError(
        f"{what} does not give the scores any more that it gave when it was saved (log scores of fixed clips differ "
        f"by up to {difference:.2g}): {why}. Nothing was overwritten. Use the weights with the code and the files of "
        "then, or train again in a new --workdir."
    )
