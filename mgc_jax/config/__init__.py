"""The configuration of a run: keys, options, overrides, checks."""

from mgc_jax.config.keys import default
from mgc_jax.config.loading import load_config

__all__ = ["default", "load_config"]
