#!/usr/bin/env bash
# jaxlib 0.10.2 (the newest for Python 3.11), CPU: a vectorized sum of squares of a small product of matrices,
# jit(vmap(lambda row: sum((M @ row) ** 2))), is wrong from row 32,768 on, without a warning.
# XLA fuses product and reduction for YNNPACK. With LIBRARY_FUSION_TYPE_REDUCE left out of
# --xla_cpu_experimental_ynn_fusion_type all 40,000 rows are right; with it they are wrong also if products are listed.
# Seen on x86-64 (AVX-512): 7,232 wrong rows, the first is 32,768; 0 with the flag. jaxlib 0.12.0.1 (Python 3.13) is right.
# Reported upstream as jax issue 39103. Exits 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cat >"$folder/rows.py" <<'PYTHON'
import jax
import jax.numpy as jnp
import numpy as np

rng = np.random.default_rng(0)
matrix, rows = (rng.normal(size=shape).astype(np.float32) for shape in ((3, 3), (40_000, 3)))
sums = np.asarray(jax.jit(jax.vmap(lambda row: jnp.sum((matrix @ row) ** 2)))(rows))
right = np.square(rows.astype(np.float64) @ matrix.T.astype(np.float64)).sum(axis=1)
wrong = np.flatnonzero(np.abs(sums - right) > 1e-4 * right.mean())
print(len(wrong), wrong[0] if len(wrong) else "-")
PYTHON
export JAX_PLATFORMS=cpu
kinds=LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT
default=$(XLA_FLAGS= "$folder/venv/bin/python" "$folder/rows.py")
without=$(XLA_FLAGS=--xla_cpu_experimental_ynn_fusion_type=$kinds "$folder/venv/bin/python" "$folder/rows.py")
echo "wrong rows and the first of them: by default $default; without reductions $without"
[[ ${default%% *} -gt 0 && ${default##* } == 32768 && $without == "0 -" ]]
