"""XLA's flags: it reads the environment variable XLA_FLAGS once, when JAX's backend starts.

What the user has put there always stays. An unknown flag ends the process at that moment, so tests try every flag
with the version of JAX that they run on.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from mgc_jax.errors import UserError
from mgc_jax.runtime.huge_pages import computes_on_cpu

# Excludes operations whose sums depend on the order in which threads arrive, and chooses kernels without timing them,
# which may come out differently every time.
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"


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
