"""Huge pages for the arrays of XLA's CPU backend.

XLA allocates and frees its temporary arrays in every step, and the kernel clears them page by page: measured on
two cores, a CRNN-TF train step spent 40 % of its CPU time there. With 2 MiB pages that cost nearly vanishes.
glibc reads its settings once, before Python starts, so the process has to start again.
"""

import os
import sys
from pathlib import Path

HUGE_PAGES = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184"

# Device files of NVIDIA, of AMD, of GPUs under WSL, of TPUs.
_ACCELERATORS = ("nvidia[0-9]*", "kfd", "dxg", "accel*", "vfio/[0-9]*")


def restart_with_huge_pages() -> None:
    """Starts this program again with huge pages if it will compute on a CPU under Linux.

    Call it before anything else is done. A user who sets `GLIBC_TUNABLES`, even to nothing, keeps that. An interactive
    session is left alone, and so is a script that comes on standard input: it is read already.
    """
    if not sys.platform.startswith("linux") or "GLIBC_TUNABLES" in os.environ or not computes_on_cpu():
        return
    if hasattr(sys, "ps1") or "ipykernel" in sys.modules or sys.argv[0] in ("", "-"):
        return
    os.environ["GLIBC_TUNABLES"] = HUGE_PAGES  # other C libraries ignore it
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def computes_on_cpu(devices: Path = Path("/dev")) -> bool:
    """Whether JAX will use its CPU backend, found without importing JAX.

    That is what `JAX_PLATFORMS` says. If it is not set: whether there is no device file of a GPU or TPU.

    Args:
        devices: the folder of device files.
    """
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms:
        return platforms.split(",")[0].strip().lower() == "cpu"
    return not any(any(devices.glob(pattern)) for pattern in _ACCELERATORS)
