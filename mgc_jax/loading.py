"""Loads a trained model from the folder of a run or of an export, ready to score clips and songs."""

from pathlib import Path

from mgc_jax.errors import UserError
from mgc_jax.inference import EXPORT, WEIGHTS, ExportedModel, inputs_of, load_export, model_of, with_weights
from mgc_jax.runtime.xla_flags import warn_without_cpu_flags
from tfds_fma.paths import local_path


def load_model(folder: str | Path) -> ExportedModel:
    """Loads a trained model: the best checkpoint of a run, or an export.

        model = load_model("runs/matt")  # or "runs/matt/export", or an export that was copied elsewhere
        scores, aux = model(clips)  # clips [clip, ...] as in the corpus it was trained on, not standardized

    Args:
        folder: the workdir of a run, or what `--mode export` wrote. A workdir whose checkpoints were deleted gives its
            export.

    Raises:
        UserError: there is no model, a file is missing or damaged, the weights belong to another model, or the code of
            the model has changed since they were saved.
    """
    folder = local_path(folder)
    if (folder / "checkpoints").is_dir():
        from mgc_jax.training.initialization import load_weights  # an export needs neither Optax nor Orbax

        warn_without_cpu_flags()
        meta, (params, batch_stats) = load_weights(folder)
        return ExportedModel(with_weights(model_of(meta), params, batch_stats), inputs_of(meta), meta)
    if (folder / EXPORT).is_dir():
        folder = folder / EXPORT
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; give the --workdir of a run, or what --mode export wrote")
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"{folder} holds neither checkpoints of a run nor an export ({WEIGHTS})")
    return load_export(folder)
