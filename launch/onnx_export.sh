#!/usr/bin/env bash
# Adds ONNX files to an export: launch/onnx_export.sh runs/matt/export
#
# jax2onnx wants an older Orbax than training does. So this makes an environment of its own in a temporary folder (a
# few minutes, 1 GB), which it deletes afterwards. An export is all that is read. VENV=FOLDER keeps the environment there.
set -euo pipefail

export_folder=${1:?give the folder of an export}
repository=$(cd "$(dirname "$0")/.." && pwd)
venv=${VENV:-}
if [[ -z $venv ]]; then
  venv=$(mktemp -d)
  trap 'rm -rf "$venv"' EXIT
fi
if [[ ! -x $venv/bin/python ]]; then
  "${PYTHON:-python3}" -m venv "$venv"
fi
# What an export is loaded with, and what it is converted and compared with; not what mgc-jax declares.
"$venv/bin/pip" install --quiet "jax2onnx==0.17.1" "onnxruntime==1.32.0" "onnx==1.23.2" "onnx-ir==1.1.0" \
  "jax==0.10.2" "flax==0.12.8" "jaxtyping>=0.3" "ml-collections>=1.1" "safetensors>=0.4" "scipy>=1.13"
"$venv/bin/pip" install --quiet --no-deps "$repository"
"$venv/bin/python" -m mgc_jax export "$export_folder" --format onnx
