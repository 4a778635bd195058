"""Tests of models compile hundreds of small programs and run each once: they do without XLA's optimizations.

Not so the tests of layers, whose point is what the optimized forms compute, and those of published sizes.
"""

import jax
import pytest

_QUICK = ("test_encoders", "test_gru_kernel", "test_matt", "test_pooling", "test_prcnn", "test_recurrent")


@pytest.fixture(autouse=True)
def compile_quickly(request):
    if request.module.__name__ not in _QUICK:
        yield
        return
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
