"""Which tracks a dataset has, and how the clip of each is made: from FMA's audio or from FMA's table of features."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfds_fma.clips import Clip, Reject, make_clip
from tfds_fma.features import FeatureTable, read_features
from tfds_fma.labels import genres_of
from tfds_fma.metadata import Track, read_tracks
from tfds_fma.representations import AudioRepresentation, FeatureVector, Representation, get_representation
from tfds_fma.sources import find_containers


@dataclass(frozen=True)
class ClipSource:
    """The tracks of a dataset, and a way to their clips.

    Attributes:
      tracks: all tracks, of all splits, in the order in which they are to be written.
      genres: genre names; class ids are positions in the tuple.
      representation: what `make` returns.
      make: track -> its clip, or why there is none. It can be pickled if `parallel` is true.
      parallel: whether making a clip takes long enough for worker processes.
      identity: text that differs if `make` may return something else for the same track.
    """

    tracks: tuple[Track, ...]
    genres: tuple[str, ...]
    representation: Representation
    make: Callable[[Track], Clip | Reject]
    parallel: bool
    identity: str


def fma_source(
    source: str | Path, subset: str, representation: str, log: Callable[[str], None] | None = None
) -> ClipSource:
    """Opens an FMA tree.

    Of small and medium every track has a top genre; one that has none is rejected. In large and full about half have
    none, as their genres have several roots; they are kept, unlabelled.

    Args:
      source: folder that holds FMA's metadata and audio, as folders or zip files.
      subset: see `tfds_fma.labels.SUBSETS`.
      representation: name of a representation.
      log: takes lines about oddities of the tables.

    Raises:
      FmaError: if the tables or the audio are not there or make no sense.
    """
    chosen = get_representation(representation)
    tracks = tuple(read_tracks(source, subset, log))
    make: Callable[[Track], Clip | Reject]
    if isinstance(chosen, AudioRepresentation):
        containers = find_containers(source, subset)
        make = functools.partial(make_clip, containers, chosen)
        identity = " ".join(container.identity for container in containers)
    elif isinstance(chosen, FeatureVector):
        make = _FeatureLookup(read_features(source, chosen.groups))
        identity = "features.csv"
    else:
        raise TypeError(f"{chosen} is neither computed from audio nor read from a table")
    if subset in ("small", "medium"):
        make = functools.partial(_make_if_labelled, make)
    return ClipSource(tracks, genres_of(subset), chosen, make, isinstance(chosen, AudioRepresentation), identity)


def _make_if_labelled(make: Callable[[Track], Clip | Reject], track: Track) -> Clip | Reject:
    """Makes the clip of a track that has a genre."""
    if not track.genre:
        return Reject(track, "fma_metadata/tracks.csv", "no-genre", "the track table has no genre_top for it")
    return make(track)


class _FeatureLookup:
    """Finds the features of a track in a table."""

    def __init__(self, table: FeatureTable):
        self._values = table.values
        self._row = {int(track_id): row for row, track_id in enumerate(table.track_id)}

    def __call__(self, track: Track) -> Clip | Reject:
        row = self._row.get(track.track_id)
        if row is None:
            return Reject(track, "fma_metadata/features.csv", "missing", "no row for this track")
        values = self._values[row]
        unusable = int((~np.isfinite(values)).sum())
        if unusable:
            detail = f"{unusable} of {values.size} values are not finite"
            return Reject(track, "fma_metadata/features.csv", "incomplete", detail)
        return Clip(values, padded=False)
