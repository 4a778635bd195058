"""Errors that the user can mend."""


class UserError(Exception):
    """Bad input: the message names the thing that is wrong and the remedy.

    The command line prints the message alone and exits with status 1. In Python:

        >>> import mgc_jax
        >>> try:
        ...     mgc_jax.load_config("gone.py")
        ... except mgc_jax.UserError as error:
        ...     print("error:", error)
        error: ...
    """
