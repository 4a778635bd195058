"""Both papers' tables and figures, ours beside theirs: `python -m mgc_jax.tables matt`."""
