"""`--mode bench`: how fast a configuration trains and evaluates, what bounds it, and how it scales.

Everything measured is what training runs: its batches, its step, its evaluator, its checkpoints. For each setting
(batch, precision, placement, number of devices) these are rows:

* train: steps with the data path, as training does them, save that at most one step is in flight (so that the end
  of each can be seen);
* reused batch: the same step on one batch that is on the devices already: what the data path costs is the difference;
* data only: batches made and placed without a step;
* checkpoint: the state saved and waited for;
* eval: clips of the training split embedded, and their bags pooled.

All settings are built first. Then every row is measured once per repeat, in turn, so that ratios can be taken of
measurements that were made one after the other.
"""

import contextlib
import dataclasses
import datetime
import itertools
import logging
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache
from ml_collections import ConfigDict

from mgc_jax import config as config_lib
from mgc_jax.bench_table import format_bench
from mgc_jax.ceilings import copy_rate, matmul_rate
from mgc_jax.checkpoint import open_checkpoints
from mgc_jax.data.corpus import Corpus, open_corpus
from mgc_jax.data.synthetic import synthetic_corpus
from mgc_jax.environment import command, describe_environment
from mgc_jax.errors import UserError
from mgc_jax.feed import DeviceClips, placed_batches
from mgc_jax.flops import count
from mgc_jax.models.classifier import describe_model
from mgc_jax.sharding import data_mesh
from mgc_jax.state import TrainState
from mgc_jax.timing import paired_ratio, percentiles
from mgc_jax.train import Run, initial_state, make_phase
from mgc_jax.workdir import claim, write_json

log = logging.getLogger(__name__)

