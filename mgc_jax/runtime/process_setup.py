"""What a command changes in its process, in one function. Nothing else in this package changes it.

Imports, constructors and functions such as `mgc_jax.train` leave the process as it is: no log handlers, no settings
of JAX.
"""

from mgc_jax.runtime.compilation_cache import keep_compiled_programs
from mgc_jax.runtime.huge_pages import restart_with_huge_pages
from mgc_jax.runtime.terminal import LOGGERS, log_to_terminal
from mgc_jax.runtime.xla_flags import use_cpu_flags


def prepare_process(*loggers: str, cpu_devices: int | None = 0) -> None:
    """Sets up the process as the commands do. Call it first in a script: on a CPU the script starts again.

    1. On a CPU under Linux the program starts again with huge pages, unless the session is interactive
       (`mgc_jax.runtime.huge_pages`).
    2. XLA's CPU backend gets its flags, and a device per core (`mgc_jax.runtime.xla_flags`).
    3. The log goes to the terminal, that of other libraries is silent.
    4. JAX keeps compiled programs between runs (`mgc_jax.runtime.compilation_cache`).

    Examples:
        >>> from mgc_jax.runtime.process_setup import prepare_process
        >>> prepare_process()  # doctest: +SKIP

    Args:
        loggers: names of those that are shown; by default all of `mgc_jax` and `tfds_fma`.
        cpu_devices: CPU devices of JAX; 0: one per core, at most 8; None: `XLA_FLAGS` stay as they are.
    """
    restart_with_huge_pages()
    if cpu_devices is not None:
        use_cpu_flags(cpu_devices)
    log_to_terminal(*loggers or LOGGERS)
    keep_compiled_programs()
