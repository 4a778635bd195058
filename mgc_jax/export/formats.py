"""Writes the formats of an export for other programs, and compares all formats with the model."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mgc_jax.errors import UserError
from mgc_jax.export import files, onnx, stablehlo
from mgc_jax.export.functions import Scores, score_function
from mgc_jax.export.preprocessing import spectrogram_of
from mgc_jax.export.reference import (
    CLOSE,
    COARSE,
    PROBE,
    audio_frontend,
    audio_samples,
    cpu_device,
    probe_bags,
    read_probe,
    require_equal,
    require_equal_spectrogram,
    spectrogram_frames,
    using_cpu,
)
from mgc_jax.inference import WEIGHTS, CheckpointMeta, ExportedModel, load_export
from mgc_jax.runtime import platform
from tfds_fma.representations.log_mel import LogMelBelowPeak

log = logging.getLogger(__name__)

Probe = Mapping[str, np.ndarray]
_KERNELS = 1e-3  # of forms of layers that were made for a platform: as `mgc_jax.probe` allows


class Compared(NamedTuple):
    """A file that gives what the model gives.

    Attributes:
        name: of the file.
        bytes: its size.
        difference: the greatest on the probe clips: of a log score, or of a spectrogram in its unit; None: it was not
            compared, for want of what reads it.
    """

    name: str
    bytes: int
    difference: float | None


def write_stablehlo(folder: Path, exported: ExportedModel) -> list[Compared]:
    """Writes `model.stablehlo`, unless it differs from the model.

    Raises:
        UserError: it differs, or JAX cannot export the model.
    """
    content = stablehlo.to_stablehlo(score_function(exported), exported.meta.stored_shape)
    difference = _compare_stablehlo(content, exported, read_probe(folder, exported.meta), files.STABLEHLO)
    made = {"jax": jax.__version__, "platforms": stablehlo.PLATFORMS, "max_difference": difference}
    files.write(folder, files.STABLEHLO, content, **made)
    return [Compared(files.STABLEHLO, len(content), difference)]


def write_onnx(folder: Path, exported: ExportedModel) -> list[Compared]:
    """Writes `model.onnx`, and where the encoder sees a known spectrogram `spectrogram.onnx`, unless they differ from
    the model.

    Raises:
        UserError: they differ, an operation of the model has no form there, or what converts is not installed.
    """
    meta, probe = exported.meta, read_probe(folder, exported.meta)
    function = score_function(exported, of_spectrograms=True)
    frontend = exported.inputs.frontend
    specs = stablehlo.score_specs(meta.stored_shape if frontend is None else frontend.clip_shape)
    content = onnx.to_onnx(lambda clips, present: tuple(function(clips, present)), specs, Scores._fields)
    contents = {files.ONNX: (content, _compare_onnx(content, exported, probe, files.ONNX))}
    if (known := audio_frontend(meta)) is not None:
        frames = spectrogram_frames(meta, known)
        audio = {"audio": jax.ShapeDtypeStruct((1, audio_samples(meta, known)), np.float32)}
        content = onnx.to_onnx(lambda audio: (known(audio)[:, :frames],), audio, ["clips"])
        contents[files.SPECTROGRAM] = content, _compare_spectrogram(content, exported, probe, files.SPECTROGRAM)
    for name, (content, difference) in contents.items():
        files.write(folder, name, content, jax2onnx=onnx.JAX2ONNX, max_difference=difference)
    return [Compared(name, len(content), difference) for name, (content, difference) in contents.items()]


WRITERS = {"stablehlo": write_stablehlo, "onnx": write_onnx}
"""Name in `mgc-jax export --format`: its writer."""


def check(folder: Path) -> list[Compared]:
    """Compares all formats of an export with what the model said of the probe clips when it was exported.

    Raises:
        UserError: a file is missing, cut, or not the one that was written, or it gives something else.
    """
    contents = {name: files.read(folder, name) for name in files.present(folder)}
    if PROBE not in contents:
        raise UserError(f"{folder} holds no {PROBE} to compare with; export again: mgc-jax export RUN")
    exported = load_export(folder)
    probe = read_probe(folder, exported.meta)
    compared = [Compared(WEIGHTS, len(contents[WEIGHTS]), _compare_weights(exported, probe, str(folder / WEIGHTS)))]
    for name, compare in _COMPARE.items():
        if name not in contents:
            continue
        difference = None
        if name.endswith(".onnx") and not onnx.is_installed():
            log.warning("%s is not compared: ONNX Runtime is not there (pip install onnxruntime)", name)
        else:
            difference = compare(contents[name], exported, probe, str(folder / name))
        compared.append(Compared(name, len(contents[name]), difference))
    return compared


def _compare_weights(exported: ExportedModel, probe: Probe, what: str) -> float:
    clips, segment = probe_bags(probe)
    log_scores, _ = exported(clips, segment)
    tolerance = _KERNELS if _in_float32(exported.meta) and platform.on_cpu() else COARSE
    return require_equal({"log_scores": log_scores}, probe, tolerance, what)


def _compare_stablehlo(content: bytes, exported: ExportedModel, probe: Probe, what: str) -> float:
    function = stablehlo.from_stablehlo(content, what)
    try:
        with using_cpu():
            scores = function(jnp.asarray(probe["clips"]), jnp.asarray(probe["present"]))
    except (ValueError, TypeError) as error:  # shapes or names of another function
        raise UserError(f"{what} is of another model: {str(error).splitlines()[0]}") from error
    exact = _in_float32(exported.meta) and cpu_device() is not None
    return require_equal(scores._asdict(), probe, CLOSE if exact else COARSE, what)


def _compare_onnx(content: bytes, exported: ExportedModel, probe: Probe, what: str) -> float:
    clips = probe["clips"]
    if (frontend := exported.inputs.frontend) is not None:
        flat = clips.reshape(-1, clips.shape[2])
        with using_cpu():
            clips = np.asarray(jax.jit(frontend.__call__)(flat)).reshape(*clips.shape[:2], *frontend.clip_shape)
    values = onnx.session(content, what)(clips=clips, present=probe["present"])
    tolerance = CLOSE if _in_float32(exported.meta) else COARSE
    return require_equal(dict(zip(Scores._fields, values, strict=True)), probe, tolerance, what)


def _compare_spectrogram(content: bytes, exported: ExportedModel, probe: Probe, what: str) -> float:
    natural = isinstance(spectrogram_of(exported.meta), LogMelBelowPeak)
    if "audio" not in probe:
        raise UserError(f"{what} is of another model: this one takes no spectrogram of known making")
    run = onnx.session(content, what)
    spectrograms = [run(audio=clip[None])[0] for clip in probe["audio"]]
    return require_equal_spectrogram(np.concatenate(spectrograms), probe, natural=natural, what=what)


def _in_float32(meta: CheckpointMeta) -> bool:
    return meta.config["model"]["dtype"] == "float32"


_COMPARE = {
    files.STABLEHLO: _compare_stablehlo,
    files.ONNX: _compare_onnx,
    files.SPECTROGRAM: _compare_spectrogram,
}
