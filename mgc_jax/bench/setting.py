"""One setting of the benchmark (batch, precision, placement, number of devices), built, and what is measured of it."""

import copy
import dataclasses
import itertools
import logging
import tempfile
import time
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from mgc_jax.bench.clips import where
from mgc_jax.bench.flops import count
from mgc_jax.config.checks import validate
from mgc_jax.data.corpus import Corpus
from mgc_jax.data.feed import Placed, placed_dispatches
from mgc_jax.data.frontend import LogMelFrontend
from mgc_jax.data.placement import ClipStore
from mgc_jax.errors import UserError
from mgc_jax.experiment import Experiment
from mgc_jax.models.classifier import describe_model, set_platform_kernels, split_model
from mgc_jax.training.checkpoint import open_checkpoints
from mgc_jax.training.dispatch import CompiledSteps, Dispatcher, steps_per_dispatch
from mgc_jax.training.phases import initial_state, make_phase
from mgc_jax.training.state import TrainState
from mgc_jax.training.timetable import make_timetable

log = logging.getLogger(__name__)


LEAD = 1  # dispatches before those that are measured in a repeat: they fill the pipeline


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is varied; `batch_clips` are those of all devices, or with `weak` scaling of each."""

    batch_clips: int
    dtype: str
    placement: str
    devices: int
    weak: bool = False

    @property
    def clips(self) -> int:
        """Most clips of a batch."""
        return self.batch_clips * self.devices if self.weak else self.batch_clips

    def apply(self, config: ConfigDict) -> ConfigDict:
        """Returns the configuration with these values."""
        config = config.copy_and_resolve_references()
        config.batch.clips = self.clips
        config.model.dtype, config.data.placement = self.dtype, self.placement
        return config

    def to_json(self) -> dict[str, Any]:
        """Returns the values as they are in training."""
        return {"batch_clips": self.clips, "dtype": self.dtype, "placement": self.placement,
                "devices": self.devices}  # fmt: skip


def settings_of(config: ConfigDict, num_devices: int) -> list[Setting]:
    """Returns every combination of the values that `config.bench` lists.

    Raises:
        UserError: more devices are asked for than there are, or a batch cannot be cut into micro-batches.
    """
    bench = config.bench
    devices = tuple(bench.devices) or (num_devices,)
    if max(devices) > num_devices:
        raise UserError(
            f"config.bench.devices={devices}, but there are {num_devices}. On a CPU "
            f"--cpu_devices={max(devices)} makes as many of its cores."
        )
    combinations = itertools.product(
        tuple(bench.batch_clips) or (config.batch.clips,), tuple(bench.dtypes) or (config.model.dtype,),
        tuple(bench.placements) or (config.data.placement,), devices,
    )  # fmt: skip
    settings = [Setting(*values, weak=bench.scaling == "weak") for values in combinations]
    for setting in settings:
        validate(setting.apply(config))
    return settings


@dataclasses.dataclass(frozen=True)
class Block:
    """One measurement of a row.

    Attributes:
        seconds: of each dispatch (a batch, a save, a pass of evaluation).
        steps: in each dispatch.
        clips: in all steps.
        waited: of the seconds, those spent waiting for data.
        bytes: written.
    """

    seconds: list[float]
    steps: int = 1
    clips: float = 0.0
    waited: float = 0.0
    bytes: float = 0.0

    @property
    def rate(self) -> float:
        """Clips per second; of what handles none, steps per second."""
        return (self.clips or len(self.seconds) * self.steps) / sum(self.seconds)


class Benchmark:
    """A setting, built and compiled.

    Attributes:
        setting: which one.
        length: steps per dispatch, as in training.
        facts: what is known without measuring more: compile time, operations, estimated memory.
    """

    def __init__(self, config: ConfigDict, corpus: Corpus, clips: ClipStore, setting: Setting, workdir: Path):
        """Builds and compiles a setting.

        Raises:
            MemoryError: the train step needs more memory than a device has.
        """
        self.setting, self._config, self._workdir = setting, setting.apply(config), workdir
        start = time.perf_counter()
        devices = jax.devices()[: setting.devices]
        self._experiment = Experiment(self._config, workdir, corpus=corpus, clips=clips, devices=devices)
        self._phase = make_phase(self._experiment, classifier_only=False)
        batches = self._phase.batches
        epoch = batches.steps_per_epoch
        if config.bench.data == "synthetic":  # so small a corpus that ends of epochs would cut the dispatches short
            epoch = max(epoch, config.train.log_every_steps)
        timetable = make_timetable(self._config, epoch)
        self.length = steps_per_dispatch(self._config, timetable, clips, self._experiment.mesh)
        key = jax.random.key(config.seed)
        self._dispatcher = Dispatcher(self._phase.train_step, key, self._experiment.mesh)
        self._next_step = 0
        state, placed = self._state(), next(self._dispatches(0, 1))
        built = time.perf_counter()
        try:
            prepared = self._dispatcher.compile(state, placed)
        except UserError as error:
            raise MemoryError(str(error)) from error
        one = next(placed_dispatches(batches, clips, self._experiment.mesh, 0, [1]))
        step = make_phase(_plain(self._experiment), classifier_only=False).train_step
        counted = count(step, state, one.batch, one.clips, one.partners, key)
        if counted.unknown:
            log.warning("operations inside %s are counted once, however often they run", ", ".join(counted.unknown))
        slots = one.batch.real.size
        self.facts: dict[str, Any] = {
            **setting.to_json(),
            "placed": where(clips),
            "model": describe_model(self._config.model),
            "parameters": self._experiment.num_parameters,
            "steps_per_epoch": batches.steps_per_epoch,
            "steps_per_dispatch": self.length,
            "slots_filled": len(self._experiment.train_bags.clips) / (batches.steps_per_epoch * slots),
            "build_seconds": built - start,
            "trace_seconds": prepared.trace_seconds,
            "compile_seconds": prepared.compile_seconds,
            "flops_per_step": counted.flops,
            "bytes_per_step": counted.bytes,
            "intensity": counted.flops / counted.bytes if counted.bytes else 0.0,
            "xla": _xla_facts(prepared),
        }

    def _state(self) -> TrainState:
        """The state before the first step: training on noise would diverge, and the step takes its memory anyway."""
        return initial_state(self._experiment, self._phase.optimizer)

    def _dispatches(self, first: int, number: int) -> Generator[Placed, None, None]:
        """Returns dispatches from a step on, each of the length that training takes; see `Timetable.best_length`."""
        return placed_dispatches(
            self._phase.batches, self._experiment.clips, self._experiment.mesh, first, [self.length] * number
        )

    def _next_dispatches(self, number: int) -> Generator[Placed, None, None]:
        first = self._next_step
        self._next_step += number * self.length
        return self._dispatches(first, number)

    def measure(self, variant: str, number: int) -> Block:
        """Measures a row once: `number` dispatches, saves or batches of evaluation."""
        measures: dict[str, Callable[[int], Block]] = {
            "train": self._train, "reused batch": self._reused, "data only": self._data,
            "checkpoint": self._checkpoint, "eval": self._evaluate,
        }  # fmt: skip
        return measures[variant](number)

    def _train(self, number: int) -> Block:
        return self._trained(self._next_dispatches(LEAD + number), number)

    def _reused(self, number: int) -> Block:
        return self._trained(itertools.repeat(next(self._dispatches(0, 1))), number)

    def _trained(self, dispatches: Iterable[Placed], number: int) -> Block:
        """Dispatches; the end of each is seen when the next one has been given to the devices."""
        state, dispatches = self._state(), iter(dispatches)
        sums: list[dict[str, jax.Array]] = []
        for _ in range(LEAD):
            state, before = self._dispatcher(state, next(dispatches))
        jax.block_until_ready(before)
        ends, waited = [time.perf_counter()], 0.0
        for _ in range(number):
            asked = time.perf_counter()
            placed = next(dispatches)
            waited += time.perf_counter() - asked
            state, now = self._dispatcher(state, placed)
            if sums:
                jax.block_until_ready(sums[-1])
                ends.append(time.perf_counter())
            sums.append(now)
        jax.block_until_ready((sums[-1], state))
        ends.append(time.perf_counter())
        clips = sum(float(np.sum(each["clips"])) for each in jax.device_get(sums))
        return Block(np.diff(ends).tolist(), steps=self.length, clips=clips, waited=waited)

    def _data(self, number: int) -> Block:
        dispatches, seconds, clips = self._next_dispatches(LEAD + number), [], 0
        for _ in range(LEAD):
            jax.block_until_ready(next(dispatches))
        for _ in range(number):
            start = time.perf_counter()
            placed = jax.block_until_ready(next(dispatches))
            seconds.append(time.perf_counter() - start)
            clips += int(np.sum(np.asarray(placed.batch.real)))
        return Block(seconds, steps=self.length, clips=clips, waited=sum(seconds))

    def _checkpoint(self, saves: int) -> Block:
        state, train = self._state(), self._config.train
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        seconds, waited = [], 0.0
        with (
            tempfile.TemporaryDirectory(dir=self._workdir) as folder,
            open_checkpoints(Path(folder), train.select, train.keep_checkpoints) as checkpoints,
        ):
            for step in range(1, 1 + min(saves, 3)):
                state = dataclasses.replace(state, step=state.step + 1)
                start = time.perf_counter()
                checkpoints.save(state, self._experiment.meta({}), None)
                waited += time.perf_counter() - start  # training goes on from here
                saved = checkpoints.best_step()  # waits for the save
                seconds.append(time.perf_counter() - start)
                assert saved == step
        return Block(seconds, waited=waited, bytes=size * len(seconds))

    def _evaluate(self, batches: int) -> Block:
        experiment, bags = self._experiment, self._experiment.bags["train"]
        wanted = batches * experiment.config.eval.batch_clips
        some = bags.take(np.arange(max(1, np.searchsorted(bags.offsets, wanted, side="right") - 1)))
        state = self._state()
        start = time.perf_counter()
        experiment.evaluator.score_split(*state.evaluated, experiment.corpus, "train", some)
        return Block([time.perf_counter() - start], clips=len(some.clips))


def _plain(experiment: Experiment) -> Experiment:
    """The experiment in XLA's own operations (`config.model.kernels = "plain"`), to count them."""
    plain = copy.copy(experiment)
    plain.inputs = copy.copy(experiment.inputs)
    model = nnx.merge(experiment.graph, experiment.params, experiment.batch_stats)
    set_platform_kernels(model, False)
    plain.graph, *_ = split_model(model)
    if experiment.inputs.frontend is not None:
        name = experiment.inputs.frontend.representation.name
        plain.inputs.frontend = LogMelFrontend(name, platform_kernels=False)
    return plain


def _xla_facts(prepared: CompiledSteps) -> dict[str, Any]:
    """What the compiler estimates of a dispatch: memory; operations, where it takes the body of a loop as run once."""
    memory, costs = prepared.memory, prepared.program.cost_analysis() or {}
    facts = {f"{name}_bytes": size for name, size in dataclasses.asdict(memory).items()}
    estimated = memory.total or None  # not every backend says
    return facts | {"estimated_bytes": estimated, "flops": costs.get("flops"),
                    "bytes_accessed": costs.get("bytes accessed")}  # fmt: skip
