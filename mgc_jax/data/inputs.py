"""From stored clips to what the encoder takes: spectrogram, standardization, augmentation, mixup, precision."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mgc_jax.data import augmentation
from mgc_jax.data.batches import Batch
from mgc_jax.data.corpus import Corpus
from mgc_jax.data.frontend import LogMelFrontend, frontend_for
from mgc_jax.data.standardization import Standardization, standardization
from mgc_jax.errors import UserError
from mgc_jax.runtime import platform
from mgc_jax.runtime.devices import deal

# Of larger training splits so many clips, with thousands of frames each, give the statistics of a mel band.
_SPECTROGRAM_CLIPS = 4096
_FRONTEND_CLIPS = 512  # where spectrograms are computed on the way


def middle_frames(config: Any) -> int:
    """Returns how many frames in the middle of a clip evaluation sees of a configuration; 0: all."""
    middle = config["eval"].get("crop", "middle") == "middle"  # an older export has no such key
    return config["augment"]["crop_frames"] if middle else 0


class Inputs:
    """Turns stored clips into the encoder's input, inside jitted functions.

    Attributes:
        clip_shape: of the encoder's input in training: (time, mel) or (feature,).
        statistics: standardization.
        frontend: computes spectrograms of stored audio, or None.
    """

    def __init__(
        self, config: Any, stored_shape: tuple[int, ...], frontend: LogMelFrontend | None, statistics: Standardization
    ):
        """Checks that what the configuration asks for fits the clips.

        Args:
            config: the whole configuration; `augment`, `eval.crop` and `model.dtype` are used.
            stored_shape: shape of a stored clip.
            frontend: computes spectrograms of stored audio; None: clips are taken as they are.
            statistics: standardization of spectrograms or features.
        """
        self.frontend, self.statistics, self._augment = frontend, statistics, config.augment
        self._middle_frames = middle_frames(config)
        self._dtype = jnp.dtype(config.model.dtype)
        shape = tuple(stored_shape) if frontend is None else frontend.clip_shape
        crop = self._augment.crop_frames
        if crop:
            if len(shape) != 2 or crop > shape[0]:
                raise UserError(
                    f"config.augment.crop_frames={crop}, but a clip is {' x '.join(map(str, shape))} (time x mel). "
                    "Give fewer frames, or 0 for whole clips."
                )
            shape = (crop, *shape[1:])
        masks = self._augment.time_masks or self._augment.mel_masks
        if masks and len(shape) != 2:
            raise UserError(
                "config.augment.time_masks and mel_masks are for spectrograms; this corpus has feature vectors of "
                f"{shape[0]}. Set both to 0."
            )
        self.clip_shape = shape

    def _standardized(self, clips: jax.Array) -> jax.Array:
        """[n, ...] as stored -> float32 [n, time, mel] or [n, feature]."""
        values = clips.astype(jnp.float32) if self.frontend is None else self.frontend(clips)
        return (values - self.statistics.mean) * (1 / self.statistics.std)

    def evaluation(self, clips: jax.Array) -> jax.Array:
        """Returns the inputs [n, ...] of stored clips [n, ...]."""
        values = self._standardized(clips)
        if self._middle_frames:
            values = augmentation.middle_crop(values, self._middle_frames)
        return values.astype(self._dtype)

    def training(self, batch: Batch, clips: jax.Array, partners: jax.Array | None, key: jax.Array) -> jax.Array:
        """Returns the augmented inputs [clip, ...] of a batch, dealt to the devices as its clips are.

        Args:
            batch: says how clips are mixed.
            clips: its clips as stored, [clip, ...], dealt to the devices.
            partners: the clips that they are mixed with, or None.
            key: for the draws.
        """
        keys = jax.random.split(key, 3)
        values = self._drawn(clips, keys[0])
        if batch.mix is not None and partners is not None:
            share = deal(batch.mix.share_of_clip, platform.data_devices())
            share = share.reshape(-1, *[1] * (values.ndim - 1))
            values = share * values + (1 - share) * self._drawn(partners, keys[1])
        if self._augment.noise:
            values = augmentation.add_noise(values, self._augment.noise, keys[2])
        return values.astype(self._dtype)

    def _drawn(self, clips: jax.Array, key: jax.Array) -> jax.Array:
        """Standardizes clips [clip, ...] and draws crop and masks for each of them."""
        options, keys = self._augment, jax.random.split(key, 3)
        values = self._standardized(clips)
        if options.crop_frames:
            values = augmentation.random_crop(values, options.crop_frames, keys[0])
        if options.time_masks:
            values = augmentation.mask_bands(values, 1, options.time_masks, options.time_mask_frames, keys[1])
        if options.mel_masks:
            values = augmentation.mask_bands(values, 2, options.mel_masks, options.mel_mask_bands, keys[2])
        return values


def make_inputs(config: Any, corpus: Corpus) -> Inputs:
    """Returns the inputs of a corpus under a configuration; the statistics are those of its training clips.

    Feature vectors have those of all training clips, as scikit-learn's baselines do. Those of a mel band come from all
    its frames in at most 4,096 training clips, or in 512 where a frontend computes the spectrograms.

    Raises:
        UserError: frontend, augmentation and corpus do not fit together.
    """
    frontend = None
    if config.model.frontend:
        name = config.model.frontend
        use = config.model.kernels != "plain"
        frontend = (
            LogMelFrontend(name, platform_kernels=use)
            if corpus.name == "arrays"
            else frontend_for(name, config.data.representation, platform_kernels=use)
        )
        if corpus.clips.ndim != 2:
            raise UserError(
                f"config.model.frontend={name} computes spectrograms from audio, but a clip of this corpus is "
                f"{' x '.join(map(str, corpus.clips.shape[1:]))}. Leave it empty for clips that are spectrograms."
            )
        spectrograms = jax.jit(lambda audio: frontend(audio))
        statistics = standardization(
            corpus, config.data.standardize, _FRONTEND_CLIPS, lambda clips: np.asarray(spectrograms(clips))
        )
    else:
        most = _SPECTROGRAM_CLIPS if corpus.clips.ndim == 3 else None
        statistics = standardization(corpus, config.data.standardize, most)
    return Inputs(config, corpus.clips.shape[1:], frontend, statistics)
