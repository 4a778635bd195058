"""A music collection, or GTZAN, as a source of clips: which tracks there are, and how the clip of each is made."""

import contextlib
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from tfds_fma.clips.make import Clip, Reject, clip_from
from tfds_fma.clips.resampling import implementation
from tfds_fma.clips.sources import ClipSource
from tfds_fma.clips.windows import cut_windows, open_audio, window_count, window_seconds
from tfds_fma.collection.duplicates import Fingerprint, find_duplicates, fingerprint
from tfds_fma.collection.gtzan import audio_folder, read_gtzan
from tfds_fma.collection.labels import Songs, counted, read_songs
from tfds_fma.collection.splits import artists_of_genres, split_by_artist
from tfds_fma.errors import ClipError, UserError
from tfds_fma.parallel import ordered_map
from tfds_fma.paths import local_path
from tfds_fma.progress import progress_bar
from tfds_fma.representations.base import AudioRepresentation
from tfds_fma.representations.registry import get_representation
from tfds_fma.source.tracks import SPLITS, UNKNOWN_ID, Track

CLIPS = ("middle", "every")

_MIDDLE = -1

# Genres that are named in a sentence.
_MOST_NAMED = 5


@dataclass(frozen=True)
class Collection:
    """What names a music collection, and how it is to become a dataset.

    Attributes:
      audio: folder of audio files.
      table: see `tfds_fma.collection.labels.read_songs`.
      genre_from: likewise.
      clips: "middle": 30 s from the middle of each song, cut as FMA's. "every": all of it, in consecutive windows of
        the length that the representation uses.
      split_seed: of the draws.
    """

    audio: str | Path
    table: str = ""
    genre_from: str = ""
    clips: str = "middle"
    split_seed: int = 0


@dataclass(frozen=True, slots=True)
class SongTrack(Track):
    """A clip of a song.

    Attributes:
      path: the file.
      window: number of the window, `_MIDDLE` for the excerpt from the middle.
      reject: reason and detail why the song is not used; "" if it is.
    """

    path: str = ""
    window: int = _MIDDLE
    reject: tuple[str, str] = ("", "")


def collection_source(
    collection: Collection,
    representation: str,
    log: Callable[[str], None] = lambda line: None,
    *,
    workers: int | None = None,
    progress: bool = True,
) -> ClipSource:
    """Opens a music collection.

    All songs are decoded once to find those that are there twice. The first of them in order of the paths is used,
    the others are rejected, as are songs without a genre. Where the table gives no splits, artists are dealt into
    them: see `tfds_fma.collection.splits`. An unknown artist is one of each album, or of the song alone.

    Args:
      collection: what to open.
      representation: name of one that is computed from audio.
      log: takes lines for people.
      workers: processes that decode.
      progress: whether to show a progress bar.

    Raises:
      UserError: if the folder or the table make no sense, or the representation is not computed from audio.
    """
    chosen = _of_audio(representation)
    if not 0 <= collection.split_seed < 2**32:
        raise UserError(f"--split_seed {collection.split_seed}: give a whole number from 0 to {2**32 - 1}.")
    folder = local_path(collection.audio).absolute()
    songs = read_songs(
        folder, str(local_path(collection.table)) if collection.table else "", collection.genre_from, log
    )
    marks = _fingerprints(songs, workers, progress)
    duplicates = find_duplicates(marks)
    if duplicates:
        log(f"{counted(len(duplicates), 'duplicate')}: of the same audio one song is used, the others are rejected")
        if others := sum(songs.genre[one] != songs.genre[other] for one, other in duplicates.items()):
            log(f"warning: {others} of the duplicates under another genre than the song that is used")
    rejects = [
        ("no-genre", "nothing says what genre it is of")
        if not genre
        else ("duplicate", f"the same audio as {_text(songs.path[duplicates[number]])}")
        if number in duplicates
        else ("", "")
        for number, genre in enumerate(songs.genre)
    ]
    used = np.flatnonzero([not reason for reason, _ in rejects])
    # What cannot be decoded is in no split's place; where that is all of them, making their clips says why.
    used = used[[marks[number] is not None for number in used]] if any(marks) else used
    if not len(used):
        raise UserError(f"No song in {folder} can be used: none that has a genre is there only once.")
    # No name holds a newline, so that these are nobody's.
    artists = [
        artist or f"\n{album or path}"
        for artist, album, path in zip(songs.artist, songs.album, songs.path, strict=True)
    ]
    if any(songs.split):
        split = np.array(songs.split)
        rule = f"splits from {collection.table}"
    else:
        split = np.full(len(rejects), "train", "<U10")
        genre, artist = [songs.genre[n] for n in used], [artists[n] for n in used]
        split[used] = split_by_artist(genre, artist, collection.split_seed)
        rule = f"splits by artist (seed {collection.split_seed})"
    _tell_splits(songs, artists, split, used, rule, log)
    seconds = [mark.seconds if mark else math.nan for mark in marks]
    genres = {songs.genre[number] for number in used}
    return _clip_source(_tracks(songs, seconds, split, rejects, chosen, collection.clips), genres, chosen)


