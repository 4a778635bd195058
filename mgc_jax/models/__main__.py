"""Lists the systems of both papers with their parameter counts: `python -m mgc_jax.models`."""

from mgc_jax.systems import table

if __name__ == "__main__":
    print(table())
