"""After which steps a run logs, evaluates and saves."""

import collections
import dataclasses
import itertools
import logging
from collections.abc import Sequence

from ml_collections import ConfigDict

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Timetable:
    """After which steps a run does what; steps are counted from 1, `step` of them are done.

    Attributes:
        model_steps: those of the whole model.
        total_steps: those and the ones of the classifier alone.
        log_every: steps between log lines.
        eval_every: steps between evaluations.
        save_every: steps between further checkpoints; 0: none.
        profile: the first and the last step of a profile; 0: none.
        steps_per_epoch: to say how many epochs some steps are.
    """

    model_steps: int
    total_steps: int
    log_every: int
    eval_every: int
    save_every: int = 0
    profile: tuple[int, int] = (0, 0)
    steps_per_epoch: int = 1

    def evaluates(self, step: int) -> bool:
        """Whether the model is evaluated after a step."""
        return step in (self.model_steps, self.total_steps) or step % self.eval_every == 0

    def saves(self, step: int) -> bool:
        """Whether a checkpoint is saved after a step."""
        return self.evaluates(step) or (self.save_every > 0 and step % self.save_every == 0)

    def logs(self, step: int) -> bool:
        """Whether the losses are looked at after a step."""
        return self.saves(step) or step % self.log_every == 0

    def stops(self, first: int, last: int) -> list[int]:
        """Returns the steps after `first`, up to `last`, after which the host has something to do."""
        every = [n for n in (self.log_every, self.eval_every, self.save_every) if n]
        found = {step for n in every for step in range(first - first % n + n, last + 1, n)}
        begin, end = self.profile
        found |= {self.model_steps, begin - 1 if begin else 0, end}
        return sorted({step for step in found if first < step < last} | ({last} if last > first else set()))

    @property
    def gaps(self) -> list[int]:
        """How many steps lie between those after which the host has something to do."""
        return _gaps([0, *self.stops(0, self.total_steps)])

    def best_length(self, most: int) -> int:
        """Returns the number of steps per dispatch, at most `most`, with which the run has the fewest dispatches."""
        gaps = collections.Counter(self.gaps)
        number = {
            length: sum(times * sum(divmod(gap, length)) for gap, times in gaps.items())
            for length in range(min(most, max(gaps)), 0, -1)
        }
        return min(number, key=number.__getitem__)

    def dispatches(self, first: int, last: int, length: int) -> list[int]:
        """Cuts the steps after `first`, up to `last`, into dispatches of `length` steps or of one."""
        steps: list[int] = []
        for gap in _gaps([first, *self.stops(first, last)]):
            whole, rest = divmod(gap, length)
            steps += [length] * whole + [1] * rest
        return steps


def _gaps(steps: Sequence[int]) -> list[int]:
    return [after - before for before, after in itertools.pairwise(steps)]


def make_timetable(config: ConfigDict, steps_per_epoch: int) -> Timetable:
    """Returns the timetable of a configuration."""
    train, profile = config.train, config.profile
    return Timetable(
        model_steps=train.epochs * steps_per_epoch,
        total_steps=(train.epochs + train.classifier_epochs) * steps_per_epoch,
        log_every=train.log_every_steps,
        eval_every=train.eval_every_epochs * steps_per_epoch,
        save_every=train.checkpoint_every_steps,
        profile=(profile.first, profile.last),
        steps_per_epoch=steps_per_epoch,
    )
