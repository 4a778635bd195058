"""Keys of earlier versions, in flags, in configurations and in the folders of runs.

A batch had `rows` rows of `clips_per_row` clips, and its rows were dealt to the devices. There was no
`data.fold_selection`: a fold selected its own checkpoint. `data.bag_key=paper` was what `published` is.
"""

import copy
from collections.abc import Mapping
from typing import Any

_IN_ROWS = {"rows": 1, "clips_per_row": 64}  # with their defaults
_RENAMED = {
    "batch": "config.batch.rows and config.batch.clips_per_row are now config.batch.clips = rows x clips_per_row.",
    "bench": "config.bench.rows and config.bench.clips_per_row are now config.bench.batch_clips, values of "
    "config.batch.clips.",
}


def renamed(key: str) -> str | None:
    """Says what stands for a key of an earlier version; None for any other key."""
    group, _, name = key.removeprefix("demo.").rpartition(".")
    return _RENAMED.get(group) if name in _IN_ROWS else None


def current(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a saved configuration, as JSON gives it, with the keys of this version instead of earlier ones."""
    config = copy.deepcopy(dict(saved))
    data = config.get("data", {})
    if data and "fold_selection" not in data:
        data["fold_selection"] = "scored"
        if data.get("bag_key", "paper") == "paper":
            data["bag_key"] = "published"
    batch, demo = config.get("batch", {}), config.get("demo", {}).get("batch", {})
    if batch.keys() & _IN_ROWS.keys():
        rows, clips_per_row = (batch.pop(name, default) for name, default in _IN_ROWS.items())
        batch["clips"] = rows * clips_per_row
    for group in (config.get("bench", {}), demo):  # what it would do on the demo is in place where it is one
        for name in _IN_ROWS:
            group.pop(name, None)
    return config


def packed_in_rows(saved: Mapping[str, Any]) -> bool:
    """Whether a model was trained on batches of several rows, which held other bags than they would now."""
    return saved.get("batch", {}).get("rows", 1) > 1 and not saved.get("baseline", {}).get("name")
