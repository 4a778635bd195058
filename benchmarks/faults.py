"""Faults injected into real training processes, and what becomes of them.

    python benchmarks/faults.py                      # all of them, as a table; ends with 1 if one is not survived
    python benchmarks/faults.py --only sigterm,disk  # those whose name has one of these words
    python benchmarks/faults.py --markdown docs/faults.md

Every fault hits a process that trains a small model (both phases of training, moving average of the weights, plateau,
noise, a checkpoint every third step). Where it can go on, the same command is given again, and the last checkpoint and
metrics.jsonl must be those of a run that nothing happened to: every array bit for bit, every number but rates.

Full and read-only disks are real ones (tmpfs), for which the script must run as root; otherwise they are left out.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tfds_fma.parallel import usable_cores

ROOT = Path(__file__).resolve().parents[1]
SEED = 0
DEADLINE = 600  # seconds for one process; they all take a few, on an idle machine
CONFIG = """
from mgc_jax.config import default
def get_config(system="model"):
    config = default()
    config.data.corpus = "arrays"
    config.data.arrays.clips = "{folder}/clips.npy"
    config.data.arrays.ids = "{folder}/ids.npy"
    config.data.arrays.table = "{folder}/tracks.csv"
    config.data.arrays.axes = "clip feature"
    config.data.bag_key = "pair"
    if system == "baseline":
        config.baseline.update(name="mlp", max_iter=10**6, tol=0.0, n_iter_no_change=10**6)
        return config
    config.model.encoder.update(name="mlp", hidden=(16,))
    config.batch.clips = 64
    config.augment.noise = 0.1
    config.optimizer.update(name="adam", learning_rate=0.003, ema=0.8, plateau_factor=0.5, plateau_patience=1)
    config.train.update(epochs=10, classifier_epochs=2, eval_every_epochs=2)
    config.train.update(log_every_steps=2, checkpoint_every_steps=3)
    return config
"""


# In the child: the program itself, with what makes it slow enough to be hit, or hits it from within.


def child(hooks: list[str], arguments: list[str]) -> int:
    """Runs mgc_jax.main; hooks change what is around it, never what it computes."""
    sys.modules["jinja2"] = None  # type: ignore[assignment]  # the report has no part in this, and takes seconds
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    if "clock" in hooks:
        yesterday = time.time
        time.time = lambda: yesterday() - 86400  # type: ignore[assignment]
    from absl import app

    from mgc_jax import main
    from mgc_jax.data import batches
    from mgc_jax.evaluation import evaluator
    from mgc_jax.runtime.terminal import parse_flags

    make, score = batches.TrainBatches.__call__, evaluator.Evaluator.score_split
    done = {"evaluations": 0}

    def slowly(self, step):
        time.sleep(0.05)
        return make(self, step)

    def score_slowly(self, *given):
        done["evaluations"] += 1
        for hook in hooks:
            kind, _, number = hook.partition("=")
            if kind == "evaluation" and done["evaluations"] == int(number):
                Path(os.environ["FAULTS_MARK"]).touch()
                time.sleep(3)
        return score(self, *given)

    batches.TrainBatches.__call__ = slowly  # type: ignore[method-assign]
    evaluator.Evaluator.score_split = score_slowly  # type: ignore[method-assign]
    sys.argv = ["mgc_jax.main", *arguments]
    app.run(main.main, flags_parser=parse_flags)
    raise AssertionError


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a process ended."""

    status: int
    text: str

    def line(self, pattern: str) -> str:
        """Returns the line of the terminal that has the pattern."""
        for line in self.text.splitlines():
            if re.search(pattern, line):
                return line
        raise AssertionError(f"no line has {pattern!r}:\n{self.text}")


