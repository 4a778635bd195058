"""Log-mel spectrograms as the first layer of a model, so that it trains on, and is exported with, raw audio."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.experimental.custom_partitioning import custom_partitioning
from jaxtyping import Array, Complex, Float, Float32, Num

from mgc_jax.errors import UserError
from mgc_jax.runtime import platform
from tfds_fma.representations.audio import Audio
from tfds_fma.representations.base import SOXR
from tfds_fma.representations.log_mel import LogMel, LogMelBelowPeak
from tfds_fma.representations.registry import get_representation
from tfds_fma.representations.spectrogram import DYNAMIC_RANGE_DB, POWER_FLOOR, mel_filters

_BLOCK_FRAMES = 128  # measured: frames, spectra and powers of a block stay in the processor's cache


_MEL_GROUPS = 4  # measured: neighbouring mel bands share a matrix product


@functools.cache
def _grouped_filters(sample_rate: int, n_fft: int, n_mels: int) -> list[tuple[int, int, np.ndarray]]:
    """The mel filters in groups of neighbours, each cut to its non-zero bins: [(first bin, end, [bin, mel])]."""
    groups = []
    for rows in np.array_split(mel_filters(sample_rate, n_fft, n_mels), _MEL_GROUPS):
        bins = np.flatnonzero(rows.any(axis=0))
        groups.append((int(bins[0]), int(bins[-1]) + 1, rows[:, bins[0] : bins[-1] + 1].T))
    return groups


def _keep_sharding(function: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
    """Lets a function along the last of three axes run on each device's part of the others.

    XLA does not do so for an FFT: it gathers the whole input on every device.
    """
    partitioned = custom_partitioning(function)

    def partition(mesh, arguments, result):
        return mesh, function, result.sharding, (arguments[0].sharding,)

    rule = "clip frame before -> clip frame after"
    partitioned.def_partition(partition, sharding_rule=rule, need_replication_factors=("before", "after"))
    return partitioned


@_keep_sharding
def _partitioned_rfft(frames: jax.Array) -> jax.Array:
    return jnp.fft.rfft(frames)


@_keep_sharding
def _rfft_transpose(g: jax.Array) -> jax.Array:
    """Takes the gradient of the spectra (of an even number of samples) back to the frames."""
    frames = jax.ShapeDtypeStruct((*g.shape[:2], 2 * (g.shape[2] - 1)), jnp.float32)
    return jax.linear_transpose(jnp.fft.rfft, frames)(g)[0]


@jax.custom_vjp
def _rfft(frames: Float[Array, "n frame sample"]) -> Complex[Array, "n frame bin"]:
    """Gives the spectra of frames of an even number of samples; reverse mode only."""
    return _partitioned_rfft(frames)


_rfft.defvjp(lambda frames: (_partitioned_rfft(frames), None), lambda _, g: (_rfft_transpose(g),))


def _cut_frames(hops: Float[Array, "n hop samples"], count: int, n_fft: int) -> Float[Array, "n {count} {n_fft}"]:
    """Gives the overlapping frames of audio that was cut into hops."""
    hops_per_frame = -(-n_fft // hops.shape[2])
    return jnp.concatenate([hops[:, i : i + count] for i in range(hops_per_frame)], axis=2)[..., :n_fft]


class LogMelFrontend(nnx.Module):
    """Computes a spectrogram of `tfds_fma.representations` from audio, on the device and in float32.

    The result is what the representation's `compute` gives before it is rounded for storage, so that a model
    trained on stored spectrograms takes it. It equals librosa's with ``pad_mode="reflect"`` to 1e-3 dB; only for
    noiseless tones does the rounding of a float32 FFT, 2^-24 of the strongest amplitude, show more (2e-3 dB, 78 dB
    below the tone). There is nothing to train. It is differentiable with respect to float32 audio.

    On CPUs clips are computed one at a time in blocks of frames, which stay in the cache; otherwise all are
    one batch.

    Attributes:
        representation: what is computed.
        platform_kernels: whether to use the form made for the platform.
    """

    def __init__(self, representation: str, *, platform_kernels: bool = True):
        """Builds the front end.

        Args:
            representation: name of a spectrogram of `tfds_fma.representations`.
            platform_kernels: whether to use the form made for the platform; if not, clips are always one batch.

        Raises:
            UserError: an unknown representation, one that is not a spectrogram, or one with another resampler than
                stored audio.
        """
        found = get_representation(representation)
        if not isinstance(found, LogMel | LogMelBelowPeak):
            raise UserError(
                f"the representation {representation} is no spectrogram that can be computed from audio; choose one "
                "such as mel_1360x96 or mel_640x128"
            )
        if found.resampler != SOXR:  # which made the audio that it sees
            raise UserError(
                f"the representation {representation} cannot be computed from stored audio, which was resampled with "
                f"{SOXR}: prepare {representation} itself, or choose a front end such as mel_1360x96"
            )
        self.representation = found
        self.platform_kernels = platform_kernels

    @property
    def sample_rate(self) -> int:
        """Rate of the audio in Hz."""
        return self.representation.sample_rate

    @property
    def samples(self) -> int:
        """Number of samples that a clip must have at least."""
        return self.representation.samples

    @property
    def clip_shape(self) -> tuple[int, int]:
        """(time, mel) of a spectrogram."""
        return self.representation.shape

    def __call__(self, audio: Num[Array, "n samples"]) -> Float32[Array, "n time mel"]:
        """Computes the spectrograms of clips.

        Args:
            audio: mono audio at `sample_rate`, from the start of each clip: float32 with full scale 1, or int16 as
                the representation `tfds_fma.representations.audio.Audio` stores it (full scale 32767). Of a longer
                clip the first samples are used. Where the scale is relative to the clip's maximum, that is the maximum
                of all of the audio given, up to 30 s.

        Raises:
            UserError: audio of another type, or shorter than `samples`.
        """
        if audio.dtype not in (jnp.int16, jnp.float32):
            raise UserError(f"audio of type {audio.dtype}: give int16 (full scale 32767) or float32 (full scale 1)")
        if audio.shape[1] < self.samples:
            raise UserError(
                f"{self.representation.name} needs {self.samples} samples of audio at {self.sample_rate} Hz, the "
                f"clips have {audio.shape[1]}; give longer clips or choose a shorter representation"
            )
        audio = audio[:, : self.representation.at_most]
        if self.platform_kernels and platform.on_cpu():

            def by_clip(audio: jax.Array) -> jax.Array:
                return lax.map(lambda clip: self._spectrograms(clip[None], _BLOCK_FRAMES)[0], audio)

            return platform.on_own_clips(by_clip, audio.shape[0], (0,), 0)(audio)
        return self._spectrograms(audio, None)

    def _spectrograms(self, audio: jax.Array, block_frames: int | None) -> jax.Array:
        """Spectrograms of audio [n, samples] -> [n, time, mel]; see `_mel_power` for the blocks."""
        time = self.clip_shape[0]
        mel = jnp.maximum(self._mel_power(audio, block_frames), POWER_FLOOR)
        peak = jnp.max(mel, axis=(1, 2), keepdims=True)
        if isinstance(self.representation, LogMelBelowPeak):
            return jnp.maximum(jnp.log(mel[:, :time] / peak), -DYNAMIC_RANGE_DB / 10 * math.log(10))
        return jnp.maximum(10 * jnp.log10(mel), 10 * jnp.log10(peak) - DYNAMIC_RANGE_DB)

    def _mel_power(self, audio: jax.Array, block_frames: int | None) -> jax.Array:
        """Mel powers of audio [n, samples] -> [n, frame, mel], in blocks of at most that many frames."""
        hop, n_fft = self.representation.hop, self.representation.n_fft
        if audio.dtype == jnp.int16:
            audio = audio.astype(jnp.float32) / 32767
        frames = 1 + audio.shape[1] // hop
        blocks = -(-frames // block_frames) if block_frames else 1
        block = -(-frames // blocks)
        overlap = -(-n_fft // hop) - 1
        # Zeros fill the last block up; its frames beyond the clip are cut off at the end.
        audio = jnp.pad(audio, ((0, 0), (n_fft // 2, n_fft // 2)), mode="reflect")
        length = (blocks * block + overlap) * hop
        audio = jnp.pad(audio, ((0, 0), (0, max(0, length - audio.shape[1]))))[:, :length]
        hops = audio.reshape(audio.shape[0], length // hop, hop)
        if blocks == 1:
            return self._mel_power_of_frames(_cut_frames(hops, frames, n_fft))

        def block_mel_power(index):
            own = lax.dynamic_slice_in_dim(hops, index * block, block + overlap, axis=1)
            return self._mel_power_of_frames(_cut_frames(own, block, n_fft))

        mel = lax.map(block_mel_power, jnp.arange(blocks)).swapaxes(0, 1)
        return mel.reshape(mel.shape[0], blocks * block, mel.shape[3])[:, :frames]

    def _mel_power_of_frames(self, frames: jax.Array) -> jax.Array:
        """Mel powers of frames [n, frame, n_fft] -> [n, frame, mel]."""
        n_fft, n_mels = self.representation.n_fft, self.representation.n_mels
        window = np.hanning(n_fft + 1)[:-1].astype(np.float32)  # periodic
        # On one device without what `jax.export` and other formats cannot hold.
        spectrum = (_rfft if platform.data_devices() > 1 else jnp.fft.rfft)(frames * window)
        # Not the square of the absolute value, which has no gradient at zero.
        power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
        products = [
            # The TF32 products of GPUs have 10 bits, too few for 1e-3 dB.
            jnp.matmul(power[..., first:end], filters, precision="highest")
            for first, end, filters in _grouped_filters(self.sample_rate, n_fft, n_mels)
        ]
        return jnp.concatenate(products, axis=2)


def frontend_for(representation: str, audio_representation: str, *, platform_kernels: bool = True) -> LogMelFrontend:
    """Gives the front end that computes a spectrogram from a corpus of stored audio.

    Args:
        representation: name of the spectrogram.
        audio_representation: name of the representation that the corpus was prepared in, such as audio_12000.
        platform_kernels: whether to use the form made for the platform.

    Raises:
        UserError: a representation that is unknown or of the wrong kind, or audio at another rate.
    """
    frontend = LogMelFrontend(representation, platform_kernels=platform_kernels)
    audio = get_representation(audio_representation)
    remedy = f"prepare the corpus as audio_{frontend.sample_rate}"
    if not isinstance(audio, Audio):
        raise UserError(f"{audio_representation} is not audio, which {representation} is computed from; {remedy}")
    if audio.sample_rate != frontend.sample_rate:
        raise UserError(
            f"{representation} is computed from audio at {frontend.sample_rate} Hz, not at the {audio.sample_rate} Hz "
            f"of {audio_representation}; {remedy}"
        )
    return frontend
