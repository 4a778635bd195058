"""Precomputed clips of one's own: an array file and a track table."""

import logging
from typing import Any

import numpy as np

from mgc_jax.config.keys import MULTI_LABEL, SINGLE_LABEL
from mgc_jax.data.corpus import Corpus
from mgc_jax.data.labels import SEPARATOR, of_names
from mgc_jax.data.on_disk import ArrayFile, LazyClips, TrackNames, stays_on_disk
from mgc_jax.errors import UserError
from mgc_jax.runtime.memory import available_memory
from tfds_fma.source.arrays import ArrayFiles, doubtful_axes, read_arrays, require_finite
from tfds_fma.source.track_table import Columns

log = logging.getLogger(__name__)


# How the configuration names what `tfds_fma.source.arrays` reads, for its messages.
ARRAY_FLAGS = {
    "table": "--config.data.arrays.table=FILE.csv",
    "columns": "--config.data.arrays.columns.<what>=NAME",
    "clips": "--config.data.arrays.clips=FILE.npz",
    "clips_key": "--config.data.arrays.clips_key=NAME",
    "ids": "--config.data.arrays.ids=FILE.npy",
    "ids_key": "--config.data.arrays.ids_key=NAME",
    "axes": "--config.data.arrays.axes='NAMES'",
    "features": "--config.data.arrays.features=\"('column', ...)\"",
    "genres": "--config.data.arrays.genres=\"('NAME', ...)\"",
}


def open_arrays(data: Any, task: str = SINGLE_LABEL) -> Corpus:
    """Opens the arrays that `config.data.arrays` names; raises `UserError` if they do not fit together."""
    settings = data.arrays
    columns = Columns(**settings.columns)
    separator = SEPARATOR if task == MULTI_LABEL else ""
    files = ArrayFiles(**{**settings, "columns": columns, "separator": separator, "flags": ARRAY_FLAGS})
    if data.placement == "stream" and not files.clips.endswith(".npy"):
        raise UserError(
            f"config.data.placement=stream reads clips one by one from an .npy file, but here they are in "
            f"{files.place}, which has to be read whole. Save them with numpy.save (and their track ids beside them: "
            "--config.data.arrays.ids=FILE.npy), or leave config.data.placement at auto."
        )
    arrays = read_arrays(files, log.info)
    if doubt := doubtful_axes(files, arrays):
        log.warning(doubt)
    clips: np.ndarray | LazyClips
    if isinstance(arrays.clips, np.memmap) and stays_on_disk(data.placement, arrays.clips.nbytes, available_memory()):
        mel_first = files.axes == "clip mel time"
        stored = arrays.clips.transpose(0, 2, 1) if mel_first else arrays.clips
        # ArrayFile checks that the values are finite as it reads them.
        clips = LazyClips(ArrayFile(stored, mel_first, TrackNames(arrays.tracks.track_id)))
    else:
        require_finite(files, arrays)
        clips = np.ascontiguousarray(arrays.clips)  # time first also in memory
    if len(clips) < len(arrays.table):
        log.info("%d rows of %s have no clip", len(arrays.table) - len(clips), files.table)
    tracks = arrays.tracks
    genres = arrays.genres
    parents: tuple[int, ...] = ()
    if task == MULTI_LABEL:
        genres, parents, label = of_names(tracks.genre.tolist(), genres).trainable(tracks.split == "train")
    else:
        number = {genre: i for i, genre in enumerate(genres)}
        label = np.array([number[genre] for genre in tracks.genre.tolist()], np.int32)
    return Corpus(
        name="arrays",
        genres=genres,
        parents=parents,
        clips=clips,
        track_id=tracks.track_id,
        label=label,
        split=tracks.split,
        artist=tracks.artist,
        album=tracks.album,
        subset=tracks.subset,
    )
