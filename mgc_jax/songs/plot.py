"""The genres of a song over time, as a picture."""

from pathlib import Path

import numpy as np

from mgc_jax.runtime.files import writing
from mgc_jax.songs.files import as_text
from mgc_jax.songs.predict import Song, SongPredictions
from mgc_jax.songs.table import OTHER_PLACE, one_line

_LINES = 5  # genres that are drawn
_TITLE = 80  # characters


def write_curves(folder: Path, predictions: SongPredictions) -> list[Path]:
    """Draws the probabilities of the strongest genres of every song over time, one PNG file each.

    Args:
        folder: where; it is made if it is missing.
        predictions: of songs.

    Returns:
        The files, named by the song's number and the name of its file.

    Raises:
        UserError: they cannot be written.
    """
    files = []
    with writing(folder, OTHER_PLACE):
        folder.mkdir(parents=True, exist_ok=True)
        for number, song in enumerate(predictions.songs):
            name = "".join(c if c.isalnum() or c in "-_." else "_" for c in song.path.stem)[:80]
            files.append(folder / f"{number:04d}-{name}.png")
            _draw(files[-1], song, predictions)
    return files


def _draw(path: Path, song: Song, predictions: SongPredictions) -> None:
    import matplotlib.figure

    probability = np.exp(song.window_scores)
    strongest = np.argsort(-np.exp(song.scores), kind="stable")[:_LINES]
    edges = np.append(song.start, min(song.start[-1] + predictions.window, max(song.seconds, song.start[-1] + 0.1)))
    figure = matplotlib.figure.Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots()
    for genre in strongest:
        values = np.append(probability[:, genre], probability[-1, genre])
        axes.step(edges, values, where="post", label=predictions.genres[genre])
    axes.set(xlabel="time in s", ylabel="probability", ylim=(0, 1), xlim=(0, edges[-1]))
    axes.set_title(one_line(song.tags.title or as_text(Path(song.path.name)))[:_TITLE], parse_math=False, loc="left")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    figure.savefig(path, dpi=100)
