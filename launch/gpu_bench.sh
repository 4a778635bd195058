#!/usr/bin/env bash
# Measures everything about speed that needs a GPU, in under nine minutes and without network: comparison with PyTorch
# (benchmarks/peers.py), training rates (--mode bench), a PRCNN training of FMA-small's size (6,400 synthetic clips of
# 640 x 128, 50 epochs), and both forms of the GRU (benchmarks/gru.py). One table comes last.
#
#   launch/gpu_bench.sh                                       # one GPU: CUDA_VISIBLE_DEVICES chooses
#   TORCH_PYTHON=/torch/bin/python launch/gpu_bench.sh        # a Python that has PyTorch, if the usual one has not
#
# OUT=DIR keeps what every part prints and measures (default: gpu_bench). PYTHON=... names another Python. A part that
# fails or takes too long gives a line "failed" and stops nothing. Without a GPU the same parts run small on the CPU, to
# show that they run: the figures for the GPU are then missing.
set -uo pipefail

python=${PYTHON:-python}
out=${OUT:-gpu_bench}
budget=520 # seconds for all parts
if [ -e "$out/table.txt" ]; then # of the last time
    rm -rf "${out:?}"
elif [ -n "$(ls -A "$out" 2>/dev/null)" ]; then
    echo "error: OUT=$out is not empty, and not from this script; name another folder" >&2
    exit 1
fi
mkdir -p "$out"
out=$(cd "$out" && pwd)
touch "$out/table.txt"

device=$("$python" -c 'import jax; print("cpu" if jax.default_backend() == "cpu" else "gpu")' 2>"$out/device.log" | tail -n 1)
if [ "$device" != gpu ]; then
    device=cpu
    export JAX_PLATFORMS=cpu
    echo "no GPU: small sizes on the CPU"
fi

rows=()
begin=$SECONDS

# part NAME LIMIT FIGURE COMMAND...: runs a command; FIGURE, a command, prints what the table says of it.
part() {
    local name=$1 limit=$2 figure=$3 left start status text
    shift 3
    left=$((budget - (SECONDS - begin)))
    start=$SECONDS
    echo "== $name"
    if [ "$left" -lt 5 ]; then
        rows+=("$name|failed: no time left|")
        return
    fi
    timeout --kill-after=5 "$((limit < left ? limit : left))" "$@" 2>&1 | tee "$out/$name.log"
    status=${PIPESTATUS[0]}
    if [ "$status" -eq 0 ]; then
        text=$($figure "$name" 2>>"$out/figures.log") || text="failed: no figure in $name.log"
    elif [ "$status" -eq 124 ] || [ "$status" -eq 137 ]; then
        text="failed: not done within $((limit < left ? limit : left)) s"
    else
        text="failed: $(reason "$name" | tr '|' ' ' | cut -c 1-63)"
    fi
    rows+=("$name|$text|$((SECONDS - start)) s")
}

reason() { grep -a -m 1 '^missing: ' "$out/$1.log" || grep -a . "$out/$1.log" | tail -n 1; }

# Of the table of benchmarks/gru.py: its last line, which is the largest size.
gru_times() {
    grep -a '^| [a-z]*[0-9]' "$out/$1.log" | tail -n 1 | tr -d ' ' | {
        IFS='|' read -r _ dtype units rows steps _ _ _ scan kernel _
        echo "$dtype, $units units, $rows rows, $steps steps: scan $scan, kernel ${kernel:-none} ms"
    }
}

last_line() { grep -a . "$out/$1.log" | tail -n 1 | tr '|' ' '; }

bench_rate() {
    "$python" - "$out/$1/bench.json" <<'FIGURE'
import json, sys

rows = [row for row in json.load(open(sys.argv[1]))["rows"] if row["variant"] == "train" and row["status"] == "ok"]
print(", ".join(f"{row['clips_per_second']['p50']:,.0f} train clips/s" for row in rows) or sys.exit(1))
FIGURE
}

epochs_time() {
    "$python" - "$out/$1/results.json" "$epochs" <<'FIGURE'
import json, sys

seconds, epochs = json.load(open(sys.argv[1]))["seconds"], int(sys.argv[2])
parts = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
print(f"{sum(seconds.values()):.1f} s for {epochs} epochs ({parts})")
FIGURE
}

bench() { # name config options...
    local name=$1 config=$2
    shift 2
    part "$name" 60 bench_rate "$python" -m mgc_jax.main --config "$config" --mode bench --workdir "$out/$name" \
        --config.bench.variants="('train',)" "$@"
}

small=()
if [ "$device" = gpu ]; then
    clips=6400 frames=640 epochs=50
    peers=(--device gpu --models prcnn matt_crnn_tf --modes train --repeats 5)
else
    clips=64 frames=64 epochs=2
    peers=(--device cpu --models matt_mlp --modes train --repeats 3 --quick)
    small=(--config.bench.clips=16 --config.bench.steps=1 --config.bench.repeats=1 --config.batch.clips=4)
    small+=("--config.bench.clip_shape=(256, 96)")
fi
if [ -n "${TORCH_PYTHON:-}" ]; then
    peers+=(--torch_python "$TORCH_PYTHON")
fi

bench prcnn configs/prcnn.py "${small[@]}"
bench prcnn_gru_kernel configs/prcnn.py --config.model.kernels=gru_kernel "${small[@]}"
bench matt_crnn_tf configs/matt_crnn_tf.py "${small[@]}"
bench matt_crnn_tf_bfloat16 configs/matt_crnn_tf.py --config.model.dtype=bfloat16 "${small[@]}"

"$python" - "$out" "$clips" "$frames" <<'DATA'
import sys
from pathlib import Path

import numpy as np

folder, clips, frames = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
rng = np.random.default_rng(0)
np.save(folder / "clips.npy", rng.integers(0, 256, (clips, frames, 128), dtype=np.uint8))
np.save(folder / "ids.npy", np.arange(clips))
lines = ["track_id,genre_top,split,artist_id,album_id"]
for i in range(clips):
    lines.append(f"{i},genre{i % 8},{'validation' if i % 10 == 9 else 'train'},{i // 8},{i // 8}")
(folder / "tracks.csv").write_text("\n".join(lines) + "\n")
DATA
part prcnn_fma_small 90 epochs_time "$python" -m mgc_jax.main --config configs/prcnn.py --workdir "$out/prcnn_fma_small" \
    --config.data.corpus=arrays --config.data.arrays.clips="$out/clips.npy" --config.data.arrays.ids="$out/ids.npy" \
    --config.data.arrays.table="$out/tracks.csv" --config.train.epochs="$epochs" \
    --config.train.eval_every_epochs="$epochs"
rm -f "$out/clips.npy"

part gru 75 gru_times "$python" -m benchmarks.gru
part peers 220 last_line "$python" benchmarks/peers.py "${peers[@]}" --json "$out/peers.json"

echo
"$python" -c 'import jax; d = jax.devices(); print(f"{len(d)} x {d[0].device_kind}, JAX {jax.__version__}")' 2>/dev/null
if [ "$device" = cpu ]; then
    echo "THE FIGURES FOR A GPU ARE MISSING: this machine has none. Below are small sizes on the CPU."
fi
{
    echo "part|figure|time"
    printf '%s\n' "${rows[@]}"
} | while IFS='|' read -r name text time; do printf '%-24s %-72s %8s\n' "$name" "$text" "$time"; done | tee "$out/table.txt"
