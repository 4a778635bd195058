"""What the commands share: logging to the terminal, and flags whose mistakes are one clear line."""

import contextlib
import logging
import os
import sys
import textwrap
from collections.abc import Callable
from typing import TextIO

from absl import flags
from absl import logging as absl_logging

from mgc_jax.config.flag import take_overrides
from mgc_jax.config.overrides import closest_key
from mgc_jax.errors import UserError
from mgc_jax.runtime.preemption import EXIT_STATUS, Preempted, notice

LOGGERS = ("mgc_jax", "tfds_fma")


def log_to_terminal(*names: str) -> None:
    """Shows the log of these loggers; others of this package keep theirs for the log files of runs."""
    absl_logging.set_verbosity(absl_logging.FATAL)  # Orbax logs every step, and errors that it then raises
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], False
        logger.setLevel(logging.INFO)
    for name in names:
        logging.getLogger(name).handlers = [handler]


def run_command(work: Callable[[], int]) -> int:
    """Does the work of a command, and returns its exit status.

    That is what the work returns; 1 after a mistake of the user or where JAX finds no device; 75 after SIGTERM
    (`preemption.EXIT_STATUS`), 130 after Ctrl-C. In the latter two cases the same command goes on.
    """
    hook = sys.unraisablehook
    sys.unraisablehook = lambda raised: None if _is_leftover(raised.exc_value) else hook(raised)
    try:
        with notice(of_command=True):
            return work()
    except UserError as error:
        say(f"error: {error}\n", sys.stderr)
        return 1
    except Preempted as stopped:
        say(f"{stopped}\n", sys.stderr)
        return EXIT_STATUS
    except RuntimeError as error:
        if not str(error).startswith("Unable to initialize backend"):
            raise
        platforms = os.environ.get("JAX_PLATFORMS", "")
        say(
            f"error: JAX finds no device: {' '.join(str(error).split())} JAX_PLATFORMS is {platforms!r}: unset it, or "
            "install JAX for that device, such as .[cuda13]\n",
            sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        say(
            "\ninterrupted; the same command resumes at the last checkpoint, or begins again without one\n", sys.stderr
        )
        return 130


def _is_leftover(error: BaseException | None) -> bool:
    """Whether it is TensorStore's "Event loop is closed" after a failed save, which was already reported."""
    return isinstance(error, RuntimeError) and str(error) == "Event loop is closed"


def parse_flags(argv: list[str], about: str = "") -> list[str]:
    """Parses the flags, `--config.KEY=VALUE` too; a mistake is one line on the terminal, not a traceback.

    Args:
        argv: the command line.
        about: what `--help` prints before the flags of the program that defines `--workdir`.
    """
    if {"-h", "-help", "--help"}.intersection(argv[1:]):
        say(_help(about), sys.stdout)
        sys.exit(0)
    if {"-helpfull", "--helpfull"}.intersection(argv[1:]):
        say(f"{about}\n{flags.FLAGS.get_help()}\n", sys.stdout)
        sys.exit(0)
    try:
        argv = flags.FLAGS.read_flags_from_files(argv, force_gnu=False)
        return flags.FLAGS(take_overrides(argv) if "config" in flags.FLAGS else argv)
    except flags.UnrecognizedFlagError as error:
        text = str(error)
        key = closest_key(error.flagname) if "Did you mean" not in text else None
        if key is not None and "config" in flags.FLAGS:
            text = f"unknown flag --{error.flagname}. Did you mean --config.{key}?"
    except flags.Error as error:
        text = f"{str(error).rstrip('.')}."
    say(f"error: {text} See --help\n", sys.stderr)
    sys.exit(1)


def _help(about: str) -> str:
    """Formats the flags of a program, one paragraph each."""
    module = flags.FLAGS.find_module_defining_flag("workdir")
    lines = [about.strip(), "", "Flags:"]
    for flag in flags.FLAGS.get_flags_for_module(module):
        lines += [f"  --{flag.name}", textwrap.indent(textwrap.fill(flag.help, 100), " " * 6)]
    return "\n".join([*lines, "", "--helpfull lists the flags of the libraries too.", ""])


def say(text: str, stream: TextIO | None) -> None:
    """Writes to the terminal; a reader that went away, or was never there, does not stop the work."""
    if stream is None:
        return
    try:
        stream.write(text)
        stream.flush()
    except (OSError, ValueError):  # what is left of it would fail again when Python ends
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def is_live(stream: TextIO | None) -> bool:
    """Whether a stream is a terminal, on which a line can be drawn again."""
    return stream is not None and stream.isatty()


def clock(seconds: float) -> str:
    """Formats a duration: 45s, 3m20s, 2h05m."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds}s"
    minutes, seconds = divmod(seconds, 60)
    return f"{minutes}m{seconds:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"
