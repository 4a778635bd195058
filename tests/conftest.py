"""Shared set-up: eight fake devices, shape checks, a compilation cache, and where the real data is."""

import os
import tempfile
from pathlib import Path

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Many tests compile the same small programs; so do the processes that they start.
_CACHE = tempfile.TemporaryDirectory(prefix="mgc_jax_tests_")
os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

from jaxtyping import install_import_hook

# Every shape annotation of the models is checked at run time.
install_import_hook("mgc_jax.models", "beartype.beartype")

import pytest
from helpers import make_corpus

from mgc_jax.data.corpus import Corpus


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real FMA data, or a skip."""
    default = Path(__file__).parents[2] / "shared" / "real_data"
    path = Path(os.environ.get("MGC_REAL_DATA", default))
    if not path.is_dir():
        pytest.skip(f"no real FMA data in {path}; set MGC_REAL_DATA to its folder")
    return path


@pytest.fixture
def corpus() -> Corpus:
    """A small corpus of spectrograms."""
    return make_corpus()