def gtzan_source(
    place: str | Path, representation: str, data_dir: str | Path, log: Callable[[str], None] = lambda line: None
) -> ClipSource:
    """Opens GTZAN: all windows of each excerpt, six of 5 s; an excerpt is an album.

    The splits are the fault-filtered ones, and what they leave out is in ``unused``. Exact repetitions stay, as
    published results have them. An excerpt of unknown artist has one of its own.

    Args:
      place: see `tfds_fma.collection.gtzan.audio_folder`.
      representation: name of one that is computed from audio.
      data_dir: where an archive is unpacked.
      log: takes lines for people.

    Raises:
      UserError: there is no GTZAN, or the representation is not computed from audio.
    """
    chosen = _of_audio(representation)
    songs = read_gtzan(audio_folder(place, data_dir, log), log)
    seconds = [_header_seconds(path) for path in songs.path]
    # Albums are not told: so the windows of each excerpt are one.
    tracks = _tracks(songs, seconds, songs.split, [("", "")] * len(songs.split), chosen, "every")
    return _clip_source(tracks, set(songs.genre), chosen)


def _of_audio(representation: str) -> AudioRepresentation:
    """Looks a representation up; raises UserError unless it is computed from audio."""
    chosen = get_representation(representation)
    if not isinstance(chosen, AudioRepresentation):
        raise UserError(
            f"{representation} is read from FMA's table; --audio and --gtzan are for spectrograms and audio. Features "
            "of your own music: python -m tfds_fma.extract_features --audio FOLDER --out features.csv, and then "
            "--from_arrays' --features."
        )
    return chosen


def _clip_source(
    tracks: Iterable[SongTrack], genres: Iterable[str], representation: AudioRepresentation
) -> ClipSource:
    return ClipSource(
        tuple(tracks),
        tuple(sorted(genres, key=str.casefold)),
        representation,
        functools.partial(make_song, representation),
        parallel=True,
        identity="collection",
        state=_state,
        place=_place,
        resampler=implementation(representation.resampler),
    )


def _header_seconds(path: Path) -> float:
    """The length that the header of a file tells; NaN if it cannot be read, which decoding will explain."""
    try:
        return soundfile.info(str(path)).duration
    except soundfile.LibsndfileError:
        return math.nan


def make_song(representation: AudioRepresentation, song: SongTrack) -> Clip | Reject:
    """Makes the clip of a song (runs in a worker process)."""
    where = _text(song.path)
    if song.reject[0]:
        return Reject(song, where, *song.reject)
    try:
        clip = _middle(representation, song) if song.window == _MIDDLE else _window(representation, song)
    except ClipError as error:
        return Reject(song, where, error.reason, error.detail)
    return clip


def _middle(representation: AudioRepresentation, song: SongTrack) -> Clip:
    excerpt_of = None if math.isnan(song.duration) else song.duration
    return clip_from(open_audio(Path(song.path)), representation, excerpt_of, _text(song.path))


def _window(representation: AudioRepresentation, song: SongTrack) -> Clip:
    seconds = window_seconds(representation)
    windows = cut_windows(Path(song.path), representation, seconds, first=song.window, most=1)
    if not len(windows.clips):
        raise ClipError("short", f"it ends after {windows.end:.1f} of the {windows.told:.1f} s that it tells")
    path = _text(song.path) if windows.damage else ""
    return Clip(windows.clips[0], bool(windows.end - windows.start[0] < seconds), windows.damage, path)


def _fingerprints(songs: Songs, workers: int | None, progress: bool) -> list[Fingerprint | None]:
    """Decodes all songs that have a genre; None for the others, and for those that cannot be decoded."""
    numbers = [number for number, genre in enumerate(songs.genre) if genre]
    marks: list[Fingerprint | None] = [None] * len(songs.genre)
    made = ordered_map(fingerprint, [str(songs.path[number]) for number in numbers], workers)
    with progress_bar("looking for duplicates", len(numbers), "songs", show=progress) as bar, contextlib.closing(made):
        for number, mark in zip(numbers, made, strict=True):
            marks[number] = mark
            bar.update()
    return marks


