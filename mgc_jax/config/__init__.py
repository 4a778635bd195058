"""What a run is told: keys, checks, options."""

from mgc_jax.config.keys import default

__all__ = ["default"]
