"""Weights of a trained model: those of a checkpoint, and those that a new run starts from (`train.init_from`)."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from mgc_jax.config.keys import default
from mgc_jax.errors import UserError
from mgc_jax.experiment import Experiment
from mgc_jax.inference import WEIGHTS, CheckpointMeta, check_weights, inputs_of, load_export, model_of
from mgc_jax.models.classifier import split_model
from mgc_jax.probe import Probe
from mgc_jax.runtime.devices import data_mesh, replicate
from mgc_jax.runtime.workdir import read_config
from mgc_jax.training.checkpoint import Checkpoints, open_checkpoints
from mgc_jax.training.optimizer import make_optimizer

log = logging.getLogger(__name__)


def saved_weights(checkpoints: Checkpoints, step: int) -> tuple[CheckpointMeta, Any, Any]:
    """Returns the meta of a checkpoint, the weights that are evaluated, and their batch statistics.

    The corpus is not needed.

    Raises:
        UserError: the checkpoint cannot be read, or is of other code.
    """
    meta = checkpoints.meta(step)
    model = model_of(meta)
    _, params, batch_stats = split_model(model)
    options = ConfigDict({**default().optimizer.to_dict(), **meta.config["optimizer"]})
    state = replicate(make_optimizer(options).initial_state(params, batch_stats), data_mesh())
    state = checkpoints.restore(step, state)
    params, batch_stats = jax.device_get(state.evaluated)
    probe = Probe(model, inputs_of(meta), meta.stored_shape)
    what = f"the checkpoint of step {step} in {checkpoints.directory.parent}"
    check_weights(meta, probe, params, batch_stats, what)
    return dataclasses.replace(meta, step=step), params, batch_stats


def initial_weights(experiment: Experiment, folder: Path) -> tuple[tuple[Any, Any], dict[str, Any]]:
    """Returns the weights of a run or an export, for a new run to start from.

    The encoder must be the same. Pooling and head are reset, with a log line, where the genres or their shapes
    differ: both may hold arrays per genre.

    Args:
        experiment: the new run.
        folder: the workdir of a run, whose best checkpoint is taken, or the folder of an export.

    Returns:
        Weights and batch statistics; and where they came from, as in `CheckpointMeta.init_from`.

    Raises:
        UserError: there is no model, or it has another encoder.
    """
    meta, given = load_weights(folder)
    own = experiment.params, experiment.batch_stats
    if difference := _difference(_part(given, "encoder"), _part(own, "encoder")):
        raise UserError(
            f"config.train.init_from={folder} has another encoder ({meta.config['model']['encoder']['name']}) than "
            f"this run ({experiment.config.model.encoder.name}): {difference}. Give the encoder and the "
            "representation of that run, or leave config.train.init_from empty."
        )
    log.info("the initial weights are those of %s, step %s", folder, meta.step)
    reset = []
    for part in ("pooling", "head"):
        other_genres = meta.genres != tuple(experiment.corpus.genres)
        why = "other genres" if other_genres else _difference(_part(given, part), _part(own, part))
        if why and jax.tree.leaves(_part(own, part)):
            log.info("but the %s is reset: %s", part, why)
            reset.append(part)
    params, batch_stats = (
        {part: values if part in reset else theirs.get(part, values) for part, values in mine.items()}
        for theirs, mine in zip(given, own, strict=True)
    )
    origin = {"path": str(folder), "step": meta.step, "corpus": meta.corpus, "fingerprint": meta.fingerprint}
    return (params, batch_stats), origin | {"reset": reset}


def load_weights(folder: Path) -> tuple[CheckpointMeta, tuple[Any, Any]]:
    """Returns the meta of the best checkpoint of a run, or of an export, its weights and its batch statistics.

    Raises:
        UserError: there is no such model, or other code saved it.
    """
    if (folder / WEIGHTS).is_file():
        exported = load_export(folder)
        _, params, batch_stats = split_model(exported.model)
        return exported.meta, jax.device_get((params, batch_stats))
    if not (folder / "checkpoints").is_dir():
        raise UserError(f"{folder} is neither the folder of a run nor that of an export")
    select = read_config(folder / "config.json")["train"]["select"]
    with open_checkpoints(folder, select, read_only=True) as checkpoints:
        step = checkpoints.best_step()
        if step is None:
            raise UserError(f"{folder} has no complete checkpoint")
        meta, params, batch_stats = saved_weights(checkpoints, step)
    return meta, (params, batch_stats)


def _part(variables: tuple[Any, Any], part: str) -> dict[str, Any]:
    """Returns weights and batch statistics of a part of the model by their dotted names."""
    trees = {kind: tree.get(part, {}) for kind, tree in zip(("weights", "statistics"), variables, strict=True)}
    leaves, _ = jax.tree_util.tree_flatten_with_path(trees)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _difference(theirs: dict[str, Any], mine: dict[str, Any]) -> str:
    """Says how the arrays of a part differ in name or shape; empty: they do not."""
    for name in sorted(theirs.keys() | mine.keys()):
        shapes = ["absent" if name not in tree else str(tuple(tree[name].shape)) for tree in (theirs, mine)]
        if shapes[0] != shapes[1]:
            return f"{name} is {shapes[0]} there, {shapes[1]} here"
    return ""
