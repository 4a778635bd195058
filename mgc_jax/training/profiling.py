"""Profiles of some steps, for TensorBoard, XProf and Perfetto."""

import logging
from pathlib import Path
from typing import Any

import jax

from mgc_jax.runtime import processes

log = logging.getLogger(__name__)


class Profile:
    """Traces host and devices in the steps from `first` to `last`, to `<workdir>/profile`; a context manager."""

    def __init__(self, workdir: Path, first: int, last: int, done: int = 0):
        """Starts nothing yet.

        Args:
            workdir: the run's folder.
            first: the first step, counted from 1; 0: no profile.
            last: the last one.
            done: steps that an interrupted run has done.
        """
        self._folder, self._first, self._last = workdir / "profile", first, last
        self._running = False
        if 0 < first <= done:
            log.warning("no profile: the run has done step %d, where it was to begin (config.profile.first)", first)

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def before(self, step: int, state: Any) -> None:
        """To be called before a step: begins where it is the first one, once the devices have done all before."""
        if step == self._first and processes.is_first():  # of several processes it is alike in all
            jax.block_until_ready(state)
            jax.profiler.start_trace(self._folder, create_perfetto_trace=True)
            self._running = True

    def after(self, step: int, state: Any) -> None:
        """To be called after a step: ends where it is the last one, once the devices have done it."""
        if self._running and step >= self._last:
            jax.block_until_ready(state)
            self.close()

    def close(self) -> None:
        """Ends the profile if it is still going on, as at the end of a shorter run."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
            log.info("profile of steps %d to %d: %s", self._first, self._last, self._folder)
