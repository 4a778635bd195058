"""How train steps reach the devices: compiled ahead, several per dispatch, and with no transfer but the batches.

For small models, Python dispatch takes longer than the GPU step. Where the corpus is on the devices a dispatch is
therefore a loop over several steps. It ends where the run has something to do: log, evaluate, save. XLA compiles such
a loop for one number of steps, and compiling takes long. So there are two programs: one of as many steps as serve a
run best, and one of a single step for the rest. (A while loop with a dynamic bound would synchronize with the host at
every step; masked steps would be computed for nothing.) XLA's CPU backend runs convolutions inside a loop many times
slower: there it is one step per dispatch.
"""

import dataclasses
import logging
import time
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from mgc_jax.data.feed import Placed
from mgc_jax.data.placement import ClipStore, DeviceClips
from mgc_jax.errors import UserError
from mgc_jax.runtime.devices import on_cpu, replicate
from mgc_jax.training.progress import report
from mgc_jax.training.state import TrainState
from mgc_jax.training.timetable import Timetable

log = logging.getLogger(__name__)


_MOST_STEPS = 64  # per dispatch, where it is chosen here; more gains nothing, and the host should look in at times


_GIB = 2**30


def steps_per_dispatch(config: ConfigDict, timetable: Timetable, clips: ClipStore, mesh: Mesh) -> int:
    """Returns the steps of a dispatch: `config.train.steps_per_dispatch`, or the best number where that is 0."""
    asked = config.train.steps_per_dispatch
    if not isinstance(clips, DeviceClips):
        if asked > 1:
            log.warning(
                "config.train.steps_per_dispatch=%d needs the corpus on the devices (config.data.placement=device); "
                "each dispatch has one step", asked,
            )  # fmt: skip
        return 1
    if asked:
        return min(asked, max(timetable.gaps))  # longer ones would never be filled
    return 1 if on_cpu(mesh) else timetable.best_length(_MOST_STEPS)


class Dispatcher:
    """Runs train steps, one or several per call.

    Its programs are compiled before they first run, and their memory is known then. Inside a call nothing moves
    between host and devices: an implicit transfer, such as a NumPy array among the arguments, is an error.
    """

    def __init__(self, train_step: Callable[..., Any], key: jax.Array, mesh: Mesh):
        """Compiles nothing yet.

        Args:
            train_step: as from `make_train_step`.
            key: for the draws of all steps.
            mesh: the devices.
        """
        self._train_step, self._mesh = train_step, mesh
        self._key = replicate(key, mesh)
        self._programs: dict[int, Callable[..., Any]] = {}

    def is_compiled(self, steps: int) -> bool:
        """Whether there is a program for this number of steps."""
        return steps in self._programs

    def compile(self, state: TrainState, placed: Placed) -> "CompiledSteps":
        """Compiles the program for the steps of a dispatch.

        Raises:
            UserError: it needs more memory than a device has.
        """
        report(f"compiling {_steps(placed.steps)} ...")
        start = time.perf_counter()
        try:
            lowered = self._lower(state, placed)
            traced = time.perf_counter()
            program = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise UserError(f"the train step needs more memory than the device has ({error}). {_REMEDY}") from error
        compiled = time.perf_counter()
        memory, limit = memory_of(program), device_memory_limit(self._mesh)
        log.info(
            "compiled %s in %.1f s; memory per device: %s", _steps(placed.steps), compiled - start,
            memory.describe(limit),
        )  # fmt: skip
        if limit is not None and memory.total > limit:
            raise UserError(
                f"the train step needs {memory.describe(limit)} on each device, more than there is. {_REMEDY}"
            )
        self._programs[placed.steps] = program
        return CompiledSteps(program, memory, traced - start, compiled - traced)

    def _lower(self, state: TrainState, placed: Placed) -> jax.stages.Lowered:
        function = self._train_step if placed.steps == 1 else several(self._train_step)
        # The new state lies where the old one lay, whose memory it takes.
        shardings = jax.tree.map(lambda leaf: leaf.sharding, state), NamedSharding(self._mesh, PartitionSpec())
        jitted = jax.jit(function, donate_argnums=0, out_shardings=shardings)
        return jitted.lower(state, placed.batch, placed.clips, placed.partners, self._key)

    def __call__(self, state: TrainState, placed: Placed) -> tuple[TrainState, dict[str, jax.Array]]:
        """Returns the state after the steps, and their sums: scalars, or [step] where there are several."""
        with jax.transfer_guard("disallow"):
            return self._programs[placed.steps](state, placed.batch, placed.clips, placed.partners, self._key)


def several(train_step: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the function of several steps: what differs between them, and the sums, have a leading axis [step]."""

    def steps(state, batch, clips, partners, key):
        def body(state, each):
            batch, of_clips, of_partners = each
            mixed_with = None if partners is None else partners.with_per_clip(of_partners)
            return train_step(state, batch, clips.with_per_clip(of_clips), mixed_with, key)

        return jax.lax.scan(body, state, (batch, clips.per_clip, None if partners is None else partners.per_clip))

    return steps


@dataclasses.dataclass(frozen=True)
class Memory:
    """What a compiled program needs on each device, in bytes.

    Attributes:
        arguments: the training state, the batch and, where it lies there, the corpus.
        temporaries: activations, gradients and scratch space.
        output: what it returns, beside what takes the place of an argument.
        code: the program.
    """

    arguments: int
    temporaries: int
    output: int
    code: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.arguments + self.temporaries + self.output + self.code

    def describe(self, limit: int | None) -> str:
        """Formats it, beside what the device has (None: unknown)."""
        of = "" if limit is None else f" of {limit / _GIB:.2f}"
        return (
            f"{self.total / _GIB:.2f}{of} GiB (state, batch and corpus {self.arguments / _GIB:.2f}, activations and "
            f"other temporaries {self.temporaries / _GIB:.2f})"
        )


@dataclasses.dataclass(frozen=True)
class CompiledSteps:
    """A program of one or several train steps.

    Attributes:
        program: the executable.
        memory: what it needs.
        trace_seconds: time to trace and lower it.
        compile_seconds: time that XLA took.
    """

    program: jax.stages.Compiled
    memory: Memory
    trace_seconds: float
    compile_seconds: float


_REMEDY = (
    "Set fewer config.batch.clips, cut the batch into micro-batches (config.train.accumulate), compute in half "
    "precision (config.model.dtype=bfloat16), or keep the corpus in host memory (config.data.placement=host)."
)


def memory_of(program: jax.stages.Compiled) -> Memory:
    """Returns XLA's estimate of the memory of a program."""
    found = program.memory_analysis()
    if found is None:  # not every backend gives one
        return Memory(0, 0, 0, 0)
    return Memory(
        arguments=found.argument_size_in_bytes,
        temporaries=found.temp_size_in_bytes,
        output=found.output_size_in_bytes - found.alias_size_in_bytes,
        code=found.generated_code_size_in_bytes,
    )


def device_memory_limit(mesh: Mesh) -> int | None:
    """Returns the bytes that JAX may use on a device; None where that is unknown, as on a CPU."""
    return (mesh.local_devices[0].memory_stats() or {}).get("bytes_limit")


def _steps(number: int) -> str:
    return "the train step" if number == 1 else f"a loop of {number} train steps"
