import json
import logging
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mgc_jax.errors import UserError
from mgc_jax.runtime import xla_flags
from mgc_jax.runtime.environment import describe_environment
from mgc_jax.runtime.workdir import recorded_devices
from mgc_jax.runtime.xla_flags import (
    DETERMINISTIC,
    cpu_flags,
    cpu_threads,
    default_cpu_devices,
    deterministic_gpu_flags,
    present_flags,
    use_recorded_threads,
    with_flags,
)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", "--a=1 --b=2"),
        ("--c=3", "--c=3 --a=1 --b=2"),
        ("--a=7", "--a=7 --b=2"),  # the user's
        ("--a_longer=7 --b", "--a_longer=7 --b --a=1"),
        ("--c=3\n--a=7\n", "--c=3 --a=7 --b=2"),
        ("--c=--a", "--c=--a --a=1 --b=2"),  # a value, not a name
    ],
)
def test_flags_are_added_unless_they_are_given(given, expected):
    assert with_flags(given, ["--a=1", "--b=2"]) == expected


def test_a_contradiction_is_named():
    assert deterministic_gpu_flags("--x") == f"--x {DETERMINISTIC}"
    assert deterministic_gpu_flags(f"{DETERMINISTIC} --x") == f"{DETERMINISTIC} --x"
    for value in ("false", "False", "0"):
        with pytest.raises(UserError, match="--deterministic contradicts --xla_gpu_deterministic_ops=false"):
            deterministic_gpu_flags(f"--x --xla_gpu_deterministic_ops={value}")


def test_flags_may_be_in_a_file(tmp_path, monkeypatch):
    (tmp_path / "flags").write_text("--x=1\n--y=2\n")
    monkeypatch.setenv("XLA_FLAGS", str(tmp_path / "flags"))
    assert with_flags(present_flags(), ["--z=3"]) == "--x=1 --y=2 --z=3"
    monkeypatch.setenv("XLA_FLAGS", str(tmp_path / "nothing"))
    assert present_flags() == ""
    monkeypatch.delenv("XLA_FLAGS")
    assert present_flags() == ""


def test_only_where_a_gpu_computes(monkeypatch):
    given = os.environ["XLA_FLAGS"].strip()  # by conftest.py
    monkeypatch.setenv("XLA_FLAGS", given)
    xla_flags.use_deterministic_gpus()
    assert os.environ["XLA_FLAGS"] == given  # the tests compute on a CPU
    monkeypatch.setattr(xla_flags, "computes_on_cpu", lambda: False)
    xla_flags.use_deterministic_gpus()
    assert os.environ["XLA_FLAGS"] == f"{given} {DETERMINISTIC}"
    assert describe_environment()["XLA_FLAGS"] == f"{given} {DETERMINISTIC}"


@pytest.mark.parametrize(("flags", "status"), [(DETERMINISTIC, 0), ("--xla_no_such_flag=1", 1)])
def test_xla_reads_flags_that_are_set_after_the_import_and_knows_ours(flags, status):
    program = f"import jax, os; os.environ['XLA_FLAGS'] = {flags!r}; jax.numpy.ones(2).block_until_ready()"
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-c", program], env={**environment, "JAX_PLATFORMS": "cpu"}, capture_output=True, text=True
    )
    assert done.returncode == status, (
        f"this version of XLA does not know {flags}, or reads flags earlier: {done.stderr}"
    )


def test_cpu_flags_are_for_the_version_of_jaxlib():
    def kinds(jaxlib):
        flags = [flag for flag in cpu_flags(3, jaxlib) if "ynn" in flag]
        return [kind.removeprefix("LIBRARY_FUSION_TYPE_") for flag in flags for kind in flag.split("=")[1].split(",")]

    assert kinds("0.12.0.1") == ["DOT", "INDIVIDUAL_DOT", "REDUCE"]
    assert kinds("0.10.2") == ["DOT", "INDIVIDUAL_DOT"]  # with REDUCE the sums below are wrong
    assert kinds("0.9.0") == []  # which ends at a flag that it does not know
    assert cpu_flags(3, "0.12.0.1")[-1] == "--xla_force_host_platform_device_count=3"


def test_the_threads_are_those_that_xla_makes(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 7}, raising=False)
    for name in ("NPROC", "PJRT_NPROC"):
        monkeypatch.delenv(name, raising=False)
    assert [cpu_threads(1), cpu_threads(8)] == [3, 8]
    monkeypatch.setenv("NPROC", "2")
    assert [cpu_threads(1), cpu_threads(8)] == [2, 8]
    monkeypatch.setenv("PJRT_NPROC", "5")
    assert [cpu_threads(1), cpu_threads(8)] == [5, 8]


