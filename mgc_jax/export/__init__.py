"""Exported models: a model in files that need neither Orbax nor the corpus, for this package and for others."""

from typing import Any

__all__ = ["export_workdir"]


def __getattr__(name: str) -> Any:
    """Imports `export_workdir` on first use (PEP 562): without it, importing the package loads no JAX."""
    if name not in __all__:
        raise AttributeError(f"module 'mgc_jax.export' has no attribute {name!r}; it has {', '.join(__all__)}")
    from mgc_jax.export.folder import export_workdir

    return export_workdir
