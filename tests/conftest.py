"""Shared set-up: fake devices, one process per core, shape checks, a compilation cache, and where the real data is.

The environment `MGC_TEST_DEVICES` (default 8) sets the number of fake CPU devices. With one, no clips are dealt, and
XLA optimizes everything, as in a run with `--cpu_devices=1`.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mgc_jax.runtime.xla_flags import use_cpu_flags

DEVICES = int(os.environ.get("MGC_TEST_DEVICES", 8))
os.environ.setdefault("JAX_PLATFORMS", "cpu")
use_cpu_flags(DEVICES)  # as the commands do, before JAX starts
# Many tests compile the same small programs; so do the processes that they start, and those of pytest-xdist, which
# take the folder from the first process.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _CACHE = tempfile.TemporaryDirectory(prefix="mgc_jax_tests_")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

from jaxtyping import install_import_hook

# Every shape annotation of the models is checked at run time.
install_import_hook("mgc_jax.models", "beartype.beartype")

import jax
import pytest
from helpers import make_corpus

from mgc_jax.data.corpus import Corpus
from tfds_fma.parallel import usable_cores

# These compile hundreds of small programs and run each once: they do without XLA's optimizations.
_QUICK = {"test_encoders", "test_evaluator", "test_gru_kernel", "test_matt", "test_pooling", "test_prcnn"}
_QUICK |= {"test_analysis", "test_recurrent"}
if DEVICES > 1:  # with one the point is what the optimized forms compute
    _QUICK |= {"test_api", "test_devices", "test_export", "test_extending", "test_formats", "test_layers", "test_loop"}
    _QUICK |= {"test_onnx", "test_preemption", "test_protocols"}


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One process per core, at most 8 since each imports JAX; for chosen files or tests, this process alone."""
    if all(".py" in argument for argument in config.args):
        return 0
    return min(usable_cores(), 8)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leaves out what needs more devices than there are."""
    for marker in item.iter_markers("devices"):
        if marker.args[0] > DEVICES:
            pytest.skip(f"needs {marker.args[0]} devices; MGC_TEST_DEVICES={DEVICES}")


@pytest.fixture(autouse=True)
def compile_quickly(request: pytest.FixtureRequest) -> Iterator[None]:
    """Switches XLA's optimizations off for some modules."""
    if request.module.__name__ not in _QUICK:
        yield
        return
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


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
