"""`--mode bench`: how fast a configuration trains and evaluates, what bounds it, and how it scales.

Everything measured is what training runs: its batches, its step, its evaluator, its checkpoints. For each setting
(batch, precision, placement, number of devices) these are rows:

* train: steps with the data path, as training does them: as many per dispatch (for a synthetic corpus as if its
  epochs lasted from one log line to the next, at least), and compiled alike. But no more than two dispatches are in
  flight (so that the end of each can be seen), all have the same length, and none is followed by a log line or an
  evaluation;
* reused batch: the same on what is on the devices already: what the data path costs is the difference;
* data only: batches made and placed without a step;
* checkpoint: the state saved and waited for;
* eval: clips of the training split embedded, and their bags pooled.

All settings are built first; nothing is taken from the cache of compiled programs. Then every row is measured once
per repeat, in turn, so that ratios can be taken of pairs of one repeat: the rows of a setting follow each other, and
the settings do. A corpus that lies on the devices is there only while settings that want it there are measured.
"""

import contextlib
import dataclasses
import datetime
import gc
import logging
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from mgc_jax.bench.clips import SharedClips
from mgc_jax.bench.roofline import copy_rate, matmul_rate
from mgc_jax.bench.setting import LEAD, Benchmark, Block, Setting, settings_of
from mgc_jax.bench.statistics import paired_ratio, percentiles
from mgc_jax.bench.table import format_bench
from mgc_jax.config import keys
from mgc_jax.errors import UserError
from mgc_jax.runtime.compilation_cache import without_cache
from mgc_jax.runtime.devices import data_mesh
from mgc_jax.runtime.environment import command, describe_environment
from mgc_jax.runtime.files import write_json
from mgc_jax.runtime.terminal import clock, is_live
from mgc_jax.runtime.workdir import claim

log = logging.getLogger(__name__)


BENCH_FILE = "bench.json"

_WARMUP = 2  # dispatches
_LEAST_SECONDS = 0.5  # of a repeat, so that a hiccup of the machine does not decide it,
_MOST_DISPATCHES = 1000  # unless it would need more dispatches than these
_TRAINING = ("train", "reused batch")


