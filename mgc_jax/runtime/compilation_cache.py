"""Compiled programs kept between runs, so that the next one starts at once: XLA needs seconds to minutes for them.

They are found by what XLA compiles, its version, its options, and the kind of device or the instructions of the CPU.
JAX's own settings win: `JAX_COMPILATION_CACHE_DIR` names another folder (or none, if it is empty), in which JAX keeps
no program that compiled in less than a second, and `JAX_ENABLE_COMPILATION_CACHE=false` switches it off.
"""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Returns the folder, in the user's folder for caches."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mgc_jax" / "xla"


def keep_compiled_programs() -> None:
    """Makes JAX keep what it compiles from here on, unless the user chose otherwise. Does not import JAX.

    Small programs too: a run compiles a hundred of them, which together take as long as a large one.
    """
    if _chosen_by_user():
        return
    try:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # programs in it are run: only the user may write
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"{folder} cannot be written")
    except (OSError, RuntimeError) as error:  # RuntimeError: the user's home is unknown
        log.info("compiled programs are not kept for the next run: %s", error)
        return
    settings: dict[str, str | float] = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    for name, value in settings.items():
        if name.upper() in os.environ:
            continue
        if "jax" in sys.modules:
            sys.modules["jax"].config.update(name, value)
        else:
            os.environ[name.upper()] = str(value)  # JAX reads it when it is imported


def _chosen_by_user() -> bool:
    """Whether another folder is chosen, or the cache is off."""
    config = getattr(sys.modules.get("jax"), "config", None)
    off = os.environ.get("JAX_ENABLE_COMPILATION_CACHE", "").lower() in ("n", "no", "f", "false", "off", "0")
    folder = "JAX_COMPILATION_CACHE_DIR" in os.environ or bool(getattr(config, "jax_compilation_cache_dir", None))
    return folder or off or not getattr(config, "jax_enable_compilation_cache", True)


@contextlib.contextmanager
def without_cache() -> Iterator[None]:
    """Inside, nothing is read from the cache or written to it, so that the time to compile can be measured."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    before = jax.config.jax_enable_compilation_cache  # type: ignore[attr-defined]
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()
