import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STATE = """
import json, logging, os, signal, sys
def state():
    names = (None, "mgc_jax", "mgc_jax.training", "tfds_fma", "absl")
    loggers = [(len(l.handlers), l.level, l.propagate) for l in map(logging.getLogger, names)]
    jax = sys.modules.get("jax")
    cache = jax.config.values["jax_compilation_cache_dir"] if jax else None
    hooks = (sys.excepthook is sys.__excepthook__, sys.unraisablehook is sys.__unraisablehook__)
    return [loggers, dict(os.environ), str(signal.getsignal(signal.SIGTERM)), hooks, cache]
"""


def run(program, **environment):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_COMPILATION", "JAX_PERSISTENT", "GLIBC"))}
    done = subprocess.run(
        [sys.executable, "-c", STATE + program], env={**kept, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_imports_change_nothing_of_the_process():
    modules = ("main", "tables.build", "report.__main__", "modes", "runtime.process_setup", "export.formats",
               "baselines", "bench.run", "training.loop")  # fmt: skip
    program = "import jax, absl.logging, orbax.checkpoint, tensorflow_datasets, matplotlib.figure, sklearn\n"
    program += "before = state()\n"
    program += "".join(f"import mgc_jax.{module}\n" for module in modules)
    before, after = run(program + "print(json.dumps([before, state()]))")
    assert before == after
    assert after[-1] is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
@pytest.mark.parametrize("first", ["", "import jax\n"])
def test_one_function_sets_up_the_process(tmp_path, first):
    program = "from mgc_jax.runtime.process_setup import prepare_process\nprepare_process()\n"
    program += "early = 'jax' in sys.modules\nimport jax\nvalues = jax.config.values\n"
    program += "print(json.dumps([state(), early, [values['jax_persistent_cache_min_entry_size_bytes'],"
    program += " values['jax_persistent_cache_min_compile_time_secs']]]))"
    found, early, small = run(first + program, XDG_CACHE_HOME=str(tmp_path), JAX_PLATFORMS="cpu")
    loggers, environment, _, _, cache = found
    assert loggers[1:4] == [[1, 20, False], [0, 0, True], [1, 20, False]]
    assert "hugetlb=1" in environment["GLIBC_TUNABLES"]
    assert early == bool(first)
    assert cache == str(tmp_path / "mgc_jax" / "xla")
    assert small == [-1, 0.0]
