"""Audio files -> genres: windows of every song, its scores over time, and those of its album."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from scipy.special import log_expit

from mgc_jax.data.bags import Bags, numbered_bags
from mgc_jax.errors import UserError
from mgc_jax.evaluation.metrics import mean_log_odds, mean_log_scores
from mgc_jax.evaluation.multi_label import THRESHOLD
from mgc_jax.scoring import BagScores
from mgc_jax.songs.audio import Task, decoded, first_task, further_tasks, warn_of_other_resampler
from mgc_jax.songs.files import bag_numbers
from mgc_jax.songs.representation import song_representation
from tfds_fma.clips.windows import Windows, window_seconds
from tfds_fma.collection.songs import Tags, find_songs, read_tags
from tfds_fma.errors import ClipError
from tfds_fma.parallel import check_workers, start_pool
from tfds_fma.progress import progress_bar
from tfds_fma.representations.base import AudioRepresentation
from tfds_fma.representations.feature_vector import FeatureVector


class ClipModel(Protocol):
    """What is needed of a trained model: `mgc_jax.inference.ExportedModel` has it."""

    @property
    def genres(self) -> tuple[str, ...]:
        """Label names, in the order of the scores."""

    @property
    def meta(self) -> Any:
        """What the model says of itself."""

    def embed(self, clips: np.ndarray) -> np.ndarray:
        """Stored clips [clip, ...] -> float32 [clip, feature]."""

    def score_bags(self, embeddings: np.ndarray, bags: Bags) -> BagScores:
        """Scores bags of embeddings."""


@dataclasses.dataclass(frozen=True)
class EmbeddedSong:
    """The windows of a song.

    Attributes:
        number: its place among the songs given.
        path: its file.
        tags: what its tags say.
        seconds: its length as far as it was decoded.
        start: where each window begins, float [window], s.
        embeddings: float32 [window, feature].
        damage: errors that the decoder found in the audio, in a line; "" if none.
    """

    number: int
    path: Path
    tags: Tags
    seconds: float
    start: np.ndarray
    embeddings: np.ndarray
    damage: str = ""


@dataclasses.dataclass(frozen=True)
class Failure:
    """A file that could not be used, its place among the songs given, and why, in a line."""

    number: int
    path: Path
    reason: str


@dataclasses.dataclass(frozen=True)
class Song:
    """A classified song.

    Attributes:
        path, tags, seconds, start, damage: as in `EmbeddedSong`.
        album: number of its bag.
        window_scores: float64 [window, genre]: log scores of each window alone; of a multi-label model the log
            probability of each genre by itself, as in all scores here.
        scores: float64 [genre]: their mean, normalized (multi-label: the mean of the log odds): the song alone.
        attention: the weight of its windows in the bag (under the query of the bag's predicted genre, where genres
            have queries); None: the model has no pooling, or the bag is too large for it.
    """

    path: Path
    tags: Tags
    seconds: float
    start: np.ndarray
    damage: str
    album: int
    window_scores: np.ndarray
    scores: np.ndarray
    attention: float | None


@dataclasses.dataclass(frozen=True)
class Album:
    """A bag of songs.

    Attributes:
        songs: their numbers.
        scores: float64 [genre]: log scores of the bag; of a model without pooling, or a bag that is too large for it,
            the mean of its songs, normalized. MATT scores each genre under a query of its own, so that these are
            probabilities which do not add up to 1.
    """

    songs: tuple[int, ...]
    scores: np.ndarray


@dataclasses.dataclass(frozen=True)
class SongPredictions:
    """Genres of songs and albums.

    Attributes:
        genres: label names, in the order of the scores.
        songs: in the order given.
        albums: in order of their first song.
        failed: files that could not be used.
        window: length of a window, s.
        hop: distance of windows, s.
        multi_label: whether a song may have several genres, which `genres_of` names.
    """

    genres: tuple[str, ...]
    songs: tuple[Song, ...]
    albums: tuple[Album, ...]
    failed: tuple[Failure, ...]
    window: float
    hop: float
    multi_label: bool = False

    def genres_of(self, scores: np.ndarray) -> list[str]:
        """Returns the genres whose probability is at least that of `evaluation.multi_label.THRESHOLD`."""
        return [genre for genre, score in zip(self.genres, scores, strict=True) if np.exp(score) >= THRESHOLD]

    def genre(self, scores: np.ndarray) -> str:
        """Returns the genre of the highest score."""
        return self.genres[int(np.argmax(scores))]


def predict_songs(
    model: ClipModel,
    paths: Sequence[str | Path],
    *,
    bags: str = "tags",
    hop: float | None = None,
    workers: int | None = None,
    progress: bool = False,
    pool: concurrent.futures.Executor | None = None,
    on_windows: Callable[[int, Windows | ClipError], None] | None = None,
) -> SongPredictions:
    """Classifies audio files and albums.

    Args:
        model: a trained model.
        paths: files and folders.
        bags: what makes an album: "tags", "folder" or "none" (see `songs.files.bag_numbers`).
        hop: distance of windows in s; None: their length, so that they do not overlap.
        workers: processes that decode; None: one per usable core.
        progress: whether to show a progress bar.
        pool: workers that run already (`tfds_fma.parallel.start_pool`); None: they are started and ended.
        on_windows: is called with the number of a song and some of its windows in stored form (or why there are none),
            before they are embedded. What it raises ends the work.

    Raises:
        UserError: the model cannot take audio, an option makes no sense, or there is no audio file.
    """
    bag_numbers((), (), bags)
    window, hop = _window_and_hop(song_representation(model.meta), hop)
    parts = embed_songs(
        model, paths, hop=hop, workers=workers, progress=progress, pool=pool, on_windows=on_windows
    )  # fmt: skip
    embedded, failed = _separated(parts)
    songs, albums = _scored(model, embedded, bag_numbers([s.path for s in embedded], [s.tags for s in embedded], bags))
    return SongPredictions(model.genres, songs, albums, failed, window, hop, bool(model.meta.genre_parents))


def embed_songs(
    model: ClipModel,
    paths: Sequence[str | Path],
    *,
    hop: float | None = None,
    workers: int | None = None,
    progress: bool = False,
    pool: concurrent.futures.Executor | None = None,
    on_windows: Callable[[int, Windows | ClipError], None] | None = None,
) -> Iterator[EmbeddedSong | Failure]:
    """Yields the windows of every song, embedded, or why its file cannot be used; see `predict_songs`.

    Songs of more than ten minutes come last. Files are decoded in worker processes while the model embeds windows of
    several songs at once. Memory grows with the embeddings alone.
    """
    check_workers(workers)
    representation = song_representation(model.meta)
    _, hop = _window_and_hop(representation, hop)
    warn_of_other_resampler(model.meta, representation)
    files, frames = find_songs(paths), model.meta.config["data"].get("frames", 0)
    begun: dict[int, list[_Part]] = {}
    further: list[Task] = []

    def parts(tasks: Iterable[Task], used: concurrent.futures.Executor) -> Iterator[_Part]:
        with contextlib.closing(decoded(tasks, representation, hop, workers, used)) as results:
            yield from _embedded(model, shown(results), model.meta.config["eval"]["batch_clips"])

    def shown(results: Iterable[tuple[Task, Windows | ClipError]]) -> Iterator[tuple[Task, Windows | ClipError]]:
        for task, windows in results:
            if frames and isinstance(windows, Windows):
                windows = dataclasses.replace(windows, clips=windows.clips[:, :frames])
            if on_windows is not None:
                on_windows(task.song, windows)
            yield task, windows

    with (
        contextlib.nullcontext(pool) if pool is not None else start_pool(workers) as used,
        progress_bar("songs", len(files), "songs", show=progress) as bar,
    ):
        for part in parts((first_task(number, path, hop) for number, path in enumerate(files)), used):
            more = further_tasks(part.task, part.windows, hop) if isinstance(part.windows, Windows) else []
            if more:
                begun[part.task.song] = [part]
                further += more
            else:
                yield _joined([part])
                bar.update()
        for number, song in itertools.groupby(parts(further, used), lambda part: part.task.song):  # the long ones
            yield _joined([*begun.pop(number), *song])
            bar.update()


def _window_and_hop(representation: AudioRepresentation | FeatureVector, hop: float | None) -> tuple[float, float]:
    """Returns the length of a window and the distance of windows, in s."""
    window = window_seconds(representation)
    if hop is not None and not 0.1 <= hop <= 3600:
        raise UserError(f"hop={hop}: give the distance of windows in seconds, from 0.1 to 3600")
    return window, window if hop is None else hop


class _Part(NamedTuple):
    """Some windows of a song, embedded, or why they could not be decoded."""

    task: Task
    windows: Windows | ClipError
    embeddings: np.ndarray


def _embedded(model: ClipModel, results: Iterator[tuple[Task, Windows | ClipError]], batch: int) -> Iterator[_Part]:
    """Embeds windows, a batch of several songs at once; yields the results in their order."""
    waiting: collections.deque[tuple[Task, Windows | ClipError]] = collections.deque()
    clips: list[np.ndarray] = []  # of the results that wait, not embedded yet
    embeddings: list[np.ndarray] = []  # the others, from the first window of the first result on

    def finished() -> Iterator[_Part]:
        available = np.concatenate(embeddings) if embeddings else np.empty((0, 0), np.float32)
        embeddings.clear()
        while waiting and (number := _count(waiting[0][1])) <= len(available):
            task, windows = waiting.popleft()
            if isinstance(windows, Windows):
                windows = dataclasses.replace(windows, clips=windows.clips[:0])
            yield _Part(task, windows, available[:number])
            available = available[number:]
        if len(available):
            embeddings.append(available)

    for task, windows in results:
        waiting.append((task, windows))
        if _count(windows):
            clips.append(windows.clips)  # type: ignore[union-attr]
        while sum(map(len, clips)) >= batch:
            together = np.concatenate(clips)
            embeddings.append(model.embed(together[:batch]))
            clips = [together[batch:]]
        yield from finished()
    if sum(map(len, clips)):
        embeddings.append(model.embed(np.concatenate(clips)))
    yield from finished()


def _count(windows: Windows | ClipError) -> int:
    return len(windows.clips) if isinstance(windows, Windows) else 0


def _joined(parts: Sequence[_Part]) -> EmbeddedSong | Failure:
    """Joins the parts of a song."""
    number, path = parts[0].task.song, parts[0].task.path
    windows = []
    for part in parts:
        if isinstance(part.windows, ClipError):
            return Failure(number, path, f"{part.windows.reason}: {part.windows.detail}")
        windows.append(part.windows)
    # Parts behind the end of a file that tells a greater length have no windows, and know nothing of the song.
    used = [part for part in windows if len(part.start)]
    return EmbeddedSong(
        number,
        path,
        read_tags(path),
        seconds=max(part.end for part in used),
        start=np.concatenate([part.start for part in used]),
        embeddings=np.concatenate([part.embeddings for part in parts if len(part.embeddings)]),
        damage="; ".join(dict.fromkeys(part.damage for part in used if part.damage)),
    )


def _separated(
    embedded: Iterator[EmbeddedSong | Failure],
) -> tuple[tuple[EmbeddedSong, ...], tuple[Failure, ...]]:
    """Separates what could be used from what could not, each in the order given."""
    found = sorted(embedded, key=lambda song: song.number)
    return (
        tuple(song for song in found if isinstance(song, EmbeddedSong)),
        tuple(song for song in found if isinstance(song, Failure)),
    )


def _scored(
    model: ClipModel, embedded: Sequence[EmbeddedSong], bag: Sequence[int]
) -> tuple[tuple[Song, ...], tuple[Album, ...]]:
    """Scores windows, songs and bags; `bag` is the number of each song's bag."""
    if not embedded:
        return (), ()
    embeddings = np.concatenate([song.embeddings for song in embedded])
    counts = np.array([len(song.embeddings) for song in embedded])
    begins = np.concatenate([[0], np.cumsum(counts)])
    window_scores = model.score_bags(embeddings, numbered_bags(np.arange(len(embeddings)))).scores.astype(np.float64)
    log_probability = log_expit if model.meta.genre_parents else np.asarray  # log scores are log probabilities
    scores = _mean_of(model)(window_scores, begins)
    albums, attention = _albums(model, embeddings, np.repeat(bag, counts), np.asarray(bag), scores)
    albums = tuple(Album(album.songs, log_probability(album.scores)) for album in albums)
    window_scores, scores = log_probability(window_scores), log_probability(scores)
    songs = tuple(
        Song(
            song.path, song.tags, song.seconds, song.start, song.damage, int(bag[number]),
            window_scores[begins[number] : begins[number + 1]], scores[number],
            _share(attention, begins[number], begins[number + 1]),
        )
        for number, song in enumerate(embedded)
    )  # fmt: skip
    return songs, albums


