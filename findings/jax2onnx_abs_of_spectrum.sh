#!/usr/bin/env bash
# jax2onnx 0.17.1 with onnxruntime 1.32.0: a magnitude or power spectrum written as jnp.abs(jnp.fft.rfft(x)) converts
# and runs without an error, but the result has one axis more than in JAX, [1, 5, 2] instead of [1, 5]: the absolute
# values of the real and of the imaginary parts, which are never put together. A sum over the last axis then adds up
# frequencies for each part alone: two numbers instead of one. Written with .real and .imag the magnitude is right.
# Seen with Python 3.11, jax 0.10.2. Exits 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q jax2onnx==0.17.1 onnxruntime==1.32.0 onnx==1.23.2 jax==0.10.2 jaxlib==0.10.2 \
  flax==0.12.8 numpy==2.4.6
cat >"$folder/convert.py" <<'PYTHON'
import sys
import jax.numpy as jnp
import numpy as np
import onnxruntime
from jax2onnx import to_onnx

onnxruntime.set_default_logger_severity(4)
x = np.random.default_rng(0).normal(size=(1, 8)).astype(np.float32)
spectrum = np.fft.rfft(x)


def converted(function):
    session = onnxruntime.InferenceSession(to_onnx(function, [x.shape]).SerializeToString())
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def of_parts(x):
    spectrum = jnp.fft.rfft(x)
    return jnp.sqrt(spectrum.real**2 + spectrum.imag**2)


magnitude, parts = np.abs(spectrum), np.stack([np.abs(spectrum.real), np.abs(spectrum.imag)], axis=-1)
wrong, right = converted(lambda x: jnp.abs(jnp.fft.rfft(x))), converted(of_parts)
print(f"JAX {magnitude.shape}; from abs {wrong.shape}, |re| and |im|; from parts {right.shape}")
same = wrong.shape == parts.shape and np.allclose(wrong, parts, atol=1e-5)
sys.exit(not (same and right.shape == magnitude.shape and np.allclose(right, magnitude, atol=1e-5)))
PYTHON
JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/convert.py" 2>"$folder/log" || { tail -5 "$folder/log" >&2; exit 1; }
