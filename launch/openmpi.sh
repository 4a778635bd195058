#!/usr/bin/env bash
# Trains with several processes that Open MPI 4 starts, one per host: each uses all GPUs of its host. The arguments are
# those of mgc_jax.main; --workdir must lie in a folder that all hosts share. Run it on the first host of the list, as
# JAX lets the processes meet where mpirun runs.
#
#   MPIRUN_FLAGS="--host node1,node2" launch/openmpi.sh --config configs/prcnn.py --workdir /shared/runs/prcnn
#   launch/openmpi.sh --config configs/matt_crnn_tf.py --workdir runs/mpi    # two processes here
#
# PROCESSES=N starts N processes in place of two, PYTHON=... another Python. SIGTERM and Ctrl-C save a checkpoint and
# end with status 75; the same command resumes.
set -uo pipefail

python=${PYTHON:-python}
# At SIGTERM mpirun ends the processes within two seconds; SIGUSR1 it hands on to all of them. In a session of its own it
# does not hear the terminal's Ctrl-C. Once a process has ended with an error, the others have 3 s for the same. Without
# --bind-to none each of two processes would have one core.
read -ra flags <<<"${MPIRUN_FLAGS:-}"
setsid mpirun -n "${PROCESSES:-2}" --bind-to none --mca odls_base_sigkill_timeout 3 ${flags[@]+"${flags[@]}"} \
    "$python" -u -m mgc_jax.main "$@" &
job=$!
trap 'kill -USR1 "$job"' TERM INT
wait "$job"
status=$?
while kill -0 "$job" 2>/dev/null; do # a signal ends the wait early
    wait "$job"
    status=$?
done
exit "$status"
