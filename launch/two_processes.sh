#!/usr/bin/env bash
# Trains one model with two processes on this machine's CPU over the loopback network: to try, without a cluster, what
# several hosts do. The arguments are those of mgc_jax.main.
#
#   launch/two_processes.sh --config configs/matt_crnn_tf.py --workdir runs/two
#
# PROCESSES=N starts more, PORT=P uses that port in place of a free one, PYTHON=... another Python. Only process 0 writes
# to the terminal. Ctrl-C, or the end of one of them, ends all; the same command resumes.
set -euo pipefail

python=${PYTHON:-python}
number=${PROCESSES:-2}
port=${PORT:-$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')}

pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true' INT TERM EXIT
for ((i = 0; i < number; i++)); do
    JAX_PLATFORMS=cpu "$python" -m mgc_jax.main "$@" \
        --coordinator "127.0.0.1:$port" --num_processes "$number" --process_id "$i" &
    pids+=("$!")
done
status=0
for pid in "${pids[@]}"; do
    wait "$pid" || status=$?
done
exit "$status"
