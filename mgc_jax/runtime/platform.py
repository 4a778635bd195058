"""The platform of a computation, as far as layers have kernels made for it."""

import jax


def on_one_cpu_device() -> bool:
    """Whether the only device is a CPU, which the convolutions' and the front end's CPU kernels are made for."""
    return jax.default_backend() == "cpu" and jax.device_count() == 1
