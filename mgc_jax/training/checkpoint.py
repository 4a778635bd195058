"""Orbax checkpoints of a workdir: the last ones, and the best on validation.

A checkpoint holds checksums of itself, so that damage to any of its files is found. Training resumes at the last
checkpoint that is whole, and saves those after it again. The best one cannot be recomputed without training from the
start: if it is damaged, evaluation stops with an error.
"""

import contextlib
import dataclasses
import errno
import json
import logging
import math
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from mgc_jax.errors import UserError
from mgc_jax.inference import STATE_VERSION, CheckpointMeta
from mgc_jax.runtime import processes
from mgc_jax.runtime.environment import code_version
from mgc_jax.runtime.files import cannot_write
from mgc_jax.training.state import TrainState, as_version_1, from_version_1

log = logging.getLogger(__name__)


class DamagedError(UserError):
    """A checkpoint is damaged, or holds a state of another form.

    Attributes:
        fact: which one, and how it shows; the message says what to do, too.
        why: how it shows.
    """

    def __init__(self, what: str, why: str, remedy: str):
        self.fact, self.why = f"{what} ({why})", why
        super().__init__(f"{self.fact}. {remedy}")


class _Manager(ocp.CheckpointManager):
    """A checkpoint manager that opens a folder where the metrics of a checkpoint cannot be read."""

    def metrics(self, step: int) -> Any:
        try:
            metrics = super().metrics(step)
        except Exception:  # last_whole() and best_step() report it
            return None
        return metrics if isinstance(metrics, dict) else None


# I/O errors that do not mean corruption; a retry may succeed.
_TRANSIENT = (errno.EACCES, errno.EPERM, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE)


