"""Training batches read from the disk ahead of their step, with Grain: by threads, or by worker processes."""

import contextlib
import dataclasses
import os
import signal
import threading
from collections.abc import Generator
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from mgc_jax.data.batches import Batch, TrainBatches, pad
from mgc_jax.data.on_disk import LazyClips
from mgc_jax.errors import UserError
from mgc_jax.runtime.devices import deal

# Threads that each read a batch, where there are no worker processes. On two cores worker processes took two to six
# times the CPU time per clip, and were no faster: their clips come through shared memory.
_THREADS = 2
_AHEAD = 2  # batches that each of them may have ready


class Step(NamedTuple):
    """All that a step needs, on the host.

    Attributes:
        batch: the indices.
        clips: [clip, ...], of the devices of this process, as they are dealt.
        partners: the clips that they are mixed with, or None.
    """

    batch: Batch
    clips: np.ndarray
    partners: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Steps:
    """The steps of a training as a sequence, each read when it is asked for; pickled to worker processes.

    Attributes:
        batches: as a function of the step.
        clips: of the corpus.
        devices: number of devices that the clips are dealt to.
        first: step that the sequence begins with.
        last: step that it ends with; both count finished steps.
        here: which of the dealt clips this process reads.
    """

    batches: TrainBatches
    clips: LazyClips
    devices: int
    first: int
    last: int
    here: slice = dataclasses.field(default_factory=lambda: slice(None))

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, number: int) -> Step:
        batch = pad(self.batches(self.first + number), self.devices)

        def read(index: np.ndarray) -> np.ndarray:
            return self.clips[deal(index, self.devices, index.ndim - 1)[..., self.here]]

        return Step(batch, read(batch.clip), None if batch.mix is None else read(batch.mix.clip))


def stream_steps(steps: Steps, workers: int) -> Generator[Step, None, None]:
    """Yields the steps in order, read ahead.

    Args:
        steps: all of them.
        workers: processes that read, each a step at a time; at most 0: threads of this process.

    Raises:
        UserError: clips cannot be read, or a worker process ended before its time.
    """
    import grain

    if not flags.FLAGS.is_parsed():  # Grain reads absl flags, which a library user never parses
        flags.FLAGS.mark_as_parsed()
    if len(steps) <= 0:
        return
    workers = max(workers, 0)
    threads = 0 if workers else _THREADS
    reading = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads * _AHEAD)
    dataset = grain.MapDataset.source(steps).to_iter_dataset(reading)
    if workers:
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=_AHEAD)
        dataset = dataset.mp_prefetch(options, worker_init_fn=_start_worker)
    iterator = iter(dataset)
    try:
        for _ in range(len(steps)):
            yield next(iterator)
    except RuntimeError as error:
        if "terminated unexpectedly" not in str(error):
            raise
        raise UserError(
            f"a process that reads clips was killed ({_exit_code(error)}), perhaps because memory or /dev/shm was "
            "full. The same command resumes at the last checkpoint; --config.data.workers=0 reads without such "
            "processes."
        ) from error
    finally:
        iterator.close()


def _exit_code(error: RuntimeError) -> str:
    """Picks the words about the exit code out of Grain's message."""
    words = str(error).partition("exit code ")[2].partition(".")[0]
    return f"exit code {words}" if words else "exit code unknown"


def _start_worker(number: int, count: int) -> None:
    """Prepares a worker process: it leaves the accelerator alone, and ends with the process that started it."""
    import multiprocessing

    import jax

    jax.config.update("jax_platforms", "cpu")  # Grain imports JAX; nothing here computes with it
    # A batch system sends them to every process; the parent decides when to end.
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(name, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    """Ends this process when its parent has ended, also if the parent was killed."""
    with contextlib.suppress(Exception):
        parent.join()
    os._exit(1)
