"""What an exported model must say of a few fixed clips: `probe.npz`, by which every format is checked anywhere."""

import contextlib
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from mgc_jax.data.frontend import LogMelFrontend
from mgc_jax.errors import UserError
from mgc_jax.export.functions import Scores, score_function
from mgc_jax.export.preprocessing import spectrogram_of
from mgc_jax.inference import CheckpointMeta, ExportedModel
from mgc_jax.probe import AUDIO_LEVEL, BAG_OF_CLIP, probe_clips
from tfds_fma.representations.base import SOXR

PROBE = "probe.npz"
# Greatest difference, absolute and relative to the value. Of the families of models here, ONNX Runtime and StableHLO
# differ by less than 3e-6 on a CPU. GPUs multiply with fewer bits, and so does bfloat16.
CLOSE, COARSE = 1e-5, 0.1
_DECIBELS = 1e-3  # of spectrograms: the rounding of a float32 FFT (`LogMelFrontend`)


def cpu_device() -> jax.Device | None:
    """Returns the device that formats are compared on, also beside a GPU; None: JAX was told to use no CPU."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None


def using_cpu() -> contextlib.AbstractContextManager[object]:
    """Inside it, `cpu_device` computes; where there is none the default device, as outside."""
    device = cpu_device()
    return contextlib.nullcontext() if device is None else jax.default_device(device)


def reference(exported: ExportedModel) -> dict[str, np.ndarray]:
    """Scores the probe clips in the plain forms, with float32 products on every device.

    Returns:
        `clips` float32 [bag, slot, ...] and `present` bool [bag, slot], a bag of one and a bag of three; the fields of
        `Scores`; and where the encoder sees a spectrogram that is known, `audio` float32 [2, sample] and its
        `spectrogram` float32 [2, frame, mel]. Half of the audio is silence, and all of the last clip: there a
        spectrogram is as far below its maximum as it may be, or at its floor.
    """
    with using_cpu():
        return _reference(exported)


def _reference(exported: ExportedModel) -> dict[str, np.ndarray]:
    frontend = audio_frontend(exported.meta)
    stored = probe_clips(exported.inputs, exported.meta.stored_shape)
    if exported.inputs.frontend is not None:
        assert frontend is not None
        stored = _with_silence((stored / 32767).astype(np.float32), exported.meta, frontend)
    bag = np.array(BAG_OF_CLIP)
    slot = np.arange(len(bag)) - np.searchsorted(bag, bag)
    clips = np.zeros((bag.max() + 1, slot.max() + 1, *exported.meta.stored_shape), np.float32)
    present = np.zeros(clips.shape[:2], bool)
    clips[bag, slot], present[bag, slot] = stored, True
    with jax.default_matmul_precision("highest"):
        scores = jax.device_get(jax.jit(score_function(exported))(clips, present))
    arrays = {"clips": clips, "present": present, **scores._asdict()}
    if frontend is not None:
        samples = audio_samples(exported.meta, frontend)
        noise = np.random.default_rng(1).normal(size=(2, samples)).astype(np.float32)
        audio = _with_silence(AUDIO_LEVEL / 32767 * noise, exported.meta, frontend)
        spectrogram = np.asarray(jax.jit(frontend.__call__)(audio))
        arrays |= {"audio": audio, "spectrogram": spectrogram[:, : spectrogram_frames(exported.meta, frontend)]}
    return arrays


def _with_silence(audio: np.ndarray, meta: CheckpointMeta, frontend: LogMelFrontend) -> np.ndarray:
    """Returns clips [clip, sample] of which the second half that the model takes is zeros, as all of the last is."""
    middle = spectrogram_frames(meta, frontend) * frontend.representation.hop // 2
    silent = audio.copy()
    silent[:, middle:] = silent[-1] = 0
    return silent


def probe_bags(probe: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the clips [clip, ...] of the probe, and the bag of each, int [clip]."""
    return probe["clips"][probe["present"]], np.nonzero(probe["present"])[0]


def audio_frontend(meta: CheckpointMeta) -> LogMelFrontend | None:
    """Returns what computes the spectrogram that the encoder sees from audio, in the plain form; None: another input,
    one of unknown making, or of another resampler than ours.
    """
    made = spectrogram_of(meta)
    return LogMelFrontend(made.name, platform_kernels=False) if made is not None and made.resampler == SOXR else None


