"""The clips that a run gets most wrong, kept beside its predictions: a report shows them without the corpus."""

from pathlib import Path

import numpy as np

from mgc_jax.data.corpus import Corpus
from mgc_jax.evaluation.predictions import Predictions
from mgc_jax.runtime.files import writing

_EXAMPLES_FILE = "examples.npz"
_CLIPS = 8  # of a split
_FRAMES = 360


def most_confused(predictions: Predictions) -> np.ndarray:
    """Returns the rows of the most probable wrong predictions, the highest probability first, at most one of a bag.

    They are predictions of clips alone where those were scored: that is what a spectrogram shows.
    """
    level = next(iter(predictions.levels))
    predicted, scores = predictions.predicted(level), predictions.levels[level].astype(np.float64)
    log_probability = scores[np.arange(len(scores)), predicted] - np.logaddexp.reduce(scores, axis=1)
    wrong = np.flatnonzero(predicted != predictions.label)
    wrong = wrong[np.argsort(-log_probability[wrong], kind="stable")]
    _, first_of_bag = np.unique(predictions.bag[wrong], return_index=True)
    return wrong[np.sort(first_of_bag)][:_CLIPS]


def save_examples(predictions: Predictions, corpus: Corpus, workdir: Path) -> None:
    """Writes spectrograms of the clips of `most_confused`, shortened; nothing if the corpus has no spectrograms."""
    if corpus.clips.ndim != 3:
        return
    parts = [predictions.of_split(split) for split in predictions.splits if split != "train"]
    tracks = np.concatenate([np.zeros(0, np.int64), *(part.track_id[most_confused(part)] for part in parts)])
    row_of = {track: row for row, track in enumerate(corpus.track_id.tolist())}
    clips = [block_means(corpus.clips[row_of[track]].astype(np.float32), _FRAMES) for track in tracks.tolist()]
    temporary = workdir / "examples.tmp.npz"
    with writing(workdir / _EXAMPLES_FILE):
        np.savez_compressed(temporary, track_id=tracks, clip=np.array(clips, np.float16))
        temporary.replace(workdir / _EXAMPLES_FILE)


def load_examples(workdir: Path) -> dict[int, np.ndarray]:
    """Reads the spectrograms [frame, mel] of a run by track id; none where there is no file, or a damaged one."""
    try:
        with np.load(workdir / _EXAMPLES_FILE) as file:
            return dict(zip(file["track_id"].tolist(), file["clip"], strict=True))
    except (OSError, ValueError, KeyError, EOFError):
        return {}


def block_means(values: np.ndarray, most: int = 150) -> np.ndarray:
    """Averages neighbours of values [n, ...] so that at most `most` are left, for pictures."""
    return np.stack([part.mean(axis=0) for part in np.array_split(values, min(len(values), most))])
