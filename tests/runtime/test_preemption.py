import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from helpers import make_corpus, small_config
from ml_collections import ConfigDict

from mgc_jax.errors import UserError
from mgc_jax.modes import train as train_and_evaluate
from mgc_jax.runtime.preemption import EXIT_STATUS, Preempted, notice
from mgc_jax.runtime.terminal import run_command
from mgc_jax.training import loop
from mgc_jax.training.progress import MetricWindow

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def handler():
    """A handler of somebody else, who must get it back."""

    def theirs(number, frame):
        raise AssertionError

    before = {number: signal.signal(number, theirs) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}
    yield theirs
    for number, handler in before.items():
        assert signal.getsignal(number) is theirs
        signal.signal(number, handler)
    assert signal.set_wakeup_fd(-1) == -1


def ask(number=signal.SIGTERM):
    os.kill(os.getpid(), number)


def test_a_request_stops_the_process_unless_somebody_is_about_to_save():
    with notice() as asked:
        assert not asked.agreed()
        deferred = asked.deferred()
        deferred.__enter__()
        ask()
        assert asked.requested
        assert asked.agreed()
        with pytest.raises(Preempted):  # nobody has answered
            deferred.__exit__(None, None, None)
    with notice() as outer, notice() as inner:
        assert inner is outer
        with pytest.raises(Preempted, match="same command resumes") as stopped:
            ask()
    assert stopped.value.code == EXIT_STATUS == 75
    with notice(), pytest.raises(Preempted, match="stopped by SIGUSR1; the same"):
        ask(signal.SIGUSR1)
    with notice() as asked:
        deferred = asked.deferred()
        deferred.__enter__()
        ask(signal.SIGINT)
        assert asked.requested == "Ctrl-C"
        with pytest.raises(KeyboardInterrupt):
            deferred.__exit__(None, None, None)


def test_outside_of_a_command_a_second_signal_stops_at_once_too_and_the_process_lives():
    def twice():
        with notice() as asked, asked.deferred():
            ask(signal.SIGINT)
            ask(signal.SIGINT)
            raise AssertionError("not reached")

    with pytest.raises(KeyboardInterrupt):
        twice()


_FORKED = """
import multiprocessing, os, signal, time
from mgc_jax.runtime.preemption import notice
fork = multiprocessing.get_context("fork")
with notice(of_command=True):
    children = [fork.Process(target=time.sleep, args=(60,)) for _ in range(2)]
    for child in children:
        child.start()
        time.sleep(0.3)
        child.terminate()
        child.join()
    last = fork.Process(target=time.sleep, args=(60,), daemon=True)
    last.start()
print("left", flush=True)
last.kill()
"""


