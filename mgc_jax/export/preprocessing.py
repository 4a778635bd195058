"""What the clips of a model are made of, for `preprocessing.json`: so that nobody feeds it another spectrogram."""

from collections.abc import Mapping
from typing import Any

from mgc_jax.data.inputs import middle_frames
from mgc_jax.inference import CheckpointMeta
from mgc_jax.songs.representation import recorded_representation
from tfds_fma.representations.audio import Audio
from tfds_fma.representations.feature_names import COLUMNS, columns_of
from tfds_fma.representations.feature_vector import FeatureVector
from tfds_fma.representations.log_mel import LogMel, LogMelBelowPeak, LogStft
from tfds_fma.representations.registry import get_representation
from tfds_fma.representations.spectrogram import DYNAMIC_RANGE_DB, POWER_FLOOR

_STANDARDIZED = "(x - mean) / std, of each mel band or feature"


def describe(meta: CheckpointMeta) -> dict[str, Any]:
    """Says how the clips of a model are made, as JSON holds it.

    Returns:
        `kind`: log_mel, log_stft, audio (which the model turns into log-mels), features or unknown; `clip`: shape,
        axes and type of what the exported files take; `standardization` and `crop`, which are inside of them; and by
        kind `audio`, `spectrogram`, `features` or `why`.
    """
    frontend = meta.config["model"]["frontend"]
    mean, std = meta.standardization["mean"], meta.standardization["std"]
    standardized = any(mean) or any(value != 1 for value in std)
    kept = {name: meta.config["data"].get(name) for name in ("corpus", "representation", "features", "frames")}
    crop = middle_frames(meta.config)
    common: dict[str, Any] = {
        "clip": {"shape": list(meta.stored_shape), "axes": _axes(meta), "dtype": "float32"},
        "inside_the_model": {
            "standardization": {"formula": _STANDARDIZED, "mean": mean, "std": std} if standardized else None,
            "crop": f"the middle {crop} frames" if crop else None,
            "dtype": meta.config["model"]["dtype"],
        },
        "corpus": kept,
    }
    made = recorded_representation(meta)
    if frontend:
        spectrogram = get_representation(frontend)
        assert isinstance(spectrogram, LogMel | LogMelBelowPeak)
        resampler = meta.resampler or "unknown: the audio came from arrays of somebody's own"
        common["clip"]["scale"] = "full scale 1; int16 samples divided by 32767"
        return {"kind": "audio", **common, "audio": _audio(spectrogram, resampler), **_spectrogram(spectrogram)}
    if isinstance(made, LogMel | LogMelBelowPeak):
        return {"kind": "log_mel", **common, "audio": _audio(made, meta.resampler), **_spectrogram(made)}
    if isinstance(made, LogStft):
        return {"kind": "log_stft", **common, "audio": _audio(made, meta.resampler), **_spectrogram(made)}
    if isinstance(made, FeatureVector):
        return {"kind": "features", **common, "features": _features(made, meta.config["data"].get("features", ""))}
    columns = meta.config["data"].get("arrays", {}).get("features") if meta.corpus == "arrays" else None
    if columns and not meta.config["data"]["arrays"]["clips"]:
        names = {"of": "columns of a table of somebody's own, in this order", "names": list(columns)}
        return {"kind": "features", **common, "features": names}
    source = "on arrays of somebody's own" if meta.corpus == "arrays" else "on clips whose making was not recorded"
    why = (
        f"The model was trained {source}. How they were made is known to who made them alone: give clips that were "
        "made in the same way, or its scores mean nothing."
    )
    return {"kind": "unknown", **common, "why": why}


def spectrogram_of(meta: CheckpointMeta) -> LogMel | LogMelBelowPeak | None:
    """Returns the spectrogram that the encoder sees, stored or computed by the model's front end; None: another input,
    or one of unknown making.
    """
    frontend = meta.config["model"]["frontend"]
    found = get_representation(frontend) if frontend else recorded_representation(meta)
    return found if isinstance(found, LogMel | LogMelBelowPeak) else None


def _axes(meta: CheckpointMeta) -> str:
    if meta.config["model"]["frontend"]:
        return "sample"
    band = "frequency bin" if isinstance(recorded_representation(meta), LogStft) else "mel band"
    return f"frame, {band} (lowest first)" if len(meta.stored_shape) == 2 else "feature"


def _audio(made: LogMel | LogMelBelowPeak | LogStft | Audio, resampler: str) -> dict[str, Any]:
    return {
        "sample_rate": made.sample_rate,
        "channels": "mono, the mean of the channels",
        "resampler": resampler,
        "samples": made.samples,
        "samples_at_most": made.at_most,
        "from": "the start of the clip; zeros at the end of a shorter one",
    }


def _spectrogram(made: LogMel | LogMelBelowPeak | LogStft) -> Mapping[str, Any]:
    relative, seconds = isinstance(made, LogMelBelowPeak), made.at_most / made.sample_rate
    bands = {
        "n_mels": made.shape[1],
        "mel_scale": "Slaney",
        "mel_norm": "Slaney (unit area)",
        "lowest_hz": 0.0,
        "highest_hz": made.sample_rate / 2,
    }
    values = {
        "name": made.name,
        "window": "periodic Hann",
        "n_fft": made.n_fft,
        "hop": made.hop,
        "padding": "centred frames, reflect",
        "spectrum": "power",
        **({"bins": made.shape[1]} if isinstance(made, LogStft) else bands),
        "power_floor": POWER_FLOOR,
        "logarithm": "natural logarithm of the power" if relative else "dB: 10 log10 of the power",
        "reference": f"the greatest mel power of the clip, up to {seconds:g} s" if relative else 1.0,
        "range_below_maximum_db": DYNAMIC_RANGE_DB,
        "frames": made.shape[0],
        "stored_as": made.dtype,
    }
    return {"spectrogram": values}


def _features(made: FeatureVector, chosen: str) -> dict[str, Any]:
    """Names FMA's features in the order of a clip, as `data.open.open_corpus` chooses them."""
    positions = columns_of([chosen] if chosen else made.groups)
    names = ["/".join(COLUMNS[position]) for position in positions.tolist()]
    return {"of": "FMA's features.csv (Defferrard et al. 2017), in this order", "names": names}
