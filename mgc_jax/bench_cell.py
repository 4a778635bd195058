"""One setting of the bench (batch, precision, placement, number of devices), built, and what is measured of it."""

import contextlib
import dataclasses
import itertools
import logging
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache
from ml_collections import ConfigDict

from mgc_jax.checkpoint import open_checkpoints
from mgc_jax.data.corpus import Corpus
from mgc_jax.errors import UserError
from mgc_jax.feed import DeviceClips, placed_batches
from mgc_jax.flops import count
from mgc_jax.models.classifier import describe_model
from mgc_jax.state import TrainState
from mgc_jax.train import Run, initial_state, make_phase

log = logging.getLogger(__name__)

LEAD = 1  # steps before those that are measured in a repeat: they fill the pipeline


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
        first = self._take_steps(LEAD + steps)
        return self._trained(self._batches(first, LEAD + steps), steps)

    def _reused(self, steps: int) -> Block:
        placed = next(self._batches(0, 1))
        return self._trained(itertools.repeat(placed), steps)

    def _trained(self, batches: Iterable[Any], steps: int) -> Block:
        """Steps; the end of each is seen when the next one has been given to the devices."""
        state, batches = self._state(), iter(batches)
        sums: list[dict[str, jax.Array]] = []
        for _ in range(LEAD):
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
        first = self._take_steps(LEAD + steps)
        batches, seconds, clips = self._batches(first, LEAD + steps), [], 0
        for _ in range(LEAD):
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
