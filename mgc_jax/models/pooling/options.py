"""Checks of the poolings' options."""

from collections.abc import Sequence

from mgc_jax.errors import UserError


def check_choice(pooling: str, option: str, value: object, choices: Sequence[str]) -> None:
    """Raises `UserError` if an option has none of its values."""
    if value not in choices:
        raise UserError(f"{pooling}: {option}={value!r}: choose one of {', '.join(choices)}")


def check_size(pooling: str, option: str, value: object, least: int = 1) -> None:
    """Raises `UserError` if an option is no whole number or too small."""
    if not isinstance(value, int) or value < least:
        raise UserError(f"{pooling}: {option}={value!r} must be a whole number of at least {least}")