def test_signals_of_forked_children_are_their_own():
    ended = subprocess.run([sys.executable, "-c", _FORKED], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert (ended.returncode, ended.stdout) == (0, "left\n"), ended.stderr
    assert "stopping" not in ended.stderr


def test_a_signal_that_is_ignored_stays_ignored():
    theirs = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in a shell's background job
    with notice() as asked:
        ask(signal.SIGINT)
        assert not asked.requested
    assert signal.signal(signal.SIGINT, theirs) is signal.SIG_IGN


_BUSY = """
import hashlib
from mgc_jax.runtime.preemption import notice
with notice(of_command=True) as asked, asked.deferred():
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # as XLA while it compiles: no handler of Python can run
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_the_first_signal_is_answered_at_once_and_the_second_ends_the_process(number):
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    restored = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler)}
    with subprocess.Popen([sys.executable, "-c", _BUSY], cwd=ROOT, **streams, **restored) as process:
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        process.send_signal(number)  # the same one, by way of a launcher
        assert process.stderr.readline() == b"\n"
        assert b"stopping as soon as" in process.stderr.readline()
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(number)
        assert process.wait(timeout=20) == 128 + number


def test_other_threads_cannot_listen_and_do_not_mind(handler):
    seen = []

    def elsewhere():
        with notice() as asked:
            seen.append((asked.agreed(), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [(False, handler)]


@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")
def test_a_forked_worker_simply_ends():
    with notice():
        child = os.fork()
        if child == 0:
            try:
                ask()
            finally:
                os._exit(1)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGTERM


@pytest.mark.parametrize(
    ("raised", "status", "text"),
    [
        (None, 0, ""),
        (UserError("no such thing"), 1, "error: no such thing\n"),
        (Preempted("SIGTERM"), 75, "stopped by SIGTERM; the same command resumes at the last checkpoint"),
        (RuntimeError("Unable to initialize backend 'rocm': not known."), 1, "error: JAX finds no device: Unable to"),
        (KeyboardInterrupt(), 130, "\ninterrupted; the same command resumes"),
    ],
)
def test_exit_statuses(capsys, raised, status, text):
    def work():
        if raised is not None:
            raise raised
        return 0

    assert run_command(work) == status
    shown = capsys.readouterr().err
    assert shown.startswith(text)
    assert bool(shown) == bool(text)


def stop_before(monkeypatch, stop, number):
    """Sends a signal while the batch after step `stop` is fetched."""
    make = loop.placed_dispatches

    def placed(batches, clips, mesh, first, steps):
        step = first
        for dispatch in make(batches, clips, mesh, first, steps):
            step += dispatch.steps
            if step == stop:
                ask(number)
            yield dispatch

    monkeypatch.setattr(loop, "placed_dispatches", placed)


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGTERM, Preempted), (signal.SIGINT, KeyboardInterrupt)])
def test_a_stopped_run_saves_its_step_and_resumes_bit_for_bit(tmp_path, monkeypatch, caplog, number, raised):
    changes = {"train.epochs": 3, "train.eval_every_epochs": 2, "train.log_every_steps": 9}
    changes |= {"optimizer.ema": 0.8, "augment.noise": 0.1, "data.arrays.axes": "clip feature"}
    config = small_config(tmp_path, make_corpus(clip_shape=(6,)), **changes)
    config.model.encoder = ConfigDict({"name": "mlp", "hidden": (8,)})
    whole = train_and_evaluate(config, tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_before(patch, 3, number)  # between log lines, and evaluations
        with pytest.raises(raised):
            train_and_evaluate(config, tmp_path / "stopped")
    assert (tmp_path / "stopped" / "checkpoints" / "3").is_dir()
    assert f"stopped after step 3 of {whole['last_step']}, which is saved" in caplog.text
    assert not (tmp_path / "stopped" / "results.json").exists()
    again = train_and_evaluate(config, tmp_path / "stopped")
    assert again["splits"] == whole["splits"]
    with ocp.PyTreeCheckpointer() as reader:
        last = str(whole["last_step"])
        one, two = (reader.restore(tmp_path / name / "checkpoints" / last / "state") for name in ("whole", "stopped"))
    assert {"params", "opt_state", "ema"} <= one.keys()
    jax.tree.map(np.testing.assert_array_equal, one, two)
    lines = [
        [
            {key: value for key, value in json.loads(line).items() if "per_second" not in key}
            for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        ]
        for name in ("whole", "stopped")
    ]
    assert lines[0] == lines[1]  # also the means over steps before and after


def test_what_was_not_logged_survives_as_json():
    values = np.array([[0.1, 7.0], [np.pi, 5.0], [1e-7, 3.0]], np.float32)
    steps = [
        {"loss": jax.numpy.array(loss), "weight": jax.numpy.array(weight), "correct": jax.numpy.array(weight),
         "gradient_norm": jax.numpy.array(loss), "clips": jax.numpy.array(weight)} for loss, weight in values
    ]  # fmt: skip
    whole, first = MetricWindow(), MetricWindow()
    for step in steps:
        whole.add(step)
    first.add(steps[0])
    second = MetricWindow(json.loads(json.dumps(first.sums(1))))
    for step in steps[1:]:
        second.add(step)
    one, two = whole.means(3), second.means(3)
    for name in ("train/loss", "train/accuracy", "train/gradient_norm"):
        assert one[name] == two[name]
    assert one["train/loss"] == pytest.approx(values[:, 0].sum() / 15)


@pytest.mark.slow
def test_faults_that_hit_real_processes():
    script = ROOT / "benchmarks" / "faults.py"
    ended = subprocess.run(
        [sys.executable, str(script), "--only", "sigterm twice,one bit"], capture_output=True, text=True, timeout=600
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "2 of 2 faults survived, 0 failed, 0 left out" in ended.stdout