def run_bench(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Measures a configuration, writes `<workdir>/bench.json` and prints the table; returns what the file holds.

    Args:
        config: a validated configuration of a model; its corpus is not `auto` if the bench is to measure with it.
        workdir: a new folder.

    Raises:
        UserError: the folder holds something already, or what building a run raises.
    """
    for name in ("config.json", BENCH_FILE, "results.json"):
        if (workdir / name).exists():
            raise UserError(f"--workdir {workdir} holds {name} of another run; give a new folder")
    settings = settings_of(config, jax.device_count())
    load = [_load()]
    with claim(workdir, config, create=True), tempfile.TemporaryDirectory(dir=workdir) as folder:
        clips = SharedClips(config, [setting.placement for setting in settings], Path(folder))
        corpus = clips.corpora[settings[0].placement]
        measured = config.copy_and_resolve_references()
        if measured.optimizer.plateau_factor < 1 and not len(corpus.indices("validation")):
            measured.optimizer.plateau_factor = 1.0  # nothing to lower the learning rate by; it costs no time
        facts, rows = _measure(measured, clips, settings, workdir)
        result = {
            "command": command(),
            "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            "environment": describe_environment(),
            "load": [*load, _load()],
            "config": keys.to_json(config),
            "corpus": {"name": corpus.name, "clips": len(corpus), "clip_shape": list(corpus.clips.shape[1:]),
                       "dtype": str(corpus.clips.dtype)},
            "settings": facts,
            "rows": [row.to_json(facts[row.setting]) for row in rows],
            "ratios": _ratios(settings, rows),
        }  # fmt: skip
        _add_shares(result)
        write_json(workdir / BENCH_FILE, result)
    print(format_bench(result))
    log.info("all figures: %s", workdir / BENCH_FILE)
    return result


@dataclasses.dataclass
class Row:
    """A row of the table: a setting and what was measured with it.

    Attributes:
        setting: its number.
        variant: what was measured.
        first_seconds: of the first time: two dispatches, and for the evaluation the time to compile it.
        number: of dispatches (saves, batches of evaluation) in each repeat.
        blocks: one per repeat.
        out_of_memory: there was not enough; then there are no blocks.
    """

    setting: int
    variant: str
    first_seconds: float = 0.0
    number: int = 0
    blocks: list[Block] = dataclasses.field(default_factory=list)
    out_of_memory: bool = False

    def to_json(self, facts: dict[str, Any]) -> dict[str, Any]:
        """Returns the figures of the row."""
        row: dict[str, Any] = {"setting": self.setting, "variant": self.variant}
        if self.out_of_memory:
            return row | {"status": "out of memory"}
        rates = [block.rate for block in self.blocks]
        steps = [seconds / block.steps for block in self.blocks for seconds in block.seconds]
        number = sum(len(block.seconds) * block.steps for block in self.blocks)
        row |= {
            "status": "ok",
            "first_seconds": self.first_seconds,
            "repeats": len(self.blocks),
            "steps": number,
            "step_seconds": percentiles(steps),
            "waited_seconds_per_step": sum(block.waited for block in self.blocks) / number,
        }
        if self.variant == "checkpoint":
            speeds = [block.bytes / sum(block.seconds) / 1e6 for block in self.blocks]
            return row | {"bytes": self.blocks[0].bytes / len(self.blocks[0].seconds),
                          "megabytes_per_second": percentiles(speeds)}  # fmt: skip
        row |= {"clips_per_second": percentiles(rates), "clips_per_second_each": rates}
        row["clips_per_second_per_device"] = row["clips_per_second"]["p50"] / facts["devices"]
        if self.variant in _TRAINING and facts["roof_flops_per_second"]:
            per_step = float(np.median([np.mean(block.seconds) / block.steps for block in self.blocks]))
            row["flops_per_second"] = facts["flops_per_step"] / per_step
            row["share_of_roof"] = row["flops_per_second"] / facts["roof_flops_per_second"]
        return row


def _measure(
    config: ConfigDict, clips: SharedClips, settings: list[Setting], workdir: Path
) -> tuple[list[dict[str, Any]], list[Row]]:
    """Builds every setting, then measures all rows in turn; returns facts by setting, and rows."""
    facts, rows = _measure_settings(config, clips, settings, workdir)
    clips.free()  # the ceilings need memory, too; they come last, so that they do not hide the peaks of the settings
    gc.collect()
    ceilings = {which: _ceilings(*which) for which in dict.fromkeys((s.dtype, s.devices) for s in settings)}
    for setting, known in zip(settings, facts, strict=True):
        known |= ceilings[setting.dtype, setting.devices]
        by_copies = known.get("intensity", 0.0) * known["copy_bytes_per_second"]
        known["roof_flops_per_second"] = min(known["matmul_flops_per_second"], by_copies)
    return facts, rows


def _measure_settings(
    config: ConfigDict, clips: SharedClips, settings: list[Setting], workdir: Path
) -> tuple[list[dict[str, Any]], list[Row]]:
    bench = config.bench
    benchmarks: list[Benchmark | None] = []
    facts: list[dict[str, Any]] = []
    rows: list[Row] = []
    with without_cache():
        for number, setting in enumerate(settings):
            about = ", ".join(f"{name} {value}" for name, value in setting.to_json().items())
            log.info("setting %d of %d (%s): building and compiling", number + 1, len(settings), about)
            own = [Row(number, variant) for variant in bench.variants]
            benchmark, known = _build(config, clips, setting, own, workdir)
            benchmarks.append(benchmark)
            facts.append(known)
            rows += own
    start, live = time.perf_counter(), is_live(sys.stderr)
    with tqdm(total=bench.repeats * len(rows), desc="measuring", unit="row", disable=not live, leave=False) as bar:
        for repeat in range(bench.repeats):
            if not live:
                log.info("repeat %d of %d%s", repeat + 1, bench.repeats, _left(start, repeat, bench.repeats))
            for row in rows:
                bar.set_postfix_str(row.variant)
                _repeat(benchmarks[row.setting], row, clips, settings[row.setting], facts[row.setting])
                bar.update()
    return facts, rows


def _left(start: float, done: int, total: int) -> str:
    """Returns the time that is left, after the first repeat."""
    return f", about {clock((time.perf_counter() - start) / done * (total - done))} left" if done else ""


def _repeat(
    benchmark: Benchmark | None, row: Row, clips: SharedClips, setting: Setting, facts: dict[str, Any]
) -> None:
    """Measures a row once more, if there was enough memory for it."""
    if row.out_of_memory or benchmark is None:
        return
    with _memory_row(row):
        clips.placed(setting.placement, setting.devices)
        resets = _reset_host_peak()
        row.blocks.append(benchmark.measure(row.variant, row.number))
        if row.variant == "train":
            facts["peak_host_bytes"] = max(facts.get("peak_host_bytes", 0), _host_peak(resets))


def _build(
    config: ConfigDict, clips: SharedClips, setting: Setting, rows: list[Row], workdir: Path
) -> tuple[Benchmark | None, dict[str, Any]]:
    """Builds a setting and measures its rows for the first time; returns it, if there is memory for it, and facts."""
    benchmark: Benchmark | None = None
    with _memory_row(*rows):
        clips.free()
        reached = _device_peak(setting.devices)
        placed = clips.placed(setting.placement, setting.devices)
        benchmark = Benchmark(config, clips.corpora[setting.placement], placed, setting, workdir)
    if benchmark is None:
        return None, setting.to_json()
    peak = None
    # Training first, and its peak is taken then: it is what is estimated when the step is compiled.
    for row in sorted(rows, key=lambda row: row.variant not in _TRAINING):
        with _memory_row(row):
            _warm_up(benchmark, row, config.bench)
        if row.variant in _TRAINING:
            peak = _device_peak(setting.devices)
    # The backend reports the highest since the process began: what was reached before says nothing of this setting.
    known = peak is not None and (reached is None or peak > reached)
    benchmark.facts |= {"peak_device_bytes": peak if known else None, "peak_device_bytes_at_most": peak}
    return benchmark, benchmark.facts


def _warm_up(benchmark: Benchmark, row: Row, bench: ConfigDict) -> None:
    """Measures a row for the first time, and finds out how many dispatches per repeat the time for it allows."""
    log.info("first run: %s", row.variant)
    start = time.perf_counter()
    block = benchmark.measure(row.variant, _WARMUP)
    row.first_seconds = time.perf_counter() - start
    if row.variant == "eval":  # compiles in its first call
        block = benchmark.measure(row.variant, _WARMUP)
    row.number = _dispatches(sum(block.seconds) / _WARMUP, block.steps, bench)
    if row.variant == "eval":  # and again for another number of clips
        benchmark.measure(row.variant, row.number)


def _dispatches(seconds: float, steps: int, bench: Any) -> int:
    """Returns how many dispatches a repeat has.

    Args:
        seconds: that one takes.
        steps: in one.
        bench: `config.bench`: as many as hold its `steps`, more of fast ones, fewer of slow ones.
    """
    long_enough = min(_LEAST_SECONDS / seconds, _MOST_DISPATCHES)
    affordable = bench.seconds / bench.repeats / seconds - LEAD
    return max(1, int(min(max(-(-bench.steps // steps), long_enough), affordable)))


@contextlib.contextmanager
def _memory_row(*rows: Row) -> Iterator[None]:
    """Notes in rows that there was not enough memory for what is done inside."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        log.warning("out of memory: %s (%s)", ", ".join(row.variant for row in rows), error)
        for row in rows:
            row.out_of_memory, row.blocks = True, []


def _ceilings(dtype: str, devices: int) -> dict[str, float]:
    log.info("measuring the machine: matrix products and copies in %s on %d device(s)", dtype, devices)
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
    """Adds to each setting the shares of training as configured that data, steps and checkpoints take.

    Evaluation is left out: how long it takes depends on the validation split, and that of a synthetic corpus is small.
    """
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