FILE_NAME = "bench.json"
_LEAD = 1  # steps before those that are measured in a repeat: they fill the pipeline
_WARMUP = 2
_LEAST_SECONDS = 0.5  # of a repeat, so that a hiccup of the machine does not decide it,
_MOST_STEPS = 1000  # unless it would need more steps than these


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is varied; `rows` are those of all devices, or with `weak` scaling of each."""

    rows: int
    clips_per_row: int
    dtype: str
    placement: str
    devices: int
    weak: bool = False

    @property
    def batch_rows(self) -> int:
        """Rows of a batch."""
        return self.rows * self.devices if self.weak else self.rows

    def apply(self, config: ConfigDict) -> ConfigDict:
        """Returns the configuration with these values."""
        config = config.copy_and_resolve_references()
        config.batch.rows, config.batch.clips_per_row = self.batch_rows, self.clips_per_row
        config.model.dtype, config.data.placement = self.dtype, self.placement
        return config

    def to_json(self) -> dict[str, Any]:
        """Returns the values as they are in training."""
        return {"rows": self.batch_rows, "clips_per_row": self.clips_per_row, "dtype": self.dtype,
                "placement": self.placement, "devices": self.devices}  # fmt: skip


def settings_of(config: ConfigDict, num_devices: int) -> list[Setting]:
    """Returns every combination of the values that `config.bench` lists.

    Raises:
        UserError: more devices are asked for than there are.
    """
    bench = config.bench
    devices = tuple(bench.devices) or (num_devices,)
    if max(devices) > num_devices:
        raise UserError(
            f"config.bench.devices={devices}, but there are {num_devices}. On a CPU the environment variable "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={max(devices)} makes as many of its cores."
        )
    combinations = itertools.product(
        tuple(bench.rows) or (config.batch.rows,), tuple(bench.clips_per_row) or (config.batch.clips_per_row,),
        tuple(bench.dtypes) or (config.model.dtype,), tuple(bench.placements) or (config.data.placement,), devices,
    )  # fmt: skip
    return [Setting(*values, weak=bench.scaling == "weak") for values in combinations]


@dataclasses.dataclass(frozen=True)
class Block:
    """One measurement of a row.

    Attributes:
        seconds: of each step (a batch, a save, a pass of evaluation).
        clips: in all steps.
        waited: of the seconds, those spent waiting for data.
        bytes: written.
    """

    seconds: list[float]
    clips: float = 0.0
    waited: float = 0.0
    bytes: float = 0.0

    @property
    def rate(self) -> float:
        """Clips per second; of what handles none, steps per second."""
        return (self.clips or len(self.seconds)) / sum(self.seconds)


class Cell:
    """A setting, built and compiled.

    Attributes:
        setting: which one.
        facts: what is known without measuring more: compile time, operations, estimated memory.
    """

    def __init__(self, config: ConfigDict, corpus: Corpus, setting: Setting, workdir: Path):
        self.setting, self._config, self._workdir = setting, setting.apply(config), workdir
        start = time.perf_counter()
        self._run = Run(self._config, workdir, corpus=corpus, devices=jax.devices()[: setting.devices])
        self._phase = make_phase(self._run, classifier_only=False)
        self._key = jax.random.key(config.seed)
        self._next_step = 0
        arguments = (self._state(), *next(self._batches(0, 1)), self._key)
        built = time.perf_counter()
        lowered = self._phase.train_step.lower(*arguments)  # type: ignore[attr-defined]
        traced = time.perf_counter()
        with _without_cache():
            self._step = lowered.compile()
        compiled = time.perf_counter()
        counted = count(make_phase(self._run, classifier_only=False).train_step, *arguments)
        if counted.unknown:
            log.warning("operations inside %s are counted once, however often they run", ", ".join(counted.unknown))
        slots = self._rows * setting.clips_per_row
        batches = self._phase.batches
        self.facts: dict[str, Any] = {
            **setting.to_json(),
            "placed": "device" if isinstance(self._run.clips, DeviceClips) else "host",
            "model": describe_model(self._config.model),
            "parameters": self._run.num_parameters,
            "steps_per_epoch": batches.steps_per_epoch,
            "slots_filled": len(self._run.train_bags.clips) / (batches.steps_per_epoch * slots),
            "build_seconds": built - start,
            "trace_seconds": traced - built,
            "compile_seconds": compiled - traced,
            "flops_per_step": counted.flops,
            "bytes_per_step": counted.bytes,
            "intensity": counted.flops / counted.bytes if counted.bytes else 0.0,
            "xla": _xla_facts(self._step),
        }

    @property
    def _rows(self) -> int:
        """Rows of a batch with those that make it a multiple of the devices."""
        return -(-self.setting.batch_rows // self.setting.devices) * self.setting.devices

    def _state(self) -> TrainState:
        """The state before the first step: training on noise would diverge, and the step takes its memory anyway."""
        return initial_state(self._run, self._phase.optimizer)

    def _batches(self, first: int, number: int) -> Iterator[Any]:
        return placed_batches(self._phase.batches, self._run.clips, self._run.mesh, first, first + number)

    def _take_steps(self, number: int) -> int:
        first = self._next_step
        self._next_step += number
        return first

    def measure(self, variant: str, steps: int) -> Block:
        """Measures a row once: so many steps, of whatever kind its are."""
        measures: dict[str, Callable[[int], Block]] = {
            "train": self._train, "reused batch": self._reused, "data only": self._data,
            "checkpoint": self._checkpoint, "eval": self._evaluate,
        }  # fmt: skip
        return measures[variant](steps)

    def _train(self, steps: int) -> Block:
        first = self._take_steps(_LEAD + steps)
        return self._trained(self._batches(first, _LEAD + steps), steps)

    def _reused(self, steps: int) -> Block:
        placed = next(self._batches(0, 1))
        return self._trained(itertools.repeat(placed), steps)

    def _trained(self, batches: Iterable[Any], steps: int) -> Block:
        """Steps; the end of each is seen when the next one has been given to the devices."""
        state, batches = self._state(), iter(batches)
        sums: list[dict[str, jax.Array]] = []
        for _ in range(_LEAD):
            state, before = self._step(state, *next(batches), self._key)
        jax.block_until_ready(before)
        ends, waited = [time.perf_counter()], 0.0
        for _ in range(steps):
            asked = time.perf_counter()
            placed = next(batches)
            waited += time.perf_counter() - asked
            state, now = self._step(state, *placed, self._key)
            if sums:
                jax.block_until_ready(sums[-1])
                ends.append(time.perf_counter())
            sums.append(now)
        jax.block_until_ready((sums[-1], state))
        ends.append(time.perf_counter())
        clips = sum(float(np.sum(each["clips"])) for each in jax.device_get(sums))
        return Block(np.diff(ends).tolist(), clips=clips, waited=waited)

    def _data(self, steps: int) -> Block:
        first = self._take_steps(_LEAD + steps)
        batches, seconds, clips = self._batches(first, _LEAD + steps), [], 0
        for _ in range(_LEAD):
            jax.block_until_ready(next(batches))
        for _ in range(steps):
            start = time.perf_counter()
            placed = jax.block_until_ready(next(batches))
            seconds.append(time.perf_counter() - start)
            clips += int(np.sum(np.asarray(placed[0].segment) < self.setting.clips_per_row))
        return Block(seconds, clips=clips, waited=sum(seconds))

    def _checkpoint(self, steps: int) -> Block:
        state, train = self._state(), self._config.train
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        seconds, waited = [], 0.0
        with (
            tempfile.TemporaryDirectory(dir=self._workdir) as folder,
            open_checkpoints(Path(folder), train.select, train.keep_checkpoints) as checkpoints,
        ):
            for step in range(1, 1 + min(steps, 3)):
                state = dataclasses.replace(state, step=state.step + 1)
                start = time.perf_counter()
                checkpoints.save(state, self._run.meta({}), None)
                waited += time.perf_counter() - start  # training goes on from here
                saved = checkpoints.best_step()  # waits for the save
                seconds.append(time.perf_counter() - start)
                assert saved == step
        return Block(seconds, waited=waited, bytes=size * len(seconds))

    def _evaluate(self, steps: int) -> Block:
        run, bags = self._run, self._run.bags["train"]
        wanted = steps * run.config.eval.batch_clips
        some = bags.take(np.arange(max(1, np.searchsorted(bags.offsets, wanted, side="right") - 1)))
        state = self._state()
        start = time.perf_counter()
        run.evaluator.score_split(state.evaluated, state.batch_stats, run.corpus, "train", some)
        return Block([time.perf_counter() - start], clips=len(some.clips))


def _xla_facts(compiled: Any) -> dict[str, Any]:
    """What the compiler estimates: memory; its operation count, which takes the body of a loop as run once."""
    memory, costs = compiled.memory_analysis(), compiled.cost_analysis() or {}
    facts = {f"{name}_bytes": getattr(memory, f"{name}_size_in_bytes", None)
             for name in ("argument", "output", "alias", "temp", "generated_code")}  # fmt: skip
    needed = [facts[f"{name}_bytes"] or 0 for name in ("argument", "output", "temp")]
    facts["estimated_bytes"] = sum(needed) - (facts["alias_bytes"] or 0) if memory is not None else None
    return facts | {"flops": costs.get("flops"), "bytes_accessed": costs.get("bytes accessed")}


def run_bench(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Measures a configuration, writes `<workdir>/bench.json` and prints the table; returns what the file holds.

    Args:
        config: a validated configuration of a model; its corpus is not `auto` if the bench is to measure with it.
        workdir: a new folder.

    Raises:
        UserError: the folder holds something already, or what building a run raises.
    """
    for name in ("config.json", FILE_NAME, "results.json"):
        if (workdir / name).exists():
            raise UserError(f"--workdir {workdir} holds {name} of another run; give a new folder")
    settings = settings_of(config, jax.device_count())
    load = [_load()]
    with claim(workdir, config, create=True):
        corpus = synthetic_corpus(config) if config.bench.data == "synthetic" else open_corpus(config.data)
        if config.optimizer.plateau_factor < 1 and not len(corpus.indices("validation")):
            config.optimizer.plateau_factor = 1.0  # nothing to lower the learning rate by; it costs no time
        facts, rows = _measure(config, corpus, settings, workdir)
        result = {
            "command": command(),
            "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            "environment": describe_environment(),
            "load": [*load, _load()],
            "config": config_lib.to_json(config),
            "corpus": {"name": corpus.name, "clips": len(corpus), "clip_shape": list(corpus.clips.shape[1:]),
                       "dtype": str(corpus.clips.dtype)},
            "settings": facts,
            "rows": [row.to_json(facts[row.setting]) for row in rows],
            "ratios": _ratios(settings, rows),
        }  # fmt: skip
        _add_shares(result)
        write_json(workdir / FILE_NAME, result)
    print(format_bench(result))
    log.info("all figures: %s", workdir / FILE_NAME)
    return result


