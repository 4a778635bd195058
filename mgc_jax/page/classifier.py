"""What works behind the page: a model and its decoders, which stay between drops."""

import functools
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from mgc_jax.errors import UserError
from mgc_jax.page.answer import answer_of
from mgc_jax.page.pictures import Pictures
from mgc_jax.page.uploads import Drop, Upload
from mgc_jax.scoring import chunk_size
from mgc_jax.songs.audio import first_task, further_tasks
from mgc_jax.songs.predict import SongPredictions, predict_songs
from mgc_jax.songs.representation import song_representation
from tfds_fma.clips.windows import Windows, window_seconds
from tfds_fma.errors import ClipError
from tfds_fma.parallel import start_pool

_NOISE_RATE = 22_050  # Hz; FMA's features need more than a low one


class StoppedError(Exception):
    """Nobody waits for the result any more."""


class Classifier:
    """Classifies drops, one at a time; its decoders are processes that stay between them.

    Attributes:
        model: an `mgc_jax.inference.ExportedModel`.
        window: length of a window, s.
    """

    def __init__(self, model: Any, *, hop: float | None = None, workers: int | None = None):
        """Checks that the model can take audio; the decoders start with the first drop.

        Args:
            model: an `mgc_jax.inference.ExportedModel`.
            hop: distance of windows in s; None: their length.
            workers: processes that decode; None: one per usable core.

        Raises:
            UserError: the model cannot take audio, or there is no such number of workers.
        """
        self.model, self._representation = model, song_representation(model.meta)
        self.window = window_seconds(self._representation)
        self._hop, self._workers = hop, workers
        self._pool = start_pool(workers)

    def close(self) -> None:
        """Ends the decoders."""
        self._pool.shutdown(cancel_futures=True)

    def warm_up(self) -> None:
        """Starts the decoders and compiles what songs and albums need, so that nobody waits for that later.

        Raises:
            UserError: a song cannot be classified, or `hop` makes no sense.
        """
        noise = 0.1 * np.random.default_rng(0).normal(size=round(2 * self.window * _NOISE_RATE))
        with tempfile.TemporaryDirectory(prefix="mgc-jax-page-") as folder:
            songs = [Path(folder) / "1.wav", Path(folder) / "2.wav"]
            for song in songs:
                soundfile.write(song, noise, _NOISE_RATE)
            drop = Drop("folder", tuple(Upload(song.name, song) for song in songs))
            failed = self.classify(drop, report=lambda _: None, stop=threading.Event())["failed"]
        if failed:
            raise UserError(f"the model cannot classify a song of noise: {failed[0]['reason']}")
        most = self.model.meta.config["eval"]["batch_clips"]
        sizes = {chunk_size(number, most, self.model.mesh.size) for number in range(1, most + 1)}
        for size in sorted(sizes):
            self.model.embed(np.zeros((size, *self.model.meta.stored_shape), self._representation.dtype))

    def classify(
        self, drop: Drop, *, report: Callable[[dict[str, int]], None], stop: threading.Event
    ) -> dict[str, Any]:
        """Returns what the page shows of a drop, see `answer.answer_of`.

        Args:
            drop: files that were sent together.
            report: is told how far the work is: how many songs are `done`, `of` how many, `windows` decoded so far.
            stop: when it is set, the work ends soon.

        Raises:
            StoppedError: `stop` was set.
            UserError: nothing can be done, as one sentence.
        """
        paths = [file.path for file in drop.files if file.path is not None]
        pictures, windows_so_far = Pictures(self.window, self._spectrograms), 0
        tasks: dict[int, int] = {}  # of each song, that are not done

        def on_windows(song: int, windows: Windows | ClipError) -> None:
            nonlocal windows_so_far
            if stop.is_set():
                raise StoppedError
            tasks[song] = tasks[song] - 1 if song in tasks else self._further_tasks(windows)
            if isinstance(windows, Windows):
                pictures.add(song, windows)
                windows_so_far += len(windows.clips)
            done = sum(left == 0 for left in tasks.values())
            report({"done": done, "of": len(paths), "windows": windows_so_far})

        if stop.is_set():
            raise StoppedError
        predictions = self._predict(paths, drop.bags, on_windows)
        place = {path: number for number, path in enumerate(paths)}
        drawn = {song.path: pictures.picture(place[song.path], song.seconds) for song in predictions.songs}
        return answer_of(drop, predictions, drawn)

    def _further_tasks(self, windows: Windows | ClipError) -> int:
        """Returns in how many tasks the rest of a song will come, after the first one."""
        if isinstance(windows, ClipError):
            return 0
        hop = self._hop or self.window
        return len(further_tasks(first_task(0, Path(), hop), windows, hop))

    def _predict(
        self, paths: list[Path], bags: str, on_windows: Callable[[int, Windows | ClipError], None]
    ) -> SongPredictions:
        if not paths:
            return SongPredictions(self.model.genres, (), (), (), self.window, self._hop or self.window)
        try:
            return predict_songs(
                self.model, paths, bags=bags, hop=self._hop, workers=self._workers, pool=self._pool,
                on_windows=on_windows,
            )  # fmt: skip
        finally:
            self._replace_dead_decoders()

    def _replace_dead_decoders(self) -> None:
        """Starts other worker processes if a file has killed one, after which a pool takes no work."""
        try:
            self._pool.submit(int).result()
        except BrokenProcessPool:
            self.close()
            self._pool = start_pool(self._workers)

    def _spectrograms(self, clips: np.ndarray) -> np.ndarray | None:
        """Returns what the model takes of stored clips as spectrograms [clip, frame, mel]; None: it takes none."""
        if self.model.inputs.frontend is not None:
            return np.concatenate([self._computed(clip[None]) for clip in clips])
        return clips if clips.ndim == 3 else None

    @functools.cached_property
    def _computed(self) -> Callable[[np.ndarray], np.ndarray]:
        import jax

        return jax.jit(self.model.inputs.frontend)
