"""Compiled programs kept between runs, so that the next one starts at once: XLA needs seconds to minutes for them.

They are found by what XLA compiles, its version, its options, and the kind of device or the instructions of the CPU.
JAX's own settings win: `JAX_COMPILATION_CACHE_DIR` names another folder (or none, if it is empty), and
`JAX_ENABLE_COMPILATION_CACHE=false` switches it off.
"""

import logging
import os
from pathlib import Path

log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Returns the folder, in the user's folder for such things."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mgc_jax" / "xla"


def keep_compiled_programs() -> None:
    """Has JAX keep what it compiles from here on, unless the user chose otherwise."""
    import jax

    settings = jax.config.values
    if "JAX_COMPILATION_CACHE_DIR" in os.environ or settings["jax_compilation_cache_dir"]:
        return
    if not settings["jax_enable_compilation_cache"]:
        return
    try:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # what lies there is run: it is the user's alone
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"{folder} cannot be written")
    except (OSError, RuntimeError) as error:  # RuntimeError: nobody knows the user's home
        log.info("compiled programs are not kept for the next run: %s", error)
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
