"""Which evaluation the files of a run are of: `predictions.parquet` and `results.json` must be of the same one.

Both say what was evaluated, on what and how (`IDENTITY`). Files of earlier versions say less; then the results must be
those of the predictions.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mgc_jax.evaluation.predictions import Predictions

# The model and its weights, or what a baseline was fitted with; the corpus; and what evaluation alone decides.
IDENTITY = (
    "model", "corpus", "fingerprint", "clips_digest", "best_step", "weights", "baseline", "seed", "folds",
    "logit_adjustment", "bag_key",
)  # fmt: skip


def identity(about: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what identifies an evaluation, of what `results.json` or the `info` of predictions holds."""
    return {key: about[key] for key in IDENTITY if key in about}


def same_evaluation(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether nothing that both say of their evaluation differs; an empty `clips_digest` says nothing."""
    ours, theirs = identity(one), identity(other)
    both = {key for key in ours.keys() & theirs.keys() if "" not in (ours[key], theirs[key])}
    return all(ours[key] == theirs[key] for key in both)


def says_all(about: Mapping[str, Any]) -> bool:
    """Whether it names an evaluation in full, as this version does."""
    return "bag_key" in about and ("weights" in about or "baseline" in about)


def belong_together(predictions: Predictions, results: Mapping[str, Any]) -> bool:
    """Whether predictions and what `results.json` holds are of one evaluation.

    Where one of them does not say it in full, clips and accuracies decide, of each split and level that both have.
    """
    if not same_evaluation(predictions.info, results):
        return False
    if says_all(predictions.info) and says_all(results):
        return True
    return all(
        _has_results(predictions.of_split(split), result)
        for split, result in results["splits"].items()
        if split in predictions.splits
    )


def _has_results(predictions: Predictions, result: Mapping[str, Any]) -> bool:
    """Whether the predictions of a split have the number of clips and the accuracies that a result says."""
    right = {
        level: float(np.mean(predictions.predicted(level) == predictions.label))
        for level in predictions.levels
        if "accuracy" in result.get(level, {})
    }
    less_than_a_clip = 0.5 / len(predictions)
    return result.get("clips", len(predictions)) == len(predictions) and all(
        abs(accuracy - result[level]["accuracy"]) < less_than_a_clip for level, accuracy in right.items()
    )
