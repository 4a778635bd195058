"""How this process was started together with others: by flags, environment variables, SLURM or Open MPI."""

import os
from typing import Any

from mgc_jax.errors import UserError


def launch_settings(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> tuple[str, int, int] | None:
    """Returns how several processes were started.

    Args:
        coordinator: host:port of the first process; by default that of the environment.
        num_processes: how many there are; likewise.
        process_id: the number of this one, from 0; likewise.

    Returns:
        Address (empty where JAX finds it by the launcher), number and index; None for one process.

    Raises:
        UserError: they do not fit together.
    """
    launched = _launched()
    values: dict[str, Any] = {
        "--coordinator": coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS"),
        "--num_processes": _number("JAX_NUM_PROCESSES") if num_processes is None else num_processes,
        "--process_id": _number("JAX_PROCESS_ID") if process_id is None else process_id,
    }
    missing = [name for name, value in values.items() if value is None]
    if len(missing) == 3:
        if launched is not None and "OMPI_COMM_WORLD_SIZE" in os.environ and "OMPI_MCA_orte_hnp_uri" not in os.environ:
            raise UserError(  # Open MPI 5
                "this Open MPI does not say where the processes meet: give --coordinator=HOST:PORT, the host of "
                "the first one and a free port there"
            )
        return None if launched is None else ("", *launched)
    address, count, index = values.values()
    if launched is not None:  # which host the first process is on may be given alone
        count, index = launched[0] if count is None else count, launched[1] if index is None else index
        missing = [] if address else ["--coordinator"]
    if count == 1 and not index:
        return None
    if missing:
        there = ", ".join(name for name in values if name not in missing)
        raise UserError(
            f"{there} without {' and '.join(missing)}: to train with several processes give each of them "
            "--coordinator=HOST:PORT (of the first), --num_processes=N and --process_id=I, or start them with srun or "
            "mpirun"
        )
    if count < 1 or not 0 <= index < count:
        raise UserError(f"--process_id={index} with --num_processes={count}: the ids are 0 to {max(count, 1) - 1}")
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UserError(f"--coordinator={address}: write the host of process 0 and a free port there, as node1:12345")
    return address, count, index


def _number(name: str) -> int | None:
    value = os.environ.get(name)
    try:
        return None if value is None else int(value)
    except ValueError as error:
        raise UserError(f"the environment variable {name}={value!r} is not a number") from error


def _launched() -> tuple[int, int] | None:
    """Number and index of the processes that SLURM or Open MPI started, as JAX reads them; None for one process."""
    slurm = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
    if "OMPI_COMM_WORLD_SIZE" in os.environ:
        names = "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"
    elif all(name in os.environ for name in slurm):
        names = "SLURM_NTASKS", "SLURM_PROCID"
    else:
        return None
    count, index = (_number(name) for name in names)
    return None if count is None or index is None or count == 1 else (count, index)


def use_all_gpus(*, alone: bool) -> bool:
    """Whether JAX must be set to take all GPUs that this process sees.

    Under SLURM and Open MPI, JAX gives a process only the GPU whose number is the process's number on its host. That
    is right for a process per GPU, but not for one per host, nor where the launcher shows each process its own GPU.

    Args:
        alone: whether no other process of the run is on this host.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", os.environ.get("ROCR_VISIBLE_DEVICES", ""))
    return "JAX_LOCAL_DEVICE_IDS" not in os.environ and (alone or visible.isdigit())
