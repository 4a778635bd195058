"""What a run reports while it trains."""

import contextlib
import dataclasses
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, TypeVar

import jax

from mgc_jax.inference import CheckpointMeta
from mgc_jax.training.metrics_writer import MetricsWriter
from mgc_jax.training.progress import TOLD_ACCURACY, MetricWindow, Progress, report
from mgc_jax.training.timetable import Timetable

_T = TypeVar("_T")


class Monitor:
    """Counts steps and time, and reports them: progress line, metrics over time, a line per evaluation.

    A context manager, which closes its files, and what `waits_for` waits for.
    """

    def __init__(
        self, workdir: Path, timetable: Timetable, meta: CheckpointMeta, step: int, *, told_genre: bool = False
    ):
        """Opens the files.

        Args:
            workdir: the run's folder.
            timetable: of the run.
            meta: what its checkpoints say of themselves: the time so far, and sums that were not logged yet.
            step: steps done.
            told_genre: whether the model's scores in training depend on the genre.

        Raises:
            UserError: a file cannot be written.
        """
        self._timetable, self._meta, self._step = timetable, meta, step
        self._progress = Progress(timetable.total_steps, step, meta.seconds)
        self._window = MetricWindow(meta.window, told_genre=told_genre)
        self._writer = MetricsWriter(workdir, step)
        self._train: dict[str, float] = {}  # means at the last log line
        self._feed: Generator[Any, None, None] | None = None

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(self, *_: object) -> None:
        if self._feed is not None:
            self._feed.close()
        self._progress.clear()
        self._writer.close()

    @contextlib.contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Adds the time of a block to a part of the run; only `data` and `train` count in the rate of training."""
        counted = contextlib.nullcontext() if part in ("data", "train") else self._window.paused()
        with counted, self._progress.timed(part):
            yield

    def waits_for(self, items: Generator[_T, None, None]) -> Generator[_T, None, None]:
        """Yields items; the time until the next one is there counts as `data`."""
        self._feed = items
        while True:
            with self.timed("data"):
                item = next(items, None)
            if item is None:
                return
            yield item

    def trained(self, steps: int, sums: dict[str, jax.Array]) -> int:
        """Takes in the sums of a dispatch; returns how many steps are done."""
        self._window.add(sums)
        self._step += steps
        return self._step

    def log(self) -> None:
        """Writes the means of the steps since the last call; waits for the device.

        Raises:
            UserError: the loss is not finite.
        """
        with self.timed("train"):
            self._train = self._window.means(self._step)
        self._writer.write(self._step, {"epoch": self._step / self._timetable.steps_per_epoch, **self._train})
        self._progress.show(self._step, self._train["train/clips_per_second"], self._train["train/loss"])

    def validated(self, result: dict[str, Any]) -> dict[str, float]:
        """Writes the metrics of the validation split; returns them as <level>/<metric>."""
        by_level = {level: metrics for level, metrics in result.items() if isinstance(metrics, dict)}
        flat = {f"{level}/{name}": value for level, metrics in by_level.items() for name, value in metrics.items()}
        self._writer.write(self._step, {f"validation/{name}": value for name, value in flat.items()})
        levels = "; ".join(f"{level} {_in_words(metrics)}" for level, metrics in by_level.items())
        epoch, epochs = (n / self._timetable.steps_per_epoch for n in (self._step, self._timetable.total_steps))
        accuracy = "".join(
            f", train accuracy{' (told the genre)' if name == TOLD_ACCURACY else ''} {self._train[name]:.3f}"
            for name in (TOLD_ACCURACY, "train/accuracy")
            if name in self._train
        )
        self._progress.clear()
        report(
            f"epoch {epoch:.0f}/{epochs:.0f}: loss {self._train['train/loss']:.3f}{accuracy}, "
            f"{self._train['train/clips_per_second']:,.0f} clips/s; validation"
            f"{' accuracy' if accuracy else ' macro AP'}: {levels}"
        )
        return flat

    def meta(self) -> CheckpointMeta:
        """Returns what a checkpoint saved now says of itself."""
        window = tuple(self._window.sums(self._step))
        return dataclasses.replace(self._meta, seconds=dict(self._progress.seconds), window=window)


def _in_words(metrics: dict[str, float]) -> str:
    """Returns the main metric of a level, and the micro average precision in brackets."""
    if "accuracy" in metrics:
        return f"{metrics['accuracy']:.3f} (AP {metrics['micro_ap']:.3f})"
    return f"{metrics['macro_ap']:.3f} (micro AP {metrics['micro_ap']:.3f})"