def audio_samples(meta: CheckpointMeta, frontend: LogMelFrontend) -> int:
    """Returns how many samples the spectrogram is computed from."""
    at_most = frontend.representation.at_most
    return min(meta.stored_shape[0], at_most) if meta.config["model"]["frontend"] else at_most


def spectrogram_frames(meta: CheckpointMeta, frontend: LogMelFrontend) -> int:
    """Returns how many frames of the spectrogram the model takes (`config.data.frames`)."""
    return frontend.clip_shape[0] if meta.config["model"]["frontend"] else meta.stored_shape[0]


def probe_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Returns the content of `probe.npz`."""
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def read_probe(folder: Path, meta: CheckpointMeta) -> dict[str, np.ndarray]:
    """Reads `probe.npz`.

    Raises:
        UserError: it is missing or damaged, or of clips of another shape.
    """
    try:
        with zipfile.ZipFile(folder / PROBE) as file:  # refuses what is compressed: a small file may be a huge array
            if any(part.compress_type != zipfile.ZIP_STORED for part in file.infolist()):
                raise ValueError("it is compressed")
        with np.load(folder / PROBE, allow_pickle=False) as file:
            arrays = dict(file)
        shapes = [arrays[name].shape[2:] for name in ("clips", "present")]
        _ = [arrays[name] for name in Scores._fields]
    except (OSError, ValueError, KeyError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        raise UserError(f"{folder / PROBE} cannot be read ({type(error).__name__}: {error}); export again") from error
    if shapes != [tuple(meta.stored_shape), ()]:
        raise UserError(f"{folder / PROBE} is of another model: its clips are {shapes[0]}, not {meta.stored_shape}")
    return arrays


def require_equal(
    got: Mapping[str, jax.typing.ArrayLike], probe: Mapping[str, np.ndarray], tolerance: float, what: str
) -> float:
    """Compares what a format says of the probe clips.

    Args:
        got: what it says, by the names of the fields of `Scores`; `log_scores` is there.
        probe: what it must say.
        tolerance: greatest difference, absolute and relative; embeddings relative to the greatest.
        what: names the file.

    Returns:
        The greatest difference of a log score.

    Raises:
        UserError: they differ by more.
    """
    there = probe["present"]
    for name, value in got.items():
        values, expected = np.asarray(value, np.float32), probe[name]
        if values.shape != expected.shape:
            raise UserError(f"{what} is of another model: {name} has shape {values.shape}, not {expected.shape}")
        if name == "embedding":  # an empty slot has one of nothing
            values, expected = values[there], expected[there]
        size = np.abs(expected).max() if name == "embedding" else np.abs(expected)
        if not (np.abs(values - expected) <= tolerance * (1 + size)).all():
            raise UserError(f"{what} does not give {name} of the model: {_difference(values, expected)}")
    return float(np.abs(np.asarray(got["log_scores"]) - probe["log_scores"]).max())


def require_equal_spectrogram(got: np.ndarray, probe: Mapping[str, np.ndarray], *, natural: bool, what: str) -> float:
    """Compares spectrograms; returns the greatest difference, in their unit.

    Args:
        got: float32 [clip, frame, mel].
        probe: what it must be, as `spectrogram`.
        natural: in natural logarithms of the power, not in dB.
        what: names the file.

    Raises:
        UserError: they differ by more than the rounding of a float32 FFT.
    """
    expected = probe["spectrogram"]
    if got.shape != expected.shape:
        raise UserError(f"{what} is of another model: its spectrogram is {got.shape}, not {expected.shape}")
    difference = np.abs(got - expected)  # NaN is refused, too
    if not (difference <= _DECIBELS * (np.log(10) / 10 if natural else 1)).all():
        raise UserError(f"{what} does not give the spectrogram of the model: {_difference(got, expected)}")
    return float(difference.max())


def _difference(values: np.ndarray, expected: np.ndarray) -> str:
    return f"on the probe clips it differs by up to {np.abs(values - expected).max():.2g}"
