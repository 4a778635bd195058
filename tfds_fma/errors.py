"""The errors that this package raises on purpose, and those of others that it expects."""

import csv
import lzma
import struct
import zipfile
import zlib

# What reading a damaged table, zip file or zip member raises. A flipped bit may change lengths, names, flags or the
# compression method as well as the data, hence the variety; RuntimeError includes NotImplementedError (an unknown
# compression), ValueError includes UnicodeDecodeError.
UNREADABLE: tuple[type[Exception], ...] = (
    OSError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    RuntimeError,
    ValueError,
    OverflowError,
    struct.error,
    csv.Error,
)


class UserError(Exception):
    """Bad input or a bad command: the message names what is wrong and the remedy.

    The commands print the message without a traceback and exit with status 1. In Python:

        >>> import mgc_jax
        >>> try:
        ...     mgc_jax.load_config("gone.py")
        ... except mgc_jax.UserError as error:
        ...     print("error:", error)
        error: ...
    """


FmaError = UserError  # the former name, kept for one release


class ClipError(Exception):
    """A clip that cannot be used.

    Attributes:
      reason: one word for the table of rejects: ``missing``, ``empty``, ``undecodable``, ``short``, or, of features,
        ``low-rate`` or ``unreadable``.
      detail: one line that says more.
    """

    def __init__(self, reason: str, detail: str):
        super().__init__(reason, detail)  # both, so that it survives pickling
        self.reason = reason
        self.detail = detail


def in_words(error: Exception) -> str:
    """Returns the message of an error without the path in it, or its name if it has none (EOFError of a zip file)."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