def _mean_of(model: ClipModel) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Returns what averages the scores of a model over bags."""
    return mean_log_odds if model.meta.genre_parents else mean_log_scores


def _share(attention: np.ndarray | None, begin: int, end: int) -> float | None:
    """Sums the attention of the windows of a song; None: there is none."""
    total = np.nan if attention is None else attention[begin:end].sum()
    return None if np.isnan(total) else float(total)


def _albums(
    model: ClipModel, embeddings: np.ndarray, of_window: np.ndarray, bag: np.ndarray, scores: np.ndarray
) -> tuple[tuple[Album, ...], np.ndarray | None]:
    """Scores bags, whose clips are the windows of their songs, and returns the attention of each window.

    Args:
        model: a trained model.
        embeddings: float32 [window, feature].
        of_window: number of each window's bag.
        bag: number of each song's bag.
        scores: log scores [song, genre].
    """
    bags = numbered_bags(bag)
    members = [tuple(map(int, bags.clips[a:b])) for a, b in itertools.pairwise(bags.offsets)]
    if model.meta.config["model"]["pooling"]["name"] == "none":
        means = _mean_of(model)(scores[bags.clips], bags.offsets)
        return tuple(Album(songs, mean) for songs, mean in zip(members, means, strict=True)), None
    try:
        pooled = model.score_bags(embeddings, numbered_bags(of_window))
    except UserError:  # a bag has more windows than can be pooled at once: the others are scored without it
        return _one_by_one(model, embeddings, of_window, members, scores)
    albums = tuple(Album(songs, row) for songs, row in zip(members, pooled.scores.astype(np.float64), strict=True))
    return albums, pooled.attention_for_predicted(of_window)


def _one_by_one(
    model: ClipModel,
    embeddings: np.ndarray,
    of_window: np.ndarray,
    members: Sequence[tuple[int, ...]],
    scores: np.ndarray,
) -> tuple[tuple[Album, ...], np.ndarray]:
    """Scores bags one by one; one that is too large gets the mean of its songs, and NaN as attention."""
    albums, attention = [], np.full(len(embeddings), np.nan, np.float32)
    for number, songs in enumerate(members):
        windows = np.flatnonzero(of_window == number)
        one_bag = np.zeros(len(windows), np.int64)
        try:
            pooled = model.score_bags(embeddings[windows], numbered_bags(one_bag))
        except UserError:
            albums.append(Album(songs, _mean_of(model)(scores[list(songs)], np.array([0, len(songs)]))[0]))
            continue
        attention[windows] = pooled.attention_for_predicted(one_bag)
        albums.append(Album(songs, pooled.scores[0].astype(np.float64)))
    return tuple(albums), attention
