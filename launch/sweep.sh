#!/usr/bin/env bash
# Trains every configuration with every seed, each in its own workdir, <RUNS>/<configuration>-seed<seed>.
#
#   CONFIGS="configs/prcnn.py configs/matt_crnn_tf.py" SEEDS="0 1 2" launch/sweep.sh --config.train.epochs=20
#
# On a machine: a queue with one worker per GPU (GPUS="0 1", by default all; without a GPU one worker).
# Under SLURM: a job array with one run per task:
#
#   CONFIGS="..." SEEDS="0 1 2" sbatch --array=0-5 --gpus=1 --time=4:00:00 launch/sweep.sh --config.train.epochs=20
#
# The arguments are those of mgc_jax.main and apply to all runs. Start it again at any time: finished runs (those with a
# results.json) are skipped, interrupted ones resume. A run that fails leaves its output in <workdir>.log and does not
# stop the others; the last lines list them.
set -uo pipefail

python=${PYTHON:-python}
runs=${RUNS:-runs/sweep}
read -ra configs <<<"${CONFIGS:?CONFIGS is not set: the configuration files, as CONFIGS=\"configs/prcnn.py\"}"
read -ra seeds <<<"${SEEDS:-0}"
mkdir -p "$runs"

jobs=()
for config in "${configs[@]}"; do
    for seed in "${seeds[@]}"; do
        jobs+=("$config $seed")
    done
done

name_of() { # configs/vggish.py:matt 0 -> vggish-matt-seed0
    local name=${1##*/}
    name=${name/.py/}
    echo "${name//[^A-Za-z0-9._-]/-}-seed$2"
}

run_one() { # config seed arguments...
    local config=$1 seed=$2 name workdir
    shift 2
    name=$(name_of "$config" "$seed")
    workdir=$runs/$name
    if [ -e "$workdir/results.json" ]; then
        echo "$name: finished before"
        return 0
    fi
    echo "$name: starts (GPU ${CUDA_VISIBLE_DEVICES:-none})"
    "$python" -m mgc_jax.main --config "$config" --config.seed="$seed" --workdir "$workdir" "$@" >"$workdir.log" 2>&1
    local status=$?
    case $status in
        0) echo "$name: done" ;;
        75) echo "$name: stopped by SIGTERM, to be resumed" ;;
        *) echo "$name: FAILED, see $workdir.log: $(grep -a '^error: ' "$workdir.log" | tail -n 1)" ;;
    esac
    return $status
}

if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
    if [ "$SLURM_ARRAY_TASK_ID" -ge "${#jobs[@]}" ]; then
        echo "error: task $SLURM_ARRAY_TASK_ID of ${#jobs[@]} runs; give --array=0-$((${#jobs[@]} - 1))" >&2
        exit 1
    fi
    read -r config seed <<<"${jobs[$SLURM_ARRAY_TASK_ID]}"
    trap : TERM # SLURM sends it to all processes of a job: wait until the run is saved
    run_one "$config" "$seed" "$@"
    exit
fi

if [ -n "${GPUS:-}" ]; then
    read -ra gpus <<<"$GPUS"
elif [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then
    IFS=, read -ra gpus <<<"$CUDA_VISIBLE_DEVICES"
elif listed=$(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null) && [ -n "$listed" ]; then
    mapfile -t gpus <<<"$listed"
else
    gpus=("")
fi

# The queue: a worker takes the next number by making its folder, which only one can.
queue=$(mktemp -d)
trap 'rm -rf "$queue"' EXIT
trap 'trap - INT TERM; kill 0' INT TERM # the runs, too

work() { # gpu arguments...
    export CUDA_VISIBLE_DEVICES=$1
    shift
    local number config seed
    for number in "${!jobs[@]}"; do
        mkdir "$queue/$number" 2>/dev/null || continue
        read -r config seed <<<"${jobs[$number]}"
        run_one "$config" "$seed" "$@" || name_of "$config" "$seed" >>"$queue/failed"
    done
}

for gpu in "${gpus[@]}"; do
    work "$gpu" "$@" &
done
wait
if [ -e "$queue/failed" ]; then
    echo "failed: $(sort "$queue/failed" | tr '\n' ' ')"
    exit 1
fi
echo "all ${#jobs[@]} runs are in $runs; compare them: $python -m mgc_jax.report $runs/*/"
