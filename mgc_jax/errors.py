"""Errors that the user can mend: `mgc_jax.UserError` is `tfds_fma.UserError`."""

from tfds_fma.errors import UserError as UserError