class Stage:
    """A folder with a corpus, a configuration, an untouched run and one that was killed half-way."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.whole, self.half = folder / "whole", folder / "half"
        (folder / "small.py").write_text(CONFIG.format(folder=folder))
        write_corpus(folder, seed=0)
        if not (self.whole / "results.json").exists():
            ended = self.run(self.whole)
            assert ended.status == 0, ended.text
        self.steps = last_step(self.whole)
        if not self.half.exists():
            self.run(self.half, during=lambda process: kill_at(process, self.half, self.steps // 2))
        assert len(checkpoints(self.half)) >= 2

    def copy(self, name: str) -> Path:
        """Returns a copy of the run that was killed half-way."""
        return Path(shutil.copytree(self.half, self.folder / name))

    def run(
        self,
        workdir: Path,
        *flags: str,
        hooks: tuple[str, ...] = (),
        during: Callable[[subprocess.Popen], None] | None = None,
        config: str = "small.py",
        environment: dict[str, str | None] | None = None,
        output: int | None = None,
    ) -> Ended:
        """Trains in a workdir; `during` is called with the process while it runs."""
        given = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(self.folder / "jax_cache"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            "FAULTS_MARK": str(mark_of(workdir)),
            **(environment or {}),
        }
        given = {key: value for key, value in given.items() if value is not None}
        command = [sys.executable, str(Path(__file__).resolve()), "--child", ",".join(hooks), "--"]
        command += ["--config", config, "--workdir", str(workdir), *flags]
        with tempfile.TemporaryFile("w+") as log:
            log_or = log if output is None else output
            process = subprocess.Popen(
                command, cwd=self.folder, env=given, stdin=subprocess.DEVNULL, stdout=log_or, stderr=log_or
            )
            try:
                if during is not None:
                    during(process)
                status = process.wait(DEADLINE)
            finally:
                process.kill()
                process.wait()
            log.seek(0)
            return Ended(status, log.read())

    def compare(self, workdir: Path) -> None:
        """Raises `AssertionError` unless a run ended as the untouched one did."""
        import numpy as np

        assert last_step(workdir) == self.steps, f"it ended at step {last_step(workdir)}, not {self.steps}"
        ours, theirs = (arrays_of(folder / "checkpoints" / str(self.steps)) for folder in (workdir, self.whole))
        assert ours.keys() == theirs.keys()
        for name, array in ours.items():
            assert array.dtype == theirs[name].dtype, name
            assert np.array_equal(array.view(np.uint8), theirs[name].view(np.uint8)), f"{name} is not the same"
        assert metrics_of(workdir) == metrics_of(self.whole), "metrics.jsonl is not the same"
        results = [json.loads((folder / "results.json").read_text()) for folder in (workdir, self.whole)]
        for key in ("splits", "best_step", "last_step"):
            assert results[0][key] == results[1][key], f"{key} in results.json is not the same"

    def resume(self, workdir: Path, *flags: str, **given) -> Ended:
        """Gives the command again, which must come to the same end as the untouched run."""
        ended = self.run(workdir, *flags, **given)
        assert ended.status == 0, ended.text
        assert "Traceback" not in ended.text, ended.text
        self.compare(workdir)
        return ended


def write_corpus(folder: Path, seed: int) -> None:
    """200 feature vectors of three genres whose means differ, in bags of one to six."""
    import numpy as np

    rng = np.random.default_rng(seed)
    album = np.sort(rng.integers(0, 60, 200))
    label = album % 3
    clips = rng.normal(size=(200, 6)) + np.eye(6)[label]
    np.save(folder / "clips.npy", clips.astype(np.float32))
    np.save(folder / "ids.npy", np.arange(200))
    lines = ["track_id,genre_top,split,artist_id,album_id"]
    for track in range(200):
        split = ("train", "train", "train", "validation", "test")[album[track] % 5]
        lines.append(f"{track},{('Rock', 'Folk', 'Jazz')[label[track]]},{split},{album[track] // 2},{album[track]}")
    (folder / "tracks.csv").write_text("\n".join(lines) + "\n")


def checkpoints(workdir: Path) -> list[int]:
    return sorted(int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdigit())


def damaged(workdir: Path) -> list[str]:
    return sorted(path.name for path in (workdir / "checkpoints").glob("damaged-*"))


def metrics_of(workdir: Path) -> list[dict[str, float]]:
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if "per_second" not in k} for line in lines]


def last_step(workdir: Path) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError, KeyError):
        text = (workdir / "metrics.jsonl").read_text()
        return int(json.loads(text[: text.rindex("\n")].splitlines()[-1])["step"])
    return 0


def arrays_of(checkpoint: Path) -> dict[str, object]:
    """Reads all arrays of a checkpoint by name, without any code of the program."""
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    with ocp.PyTreeCheckpointer() as reader:
        saved = reader.metadata(checkpoint / "state").item_metadata.tree
        # As NumPy's: the devices that saved it need not be here.
        how = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), saved)
        tree = reader.restore(checkpoint / "state", restore_args=how)
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): np.atleast_1d(np.asarray(leaf)) for path, leaf in leaves}


def mark_of(workdir: Path) -> Path:
    return workdir.with_name(workdir.name + ".mark")


def wait_for(process: subprocess.Popen, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert process.poll() is None, "the process ended before it was hit"
        assert time.monotonic() < deadline, "the process never came to where it is hit"
        time.sleep(0.002)


def signal_at(process: subprocess.Popen, workdir: Path, step: int, number: int) -> None:
    wait_for(process, lambda: last_step(workdir) >= step)
    process.send_signal(number)


def kill_at(process: subprocess.Popen, workdir: Path, step: int) -> None:
    signal_at(process, workdir, step, signal.SIGKILL)


def signal_at_mark(process: subprocess.Popen, workdir: Path, *numbers: int) -> None:
    wait_for(process, mark_of(workdir).exists)
    for number in numbers:
        time.sleep(0.3)
        process.send_signal(number)


def biggest_file(checkpoint: Path) -> Path:
    """Returns the file that has most of the weights."""
    return max((checkpoint / "state").rglob("d/*"), key=lambda path: path.stat().st_size)


@dataclasses.dataclass(frozen=True)
class Row:
    """What became of a fault.

    Attributes:
        seen: what the user sees.
        status: of the process that was hit.
        identical: whether the same command then came to the same end; empty: it cannot go on.
    """

    seen: str
    status: int
    identical: str = "yes"


class Left(Exception):
    """A fault that cannot be tried here."""


Case = Callable[[Stage, str], Row]
CASES: dict[str, Case] = {}


def case(fault: str) -> Callable[[Case], Case]:
    def add(function: Case) -> Case:
        CASES[fault] = function
        return function

    return add


# Processes that are killed or asked to stop.


def killed_again_and_again(stage: Stage, name: str, seed: int) -> Row:
    workdir, draw = stage.folder / name, random.Random(seed)
    steps = sorted(draw.sample(range(1, stage.steps - 3), 5))
    for number, step in enumerate(steps):

        def hit(process, step=step, number=number):
            wait_for(process, lambda: last_step(workdir) >= step)
            if number % 2:  # while a checkpoint is being written
                wait_for(process, lambda: any((workdir / "checkpoints").glob("*tmp*")))
            else:
                time.sleep(draw.uniform(0, 0.15))
            process.kill()

        status = stage.run(workdir, during=hit).status
        assert status == -signal.SIGKILL
    ended = stage.resume(workdir)
    return Row(ended.line("resuming"), status)


@case("kill -9 at 5 random moments of one run, 2 of them during a save")
def kill_first(stage: Stage, name: str) -> Row:
    return killed_again_and_again(stage, name, SEED)


@case("kill -9 at 5 others")
def kill_second(stage: Stage, name: str) -> Row:
    return killed_again_and_again(stage, name, SEED + 1)


@case("SIGTERM in training, between checkpoints and log lines")
def sigterm(stage: Stage, name: str) -> Row:
    workdir = stage.folder / name
    ended = stage.run(workdir, during=lambda p: signal_at(p, workdir, stage.steps // 2, signal.SIGTERM))
    assert "Traceback" not in ended.text
    stopped = int(re.search(r"after step (\d+)", ended.text)[1])
    assert checkpoints(workdir)[-1] == stopped
    stage.resume(workdir)
    return Row(ended.line("SIGTERM"), ended.status)


@case("SIGTERM during validation")
def sigterm_validation(stage: Stage, name: str) -> Row:
    workdir = stage.folder / name
    ended = stage.run(workdir, hooks=("evaluation=2",), during=lambda p: signal_at_mark(p, workdir, signal.SIGTERM))
    stage.resume(workdir)
    return Row(ended.line("SIGTERM"), ended.status)


@case("SIGTERM during the evaluation after training")
def sigterm_evaluation(stage: Stage, name: str) -> Row:
    workdir = Path(shutil.copytree(stage.whole, stage.folder / name))
    (workdir / "results.json").unlink()
    ended = stage.run(workdir, hooks=("evaluation=1",), during=lambda p: signal_at_mark(p, workdir, signal.SIGTERM))
    assert not (workdir / "results.json").exists()
    stage.resume(workdir)
    return Row(ended.line("SIGTERM"), ended.status)


@case("SIGTERM while the program starts")
def sigterm_start(stage: Stage, name: str) -> Row:
    workdir = stage.folder / name
    ended = stage.run(workdir, during=lambda p: wait_and(p, (workdir / ".lock").exists, signal.SIGTERM))
    stage.resume(workdir)
    return Row(ended.line("SIGTERM"), ended.status)


def wait_and(process: subprocess.Popen, condition: Callable[[], bool], number: int) -> None:
    wait_for(process, condition)
    process.send_signal(number)


@case("SIGTERM twice")
def sigterm_twice(stage: Stage, name: str) -> Row:
    workdir = stage.folder / name
    twice = (signal.SIGTERM, signal.SIGTERM)
    ended = stage.run(workdir, hooks=("evaluation=2",), during=lambda p: signal_at_mark(p, workdir, *twice))
    stage.resume(workdir)
    return Row("(ends at once)", ended.status)


@case("SIGTERM while a baseline of scikit-learn is fitted")
def sigterm_baseline(stage: Stage, name: str) -> Row:
    workdir = stage.folder / name

    def hit(process):
        log = workdir / "train.log"
        wait_for(process, lambda: log.exists() and "training clips:" in log.read_text())
        process.send_signal(signal.SIGTERM)

    ended = stage.run(workdir, config="small.py:baseline", during=hit)
    return Row(ended.line("SIGTERM"), ended.status, "")


@case("SIGTERM in the second fold of a cross-validation")
def sigterm_folds(stage: Stage, name: str) -> Row:
    workdir, whole = stage.folder / name, stage.folder / f"{name}-whole"
    flags = ("--mode", "cross_validate", "--config.data.folds=2", "--config.train.epochs=4")
    assert stage.run(whole, *flags).status == 0
    ended = stage.run(workdir, *flags, during=lambda p: signal_at(p, workdir / "fold-1", 3, signal.SIGTERM))
    before = (workdir / "fold-0" / "checkpoints").stat().st_mtime_ns
    assert stage.run(workdir, *flags).status == 0
    assert (workdir / "fold-0" / "checkpoints").stat().st_mtime_ns == before  # it was not trained again
    splits = [json.loads((folder / "results.json").read_text())["splits"] for folder in (workdir, whole)]
    assert splits[0] == splits[1]
    assert metrics_of(workdir / "fold-1") == metrics_of(whole / "fold-1")
    return Row(ended.line("SIGTERM"), ended.status)


@case("Ctrl-C (SIGINT)")
def sigint(stage: Stage, name: str) -> Row:
    workdir = stage.folder / name
    ended = stage.run(workdir, during=lambda p: signal_at(p, workdir, stage.steps // 2, signal.SIGINT))
    stage.resume(workdir)
    assert "which is saved" in ended.line("Ctrl-C: stopped")
    return Row(ended.line("Ctrl-C: stopped"), ended.status)


@case("SIGSTOP, and SIGCONT three seconds later")
def sigstop(stage: Stage, name: str) -> Row:
    workdir = stage.copy(name)

    def hit(process):
        signal_at(process, workdir, stage.steps // 2 + 4, signal.SIGSTOP)
        time.sleep(3)
        process.send_signal(signal.SIGCONT)

    ended = stage.resume(workdir, during=hit)
    return Row("(nothing)", ended.status)


# Disks.


@contextlib.contextmanager
def small_disk(stage: Stage, name: str) -> Iterator[Path]:
    """A disk of its own, with a copy of the run that was killed half-way."""
    if os.geteuid() or not shutil.which("mount"):
        raise Left("needs root, to mount a disk")
    disk = stage.folder / f"{name}-disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)], capture_output=True).returncode:
        raise Left("no disk can be mounted here")
    try:
        yield Path(shutil.copytree(stage.half, disk / "run"))
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(folder: Path, leave: int) -> Path:
    """Writes a file that leaves so many bytes of a disk."""
    filler = folder / "filler"
    with filler.open("wb") as file:
        while (free := shutil.disk_usage(folder).free) > leave:
            file.write(bytes(min(free - leave, 2**20)))
            file.flush()
    return filler


@case("the disk is full when a checkpoint is written")
def disk_checkpoint(stage: Stage, name: str) -> Row:
    workdir = stage.copy(name)
    before = checkpoints(workdir)
    with small_disk(stage, name) as other:  # only the checkpoints: all else is written
        shutil.rmtree(workdir / "checkpoints")
        (workdir / "checkpoints").symlink_to(other / "checkpoints")
        filler = fill(other.parent, 20_000)
        ended = stage.run(workdir)
        assert checkpoints(workdir) == before
        assert "Traceback" not in ended.text, ended.text
        filler.unlink()
        stage.resume(workdir)
        return Row(ended.line("error: .*checkpoints cannot be written.*MiB free"), ended.status)


@case("the disk is full when training starts")
def disk_start(stage: Stage, name: str) -> Row:
    with small_disk(stage, name) as workdir:
        filler = fill(workdir.parent, 0)
        ended = stage.run(workdir)
        assert "Traceback" not in ended.text, ended.text
        filler.unlink()
        stage.resume(workdir)
        return Row(ended.line("error: .*cannot be written.*MiB free"), ended.status)


@case("the disk is full when results are written")
def disk_results(stage: Stage, name: str) -> Row:
    with small_disk(stage, name) as workdir:
        stage.resume(workdir)
        (workdir / "results.json").unlink()
        filler: list[Path] = []

        def hit(process):
            wait_for(process, mark_of(workdir).exists)
            filler.append(fill(workdir.parent, 0))

        ended = stage.run(workdir, hooks=("evaluation=1",), during=hit)
        assert "Traceback" not in ended.text, ended.text
        filler[0].unlink()
        stage.resume(workdir)
        return Row(ended.line("error: .*cannot be written.*MiB free"), ended.status)


@case("the checkpoint folder is read-only")
def read_only(stage: Stage, name: str) -> Row:
    with small_disk(stage, name) as workdir:
        folder = str(workdir / "checkpoints")
        subprocess.run(["mount", "--bind", folder, folder], check=True)
        try:
            subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
            ended = stage.run(workdir)
        finally:
            subprocess.run(["umount", "-l", folder], check=True)
        assert "Traceback" not in ended.text, ended.text
        stage.resume(workdir)
        return Row(ended.line("error: .*checkpoint.* cannot be"), ended.status)


@case("TMPDIR is on a full disk")
def full_tmpdir(stage: Stage, name: str) -> Row:
    with small_disk(stage, name) as other:
        fill(other.parent, 0)
        ended = stage.resume(stage.copy(name), environment={"TMPDIR": str(other.parent)})
        return Row("(nothing)", ended.status)


@case("HOME is not set")
def no_home(stage: Stage, name: str) -> Row:
    return Row("(nothing)", stage.resume(stage.copy(name), environment={"HOME": None}).status)


@case("HOME cannot be written")
def unwritable_home(stage: Stage, name: str) -> Row:
    return Row("(nothing)", stage.resume(stage.copy(name), environment={"HOME": "/proc/nowhere"}).status)


# Damaged files.


def resumed_after(stage: Stage, name: str, damage: Callable[[Path], None]) -> Row:
    """Damages the last checkpoint; it must be set aside, and made again."""
    workdir = stage.copy(name)
    last = checkpoints(workdir)[-1]
    damage(workdir / "checkpoints" / str(last))
    ended = stage.resume(workdir)
    assert damaged(workdir) == [f"damaged-{last}"]
    return Row(f"{ended.line('is damaged')} / {ended.line('is now')}", ended.status)


@case("the last checkpoint: a file is cut in half")
def truncated(stage: Stage, name: str) -> Row:
    def damage(checkpoint):
        file = biggest_file(checkpoint)
        os.truncate(file, file.stat().st_size // 2)

    return resumed_after(stage, name, damage)


@case("the last checkpoint: one bit of the weights is flipped")
def flipped(stage: Stage, name: str) -> Row:
    def damage(checkpoint):
        file = biggest_file(checkpoint)
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)

    return resumed_after(stage, name, damage)


@case("the last checkpoint: a file is gone")
def deleted(stage: Stage, name: str) -> Row:
    return resumed_after(stage, name, lambda checkpoint: biggest_file(checkpoint).unlink())


@case("the last checkpoint: its meta is gone")
def no_meta(stage: Stage, name: str) -> Row:
    return resumed_after(stage, name, lambda checkpoint: shutil.rmtree(checkpoint / "meta"))


@case("the last checkpoint: its folder is empty")
def empty(stage: Stage, name: str) -> Row:
    def damage(checkpoint):
        shutil.rmtree(checkpoint)
        checkpoint.mkdir()

    return resumed_after(stage, name, damage)


@case("all checkpoints are damaged")
def all_damaged(stage: Stage, name: str) -> Row:
    workdir = stage.copy(name)
    for step in checkpoints(workdir):
        os.truncate(biggest_file(workdir / "checkpoints" / str(step)), 10)
    before = checkpoints(workdir)
    ended = stage.run(workdir)
    assert checkpoints(workdir) == before
    assert "Traceback" not in ended.text
    return Row(ended.line("error: no checkpoint"), ended.status, "")


@case("the best checkpoint is damaged, at evaluation")
def best_damaged(stage: Stage, name: str) -> Row:
    workdir = Path(shutil.copytree(stage.whole, stage.folder / name))
    best = json.loads((workdir / "results.json").read_text())["best_step"]
    os.truncate(biggest_file(workdir / "checkpoints" / str(best)), 10)
    ended = stage.run(workdir, "--mode", "eval")
    assert "Traceback" not in ended.text
    (workdir / "checkpoints" / str(best)).rename(workdir / "checkpoints" / f"damaged-{best}")
    assert stage.run(workdir, "--mode", "eval").status == 0  # what the message says
    return Row(ended.line("error: checkpoint"), ended.status, "")


@case("a checkpoint that was never finished lies there")
def leftover(stage: Stage, name: str) -> Row:
    workdir = stage.copy(name)
    last = checkpoints(workdir)[-1]
    left = workdir / "checkpoints" / f"{last + 3}.orbax-checkpoint-tmp-1"
    shutil.copytree(workdir / "checkpoints" / str(last), left)
    ended = stage.resume(workdir)
    assert not left.exists()
    return Row("(nothing)", ended.status)


@case("metrics.jsonl is cut in the middle of a line")
def cut_metrics(stage: Stage, name: str) -> Row:
    workdir = stage.copy(name)
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 99, "train/lo')
    return Row("(nothing)", stage.resume(workdir).status)


@case("config.json is damaged")
def damaged_config(stage: Stage, name: str) -> Row:
    workdir = stage.copy(name)
    (workdir / "config.json").write_text("{")
    ended = stage.run(workdir)
    (workdir / "config.json").unlink()  # what the message says
    stage.resume(workdir)
    return Row(ended.line("error: "), ended.status)


@case("results.json and predictions.parquet are damaged, and evaluated again")
def damaged_results(stage: Stage, name: str) -> Row:
    workdir = Path(shutil.copytree(stage.whole, stage.folder / name))
    for file in ("results.json", "predictions.parquet"):
        os.truncate(workdir / file, 100)
    ended = stage.resume(workdir, "--mode", "eval")
    return Row("(nothing)", ended.status)


# What is around the run.


@case("the clock goes back by a day, and files are from the future")
def clock(stage: Stage, name: str) -> Row:
    workdir = stage.copy(name)
    future = time.time() + 86400
    for path in workdir.rglob("*"):
        os.utime(path, (future, future))
    return Row("(nothing)", stage.resume(workdir, hooks=("clock",)).status)


@case("the workdir is moved")
def moved(stage: Stage, name: str) -> Row:
    workdir = stage.copy(name).rename(stage.folder / f"{name} elsewhere")
    return Row("(nothing)", stage.resume(workdir).status)


@case("the corpus is another one when the run is resumed")
def other_corpus(stage: Stage, name: str) -> Row:
    workdir, other = stage.copy(name), stage.folder / f"{name}-corpus"
    other.mkdir()
    write_corpus(other, seed=1)
    flags = [f"--config.data.arrays.{key}={other / file}" for key, file in FILES.items()]
    ended = stage.run(workdir, *flags)
    stage.resume(workdir)
    return Row(ended.line("error: "), ended.status)


FILES = {"clips": "clips.npy", "ids": "ids.npy", "table": "tracks.csv"}


@case("a second process in the same workdir")
def second_process(stage: Stage, name: str) -> Row:
    workdir, seen = stage.copy(name), []
    first = last_step(workdir)

    def hit(process):
        wait_for(process, lambda: last_step(workdir) != first)
        process.send_signal(signal.SIGSTOP)  # so that it is there for as long as the other one needs
        seen.append(stage.run(workdir))
        process.send_signal(signal.SIGCONT)

    stage.resume(workdir, during=hit)
    return Row(seen[0].line("error: "), seen[0].status)


@case("whoever reads the output goes away (a broken pipe)")
def broken_pipe(stage: Stage, name: str) -> Row:
    workdir = stage.copy(name)
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = stage.run(workdir, output=writing)
    finally:
        os.close(writing)
    assert ended.status == 0, ended.status
    stage.compare(workdir)
    return Row("(nothing)", ended.status)


@case("the learning rate is absurd")
def diverged(stage: Stage, name: str) -> Row:
    import numpy as np

    workdir = stage.folder / name
    ended = stage.run(
        workdir, "--config.optimizer.name=sgd", "--config.optimizer.learning_rate=1e30",
        "--config.train.checkpoint_every_steps=1",
    )  # fmt: skip
    assert "Traceback" not in ended.text
    for step in checkpoints(workdir):
        arrays = arrays_of(workdir / "checkpoints" / str(step))
        assert all(np.isfinite(array).all() for name, array in arrays.items() if "params" in name)
    return Row(ended.line("error: training diverged"), ended.status, "")


@case("a worker that loads data is killed")
def worker_killed(stage: Stage, name: str) -> Row:
    workdir = stage.copy(name)

    def workers(process):
        listed = subprocess.run(["ps", "--ppid", str(process.pid), "-o", "pid=,args="], capture_output=True, text=True)
        return [int(line.split()[0]) for line in listed.stdout.splitlines() if "spawn_main" in line]

    def hit(process):
        wait_for(process, lambda: bool(workers(process)))
        os.kill(workers(process)[0], signal.SIGKILL)

    ended = stage.run(workdir, "--config.data.placement=stream", "--config.data.workers=2", during=hit)
    stage.resume(workdir)
    return Row(ended.line("error: ") if ended.status else "(nothing)", ended.status)


@case("one of two hosts is killed")
def host_killed(stage: Stage, name: str) -> Row:
    workdir, whole = stage.folder / name, stage.folder / f"{name}-whole"

    def both(folder: Path, hit: Callable[[subprocess.Popen], None] | None) -> list[Ended]:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        flags = (f"--coordinator=localhost:{port}", "--num_processes=2")
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(stage.run, folder, *flags, "--process_id=0")
            second = pool.submit(stage.run, folder, *flags, "--process_id=1", during=hit)
            return [first.result(), second.result()]

    for ended in both(whole, None):
        assert ended.status == 0, ended.text
    first, _ = both(workdir, lambda process: kill_at(process, workdir, stage.steps // 2))
    assert first.status not in (0, -signal.SIGKILL), first.text  # it does not wait for ever
    for ended in both(workdir, None):
        assert ended.status == 0, ended.text
    ours, theirs = (arrays_of(folder / "checkpoints" / str(stage.steps)) for folder in (workdir, whole))
    assert all((ours[key] == theirs[key]).all() for key in theirs)  # type: ignore[attr-defined]
    assert metrics_of(workdir) == metrics_of(whole)
    return Row(first.line("error: "), first.status)


# The table.


def attempt(stage: Stage, number: int, fault: str) -> tuple[str, Row | None, str]:
    """Tries a fault; returns the row, or why there is none."""
    try:
        row = CASES[fault](stage, f"case-{os.getpid()}-{number}")
        return fault, dataclasses.replace(row, seen=shown(row.seen, stage)), ""
    except Left as why:
        return fault, None, f"left out: {why}"
    except Exception as error:
        line = traceback.extract_tb(error.__traceback__)[-1]
        return fault, None, f"FAILED: {type(error).__name__} at line {line.lineno} ({line.line}): {error}"


def shown(line: str, stage: Stage) -> str:
    """Returns a line of the terminal without times and folders of this run of the script."""
    line = re.sub(r"\b\d\d:\d\d:\d\d ", "", line.strip())
    line = re.sub(re.escape(str(stage.folder)) + r"/case-\d+-\d+(-disk/run| elsewhere)?", "WORKDIR", line)
    line = re.sub(re.escape(str(stage.folder)) + r"/case-\d+-\d+-disk", "DISK", line)
    return line.replace(str(stage.folder), "FOLDER")


def markdown(rows: list[tuple[str, Row | None, str]], before: str) -> str:
    """Returns the table; rows of faults that were not tried this time are those of before."""
    known = {line[2:].split(" | ")[0]: line for line in before.splitlines() if line.startswith("| ")}
    for fault, row, why in rows:
        if row is None:
            known[fault] = f"| {fault} | {cell(why)} | | |"
        else:
            known[fault] = f"| {fault} | {cell(row.seen)} | {row.status} | {row.identical or 'does not go on'} |"
    lines = ["| fault | what the user sees | exit status | same command again: the same weights and metrics |",
             "|---|---|---|---|"]  # fmt: skip
    return "\n".join(lines + [known[fault] for fault in CASES if fault in known]) + "\n"


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").splitlines()[0] if text else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="words, joined by commas: only faults whose name has one of them")
    parser.add_argument("--markdown", type=Path, help="write the table there; with --only, these rows of it")
    parser.add_argument("--parallel", type=int, default=usable_cores(), help="so many faults at a time")
    parser.add_argument("--folder", type=Path, help="a folder to work in, which is kept and can be given again")
    options = parser.parse_args()
    words = [word.lower() for word in options.only.split(",") if word]
    faults = [fault for fault in CASES if not words or any(word in fault.lower() for word in words)]
    os.environ["JAX_PLATFORMS"] = "cpu"
    start, lock = time.perf_counter(), threading.Lock()
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mgc_jax_faults_")))
        folder.mkdir(parents=True, exist_ok=True)
        stage = Stage(folder.resolve())

        def tried(number_and_fault: tuple[int, str]) -> tuple[str, Row | None, str]:
            found = attempt(stage, *number_and_fault)
            with lock:
                fault, row, why = found
                what = why if row is None else f"status {row.status}: {row.seen}"
                print(f"{'ok  ' if row else '    '} {fault}: {what}", flush=True)
            return found

        with ThreadPoolExecutor(options.parallel) as pool:
            rows = list(pool.map(tried, enumerate(faults)))
    failed = sum(why.startswith("FAILED") for _, _, why in rows)
    left = sum(why.startswith("left out") for _, _, why in rows)
    survived = len(rows) - failed - left
    print(f"{survived} of {len(rows)} faults survived, {failed} failed, {left} left out "
          f"({time.perf_counter() - start:.0f} s)")  # fmt: skip
    if options.markdown:
        before = options.markdown.read_text() if options.markdown.exists() else ""
        introduction = (
            "# What training survives\n\nMade by `python benchmarks/faults.py --markdown docs/faults.md`, which hits "
            "real training processes. Where the last column says yes, the same command was given again, and the last "
            "checkpoint (weights, optimizer, moving averages) and metrics.jsonl (but rates) were bit for bit those of "
            "a run that nothing happened to. Paths are shortened.\n\n"
            "Exit status: 0 done; 1 an error, reported in one sentence; 75 stopped by SIGTERM (the step in progress "
            "is saved; schedulers may give the same command again); 130 Ctrl-C; below 0 the signal that ended the "
            "process (a shell shows 128 and its number).\n\n"
        )
        options.markdown.write_text(introduction + markdown(rows, before))
    return 1 if failed else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        sys.exit(child(sys.argv[2].split(","), sys.argv[sys.argv.index("--") + 1 :]))
    sys.exit(main())
