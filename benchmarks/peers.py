"""How fast ours trains and evaluates beside PyTorch, Keras (TensorFlow) and Flax's own layers; log-mel beside librosa.

    python benchmarks/peers.py --device cpu --torch_python TORCH/bin/python --keras_python KERAS/bin/python
    python benchmarks/peers.py --device gpu --dtype bfloat16

The same model, weights, batch, precision, loss and optimizer, in one run. Everyone has a process of his own, with his
own Python if need be, and works while all others wait; they take turns, a round after the other, and a ratio is the
median of the rounds' ratios. A peer may be run in several ways (compiled or not, huge pages or not); the fastest one
counts. Before anything is timed, all must compute the same scores and the same losses over three train steps.

A ratio is told only if the rounds agree: its interquartile range is at most 10 % of it, or at most 30 % with both
quartiles on the same side of 1. If they do not agree, up to as many rounds again are added; then it is "too noisy"
and counts as missing. The exit status is 0 if no ratio is missing. The last line is the smallest ratio ours / theirs
over the peers that count.
"""

import argparse
import dataclasses
import datetime
import importlib.util
import json
import math
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from mgc_jax.runtime.huge_pages import HUGE_PAGES  # noqa: E402

WORKERS = ROOT / "benchmarks" / "peer_workers"
# Clips a step on a CPU, where a step of the configuration's batch takes many seconds; None: the configuration's.
MODELS = {"prcnn": None, "crnn": 8, "crnn_tf": 8, "matt_crnn": 12, "matt_crnn_tf": 12, "matt_mlp": None}
TITLES = {
    "prcnn": "PRCNN",
    "crnn": "CRNN",
    "crnn_tf": "CRNN-TF",
    "matt_crnn": "CRNN + MATT",
    "matt_crnn_tf": "CRNN-TF + MATT",
    "matt_mlp": "features + MATT",
}
LOG_MEL = ("mel_1360x96", "mel_640x128")
MODES = ("train", "eval")
MODE_TITLES = {"train": "train", "eval": "eval", "log_mel": "log-mel of 30 s"}
TURN = 0.5  # seconds that a turn takes at least
WARM = 0.2  # and one that chooses between forms

# How far log scores, and the losses of three steps, may differ. Gradients behind a batch norm cancel, and large steps
# make more of what is left: so rounding shows in the third loss. TF32 has 10 bits, bfloat16 7.
TOLERANCE = {
    "cpu float32": (1e-3, 1e-3, 5e-3, 5e-2),
    "gpu float32": (3e-2, 3e-2, 0.1, 0.3),
    "bfloat16": (0.15, 0.1, 0.3, 0.6),
}


@dataclasses.dataclass(frozen=True)
class Peer:
    """Somebody to compare with.

    Attributes:
        title: for the table.
        command: script and arguments of the worker.
        python: which option names the interpreter; empty: this one.
        counts: whether the last line is about this one, too.
        same: whether the equations are the same, so that results can be compared.
        huge_pages: whether to try both with huge pages and without on a CPU; if not, it has them, as ours.
    """

    title: str
    command: tuple[str, ...]
    python: str = ""
    counts: bool = False
    same: bool = True
    huge_pages: bool = False


PEERS = {
    "torch": Peer("PyTorch", ("torch_peer.py",), "torch_python", counts=True, huge_pages=True),
    "torch_nn_gru": Peer(
        "PyTorch, nn.GRU (other equations)",
        ("torch_peer.py", "--nn_gru"),
        "torch_python",
        counts=True,
        same=False,
        huge_pages=True,
    ),
    "keras": Peer("Keras (TensorFlow)", ("keras_peer.py",), "keras_python", counts=True, huge_pages=True),
    "naive_flax": Peer("Flax's own layers", ("naive_flax.py",)),
}
LOG_MEL_PEERS = {
    "librosa": Peer("librosa", ("log_mel.py", "librosa"), huge_pages=True),
    "numpy": Peer("ours in NumPy", ("log_mel.py", "numpy")),
}
NEEDS_KERAS_2_GRU = ("crnn", "crnn_tf", "matt_crnn", "matt_crnn_tf")


class UsageError(Exception):
    """The command cannot be carried out; one sentence says why."""


class WorkerError(Exception):
    """A worker could not do what it was asked."""


