"""Whether two configurations train the same model, which is asked before a run is resumed."""

import json
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from mgc_jax.config import earlier
from mgc_jax.config.keys import LAST, default, leaves, split_rule, to_json
from mgc_jax.config.options import ENCODER, POOLING


def shared_values(config: ConfigDict) -> dict[str, Any]:
    """Returns what must be equal in all processes of a run: every key except the location of the corpus."""
    return {key: value for key, value in leaves(to_json(config)) if not key.startswith(_LOCATION)}


# Keys that do not alter what a step computes (model.kernels: but for rounding, as another machine may).
_HARMLESS = (
    "data.auto_first", "data.placement", "data.workers", "data.arrays.columns.subset", "eval.batch_clips", "demo.",
    "bench.", "profile.",
    "train.eval_every_epochs", "train.log_every_steps", "train.checkpoint_every_steps", "train.keep_checkpoints",
    "train.steps_per_dispatch", "model.kernels",
)  # fmt: skip


# Where the corpus lies may change too: its fingerprint says whether it is the same one.
_LOCATION = ("data.corpus", "data.data_dir", "data.arrays.clips", "data.arrays.ids", "data.arrays.table")


def differences(
    config: ConfigDict, before: Mapping[str, Any], *, moved: bool = True, training: bool = True, rescaled: bool = True
) -> list[str]:
    """Lists what makes this configuration train another model than an earlier one.

    Args:
        config: the configuration of this run.
        before: the other one, as JSON gives it. A key or an option that it lacks, being newer, had its
            default's effect.
        moved: whether the corpus may lie elsewhere.
        training: whether the model is to be trained on; if not, it may be evaluated in another way.
        rescaled: whether `train.epochs` may differ although the schedule depends on it. Where the classifier is
            trained again afterwards, it may never differ: a run in that phase cannot go back.
    """
    ignored = _HARMLESS + (_LOCATION if moved else ())
    if config.optimizer.plateau_factor < 1:  # counts evaluations
        ignored = tuple(key for key in ignored if key != "train.eval_every_epochs")
    if not training:
        ignored += ("eval.logit_adjustment", "data.bag_key")
    if not config.train.classifier_epochs and (rescaled or config.optimizer.schedule == "constant"):
        ignored += ("train.epochs",)
    now, then = dict(leaves(to_json(config))), dict(leaves(to_json(default()))) | dict(leaves(earlier.current(before)))
    then |= _newer_options(now, then)
    for values in (now, then):  # folds with and without the rule's name are the same
        values["data.split"] = split_rule(values["data.split"], values["data.folds"])
        if values["data.split"] == "fma":  # draws nothing
            values["data.split_seed"] = 0
        if values["data.split"] != "folds" or values["train.select"] == LAST:  # has none
            values["data.fold_selection"] = "inner"
    packing = ["the batches are packed in another way"] if training and earlier.packed_in_rows(before) else []
    return packing + [
        f"{key}: {then.get(key, 'absent')!r} there, {now.get(key, 'absent')!r} now"
        for key in sorted(now.keys() | then.keys())
        if now.get(key) != then.get(key) and not key.startswith(ignored)
    ]


def _newer_options(now: Mapping[str, Any], then: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options of encoder and pooling that an earlier configuration lacks, with their defaults."""
    found: dict[str, Any] = {}
    for choice in (ENCODER, POOLING):
        lacking = [key for key in now if key.startswith(f"{choice.options}.") and key not in then]
        usual = (choice.defaults(then.get(choice.key, "")) or {}) if lacking else {}
        names = {key: key.removeprefix(f"{choice.options}.") for key in lacking}
        found |= {key: json.loads(json.dumps(usual[name])) for key, name in names.items() if name in usual}
    return found
