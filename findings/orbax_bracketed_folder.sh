#!/usr/bin/env bash
# orbax-checkpoint 0.12.8: a checkpoint saved below a folder whose name has square brackets ("run [v2]") is not
# whole, and saving does not say so. wait_until_finished() returns, all_steps() lists the step, the marker of success
# is there; restoring fails with NOT_FOUND, since the files of the single processes were not merged (no
# default/manifest.ocdbt). The same program in a folder without brackets restores. Renaming the folder afterwards does
# not help. Seen with Python 3.11, jax 0.10.2. Exits 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q orbax-checkpoint==0.12.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cat >"$folder/save.py" <<'PYTHON'
import pathlib
import sys
import numpy as np
import orbax.checkpoint as ocp

found = {}
for name in ("plain", "run [v2]"):
    root = pathlib.Path(sys.argv[1]) / name
    root.mkdir()
    tree = {"w": np.arange(4.0)}
    with ocp.CheckpointManager(root / "checkpoints") as manager:
        manager.save(0, args=ocp.args.StandardSave(tree))
        manager.wait_until_finished()
    with ocp.CheckpointManager(root / "checkpoints") as manager:
        listed = manager.all_steps()
        try:
            restored = manager.restore(0, args=ocp.args.StandardRestore(tree))
            outcome = "restored" if np.array_equal(restored["w"], tree["w"]) else "other values"
        except Exception as error:
            outcome = f"{type(error).__name__}: {str(error)[:9]}"
    merged = (root / "checkpoints/0/default/manifest.ocdbt").exists()
    found[name] = (list(listed), merged, outcome)
    print(f"{name!r}: steps {listed}, merged manifest {merged}, {outcome}")
sys.exit(found != {"plain": ([0], True, "restored"), "run [v2]": ([0], False, "ValueError: NOT_FOUND")})
PYTHON
JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/save.py" "$folder" 2>"$folder/log" || { tail -5 "$folder/log" >&2; exit 1; }