def test_a_run_goes_on_with_the_threads_that_it_had(tmp_path, monkeypatch, caplog):
    for name in ("NPROC", "PJRT_NPROC", "XLA_FLAGS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    for step, devices in ((9, "1 x cpu, 1 thread"), (20, "2 x cpu, 3 threads")):
        (tmp_path / "checkpoints" / str(step) / "meta").mkdir(parents=True)
        (tmp_path / "checkpoints" / str(step) / "meta" / "metadata").write_text(json.dumps({"devices": devices}))
    assert recorded_devices(tmp_path / "none") == ""
    recorded = recorded_devices(tmp_path)
    assert recorded == "2 x cpu, 3 threads"
    with caplog.at_level(logging.INFO, "mgc_jax"):
        assert use_recorded_threads(recorded) == 2
    assert cpu_threads(2) == 3
    assert "2 CPU devices and 3 threads, as this run had so far" in caplog.text
    assert use_recorded_threads(recorded) == 0  # the environment says something else
    monkeypatch.delenv("NPROC")
    for other in ("", "1 x NVIDIA H200", "4 x cpu, 2 threads"):  # the last one: of two processes
        assert use_recorded_threads(other) == 0
    monkeypatch.setenv("XLA_FLAGS", cpu_flags(4)[-1])
    assert use_recorded_threads(recorded) == 0
    assert "NPROC" not in os.environ


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux only")
def test_nproc_and_devices_decide_the_bits_not_the_cores():
    program = "\n".join([
        "import hashlib, os, sys",
        "if sys.argv[1] == 'one': os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})",
        "import jax, jax.numpy as jnp, numpy as np",
        "x = jnp.asarray(np.random.default_rng(0).normal(size=(20000, 64)).astype(np.float32))",
        "f = jax.jit(lambda x: x.T @ x)",
        "print(hashlib.sha256(np.asarray(f(x)).tobytes()).hexdigest())",
    ])  # fmt: skip

    def bits(cores, nproc):
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "NPROC": nproc, "XLA_FLAGS": " ".join(cpu_flags(1))}
        command = [sys.executable, "-c", program, cores]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    assert bits("one", "2") == bits("all", "2")
    assert bits("one", "1") == bits("all", "1")
    assert bits("one", "1") != bits("one", "2")


def test_a_device_per_core_unless_the_user_says_otherwise(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert default_cpu_devices() == 8
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5}, raising=False)
    monkeypatch.setenv("XLA_FLAGS", "")
    xla_flags.use_cpu_flags()
    assert os.environ["XLA_FLAGS"].endswith("--xla_force_host_platform_device_count=2")
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=1")
    xla_flags.use_cpu_flags(4)
    assert "device_count=1" in os.environ["XLA_FLAGS"]
    assert "device_count=4" not in os.environ["XLA_FLAGS"]
    monkeypatch.setattr(xla_flags, "computes_on_cpu", lambda: False)
    monkeypatch.setenv("XLA_FLAGS", "--x")
    xla_flags.use_cpu_flags()
    assert os.environ["XLA_FLAGS"] == "--x"


def test_sums_of_products_over_many_rows_are_right():
    """Without the flags jaxlib 0.10.2 is wrong by 0.8 % from row 32,768 on (jax issue 39103)."""
    rng = np.random.default_rng(0)
    matrix, rows = (rng.normal(size=shape).astype(np.float32) for shape in ((3, 3), (40_000, 3)))
    sums = jax.jit(jax.vmap(lambda row: jnp.sum((matrix @ row) ** 2)))(rows)
    expected = np.square(rows.astype(np.float64) @ matrix.T.astype(np.float64)).sum(axis=1)
    np.testing.assert_allclose(sums, expected, rtol=1e-4, atol=1e-5)


def test_a_process_without_the_flags_is_warned(monkeypatch, caplog):
    xla_flags.warn_without_cpu_flags.cache_clear()
    xla_flags.warn_without_cpu_flags()
    assert not caplog.messages
    for flags in ("--x", " ".join(cpu_flags(99))):  # the latter were set after JAX started
        caplog.clear()
        monkeypatch.setenv("XLA_FLAGS", flags)
        xla_flags.warn_without_cpu_flags.cache_clear()
        with caplog.at_level("WARNING", logger="mgc_jax"):
            xla_flags.warn_without_cpu_flags()
        assert "prepare_process() before JAX is used, or set XLA_FLAGS='--xla_cpu_experimental_ynn" in caplog.text
    xla_flags.warn_without_cpu_flags.cache_clear()
