#!/usr/bin/env bash
# orbax-checkpoint 0.12.8: a checkpoint whose metric is NaN can push out the one with the best metric. The preservation
# policies LatestN(1) and BestN(n=1) are to keep the last and the best step. Of the metrics NaN, 0.7, NaN, 0.3, NaN for
# steps 1 to 5 the best is step 2, and it is deleted: its place goes to a step without a number, and best_step() names
# one, too. With -inf instead of NaN, steps 2 and 5 are kept. NaN is a valid value of a metric, such as that of a
# precision without predictions. Seen with Python 3.11, jax 0.10.2. Exits 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q orbax-checkpoint==0.12.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cat >"$folder/save.py" <<'PYTHON'
import math
import pathlib
import sys
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as managers

found = {}
for missing in (math.nan, -math.inf):
    root = pathlib.Path(sys.argv[1]) / str(missing)

    def metric(metrics):
        return missing if math.isnan(metrics["ap"]) else metrics["ap"]

    keep = [managers.LatestN(1), managers.BestN(get_metric_fn=metric, n=1)]
    options = ocp.CheckpointManagerOptions(
        best_fn=metric, preservation_policy=managers.AnyPreservationPolicy(keep), enable_async_checkpointing=False
    )
    with ocp.CheckpointManager(root, options=options) as manager:
        for step, value in enumerate((math.nan, 0.7, math.nan, 0.3, math.nan), 1):
            manager.save(step, args=ocp.args.StandardSave({"w": np.arange(4.0)}), metrics={"ap": value})
        manager.wait_until_finished()
        found[str(missing)] = (sorted(manager.all_steps()), manager.best_step())
    print(f"{missing} where there is no number: kept {found[str(missing)][0]}, best_step() {found[str(missing)][1]}")
sys.exit(not (found["-inf"] == ([2, 5], 2) and 2 not in found["nan"][0]))
PYTHON
JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/save.py" "$folder" 2>"$folder/log" || { tail -5 "$folder/log" >&2; exit 1; }
