"""Huge pages for the arrays of XLA's CPU backend.

XLA allocates and frees its temporary arrays in every step, and the kernel clears them page by page: measured on
two cores, a CRNN-TF train step spent 40 % of its CPU time there. With 2 MiB pages that cost nearly vanishes.
glibc reads its settings once, before Python starts, so the process has to begin again.
"""

import os
import sys

HUGE_PAGES = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184"


def restart_with_huge_pages() -> None:
    """Begins this program again with huge pages, where the system has them and nobody chose otherwise.

    Call it before anything else is done. A user who sets `GLIBC_TUNABLES`, even to nothing, keeps that.
    """
    if not sys.platform.startswith("linux") or "GLIBC_TUNABLES" in os.environ:
        return
    os.environ["GLIBC_TUNABLES"] = HUGE_PAGES  # other C libraries ignore it
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
