#!/usr/bin/env bash
# Trains on several GPUs of one machine, with one process. The clips of a batch are dealt to the GPUs. The arguments are
# those of mgc_jax.main.
#
#   launch/gpus.sh --config configs/prcnn.py                                    # all GPUs
#   CUDA_VISIBLE_DEVICES=0,1,2,3 launch/gpus.sh --config configs/prcnn.py --config.batch.clips=64    # four GPUs
#
# batch.clips is the number of clips of a batch over all GPUs. For several runs at a time, one per GPU, see
# launch/sweep.sh.
set -euo pipefail

python=${PYTHON:-python}
if command -v nvidia-smi >/dev/null; then
    echo "GPUs of this machine (CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES-not set: all}):"
    nvidia-smi --query-gpu=index,name,memory.total,memory.used --format=csv,noheader
fi
"$python" - <<'CHECK'
import jax

if jax.default_backend() == "cpu":
    raise SystemExit("error: JAX finds no GPU here; install '.[cuda12]' or '.[cuda13]', and look at CUDA_VISIBLE_DEVICES")
print(f"JAX uses {len(jax.devices())} x {jax.devices()[0].device_kind}")
CHECK
exec "$python" -m mgc_jax.main "$@"
