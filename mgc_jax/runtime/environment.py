"""What a result was made with: the command, the versions of what matters, and the machine."""

import importlib.metadata
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mgc_jax.runtime.xla_flags import cpu_threads, present_flags
from tfds_fma.parallel import usable_cores

_PACKAGES = ("mgc-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "scikit-learn", "numpy", "librosa")


def command() -> str:
    """Returns the command line of this process, as one would type it."""
    spec, file = getattr(sys.modules["__main__"], "__spec__", None), Path(sys.argv[0]).name
    program = f"python {file}" if file.endswith(".py") else file  # the latter: an installed command
    if spec:
        program = f"python -m {spec.name.removesuffix('.__main__')}"
    return " ".join([program, *map(shlex.quote, sys.argv[1:])])


def describe_environment() -> dict[str, str]:
    """Returns versions, processors and, where JAX is in use, its devices and the flags of XLA."""
    environment = {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    environment["processors"] = f"{usable_cores()} of {_processor()}"
    if "jax" in sys.modules:
        environment["devices"] = describe_devices(sys.modules["jax"].devices())
        if flags := present_flags():
            environment["XLA_FLAGS"] = flags
    for package in _PACKAGES:
        try:
            environment[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # mgc-jax run from its folder, without being installed
            continue
    if commit := _git_commit():
        environment["commit"] = commit
    return environment


def describe_devices(devices: Sequence[Any]) -> str:
    """Returns number and kind of JAX's devices, and of CPUs the threads of a process: "2 x cpu, 2 threads"."""
    first = devices[0]
    threads = ""
    if first.platform == "cpu":
        number = cpu_threads(sys.modules["jax"].local_device_count())
        threads = f", {number} thread{'s' if number > 1 else ''}"
    return f"{len(devices)} x {first.device_kind}{threads}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _git_commit() -> str:
    """The commit of the code, with "+" if files differ from it; empty if it is not in a git repository."""
    folder = Path(__file__).parents[2]
    if not (folder / ".git").exists():  # installed, maybe into the repository of something else
        return ""
    try:
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12"], cwd=folder, capture_output=True, text=True
        )
    except OSError:  # there is no git
        return ""
    return commit.stdout.strip()
