"""Orbax checkpoints of a workdir: the last ones, and the best on validation."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from mgc_jax.errors import UserError
from mgc_jax.state import TrainState


class Checkpoints:
    """The checkpoints in `<workdir>/checkpoints`.

    Each holds the training state and `meta`, a JSON dict that says what it belongs to (configuration, labels,
    corpus, standardization, time spent), and, where validation ran, its metrics.
    """

    def __init__(self, workdir: Path, select: str, keep: int = 1):
        """Opens or creates the folder.

        Args:
            workdir: the run's folder.
            select: the validation metric that the best checkpoint has highest, among those of the last phase
                of training that there are.
            keep: how many of the latest checkpoints to keep, beside the best.
        """
        self.directory = (workdir / "checkpoints").absolute()

        def metric(metrics: dict[str, float]) -> float:
            # Once the classifier is trained again, only its checkpoints count. All metrics are at most 1.
            return metrics[select] + 2 * metrics.get("phase", 0)

        options = ocp.CheckpointManagerOptions(
            best_fn=metric,  # for best_step(); what is kept is up to the policies
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(
                [
                    checkpoint_managers.LatestN(keep),
                    checkpoint_managers.BestN(get_metric_fn=metric, n=1, keep_checkpoints_without_metrics=False),
                ]
            ),
            cleanup_tmp_directories=True,  # of a save that was interrupted
        )
        try:
            self._manager = ocp.CheckpointManager(self.directory, options=options, item_names=("state", "meta"))
        except OSError as error:
            raise UserError(f"the checkpoint folder {self.directory} cannot be used: {error}") from error

    def save(self, state: TrainState, meta: dict[str, Any], metrics: dict[str, float] | None) -> None:
        """Writes a checkpoint in the background; it appears under its step number when it is complete."""
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta))
        self._manager.save(int(state.step), args=args, metrics=metrics)

    def latest_step(self) -> int | None:
        """The last complete checkpoint."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """The checkpoint with the highest validation metric; the last one where none was validated."""
        self._manager.wait_until_finished()
        best = self._manager.best_step()
        return self.latest_step() if best is None else best

    def meta(self, step: int) -> dict[str, Any]:
        """Returns the `meta` of a checkpoint."""
        return self._restore(step, ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]

    def restore(self, step: int, like: TrainState) -> TrainState:
        """Restores the state, on the devices and in the shapes of `like`."""
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        return self._restore(step, ocp.args.Composite(state=ocp.args.StandardRestore(abstract)))["state"]

    def _restore(self, step: int, args: Any) -> Any:
        try:
            return self._manager.restore(step, args=args)
        except Exception as error:  # Orbax and TensorStore raise many kinds for a damaged or foreign checkpoint
            raise UserError(
                f"checkpoint {self.directory / str(step)} cannot be restored; it is damaged or belongs to another "
                f"model. Delete that folder to go on from the one before. ({type(error).__name__}: {error})"
            ) from error

    def close(self) -> None:
        """Waits for the save in progress."""
        self._manager.wait_until_finished()
        self._manager.close()


@contextlib.contextmanager
def open_checkpoints(workdir: Path, select: str, keep: int = 1) -> Iterator[Checkpoints]:
    """Opens a workdir's checkpoints and waits for unfinished saves at the end, also after an error."""
    checkpoints = Checkpoints(workdir, select, keep)
    try:
        yield checkpoints
    finally:
        checkpoints.close()