@dataclasses.dataclass
class Row:
    """A row of the table: a setting and what was measured with it.

    Attributes:
        setting: its number.
        variant: what was measured.
        first_seconds: of the first time: two steps, and for the evaluation the time to compile it.
        steps: in each repeat.
        blocks: one per repeat.
        out_of_memory: there was not enough; then there are no blocks.
    """

    setting: int
    variant: str
    first_seconds: float = 0.0
    steps: int = 0
    blocks: list[Block] = dataclasses.field(default_factory=list)
    out_of_memory: bool = False

    def to_json(self, facts: dict[str, Any]) -> dict[str, Any]:
        """Returns the figures of the row."""
        row: dict[str, Any] = {"setting": self.setting, "variant": self.variant}
        if self.out_of_memory:
            return row | {"status": "out of memory"}
        rates = [block.rate for block in self.blocks]
        steps = [seconds for block in self.blocks for seconds in block.seconds]
        row |= {
            "status": "ok",
            "first_seconds": self.first_seconds,
            "repeats": len(self.blocks),
            "steps": len(steps),
            "step_seconds": percentiles(steps),
            "waited_seconds_per_step": sum(block.waited for block in self.blocks) / len(steps),
        }
        if self.variant == "checkpoint":
            speeds = [block.bytes / sum(block.seconds) / 1e6 for block in self.blocks]
            return row | {"bytes": self.blocks[0].bytes / len(self.blocks[0].seconds),
                          "megabytes_per_second": percentiles(speeds)}  # fmt: skip
        row |= {"clips_per_second": percentiles(rates), "clips_per_second_each": rates}
        row["clips_per_second_per_device"] = row["clips_per_second"]["p50"] / facts["devices"]
        if self.variant in ("train", "reused batch") and facts["roof_flops_per_second"]:
            per_step = float(np.median([sum(block.seconds) / len(block.seconds) for block in self.blocks]))
            row["flops_per_second"] = facts["flops_per_step"] / per_step
            row["share_of_roof"] = row["flops_per_second"] / facts["roof_flops_per_second"]
        return row