class Worker:
    """A process that does one thing at a time, when asked."""

    def __init__(self, python: str, command: Sequence[str], environment: dict[str, str], log: Path):
        self.name = " ".join(command)
        self.huge_pages = bool(environment["GLIBC_TUNABLES"])
        self._log = log
        # What this Python is told to import is of no use to another one.
        inherited = [os.environ[key] for key in ("PYTHONPATH",) if key in os.environ and python == sys.executable]
        self._process = subprocess.Popen(
            [python, "-u", str(WORKERS / command[0]), *command[1:]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("a"),
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *inherited])} | environment,
        )

    def send(self, **request: object) -> None:
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # `receive` says so

    def receive(self) -> dict:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            end = self._log.read_text(errors="replace").strip().splitlines()[-1:]
            raise WorkerError(f"{self.name} ended with status {self._process.wait()}: {' '.join(end)}")
        reply = json.loads(line)
        if "error" in reply:
            raise WorkerError(f"{self.name}: {reply['error']}")
        return reply

    def ask(self, **request: object) -> dict:
        self.send(**request)
        return self.receive()

    def cpu_seconds(self) -> float:
        """CPU time so far; 0 where the system does not say."""
        try:
            fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """Lets it end; it is ended if it does not within some seconds."""
        assert self._process.stdin
        try:
            self._process.stdin.close()
            self._process.wait(10)
        except (OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()


@dataclasses.dataclass(frozen=True)
class Ratio:
    """Ours over theirs.

    Attributes:
        median: over the rounds.
        low: lower quartile.
        high: upper quartile.
        told: whether the rounds agree well enough.
    """

    median: float
    low: float
    high: float
    told: bool

    def __str__(self) -> str:
        spread = f"{self.low:.2f} to {self.high:.2f}"
        return f"{self.median:.2f} ({spread})" if self.told else f"too noisy ({spread})"


def ratio_of(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """Judges the rates of ours and theirs, round by round.

    Args:
        ours: clips/s of each round, three of them at least.
        theirs: clips/s of the same rounds.
    """
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
    spread = (high - low) / median
    return Ratio(median, low, high, spread <= 0.1 or (spread <= 0.3 and (low > 1 or high < 1)))


@dataclasses.dataclass
class Row:
    """A line of the table.

    Attributes:
        model: its title.
        mode: train or eval.
        clips: clips a step.
        peer: the title of the peer.
        counts: whether it matters for the last line.
        form: the fastest way to run it; where there is none, empty.
        ours: clips/s of each round.
        theirs: clips/s of each round.
        first: seconds of the first step of ours and theirs: tracing, compilation, and the step.
        problem: why there is no ratio.
    """

    model: str
    mode: str
    clips: int
    peer: str
    counts: bool
    form: str = ""
    ours: list[float] = dataclasses.field(default_factory=list)
    theirs: list[float] = dataclasses.field(default_factory=list)
    first: tuple[float, float] = (math.nan, math.nan)
    problem: str = ""

    @property
    def ratio(self) -> Ratio | None:
        return ratio_of(self.ours, self.theirs) if self.ours and not self.problem else None

    def cells(self) -> list[str]:
        head = [
            self.model,
            self.mode,
            str(self.clips),
            self.peer + ("" if self.counts else " (shown only)"),
            self.form,
        ]
        if self.problem:
            return [*head, "", "", self.problem, "", ""]
        rates = [f"{statistics.median(r):.4g} ({min(r):.4g} to {max(r):.4g})" for r in (self.ours, self.theirs)]
        return [*head, *rates, str(self.ratio), *(f"{seconds:.1f}" for seconds in self.first)]


HEAD = ("model", "mode", "clips/step", "peer", "its fastest form", "ours, clips/s (range)", "theirs, clips/s (range)")
HEAD += ("ours / theirs (quartiles)", "first step of ours, s", "of theirs, s")


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [HEAD, ["---"] * len(HEAD), *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def conclusion(rows: Sequence[Row]) -> tuple[str, int]:
    """Returns the last lines and the exit status."""
    missing = [row for row in rows if row.counts and not (row.ratio and row.ratio.told)]
    told = [row.ratio.median for row in rows if row.counts and row.ratio and row.ratio.told]
    lines = []
    if missing:
        names = (f"{row.model} {row.mode} vs {row.peer} ({row.problem or 'too noisy'})" for row in missing)
        lines.append(f"missing: {'; '.join(names)}")
    lines.append(f"worst={min(told):.2f}" if told else "worst=nan")
    return "\n".join(lines), 1 if missing or not told else 0


def difference(mine: dict, other: dict, weights: Sequence[float], limits: Sequence[float]) -> str:
    """Says in what two answers to "check" differ; empty if they agree.

    Args:
        mine: scores (nested lists) and losses of ours.
        other: those of the peer.
        weights: of the bags in order, 0 for those that are not there; empty: all count.
        limits: see `TOLERANCE`.
    """
    pairs = [
        (one, two)
        for number, (one, two) in enumerate(zip(_vectors(mine["scores"]), _vectors(other["scores"]), strict=True))
        if not weights or weights[number]
    ]
    largest = max(abs(a - b) for one, two in pairs for a, b in zip(one, two, strict=True))
    if not largest <= limits[0]:
        return f"its scores differ by {largest:.2g}"
    for number, (a, b) in enumerate(zip(mine["losses"], other["losses"], strict=True)):
        if not abs(a - b) <= limits[number + 1]:
            return f"the loss of step {number + 1} is {b:.4f} instead of {a:.4f}"
    return ""


def _vectors(nested: list) -> list[list[float]]:
    if nested and isinstance(nested[0], list):
        return [vector for part in nested for vector in _vectors(part)]
    return [nested]


class Match:
    """Ours and the peers on one model: the processes, and their turns.

    Attributes:
        idle: largest share of a processor that a process took while another one had its turn.
        versions: what each worker says of itself.
    """

    def __init__(self, name: str, peers: dict[str, Peer], args: argparse.Namespace, folder: Path):
        self.name, self.args, self.folder = name, args, folder
        self.idle = 0.0
        self.versions: dict[str, dict] = {}
        self.problems: dict[str, str] = {}
        log_mel = name in LOG_MEL
        self._ours = self._start("ours", Peer("ours", ("log_mel.py", "jax") if log_mel else ("ours.py",)), True)
        self._theirs: dict[str, list[Worker]] = {}
        for key, peer in peers.items():
            choices = (True, False) if peer.huge_pages and args.device == "cpu" else (not peer.huge_pages,)
            self._theirs[key] = [self._start(key, peer, huge) for huge in choices]
        self._peers = peers
        self._slow: dict[str, set[str]] = {key: set() for key in peers}
        try:
            self._prepare(log_mel)
        except BaseException:
            self.close()
            raise

    def _start(self, key: str, peer: Peer, huge_pages: bool) -> Worker:
        environment = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.3", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
        environment["GLIBC_TUNABLES"] = HUGE_PAGES if huge_pages else ""  # other C libraries ignore it
        environment["TORCHINDUCTOR_CACHE_DIR"] = str(self.folder / "inductor")  # new: compile times are a column
        if self.args.device == "cpu":
            environment |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        python = getattr(self.args, peer.python) if peer.python else sys.executable
        return Worker(python, peer.command, environment, self.folder / f"{self.name}-{key}-{huge_pages:d}.log")

    @property
    def workers(self) -> list[Worker]:
        return [self._ours, *(worker for workers in self._theirs.values() for worker in workers)]

    def _prepare(self, log_mel: bool) -> None:
        """Has the problem made and loaded, and the results compared."""
        args, path = self.args, str(self.folder / f"{self.name}.npz")
        for worker in self.workers:
            worker.send(do="hello")
        self.versions["ours"] = self._ours.receive()
        for key, workers in list(self._theirs.items()):
            try:
                about = [worker.receive() for worker in workers]
                self.versions[key] = about[0]
                if args.device == "gpu" and about[0]["backend"] != "gpu" and not log_mel:
                    raise WorkerError("it finds no GPU")
            except WorkerError as error:
                self._drop(key, str(error))
        batch = args.batch or (MODELS.get(self.name) if args.device == "cpu" else None)
        options = {"config": self.name, "batch": batch, "dtype": args.dtype, "device": args.device}
        self._ours.ask(do="make", options=options, path=path)
        self._ours.ask(do="load", path=path)
        expected = self._ours.ask(do="check")
        self.clips, weights = expected["clips"], expected["weights"]
        limits = TOLERANCE["bfloat16" if args.dtype == "bfloat16" else f"{args.device} float32"]
        for key, workers in list(self._theirs.items()):
            try:
                for worker in workers:
                    worker.ask(do="load", path=path)
                if self._peers[key].same:
                    reply = workers[0].ask(do="check")
                    # Decibels; one side is in float16, which has 11 bits.
                    said = difference(expected, reply, weights, (0.1,) if log_mel else limits)
                    if said:
                        raise WorkerError(said)
            except WorkerError as error:
                self._drop(key, str(error))

    def _drop(self, key: str, why: str) -> None:
        self.problems[key] = why.replace("|", "/")
        for worker in self._theirs.pop(key):
            worker.close()

    def _turn(self, worker: Worker, mode: str, form: str, steps: int) -> float:
        """Seconds of so many steps; the others wait."""
        others = [one for one in self.workers if one is not worker]
        before, start = [one.cpu_seconds() for one in others], time.perf_counter()
        seconds = worker.ask(do="run", mode=mode, form=form, steps=steps)["seconds"]
        wall = time.perf_counter() - start
        if wall > 0.2:  # the clock of CPU time ticks every 10 ms
            after = [one.cpu_seconds() for one in others]
            self.idle = max([self.idle, *((b - a) / wall for a, b in zip(before, after, strict=True))])
        return seconds

    def _warm(self, worker: Worker, mode: str, form: str) -> tuple[float, float]:
        """Returns the seconds of the first step, and of a later one: of the best of some short turns."""
        first = self._turn(worker, mode, form, 1)
        second = self._turn(worker, mode, form, 1)
        steps = max(1, math.ceil(WARM / second))
        turns = 3 if second < 5 * TURN else 0
        return first, min([second, *(self._turn(worker, mode, form, steps) / steps for _ in range(turns))])

    def _fastest(self, key: str, mode: str) -> tuple[Worker, str, float, float]:
        """Chooses process and form of a peer; returns them, and the seconds of the first step and of a later one.

        The slower of two processes is closed, and a form that took more than twice the time of the best one is not
        tried in other modes.
        """
        workers = self._theirs[key]
        forms = [form for form in workers[0].ask(do="forms", mode=mode)["forms"] if form not in self._slow[key]]
        tried = [(worker, forms[0], *self._warm(worker, mode, forms[0])) for worker in workers]
        worker = min(tried, key=lambda one: one[3])[0]
        for other in workers:
            if other is not worker:
                other.close()
        self._theirs[key] = [worker]
        tried = [one for one in tried if one[0] is worker]
        for form in [] if self.args.quick else forms[1:]:
            try:
                tried.append((worker, form, *self._warm(worker, mode, form)))
            except WorkerError as error:
                self._slow[key].add(form)
                print(f"{self._peers[key].title}, {form}: left out: {error}", flush=True)
        best = min(tried, key=lambda one: one[3])
        self._slow[key] |= {form for _, form, _, step in tried if step > 2 * best[3]}
        return best

    def rows(self, mode: str) -> list[Row]:
        """Times a mode; returns a row for every peer."""
        rows = {
            key: Row(TITLES.get(self.name, self.name), MODE_TITLES[mode], self.clips, peer.title, peer.counts)
            for key, peer in self._peers.items()
        }
        form = self._ours.ask(do="forms", mode=mode)["forms"][0]
        first, step = self._warm(self._ours, mode, form)
        players = {"": (self._ours, form, first, step)}
        for key in list(self._theirs):
            try:
                players[key] = self._fastest(key, mode)
            except WorkerError as error:
                self._drop(key, str(error))
        rates: dict[str, list[float]] = {key: [] for key in players}
        for key, (_, form, their_first, _) in players.items():
            if key:
                rows[key].form = form + (", huge pages" if players[key][0].huge_pages else "")
                rows[key].first = (first, their_first)
        for key, problem in self.problems.items():
            rows[key].problem = problem
        while len(rates[""]) < self.args.repeats or (
            len(rates[""]) < 2 * self.args.repeats
            and any(not ratio_of(rates[""], rates[key]).told for key in players if key)
        ):
            order = list(players) if len(rates[""]) % 2 else list(reversed(players))
            for key in order:
                worker, form, _, step = players[key]
                steps = max(1, math.ceil(TURN / step))
                try:
                    seconds = self._turn(worker, mode, form, steps)
                except WorkerError as error:
                    if not key:
                        raise
                    self._drop(key, str(error))
                    rows[key].problem = self.problems[key]
                    del players[key], rates[key]
                    continue
                rates[key].append(steps * self.clips / seconds)
        for key in players:
            if key:
                rows[key].ours, rows[key].theirs = rates[""], rates[key]
        return list(rows.values())

    def close(self) -> None:
        for worker in self.workers:
            worker.close()


def run(args: argparse.Namespace) -> tuple[list[Row], dict]:
    """Makes all comparisons."""
    rows: list[Row] = []
    about: dict = {"command": shlex.join(["python", *sys.argv]), "date": f"{datetime.datetime.now():%Y-%m-%d %H:%M}"}
    about |= {"machine": f"{os.cpu_count()} processors, {platform.machine()}", "idle_cpu": 0.0, "versions": {}}
    print(f"{about['date']}  {about['command']}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in args.models:
            chosen = (
                LOG_MEL_PEERS
                if name in LOG_MEL
                else {
                    key: PEERS[key] for key in args.peers if key != "torch_nn_gru" or name in NEEDS_KERAS_2_GRU
                }
            )  # fmt: skip
            start = time.perf_counter()
            modes = ["log_mel"] if name in LOG_MEL else args.modes
            made: list[Row] = []
            try:
                match = Match(name, chosen, args, Path(folder))
                try:
                    for mode in modes:
                        made += match.rows(mode)
                        print(
                            "\n".join(" | ".join(filter(None, row.cells())) for row in made[-len(chosen) :]),
                            flush=True,
                        )
                finally:
                    match.close()
                about["versions"] |= match.versions
                about["idle_cpu"] = max(about["idle_cpu"], match.idle)
            except WorkerError as error:  # of ours
                made += [
                    Row(TITLES.get(name, name), MODE_TITLES[mode], 0, peer.title, peer.counts, problem=str(error))
                    for mode in modes[len(made) // len(chosen) :]
                    for peer in chosen.values()
                ]
            rows += made
            print(f"({name}: {time.perf_counter() - start:.0f} s)", flush=True)
    return rows, about


def check_gpu(args: argparse.Namespace) -> None:
    """Raises `UsageError` where a GPU is asked for and JAX has none."""
    found = subprocess.run(
        [sys.executable, "-c", "import jax; print(jax.default_backend())"], capture_output=True, text=True
    )
    if found.stdout.strip() != "gpu":
        raise UsageError(
            "--device gpu: JAX finds no GPU here; use --device cpu, or install jax[cuda12] or jax[cuda13]"
        )


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str):  # type: ignore[override]
        raise UsageError(message)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Reads the command line; raises `UsageError`."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", required=True, choices=["cpu", "gpu"])
    parser.add_argument("--models", nargs="+", default=[*MODELS, "log_mel"], choices=[*MODELS, "log_mel"])
    parser.add_argument("--modes", nargs="+", default=MODES, choices=MODES)
    parser.add_argument("--peers", nargs="+", choices=PEERS, help="default: all that there are Pythons for")
    parser.add_argument("--repeats", type=int, default=7, metavar="N", help="rounds; default: %(default)s")
    parser.add_argument("--batch", type=int, metavar="N", help="clips a step; default: as in the configuration, on a "
                        "CPU fewer for the large models")  # fmt: skip
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--torch_python", metavar="PATH", help="a Python with PyTorch and NumPy; default: this one")
    parser.add_argument("--keras_python", metavar="PATH", help="a Python with Keras and TensorFlow; default: this one")
    parser.add_argument("--quick", action="store_true", help="run every peer in its first form only: nothing compiled")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured there")
    args = parser.parse_args(arguments)
    if args.repeats < 3:
        raise UsageError(f"--repeats {args.repeats}: quartiles need three rounds at least")
    if args.batch is not None and args.batch < 1:
        raise UsageError(f"--batch {args.batch}: give a number above 0")
    for option in ("torch_python", "keras_python"):
        path = getattr(args, option)
        if path and not os.access(path, os.X_OK):
            raise UsageError(f"--{option} {path}: there is no such program")
    args.models = [name for model in args.models for name in (LOG_MEL if model == "log_mel" else (model,))]
    choose_peers(args)
    return args


def choose_peers(args: argparse.Namespace) -> None:
    """Finds an interpreter for every peer, and leaves out, with a line, those that have none."""
    modules = {"torch_python": "torch", "keras_python": "tensorflow"}
    asked = args.peers or [key for key in PEERS if key != "torch_nn_gru" or args.device == "gpu"]
    args.peers = []
    for key in asked:
        option = PEERS[key].python
        if option and not getattr(args, option) and importlib.util.find_spec(modules[option]):
            setattr(args, option, sys.executable)
        if option and not getattr(args, option):
            print(f"{PEERS[key].title}: left out: {modules[option]} is not in this Python; give --{option}")
        else:
            args.peers.append(key)
    if not args.peers:
        raise UsageError("there is nobody to compare with; give --torch_python or --keras_python")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the comparison; returns the exit status."""
    try:
        args = parse(sys.argv[1:] if arguments is None else arguments)
        if args.device == "gpu":
            check_gpu(args)
        rows, about = run(args)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    last, status = conclusion(rows)
    for who, versions in about["versions"].items():
        print(f"{who}: " + ", ".join(f"{key} {value}" for key, value in versions.items()))
    print(f"largest share of a processor taken by a waiting process: {100 * about['idle_cpu']:.1f} %")
    print(f"\n{table(rows)}\n\n{last}")
    if args.json:
        args.json.write_text(json.dumps(about | {"rows": [dataclasses.asdict(row) for row in rows]}, indent=1) + "\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
