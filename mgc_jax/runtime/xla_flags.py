"""XLA's flags: it reads the environment variable XLA_FLAGS once, when JAX's backend starts.

What the user has put there always stays. An unknown flag ends the process at that moment, so tests try every flag
with the version of JAX that they run on.
"""

import functools
import importlib.metadata
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

from mgc_jax.errors import UserError
from mgc_jax.runtime.huge_pages import computes_on_cpu
from tfds_fma.parallel import usable_cores

# Excludes operations whose sums depend on the order in which threads arrive, and chooses kernels without timing them,
# which may come out differently every time.
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"


log = logging.getLogger(__name__)

# What XLA's CPU backend hands to the library YNNPACK. By default that includes convolutions, whose gradients are
# several times slower there than XLA's own. Before jaxlib 0.12 reductions are left out, too: fused with a product of
# matrices, they gave wrong sums from row 32,768 on (jaxlib 0.10.2, jax issue 39103).
_YNNPACK = "--xla_cpu_experimental_ynn_fusion_type"
_DEVICES = "--xla_force_host_platform_device_count"
_NPROC = ("PJRT_NPROC", "NPROC")  # environment variables for the threads of XLA's CPU backend, the first one first
_MOST_CPU_DEVICES = 8  # by default; more were not measured


def with_flags(given: str, wanted: Sequence[str]) -> str:
    """Returns flags with others appended, but for those whose name is given already.

    Args:
        given: flags, separated by blanks or line ends.
        wanted: one flag each, such as "--xla_gpu_deterministic_ops=true".
    """
    names = set(re.findall(r"(?:^|\s)--?([^\s=]+)", given))
    added = [flag for flag in wanted if flag.lstrip("-").partition("=")[0] not in names]
    return " ".join([*given.strip().splitlines(), *added])


def deterministic_gpu_flags(given: str) -> str:
    """Returns flags with what a GPU needs to give the same bits every time.

    Args:
        given: the flags so far.

    Raises:
        UserError: they demand the contrary.
    """
    name = DETERMINISTIC.partition("=")[0]
    if re.search(rf"(?:^|\s){name}=(?:false|0)(?:\s|$)", given, re.IGNORECASE):
        raise UserError(f"--deterministic contradicts {name}=false in XLA_FLAGS; leave out one of them")
    return with_flags(given, [DETERMINISTIC])


def present_flags() -> str:
    """Returns the flags of the environment; where XLA_FLAGS names a file, which XLA allows, those in it."""
    text = os.environ.get("XLA_FLAGS", "").strip()
    if not text or text.startswith("-"):
        return text
    try:
        return Path(text).read_text().strip()
    except OSError:  # XLA takes that for no flags
        return ""


def use_deterministic_gpus() -> None:
    """Lets GPUs give the same bits every time, if one will compute. Call it before JAX is used."""
    if not computes_on_cpu():  # whose results do not depend on the order of threads
        os.environ["XLA_FLAGS"] = deterministic_gpu_flags(present_flags())


def cpu_flags(devices: int, jaxlib: str | None = None) -> list[str]:
    """Returns the flags for CPUs.

    Args:
        devices: CPU devices that JAX is to have.
        jaxlib: its version; None: the installed one.
    """
    version = jaxlib or importlib.metadata.version("jaxlib")
    major, minor = (int(part) for part in version.split(".")[:2])
    kinds = ["DOT", "INDIVIDUAL_DOT", *(["REDUCE"] if (major, minor) >= (0, 12) else [])]
    fusions = f"{_YNNPACK}={','.join(f'LIBRARY_FUSION_TYPE_{kind}' for kind in kinds)}"
    return [*([fusions] if (major, minor) >= (0, 10) else []), f"{_DEVICES}={devices}"]


def default_cpu_devices() -> int:
    """Returns the CPU devices of a process alone on its host: one per core that it may use, at most 8."""
    return min(usable_cores(), _MOST_CPU_DEVICES)


def cpu_threads(devices: int) -> int:
    """Returns the threads of XLA's CPU backend, by whose number its sums are split and so rounded.

    As XLA does when it starts: the environment variable PJRT_NPROC or NPROC, else the cores that the process may use;
    not fewer than the devices.

    Args:
        devices: CPU devices of this process, used or not.
    """
    values = (os.environ.get(name, "") for name in _NPROC)
    given = next((int(value) for value in values if value.isdecimal()), usable_cores())
    return max(given, devices)


def use_recorded_threads(recorded: str) -> int:
    """Gives XLA the threads that a run was trained with, so that it goes on with the same bits on any number of cores.

    What the environment says already stays. Call it before JAX is used.

    Args:
        recorded: devices of the run, as `runtime.environment.describe_devices` says it.

    Returns:
        The CPU devices of the run; 0 where they are not to be taken over: the run had no CPUs, or more devices than
        threads, which several processes had, or the environment says otherwise.
    """
    found = re.fullmatch(r"(\d+) x cpu, (\d+) threads?", recorded)
    if found is None or not computes_on_cpu() or _DEVICES in present_flags():
        return 0
    devices, threads = map(int, found.groups())
    if devices > threads or any(name in os.environ for name in _NPROC):
        return 0
    if (devices, threads) != (default_cpu_devices(), cpu_threads(default_cpu_devices())):
        log.info("%d CPU devices and %d threads, as this run had so far; --cpu_devices takes others", devices, threads)
    os.environ[_NPROC[-1]] = str(threads)
    return devices


def use_cpu_flags(devices: int = 0) -> None:
    """Sets the flags for CPUs, if one will compute. Call it before JAX is used.

    Args:
        devices: CPU devices; 0: `default_cpu_devices`.
    """
    if computes_on_cpu():
        os.environ["XLA_FLAGS"] = with_flags(present_flags(), cpu_flags(devices or default_cpu_devices()))


@functools.cache
def warn_without_cpu_flags() -> None:
    """Warns, once, where a CPU computes without the flags that the commands set, or JAX started before them."""
    import jax

    flags = present_flags()
    devices = re.findall(rf"{_DEVICES}=(\d+)", flags)
    late = bool(devices) and jax.local_device_count() != int(devices[-1])
    if computes_on_cpu() and (late or _YNNPACK not in flags):
        log.warning(
            "JAX runs without the XLA flags that mgc_jax sets for CPUs: it is slower, and jaxlib before 0.12 may give "
            "wrong sums. Call mgc_jax.runtime.process_setup.prepare_process() before JAX is used, or set "
            "XLA_FLAGS='%s'.",
            " ".join(cpu_flags(default_cpu_devices())),
        )