def _measure(
    config: ConfigDict, corpus: Corpus, settings: list[Setting], workdir: Path
) -> tuple[list[dict[str, Any]], list[Row]]:
    """Builds every setting, then measures all rows in turn; returns facts by setting, and rows."""
    bench = config.bench
    cells: list[Cell | None] = []
    facts: list[dict[str, Any]] = []
    rows: list[Row] = []
    for number, setting in enumerate(settings):
        log.info("setting %d of %d: %s", number + 1, len(settings), setting.to_json())
        cell: Cell | None = None
        own = [Row(number, variant) for variant in bench.variants]
        reached = _device_peak(setting.devices)
        with _memory_row(*own):
            cell = Cell(config, corpus, setting, workdir)
        for row in own:
            with _memory_row(row):
                if cell is not None:
                    _warm_up(cell, row, bench)
        known = setting.to_json() if cell is None else cell.facts
        now = _device_peak(setting.devices)
        # The backend tells the highest since the process began: what was reached before says nothing of this setting.
        known["peak_device_bytes"] = now if now is not None and (reached is None or now > reached) else None
        known["peak_device_bytes_at_most"] = now
        cells.append(cell)
        facts.append(known)
        rows += own
    for repeat in range(bench.repeats):
        log.info("repeat %d of %d", repeat + 1, bench.repeats)
        for row in rows:
            cell = cells[row.setting]
            if row.out_of_memory or cell is None:
                continue
            with _memory_row(row):
                resets = _reset_host_peak()
                row.blocks.append(cell.measure(row.variant, row.steps))
                if row.variant == "train":
                    known = facts[row.setting]
                    known["peak_host_bytes"] = max(known.get("peak_host_bytes", 0), _host_peak(resets))
    cells.clear()  # the ceilings need memory, too; they come last, so that they do not hide the peaks of the settings
    ceilings = {which: _ceilings(*which) for which in dict.fromkeys((s.dtype, s.devices) for s in settings)}
    for setting, known in zip(settings, facts, strict=True):
        known |= ceilings[setting.dtype, setting.devices]
        by_copies = known.get("intensity", 0.0) * known["copy_bytes_per_second"]
        known["roof_flops_per_second"] = min(known["matmul_flops_per_second"], by_copies)
    return facts, rows


def _warm_up(cell: Cell, row: Row, bench: ConfigDict) -> None:
    """Measures a row for the first time, and finds out how many steps per repeat the time for it allows."""
    start = time.perf_counter()
    block = cell.measure(row.variant, _WARMUP)
    row.first_seconds = time.perf_counter() - start
    if row.variant == "eval":  # compiles in its first call
        block = cell.measure(row.variant, _WARMUP)
    row.steps = _steps(sum(block.seconds) / _WARMUP, bench)
    if row.variant == "eval":  # and again for another number of clips
        cell.measure(row.variant, row.steps)


def _steps(seconds: float, bench: Any) -> int:
    """Returns the steps of a repeat, if one takes so many seconds: `bench.steps`, more of fast ones, fewer of slow."""
    long_enough = min(_LEAST_SECONDS / seconds, _MOST_STEPS)
    affordable = bench.seconds / bench.repeats / seconds - _LEAD
    return max(1, int(min(max(bench.steps, long_enough), affordable)))


