"""What a result was made with: the command, the versions of what matters, and the machine."""

import functools
import hashlib
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
    environment |= {package: version for package in _PACKAGES if (version := _version(package))}
    if commit := _git_commit():
        environment["commit"] = commit
    environment["code"] = code_version()
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


@functools.cache
def code_version() -> str:
    """Returns version, git commit and a hash of the sources of `mgc_jax`, which shows local changes.

    Such as "0.1.0, commit 00a8fa0c1d2e, sources 5f2c9a7b3d1e"; without a repository there is no commit.
    """
    folder = Path(__file__).parents[1]
    sources = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        sources.update(file.relative_to(folder).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    commit = _git_commit()
    parts = [_version("mgc-jax"), f"commit {commit}" if commit else "", f"sources {sources.hexdigest()[:12]}"]
    return ", ".join(filter(None, parts))


def _version(package: str) -> str:
    """Returns the version of a package; empty where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


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
