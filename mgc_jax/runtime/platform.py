"""Which of the equal forms of a layer is built: those made for a platform, or the plain ones."""

import contextlib
from collections.abc import Iterator

import jax

_plain = False


@contextlib.contextmanager
def plain_forms() -> Iterator[None]:
    """Has layers traced inside built of the library's own operations, whatever the platform.

    That is the form to count operations in: the others compute some things twice to save memory. What was traced
    before stays as it is, so give it functions that were not.
    """
    global _plain
    before, _plain = _plain, True
    try:
        yield
    finally:
        _plain = before


def plain_wanted() -> bool:
    """Whether `plain_forms` is in effect."""
    return _plain


def use_cpu_form() -> bool:
    """Whether to use the forms made for one CPU device."""
    return jax.default_backend() == "cpu" and jax.device_count() == 1 and not plain_wanted()