@contextlib.contextmanager
def _memory_row(*rows: Row) -> Iterator[None]:
    """Notes in rows that there was not enough memory for what is done inside."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        log.warning("out of memory: %s", ", ".join(row.variant for row in rows))
        for row in rows:
            row.out_of_memory, row.blocks = True, []


@contextlib.contextmanager
def _without_cache() -> Iterator[None]:
    """Leaves JAX's cache of compiled programs alone, so that the time to compile is measured."""
    before = jax.config.jax_enable_compilation_cache  # type: ignore[attr-defined]
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()


def _ceilings(dtype: str, devices: int) -> dict[str, float]:
    mesh = data_mesh(jax.devices()[:devices])
    return {"matmul_flops_per_second": matmul_rate(dtype, mesh), "copy_bytes_per_second": copy_rate(mesh)}


def _device_peak(devices: int) -> int | None:
    """The highest memory in use on any of the devices since the process began; None where the backend does not say."""
    peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in jax.devices()[:devices]]
    known = [peak for peak in peaks if peak is not None]
    return max(known) if known else None


def _reset_host_peak() -> bool:
    """Sets the kernel's mark of the highest memory in use back; returns whether it can be (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return True
    except OSError:
        return False


def _load() -> float | None:
    """How many processes wanted to run in the last minute, where the system says."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def _host_peak(was_reset: bool) -> int:
    """The highest memory in use since then; else since the process began."""
    if was_reset:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _ratios(settings: list[Setting], rows: list[Row]) -> list[dict[str, Any]]:
    """Ratios of rates: of each setting to the first that differs from it in one thing alone, and of train to its step.

    Of numbers of devices, the ratio is the efficiency: that of the rates over that of the devices.
    """
    by_key = {(row.setting, row.variant): row for row in rows if not row.out_of_memory}
    found = []

    def add(what: str, above: Row, below: Row, scale: float = 1.0) -> None:
        rates, others = ([block.rate for block in row.blocks] for row in (above, below))
        ratio = paired_ratio(rates, others, scale)
        found.append({"what": what, "setting": above.setting, "to_setting": below.setting, "variant": above.variant,
                      "text": str(ratio), **ratio.to_json()})  # fmt: skip

    for row in by_key.values():
        step = by_key.get((row.setting, "reused batch"))
        if row.variant == "train" and step is not None:
            add("clips/s, train to reused batch", row, step)
    for field in dataclasses.fields(Setting):
        for number, setting in enumerate(settings):
            reference = _reference(settings, number, field.name)
            for variant in ("train", "reused batch", "eval") if reference < number else ():
                above, below = by_key.get((number, variant)), by_key.get((reference, variant))
                if above is not None and below is not None:
                    values = getattr(setting, field.name), getattr(settings[reference], field.name)
                    what, scale = f"clips/s, {field.name} {values[0]} to {values[1]}", 1.0
                    if field.name == "devices":
                        what, scale = f"efficiency, {values[0]} devices to {values[1]}", values[0] / values[1]
                    add(what, above, below, scale)
    return found


def _reference(settings: list[Setting], number: int, name: str) -> int:
    """Returns the first setting that is the same as one but for one thing."""
    value = getattr(settings[number], name)
    return next(
        i for i, other in enumerate(settings) if dataclasses.replace(other, **{name: value}) == settings[number]
    )


def _add_shares(result: dict[str, Any]) -> None:
    """Adds to each setting the share of time that data, steps and checkpoints take in training as configured."""
    train = result["config"]["train"]
    for number, facts in enumerate(result["settings"]):
        rows = {row["variant"]: row for row in result["rows"] if row["setting"] == number and row["status"] == "ok"}
        if "train" not in rows or "checkpoint" not in rows:
            continue
        every = train["eval_every_epochs"] * facts["steps_per_epoch"]
        every = min(every, train["checkpoint_every_steps"] or every)
        data = rows["train"]["waited_seconds_per_step"] * every
        total = rows["train"]["step_seconds"]["p50"] * every
        saving = rows["checkpoint"]["waited_seconds_per_step"]
        parts = {"data": data, "step": max(0.0, total - data), "checkpoint": saving}
        facts["shares"] = {name: seconds / sum(parts.values()) for name, seconds in parts.items()}
        facts["steps_between_checkpoints"] = every