class Checkpoints:
    """The checkpoints in `<workdir>/checkpoints`.

    Each holds the training state, a `CheckpointMeta`, and, where validation ran, its metrics.
    """

    def __init__(self, workdir: Path, select: str, keep: int = 1, *, read_only: bool = False):
        """Opens or creates the folder.

        Args:
            workdir: the run's folder.
            select: the validation metric that the best checkpoint has highest, among those of the last phase
                of training that there are.
            keep: how many of the latest checkpoints to keep, beside the best.
            read_only: nothing is written or removed; another process may be training there.
        """
        self.directory = (workdir / "checkpoints").absolute()

        def metric(metrics: dict[str, float]) -> float:
            # Once the classifier is trained again, only its checkpoints count. All metrics are at most 1.
            # A damaged file may lack the metric. Orbax sorts NaN like a number, and would delete the best for it.
            value = metrics.get(select, -1.0) + 2 * metrics.get("phase", 0)
            return -math.inf if math.isnan(value) else value

        self._metric = metric
        options = ocp.CheckpointManagerOptions(
            best_fn=metric,  # for best_step(); what is kept is up to the policies
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(
                [
                    checkpoint_managers.LatestN(keep),
                    checkpoint_managers.BestN(get_metric_fn=metric, n=1, keep_checkpoints_without_metrics=False),
                ]
            ),
            cleanup_tmp_directories=not read_only,  # of a save that was interrupted
            create=not read_only,
            read_only=read_only,
        )
        try:
            self._manager = _Manager(self.directory, options=options, item_names=("state", "meta"))
        except OSError as error:
            raise UserError(f"the checkpoint folder {self.directory} cannot be used: {error}") from error

    def save(self, state: TrainState, meta: CheckpointMeta, metrics: dict[str, float] | None) -> None:
        """Writes a checkpoint in the background; it appears under its step number when it is complete.

        Raises:
            UserError: this one or the one before cannot be written.
        """
        step = int(state.step)
        self.wait()
        checksums = {"state": _checksum(state), "metrics": _checksum_json(metrics)}
        best = self._best_with(step, metrics)
        saved = dataclasses.replace(meta, step=step, best_step=best, checksums=checksums).to_json()
        saved["checksums"]["meta"] = _checksum_json(saved)
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(saved))
        with self._writing():
            self._manager.save(step, args=args, metrics=metrics)

    def latest_step(self) -> int | None:
        """The last complete checkpoint."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """The checkpoint with the highest validation metric; the last one where none was validated.

        Raises:
            DamagedError: the last checkpoint cannot be read, or the best one is damaged.
        """
        self.wait()
        latest, best = self.latest_step(), self._manager.best_step()
        if latest is None:
            return None
        self._check_metrics(latest)
        gone = self.lost_best()
        recorded = self.meta(latest).best_step  # early versions did not record it
        if recorded is not None and gone is None:
            self._check_metrics(recorded)
            return recorded
        if gone is not None:
            log.warning("the checkpoint of step %d was the best on validation, and is gone: the next best is taken",
                        gone)  # fmt: skip
        if best is not None:
            self._check_metrics(best)
        return latest if best is None else best

    def lost_best(self) -> int | None:
        """The checkpoint that was the best on validation, as the last one says, if it is gone; None: it is not.

        Raises:
            DamagedError: the last checkpoint cannot be read.
        """
        latest = self.latest_step()
        best = None if latest is None else self.meta(latest).best_step
        return best if best is not None and not (self.directory / str(best)).exists() else None

    def meta(self, step: int) -> CheckpointMeta:
        """Returns what a checkpoint says of itself.

        Raises:
            DamagedError: it cannot be read.
        """
        saved = self._restore(step, ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
        try:
            meta = CheckpointMeta.from_json(saved)
        except (ValueError, TypeError) as error:
            raise self._damaged(step, f"its meta: {error}") from error
        rest = {name: checksum for name, checksum in meta.checksums.items() if name != "meta"}
        # Of what was saved, which another version of the program may have written with other fields.
        if meta.checksums and meta.checksums.get("meta") != _checksum_json({**saved, "checksums": rest}):
            raise self._damaged(step, "its meta does not have the checksum that was saved")
        return meta

    def restore(self, step: int, like: TrainState) -> TrainState:
        """Restores the state, on the devices and in the shapes of `like`.

        Raises:
            DamagedError: it cannot be read, or is not what was saved.
        """
        meta = self.meta(step)
        first = meta.state_version < STATE_VERSION
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, as_version_1(like) if first else like)
        try:
            state = self._restore(step, ocp.args.Composite(state=ocp.args.StandardRestore(abstract)))["state"]
        except DamagedError as error:
            if meta.code in ("", code_version()):
                raise
            raise self._damaged(
                step, f"saved by {meta.code}; this is {code_version()}, which may have other weights; {error.why}"
            ) from error
        expected = meta.checksums.get("state")  # early versions had none
        if expected is not None and expected != _checksum(state):
            raise self._damaged(step, "its weights do not have the checksum that was saved")
        return from_version_1(state, like) if first else state

    def last_whole(
        self, like: TrainState, check: Callable[[CheckpointMeta], None]
    ) -> tuple[TrainState, CheckpointMeta] | None:
        """Returns state and meta of the last checkpoint that is whole; None if there is no checkpoint at all.

        Damaged ones after it are set aside: their folders get the name damaged-<step>, and training makes these
        checkpoints again.

        Args:
            like: as in `restore`.
            check: raises `UserError` if a checkpoint's meta is that of another run.

        Raises:
            UserError: none is whole, one is of another run, or the metrics of the best can no longer be read.
        """
        damaged: dict[int, DamagedError] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                meta = self.meta(step)
                check(meta)
                self._check_metrics(step)
                found = self.restore(step, like), meta
            except DamagedError as error:
                damaged[step] = error
                continue
            processes.require_same("last whole checkpoint", {"step": step})
            if meta.best_step is not None and (self.directory / str(meta.best_step)).exists():
                self._check_metrics(
                    meta.best_step
                )  # without its metrics it would be taken for an old one, and deleted
            for other, reason in damaged.items():
                self._set_aside(other, reason, step)
            return found
        if damaged:
            first, steps = damaged[max(damaged)], ", ".join(map(str, sorted(damaged)))
            raise UserError(
                f"no checkpoint in {self.directory} can be used ({steps}): {first.fact}. "
                "Put copies back, or give a new --workdir to train from the beginning."
            )
        return None

    def wait(self) -> None:
        """Waits until the last checkpoint is complete.

        Raises:
            UserError: it cannot be written.
        """
        with self._writing():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for the save in progress.

        Raises:
            UserError: it cannot be written.
        """
        with self._writing():
            self._manager.close()

    def _restore(self, step: int, args: Any) -> Any:
        try:
            return self._manager.restore(step, args=args)
        except Exception as error:  # Orbax and TensorStore raise many kinds for a damaged or foreign checkpoint
            if (
                isinstance(error, MemoryError)
                or getattr(error, "errno", None) in _TRANSIENT
                or ("RESOURCE_EXHAUSTED" in str(error))
            ):
                raise UserError(f"checkpoint {self.directory / str(step)} cannot be read: {_short(error)}") from error
            raise self._damaged(step, f"{type(error).__name__}: {_short(error)}") from error

    def _best_with(self, step: int, metrics: dict[str, float] | None) -> int | None:
        """Returns the checkpoint that is the best once one with these metrics is there."""
        before = self._manager.best_step()
        known = None if before is None else self._manager.metrics(before)
        if metrics is None or (known is not None and self._metric(known) > self._metric(metrics)):
            return before if known is not None else None
        return step

    def _check_metrics(self, step: int) -> None:
        """Raises `DamagedError` if the metrics of a checkpoint are not what was saved."""
        file = self.directory / str(step) / "metrics" / "metrics"
        try:
            metrics = json.loads(file.read_text()) if file.parent.is_dir() else None
        except (OSError, ValueError) as error:
            raise self._damaged(step, f"its metrics: {_short(error)}") from error
        try:
            checksums = self.meta(step).checksums
        except DamagedError:
            if metrics is None:  # it may have had some
                raise
            return
        if checksums and checksums["metrics"] != _checksum_json(metrics):
            raise self._damaged(step, "its metrics are not those that were saved")

    def _damaged(self, step: int, why: str) -> DamagedError:
        return DamagedError(
            f"checkpoint {self.directory / str(step)} is damaged, or of another version of the program",
            why,
            "If it is the last one, training makes it again: give the command without --mode. Otherwise put a copy "
            f"back, or, to go on without it, rename that folder to damaged-{step}.",
        )

    def _set_aside(self, step: int, reason: DamagedError, whole: int) -> None:
        place = self.directory / f"damaged-{step}"
        number = 1
        while place.exists():
            number += 1
            place = self.directory / f"damaged-{step}-{number}"
        log.warning("%s", reason.fact)
        log.warning("it is now %s; training goes on from the checkpoint of step %d", place, whole)
        if jax.process_index() == 0:
            (self.directory / str(step)).rename(place)
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            multihost_utils.sync_global_devices("set aside")
        self._manager.reload()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Explains what Orbax and TensorStore raise when a checkpoint cannot be written, perhaps the one before."""
        try:
            yield
        except Exception as error:
            raise UserError(cannot_write(self.directory, error)) from error


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:160]


def _checksum(state: Any) -> int | None:
    """CRC-32 of all arrays; None where this process has not all of them."""
    checksum = 0
    for leaf in jax.tree.leaves(state):
        if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
            return None
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):  # of optimizers that draw
            leaf = jax.random.key_data(leaf)
        array = np.ascontiguousarray(jax.device_get(leaf))
        checksum = zlib.crc32(array.reshape(-1).view(np.uint8).data, checksum)
    return checksum


def _checksum_json(value: Any) -> int:
    return zlib.crc32(json.dumps(json.loads(json.dumps(value)), sort_keys=True).encode())  # as it is read back


def check_folder(workdir: Path) -> None:
    """Raises `UserError` for a folder in which Orbax cannot save whole checkpoints.

    Orbax 0.12.8 takes square brackets in a path as a pattern when it merges the files of a checkpoint: it finds none,
    reports success, and the checkpoint cannot be restored (`findings/orbax_bracketed_folder.sh`).
    """
    path = str(workdir.absolute())
    if "[" in path:
        raise UserError(
            f"the workdir {path} has square brackets in its path, where checkpoints cannot be saved whole. "
            "Give a --workdir without them."
        )


@contextlib.contextmanager
def open_checkpoints(workdir: Path, select: str, keep: int = 1, *, read_only: bool = False) -> Iterator[Checkpoints]:
    """Opens a workdir's checkpoints and waits for unfinished saves at the end, also after an error."""
    checkpoints = Checkpoints(workdir, select, keep, read_only=read_only)
    try:
        yield checkpoints
    except BaseException:
        with contextlib.suppress(UserError):  # the first error is the one to report
            checkpoints.close()
        raise
    checkpoints.close()
