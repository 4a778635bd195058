import os
import sys

import pytest

from mgc_jax.runtime.huge_pages import computes_on_cpu, restart_with_huge_pages


class RestartedError(Exception):
    pass


@pytest.fixture
def restarts(monkeypatch):
    """Records the program that would replace this one."""
    calls = []

    def execv(program, arguments):
        calls.append((program, arguments))
        raise RestartedError

    monkeypatch.setattr(os, "execv", execv)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "mgc_jax.main", "--mode", "eval"])
    return calls


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_the_program_begins_again_with_the_same_arguments(restarts, monkeypatch):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    with pytest.raises(RestartedError):
        restart_with_huge_pages()
    assert restarts == [(sys.executable, [sys.executable, "-m", "mgc_jax.main", "--mode", "eval"])]
    assert "hugetlb=1" in os.environ["GLIBC_TUNABLES"]
    restart_with_huge_pages()  # once is enough


def test_the_users_own_choice_stands(restarts, monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "")
    restart_with_huge_pages()
    assert restarts == []


def test_a_program_for_gpus_and_an_interactive_session_are_left_alone(restarts, monkeypatch):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda,cpu")
    restart_with_huge_pages()
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "ps1", ">>> ", raising=False)
        restart_with_huge_pages()
    for on_standard_input in ("", "-"):  # it is read already, nothing would run
        monkeypatch.setattr(sys, "argv", [on_standard_input])
        restart_with_huge_pages()
    assert restarts == []
    assert "GLIBC_TUNABLES" not in os.environ


def test_the_platform_is_found_without_jax(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "")
    (tmp_path / "nvidiactl").touch()  # the driver alone
    assert computes_on_cpu(tmp_path)
    (tmp_path / "nvidia0").touch()
    assert not computes_on_cpu(tmp_path)
    monkeypatch.setenv("JAX_PLATFORMS", "CPU")
    assert computes_on_cpu(tmp_path)
