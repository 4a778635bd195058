"""JAX/Flax training code for music genre classification on the Free Music Archive (FMA)."""

__version__ = "0.1.0"
