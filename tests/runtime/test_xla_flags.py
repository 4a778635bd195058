import os
import subprocess
import sys

import pytest

from mgc_jax.errors import UserError
from mgc_jax.runtime import xla_flags
from mgc_jax.runtime.environment import describe_environment
from mgc_jax.runtime.xla_flags import DETERMINISTIC, deterministic_gpu_flags, present_flags, with_flags


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
