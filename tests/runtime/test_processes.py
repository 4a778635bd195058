"""Several processes: how they find each other, and, over the loopback network, what becomes of a run."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import make_corpus, save_arrays

from mgc_jax.errors import UserError
from mgc_jax.runtime import processes
from mgc_jax.runtime.launch import launch_settings

ROOT = Path(__file__).parents[2]
CONFIG = """
from mgc_jax.config import default
def get_config():
    config = default()
    config.data.bag_key = "pair"
    config.data.arrays.axes = "clip feature"
    config.model.encoder.update(name="mlp", hidden=(8,))
    config.batch.clips = 48
    config.optimizer.update(name="sgd", learning_rate=0.05, plateau_factor=0.5, plateau_patience=1)
    config.train.epochs, config.train.log_every_steps = 4, 1
    config.train.checkpoint_every_steps = 1
    config.eval.batch_clips = 16
    return config
"""
LAUNCHERS = ("JAX_", "SLURM_", "OMPI_")


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in list(os.environ):
        if name.startswith(LAUNCHERS) and name not in ("JAX_PLATFORMS", "JAX_COMPILATION_CACHE_DIR"):
            monkeypatch.delenv(name)


def test_one_process_needs_nothing(monkeypatch):
    assert launch_settings(None, None, None) is None
    assert launch_settings("here:1", 1, None) is None
    for name, value in {"JOB_ID": 7, "STEP_NODELIST": "a", "NTASKS": 1, "PROCID": 0, "LOCALID": 0}.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    assert launch_settings(None, None, None) is None
    processes.start()
    with processes.joined():
        assert processes.from_first(lambda: {"a": (1, 2)}) == {"a": (1, 2)}
        processes.require_same("anything", {"a": 1})
    assert processes.is_first()


def test_flags_environment_and_launchers_describe_the_others(monkeypatch):
    assert launch_settings("node1:12345", 4, 3) == ("node1:12345", 4, 3)
    for name, value in {"COORDINATOR_ADDRESS": "node1:12345", "NUM_PROCESSES": 4, "PROCESS_ID": 2}.items():
        monkeypatch.setenv(f"JAX_{name}", str(value))
    assert launch_settings(None, None, None) == ("node1:12345", 4, 2)
    assert launch_settings(None, None, 1) == ("node1:12345", 4, 1)  # a flag wins
    for name in ("COORDINATOR_ADDRESS", "NUM_PROCESSES", "PROCESS_ID"):
        monkeypatch.delenv(f"JAX_{name}")
    for name, value in {"JOB_ID": 7, "STEP_NODELIST": "a", "NTASKS": 3, "PROCID": 1, "LOCALID": 0}.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    assert launch_settings(None, None, None) == ("", 3, 1)
    monkeypatch.setenv("OMPI_MCA_orte_hnp_uri", "1531576320.0;tcp://10.96.0.1:34911")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "5")
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "4")
    assert launch_settings(None, None, None) == ("", 5, 4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((None, None, 1), "--process_id without --coordinator and --num_processes"),
        (("node1:1234", None, None), "--coordinator without --num_processes and --process_id"),
        (("node1:1234", 2, 2), "--process_id=2 with --num_processes=2: the ids are 0 to 1"),
        (("node1:1234", 2, -1), "--process_id=-1"),
        (("node1", 2, 1), "--coordinator=node1: write the host of process 0 and a free port"),
        (("node1:port", 2, 1), "--coordinator=node1:port"),
    ],
)
def test_what_does_not_fit_together_is_named(given, message):
    with pytest.raises(UserError, match=message):
        processes.start(*given)


def test_an_environment_variable_that_is_no_number_is_named(monkeypatch):
    monkeypatch.setenv("JAX_NUM_PROCESSES", "two")
    with pytest.raises(UserError, match="JAX_NUM_PROCESSES='two' is not a number"):
        processes.start()


def test_a_coordinator_that_does_not_answer_is_named():
    with pytest.raises(UserError, match=r"no process 0 answers at 127\.0\.0\.1:\d+ .* within 0 s"):
        processes.start(f"127.0.0.1:{free_port()}", 2, 1, timeout=0.1)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture
def folder(tmp_path):
    return with_corpus(tmp_path)


def with_corpus(folder):
    (folder / "small.py").write_text(CONFIG)
    save_arrays(make_corpus(clip_shape=(6,)), folder)
    return folder


def start_processes(folder, workdir, *arguments, number=2, own=((), ()), devices=1):
    """Starts processes that train together; returns them, their output being in files `<workdir>.<i>`."""
    port = free_port()
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {"PYTHONPATH": str(ROOT)}
    environment["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    environment["JAX_PLATFORMS"] = "cpu"
    started = []
    for i in range(number):
        command = [sys.executable, "-m", "mgc_jax.main", "--config", "small.py", "--workdir", workdir]
        command += ["--config.data.corpus=arrays", "--config.data.arrays.clips=clips.npz"]
        command += ["--config.data.arrays.table=tracks.csv", *arguments, *own[i]]
        if number > 1:
            command += [f"--coordinator=127.0.0.1:{port}", f"--num_processes={number}", f"--process_id={i}"]
        with (folder / f"{workdir}.{i}").open("w") as output:
            started.append(
                subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
            )
    return started


def finished(started, timeout=300):
    """Waits for processes; returns their exit statuses."""
    try:
        return [process.wait(timeout) for process in started]
    finally:
        for process in started:
            process.kill()


def output(folder, workdir, i=0):
    return (folder / f"{workdir}.{i}").read_text()


def curve(folder, workdir):
    lines = (folder / workdir / "metrics.jsonl").read_text().splitlines()
    return {
        (line["step"], name): value
        for line in map(json.loads, lines)
        for name, value in line.items()
        if not name.endswith(("per_second", "step"))
    }


def wait_for_checkpoints(folder, workdir, started, number):
    deadline = time.monotonic() + 240
    while sum(path.name.isdigit() for path in (folder / workdir).glob("checkpoints/*")) < number:
        assert all(process.poll() is None for process in started), output(folder, workdir)
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_two_processes_train_as_two_devices_do_also_when_killed(folder):
    assert finished(start_processes(folder, "one", number=1, devices=2)) == [0], output(folder, "one")
    assert finished(start_processes(folder, "two")) == [0, 0], output(folder, "two") + output(folder, "two", 1)
    killed = start_processes(folder, "killed", "--config.train.epochs=400")
    wait_for_checkpoints(folder, "killed", killed, 1)
    for process in killed:
        process.send_signal(signal.SIGKILL)
    finished(killed)
    assert not (folder / "killed" / "results.json").exists()
    reached = max(int(p.name) for p in (folder / "killed" / "checkpoints").iterdir() if p.name.isdigit())
    epochs = max(4, -(-reached // 2) + 1)
    assert finished(start_processes(folder, "killed", f"--config.train.epochs={epochs}")) == [0, 0], output(
        folder, "killed"
    )
    assert "resuming killed at step" in output(folder, "killed")
    one, two, resumed = (curve(folder, name) for name in ("one", "two", "killed"))
    assert one.keys() == two.keys()
    for other in (two, resumed):
        # The sum over two devices is exact in both, but the compiler lays the programs out in its own way.
        for key in one:
            np.testing.assert_allclose(other[key], one[key], rtol=1e-5, atol=1e-6, err_msg=str(key))
    results = [json.loads((folder / name / "results.json").read_text()) for name in ("one", "two")]
    assert results[0]["best_step"] == results[1]["best_step"]
    assert "2 x " in results[1]["environment"]["devices"]
    assert "MLP + MATT" in output(folder, "two")
    assert "MLP + MATT" not in output(folder, "two", 1)
    assert "accuracy" not in output(folder, "two", 1)


@pytest.mark.slow
def test_a_killed_process_ends_the_other_and_the_run_resumes(folder):
    started = start_processes(folder, "run", "--config.train.epochs=4000")
    wait_for_checkpoints(folder, "run", started, 1)
    started[1].send_signal(signal.SIGKILL)
    begin = time.monotonic()
    assert finished(started, 100)[0] == 1
    assert time.monotonic() - begin < processes.LOST_AFTER + 30
    (line,) = [line for line in output(folder, "run").splitlines() if line.startswith("error: ")]
    assert "process 1 has not been heard of for 40 s" in line
    assert "the same command on all hosts resumes" in line
    reached = max(int(p.name) for p in (folder / "run" / "checkpoints").iterdir() if p.name.isdigit())
    again = start_processes(folder, "run", f"--config.train.epochs={reached // 2 + 2}")
    assert finished(again) == [0, 0], output(folder, "run")
    assert "resuming run at step" in output(folder, "run")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("own", "message"),
    [
        (((), ("--config.optimizer.learning_rate=0.1",)),
         "do not have the same configuration: optimizer.learning_rate is 0.05 in process 0 and 0.1 in process 1"),
        (((), ("--config.data.arrays.clips=other.npz",)), "do not have the same corpus: fingerprint is"),
        (((), ("--config.data.arrays.clips=gone.npz",)), "gone.npz"),
    ],
    ids=["config", "corpus", "error in one"],
)  # fmt: skip
def test_an_error_in_one_process_ends_both_with_its_message(folder, own, message):
    with np.load(folder / "clips.npz") as arrays:
        np.savez(folder / "other.npz", clips=arrays["clips"] * 2, track_id=arrays["track_id"])
    assert finished(start_processes(folder, "run", own=own), 120) == [1, 1]
    for i in range(2):
        assert message in output(folder, "run", i)
        assert "Traceback" not in output(folder, "run", i)


LONG = ("--config.train.epochs=12",)


def launched(folder, workdir, *command, **variables):
    """Starts a launcher as a user does, who adds the flags of `start_processes`."""
    flags = ["--config", "small.py", "--workdir", workdir, "--config.data.corpus=arrays", *LONG]
    flags += ["--config.data.arrays.clips=clips.npz", "--config.data.arrays.table=tracks.csv", "--cpu_devices=1"]
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {"PYTHONPATH": str(ROOT)}
    environment |= {"JAX_PLATFORMS": "cpu", "PYTHON": sys.executable} | variables
    with (folder / f"{workdir}.0").open("a") as log:
        return subprocess.Popen([*command, *flags], cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    folder = with_corpus(tmp_path_factory.mktemp("one"))
    assert finished(start_processes(folder, "one", *LONG, number=1, devices=2)) == [0], output(folder, "one")
    return curve(folder, "one")


def assert_same(one, other):
    assert one.keys() == other.keys()
    for key in one:
        np.testing.assert_allclose(other[key], one[key], rtol=1e-5, atol=1e-6, err_msg=str(key))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("mpirun") is None, reason="Open MPI is not installed")
def test_open_mpi_starts_two_processes_which_save_at_sigterm_and_resume(folder, one_process):
    as_root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    script = ROOT / "launch" / "openmpi.sh"
    first = launched(folder, "mpi", script, **as_root)
    wait_for_checkpoints(folder, "mpi", [first], 1)
    first.send_signal(signal.SIGTERM)
    assert finished([first]) == [75], output(folder, "mpi")
    assert "SIGUSR1: stopped after step" in output(folder, "mpi")
    assert finished([launched(folder, "mpi", script, **as_root)]) == [0], output(folder, "mpi")
    assert "resuming mpi at step" in output(folder, "mpi")
    assert_same(one_process, curve(folder, "mpi"))


def slurm(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def submitted(folder, workdir):
    """Submits two processes on one node, and waits for a checkpoint; returns the number of the job."""
    if shutil.which("sbatch") is None or not subprocess.run(["sinfo", "-h"], capture_output=True).stdout:
        pytest.skip("no SLURM here")
    small = ["--nodes=1", "--ntasks-per-node=2", "--cpus-per-task=1", "--gpus-per-node=0", "--time=10"]
    command = ["sbatch", "--parsable", f"--output={workdir}.log", *small, ROOT / "launch" / "slurm.sbatch"]
    assert finished([launched(folder, workdir, *command)]) == [0], output(folder, workdir)
    wait_for_checkpoints(folder, workdir, [], 1)
    return output(folder, workdir).split()[0]


def wait_for_state(job, *states):
    deadline = time.monotonic() + 240
    while (state := slurm("squeue", "-h", "--states=all", f"--jobs={job}", "--format=%T")) not in states:
        assert state != "FAILED"
        assert time.monotonic() < deadline, state
        time.sleep(0.5)


@pytest.mark.slow
def test_slurm_starts_two_processes_which_save_at_sigterm_and_resume_from_the_queue(folder, one_process):
    job = submitted(folder, "run")
    slurm("scancel", "--signal=TERM", job)  # what --signal=TERM@120 does before the time limit
    wait_for_state(job, "PENDING")
    slurm("scontrol", "update", f"jobid={job}", "StartTime=now+10")  # at once, its credential is still revoked
    wait_for_state(job, "COMPLETED")
    log = (folder / "run.log").read_text()
    assert "back to the queue" in log
    assert "resuming run at step" in log
    assert_same(one_process, curve(folder, "run"))


@pytest.mark.slow
def test_a_job_of_slurm_that_is_cancelled_saves_and_stays_away(folder):
    job = submitted(folder, "run")
    slurm("scancel", job)
    wait_for_state(job, "CANCELLED")
    log = (folder / "run.log").read_text()
    assert "which is saved" in log
    assert "back to the queue" not in log