def _tell_splits(
    songs: Songs,
    artists: Sequence[str],
    split: np.ndarray,
    used: np.ndarray,
    rule: str,
    log: Callable[[str], None],
) -> None:
    """Tells the sizes of the splits, and which genres have too few artists to be in all of them."""
    artist, genre = np.array(artists)[used], np.array(songs.genre)[used]
    of_split = {name: split[used] == name for name in SPLITS.values()}
    sizes = [
        f"{name} {counted(int(mask.sum()), 'song')} of {counted(len(set(artist[mask])), 'artist')}"
        for name, mask in of_split.items()
    ]
    log(f"{rule}: {', '.join(sizes)}")
    if not of_split["train"].any():
        log("warning: no song to train on: give some of them the split 'train', or remove the table's column split")
    counts = artists_of_genres(genre.tolist(), artist.tolist())
    lacking = {
        name: [part for part, mask in of_split.items() if name not in set(genre[mask])] for name in sorted(counts)
    }
    few = [
        f"{name} ({counted(counts[name], 'artist')}) is not in {' and '.join(parts)}"
        for name, parts in lacking.items()
        if parts
    ]
    if few:
        more = f", and {len(few) - _MOST_NAMED} more" if len(few) > _MOST_NAMED else ""
        remedy = (
            ""
            if any(songs.split)
            else ": too few artists. A genre needs at least three to be in all splits, since no artist may be in two: "
            "add songs of other artists, or a --table with a column split"
        )
        log(f"{'; '.join(few[:_MOST_NAMED])}{more}{remedy}")
    shared = {name for name in set(artist) if sum(name in set(artist[mask]) for mask in of_split.values()) > 1}
    if shared:
        log(
            f"warning: {counted(len(shared), 'artist')} in more than one split, so that scores will be optimistic. "
            "Give the table one split for each artist, or remove its column split"
        )


def _tracks(
    songs: Songs,
    seconds: Sequence[float],
    split: Sequence[str] | np.ndarray,
    rejects: Sequence[tuple[str, str]],
    representation: AudioRepresentation,
    clips: str,
) -> Iterator[SongTrack]:
    """Yields the clips of all songs, in order; of a rejected song, one.

    Of an unknown album, the windows of a song are the album; of an unknown artist, its artist, too.
    """
    artist, album = list(songs.artist), list(songs.album)
    album = [f"{title}\n{by}" if title else "" for title, by in zip(album, artist, strict=True)]
    if clips == "every":
        artist = [name or f"\n{path}" for name, path in zip(artist, songs.path, strict=True)]
        album = [name or f"\n{path}" for name, path in zip(album, songs.path, strict=True)]
    artist_id, album_id = _numbers(artist), _numbers(album)
    number = 1  # FMA's ids are positive
    for row, path in enumerate(songs.path):
        windows = range(window_count(seconds[row], representation)) if clips == "every" else (_MIDDLE,)
        for window in windows[:1] if rejects[row][0] else windows:
            yield SongTrack(
                track_id=number,
                split=str(split[row]),
                genre=songs.genre[row],
                artist_id=artist_id[row],
                album_id=album_id[row],
                title=songs.title[row],
                artist=songs.artist[row],
                duration=seconds[row],
                path=str(path),
                window=window,
                reject=rejects[row],
            )
            number += 1


def _numbers(names: Sequence[str]) -> list[int]:
    """Numbers names in sorted order from 0; unknown ones are -1."""
    number = {name: n for n, name in enumerate(sorted(set(names) - {""}))}
    return [number.get(name, UNKNOWN_ID) for name in names]


def _state(track: Track) -> str:
    """Says which state of the file, so that a shard is made again after it changed."""
    assert isinstance(track, SongTrack)
    try:
        status = Path(track.path).stat()
    except (OSError, ValueError):
        return "missing"
    return f"{status.st_size} {status.st_mtime_ns}"


def _place(track: Track) -> tuple[str, str]:
    """The file of a song, and which of its windows."""
    assert isinstance(track, SongTrack)
    return _text(track.path), "" if track.window == _MIDDLE else str(track.window)


def _text(path: str | Path) -> str:
    """A path as text: names of files may hold bytes that are none."""
    return str(path).encode("utf-8", "replace").decode()
