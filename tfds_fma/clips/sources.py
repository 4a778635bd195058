"""Which tracks a dataset has, and how the clip of each is made.

There are three ways: from FMA's audio, from FMA's table of features, and from arrays that are there already.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfds_fma.clips.make import Clip, Reject, make_clip
from tfds_fma.clips.resampling import implementation
from tfds_fma.errors import UserError
from tfds_fma.labels import genres_of
from tfds_fma.paths import local_path
from tfds_fma.representations.base import AudioRepresentation, Representation
from tfds_fma.representations.feature_vector import FeatureVector, Precomputed
from tfds_fma.representations.registry import get_representation
from tfds_fma.source.archives import check_zip
from tfds_fma.source.arrays import ArrayFiles, Arrays, check_splits, doubtful_axes, read_arrays
from tfds_fma.source.audio_files import Container, find_containers
from tfds_fma.source.feature_table import read_features
from tfds_fma.source.track_table import TrackTable, number_names
from tfds_fma.source.tracks import Track, read_tracks


@dataclass(frozen=True)
class ClipSource:
    """The tracks of a dataset, and a way to their clips.

    Attributes:
      tracks: all tracks, of all splits, in the order in which they are to be written.
      genres: genre names; class ids are positions in the tuple.
      representation: what `make` returns.
      make: track -> its clip, or why there is none.
      parallel: whether making a clip takes long enough for worker processes. Then `make` and `state` can be pickled,
        and hold absolute paths: a worker may run in another working folder.
      identity: text that differs if `make` may return something else for the same track.
      state: track -> text that differs if `make` may return something else for this track.
      resampler: what resamples the audio, with its version; "" if the clips are not made of audio.
      place: track -> its file, and the number of its window or ""; None: the ids say where a track is from.
    """

    tracks: tuple[Track, ...]
    genres: tuple[str, ...]
    representation: Representation
    make: Callable[[Track], Clip | Reject]
    parallel: bool
    identity: str
    state: Callable[[Track], str] = lambda track: ""
    resampler: str = ""
    place: Callable[[Track], tuple[str, str]] | None = None


def fma_source(
    source: str | Path,
    subset: str,
    representation: str,
    log: Callable[[str], None] = lambda line: None,
    verify: Callable[[Path], None] = lambda path: None,
) -> ClipSource:
    """Opens an FMA tree.

    Of small and medium every track has a top genre; one that has none is rejected. In large and full about half have
    none, as their genres have several roots; they are kept, unlabelled.

    Args:
      source: folder that holds FMA's metadata and audio, as folders or zip files.
      subset: see `tfds_fma.labels.SUBSETS`.
      representation: name of a representation.
      log: takes lines about oddities of the tables.
      verify: raises UserError for a zip file that is not to be used; called for those that are needed.

    Raises:
      UserError: if the tables or the audio are not there or make no sense.
    """
    source = local_path(source).absolute()
    chosen = get_representation(representation)
    metadata = source / "fma_metadata.zip"
    if metadata.is_file() and not (source / "fma_metadata").is_dir():
        check_zip(metadata)
        verify(metadata)
    tracks = tuple(read_tracks(source, subset, log))
    if isinstance(chosen, AudioRepresentation):
        opened = _audio_source(source, subset, chosen, tracks, verify)
    elif isinstance(chosen, FeatureVector):
        opened = _features_source(source, subset, chosen, tracks, log)
    else:
        raise TypeError(f"{chosen} is neither computed from audio nor read from a table")
    if subset in ("small", "medium"):
        return dataclasses.replace(opened, make=functools.partial(_make_if_labelled, opened.make))
    return opened


def _audio_source(
    source: Path,
    subset: str,
    representation: AudioRepresentation,
    tracks: tuple[Track, ...],
    verify: Callable[[Path], None],
) -> ClipSource:
    """The clips computed from audio."""
    containers = []
    for container in find_containers(source, subset):
        containers.append(container)
        if container.path.suffix == ".zip":
            verify(container.path)
        if container.holds(track.track_id for track in tracks):
            break  # the larger archives need not be looked into, nor verified
    return ClipSource(
        tracks,
        genres_of(subset),
        representation,
        functools.partial(make_clip, tuple(containers), representation),
        parallel=True,
        identity=" ".join(container.identity for container in containers),
        state=functools.partial(_states, tuple(containers)),
        resampler=implementation(representation.resampler),
    )


def _states(containers: tuple[Container, ...], track: Track) -> str:
    return " ".join(container.state(track.track_id) for container in containers)


def _features_source(
    source: Path,
    subset: str,
    representation: FeatureVector,
    tracks: tuple[Track, ...],
    log: Callable[[str], None],
) -> ClipSource:
    """The clips read from features.csv."""
    table = read_features(source, representation.groups)
    path = source / "fma_metadata" / "features.csv"
    path = path if path.is_file() else source / "fma_metadata.zip"
    log(f"features from {path}")
    status = path.stat()
    return ClipSource(
        tracks,
        genres_of(subset),
        representation,
        _Lookup(table.track_id, table.values, "fma_metadata/features.csv", "incomplete"),
        parallel=False,
        identity=f"{path.absolute()} {status.st_size} {status.st_mtime_ns}",
    )


def _make_if_labelled(make: Callable[[Track], Clip | Reject], track: Track) -> Clip | Reject:
    """Makes the clip of a track that has a genre."""
    if not track.genre:
        return Reject(track, "fma_metadata/tracks.csv", "no-genre", "the track table has no genre_top for it")
    return make(track)


class _Lookup:
    """Finds the clip of a track among arrays."""

    def __init__(self, track_id: np.ndarray, clips: np.ndarray, place: str, unusable: str):
        """Creates the lookup.

        Args:
          track_id: int64 [clip].
          clips: [clip, ...].
          place: the file that they are from, for rejects.
          unusable: the reason to reject a clip that is not finite throughout.
        """
        self._clips, self._place, self._unusable = clips, place, unusable
        self._row = {number: row for row, number in enumerate(track_id.tolist())}

    def __call__(self, track: Track) -> Clip | Reject:
        row = self._row.get(track.track_id)
        if row is None:
            return Reject(track, self._place, "missing", "no row for this track")
        clip = np.ascontiguousarray(self._clips[row])
        unusable = int((~np.isfinite(clip)).sum())
        if unusable:
            return Reject(track, self._place, self._unusable, f"{unusable} of {clip.size} values are not finite")
        return Clip(clip, padded=False)


def arrays_source(
    files: ArrayFiles, subset: str, representation: str, log: Callable[[str], None] = lambda line: None
) -> ClipSource:
    """Opens precomputed arrays.

    The tracks are the rows of the table; those without a clip are rejected. Class ids are those of FMA's subset if all
    genres are FMA's.

    Args:
      files: the arrays and their table.
      subset: see `tfds_fma.labels.SUBSETS`.
      representation: name for what the arrays hold. That of a registered one is for arrays of its shape and type.
      log: takes lines about oddities of the table.

    Raises:
      UserError: if the files are not there or do not fit together, or the name does not fit them.
    """
    arrays = read_arrays(files, log)
    if doubt := doubtful_axes(files, arrays):
        log(f"warning: {doubt}")
    check_splits(files, arrays.table.split)  # of the rows without a clip, too: rejects belong to a split
    chosen = _representation_of(arrays, files, representation)
    make = _Lookup(arrays.table.track_id[arrays.row], arrays.clips, files.place, "not-finite")
    tracks = tuple(_tracks(arrays.table))
    return ClipSource(
        tracks, _class_names(arrays, files, subset), chosen, make, parallel=False, identity=_state(files)
    )


def _representation_of(arrays: Arrays, files: ArrayFiles, name: str) -> Representation:
    """Returns the representation of a name, made for the arrays if there is none."""
    shape, dtype = arrays.clips.shape[1:], arrays.clips.dtype.name
    try:
        known = get_representation(name)
    except UserError:
        axes = f"[{shape[0]} frames, {shape[1]} mel bands]" if len(shape) == 2 else f"[{shape[0]} features]"
        return Precomputed(name, shape, dtype, f"precomputed: {dtype} {axes} from {Path(files.place).name}")
    if (known.shape, known.dtype) != (shape, dtype):
        raise UserError(
            f"{name} is {known.dtype} {list(known.shape)}, but the clips in {files.place} are {dtype} {list(shape)}. "
            "Give them a name of their own with --representation NAME."
        )
    return known


def _class_names(arrays: Arrays, files: ArrayFiles, subset: str) -> tuple[str, ...]:
    """Returns the label list that was given, or FMA's of the subset, or the table's own if these are not FMA's."""
    of_fma = set(arrays.genres) & set(genres_of("full"))
    if files.genres or not of_fma:
        return arrays.genres
    strange = [genre for genre in arrays.genres if genre not in genres_of(subset)]
    if strange:
        raise UserError(
            f"{files.table}: {strange[0]!r} is not among the genres of subset {subset!r} "
            f"({', '.join(genres_of(subset))}). Choose --subset medium, or set {files.flags['genres']}"
        )
    return genres_of(subset)


def _tracks(table: TrackTable) -> Iterator[Track]:
    """Yields the rows of a table as tracks; names of artists and albums become numbers."""
    artist_id, are_names = number_names(table.artist)
    album_id, _ = number_names(table.album)
    artist_name = np.where((table.artist_name == "") & are_names, table.artist, table.artist_name)
    columns = {
        "track_id": table.track_id,
        "split": table.split,
        "genre": table.genre,
        "artist_id": artist_id,
        "album_id": album_id,
        "title": table.title,
        "artist": artist_name,
        "duration": np.full(len(table), np.nan),
        "subset": table.subset,
    }
    for row in zip(*(column.tolist() for column in columns.values()), strict=True):
        yield Track(**dict(zip(columns, row, strict=True)))


def _state(files: ArrayFiles) -> str:
    """Says which files, and which state of them: they are too large to hash."""
    stats = [(path, Path(path).stat()) for path in (files.clips, files.ids, files.table) if path]
    states = [(str(Path(path).absolute()), stat.st_size, stat.st_mtime_ns) for path, stat in stats]
    return f"{files} {states}"
