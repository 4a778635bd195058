"""Shared set-up: eight fake devices, shape checks, and where the real data is."""

import os
from pathlib import Path

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

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
    return make_corpus()
