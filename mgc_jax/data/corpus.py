"""A corpus: the arrays of all clips and their track table, whatever they came from.

`open_corpus(config.data)` gives FMA as prepared by `tfds_fma`, the demo corpus, or precomputed arrays. What
follows (bags, batches, training, evaluation) sees only a `Corpus`.
"""

import collections
import dataclasses
import functools
import hashlib
import logging
import warnings
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mgc_jax.data.lazy import ArrayFile, LazyClips, TrackNames, in_parts
from mgc_jax.data.memory import SHARE, available_memory
from mgc_jax.errors import UserError
from tfds_fma import layout
from tfds_fma.arrays import ArrayFiles, Columns, read_arrays, require_finite
from tfds_fma.errors import FmaError
from tfds_fma.features import columns_of
from tfds_fma.labels import GENRE_IDS
from tfds_fma.representations import REPRESENTATIONS, get_representation

log = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
# How the configuration names what `tfds_fma.arrays` reads, for its messages.
_ARRAY_FLAGS = {
    "table": "--config.data.arrays.table=FILE.csv",
    "columns": "--config.data.arrays.columns.<what>=NAME",
    "clips": "--config.data.arrays.clips=FILE.npz",
    "clips_key": "--config.data.arrays.clips_key=NAME",
    "ids": "--config.data.arrays.ids=FILE.npy",
    "axes": "--config.data.arrays.axes='NAMES'",
    "features": "--config.data.arrays.features=\"('column', ...)\"",
    "genres": "--config.data.arrays.genres=\"('NAME', ...)\"",
}


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Clips and their track table; row i of every array is clip i.

    Attributes:
        name: what the user calls it: demo, fma_small, fma_medium, fma_large, arrays.
        genres: label names; `label` indexes them.
        clips: [clip, time, mel], [clip, feature] or audio [clip, samples]; uint8, float16, float32, or int16 (audio).
            In memory, or on the disk: then indexing reads them.
        track_id: int64 [clip].
        label: int32 [clip].
        split: str [clip], one of `SPLITS`.
        artist: str [clip], "" where unknown.
        album: str [clip], "" where unknown.
        subgenres: names; the first are `genres` themselves, for clips that have no sub-genre. Only hierarchical
            pooling uses sub-genres; by default there are none but these.
        subgenre_parents: the genre that each of them belongs to.
        subgenre: int32 [clip], indexes `subgenres`.
        features: which of FMA's features the clips hold, as in `config.data.features`; empty: what was prepared.
        subset: str [clip], the smallest of FMA's subsets that has the clip (small, medium, large), "" where unknown.
    """

    name: str
    genres: tuple[str, ...]
    clips: np.ndarray | LazyClips
    track_id: np.ndarray
    label: np.ndarray
    split: np.ndarray
    artist: np.ndarray
    album: np.ndarray
    features: str = ""
    subgenres: tuple[str, ...] = ()
    subgenre_parents: tuple[int, ...] = ()
    subgenre: np.ndarray = dataclasses.field(default=None)  # type: ignore[arg-type]
    subset: np.ndarray = dataclasses.field(default=None)  # type: ignore[arg-type]

    def __post_init__(self) -> None:
        if self.subgenre is None:
            object.__setattr__(self, "subgenres", self.genres)
            object.__setattr__(self, "subgenre_parents", tuple(range(len(self.genres))))
            object.__setattr__(self, "subgenre", self.label)
        if self.subset is None:
            object.__setattr__(self, "subset", np.full(len(self), ""))

    def __len__(self) -> int:
        return len(self.track_id)

    def indices(self, split: str) -> np.ndarray:
        """Returns the rows of one split, in the corpus's order."""
        return np.flatnonzero(self.split == split)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A short hash of the table and of a thousand clips: tells two corpora apart."""
        digest = hashlib.blake2b(digest_size=8)
        digest.update(repr((self.genres, self.clips.shape, str(self.clips.dtype))).encode())
        for column in (self.track_id, self.label, self.subgenre):
            digest.update(np.ascontiguousarray(column).tobytes())
        for column in (self.split, self.artist, self.album):
            digest.update("\n".join(column.tolist()).encode())
        step = max(1, len(self) // 1000)
        for some in in_parts(self.clips, step):
            digest.update(np.ascontiguousarray(some).tobytes())
        return digest.hexdigest()

    def summary(self) -> str:
        """Returns one line for the log."""
        what = "SYNTHETIC music, " if self.name == "demo" else ""
        counts = ", ".join(f"{len(self.indices(split)):,} {split}" for split in SPLITS)
        shape = " x ".join(map(str, self.clips.shape[1:]))
        features = f" features ({self.features})" if self.features else ""
        return (
            f"corpus {self.name}: {what}{len(self):,} clips of {shape}{features} "
            f"({counts}), {len(self.genres)} genres, fingerprint {self.fingerprint}"
        )


@dataclasses.dataclass(frozen=True)
class Standardization:
    """Mean and standard deviation per mel band or feature: float32 [mel] or [feature]."""

    mean: np.ndarray
    std: np.ndarray


def standardization(
    corpus: Corpus,
    enabled: bool,
    max_clips: int = 4096,
    transform: Callable[[np.ndarray], np.ndarray] = lambda clips: clips,
) -> Standardization:
    """Returns the statistics of the training clips (scikit-learn's `StandardScaler` for features).

    Args:
        corpus: the corpus.
        enabled: False gives mean 0 and deviation 1.
        max_clips: of a larger training split, this many clips evenly spaced over it are used.
        transform: what becomes of stored clips [n, ...] before they are standardized.
    """
    rows = corpus.indices("train")
    width = transform(corpus.clips[rows[:1]]).shape[-1]
    if not enabled or len(rows) == 0:
        return Standardization(np.zeros(width, np.float32), np.ones(width, np.float32))
    if len(rows) > max_clips:
        rows = rows[np.linspace(0, len(rows) - 1, max_clips).astype(int)]
    # Sums of differences from the first clip: E[x^2] - E[x]^2 of values far from zero would cancel.
    shift = transform(corpus.clips[rows[:1]]).reshape(-1, width).astype(np.float64).mean(axis=0)
    total, squares, count = np.zeros(width), np.zeros(width), 0
    for some in np.array_split(rows, max(1, len(rows) // 64)):
        values = transform(corpus.clips[some]).reshape(-1, width).astype(np.float64) - shift
        total += values.sum(axis=0)
        squares += np.square(values).sum(axis=0)
        count += len(values)
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    mean += shift
    std[std <= 1e-6 * np.maximum(1, np.abs(mean))] = 1  # a constant feature stays at zero
    return Standardization(mean.astype(np.float32), std.astype(np.float32))


def open_corpus(data: Any) -> Corpus:
    """Opens the corpus that `config.data` names; `auto` must have been resolved with `resolve_auto`.

    Raises:
        UserError: the corpus is not there, or its files do not fit together; the message says what to do.
    """
    corpus = _open_arrays(data) if data.corpus == "arrays" else _open_fma(data)
    if data.features:
        columns, clips = columns_of([data.features]), corpus.clips
        clips = clips.take_columns(columns) if isinstance(clips, LazyClips) else clips[:, columns]
        corpus = dataclasses.replace(corpus, clips=clips, features=data.features)
    if data.frames:
        if corpus.clips.ndim != 3 or data.frames > corpus.clips.shape[1]:
            raise UserError(
                f"config.data.frames={data.frames}, but a clip of this corpus is "
                f"{' x '.join(map(str, corpus.clips.shape[1:]))} (time x mel). Give 0 for all frames."
            )
        clips, frames = corpus.clips, data.frames
        clips = clips.first_frames(frames) if isinstance(clips, LazyClips) else clips[:, :frames]
        corpus = dataclasses.replace(corpus, clips=clips)
    if data.folds:
        corpus = cross_validation(corpus, data.folds, data.fold)
    if len(corpus.indices("train")) == 0:
        raise UserError(f"corpus {data.corpus}: no clip is in the training split, so nothing can be trained")
    return corpus


def cross_validation(corpus: Corpus, folds: int, fold: int) -> Corpus:
    """Deals the training and validation clips anew: one of several folds becomes the validation split.

    No artist is in two folds (a clip of unknown artist counts as an artist of its own), and the genres are spread
    over the folds as evenly as that allows (scikit-learn's `StratifiedGroupKFold`). The test split stays as it is.

    Raises:
        UserError: there are fewer artists than folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    rows = np.flatnonzero(corpus.split != "test")
    alone = np.char.add("track ", corpus.track_id[rows].astype(str))
    artist = np.where(corpus.artist[rows] == "", alone, corpus.artist[rows])
    if len(np.unique(artist)) < folds:
        raise UserError(f"config.data.folds={folds}, but the clips are of {len(np.unique(artist))} artists")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a genre of fewer clips than folds
        try:
            dealt = StratifiedGroupKFold(folds, shuffle=True, random_state=0)
            parts = list(dealt.split(rows, corpus.label[rows], artist))
        except ValueError as error:
            raise UserError(f"config.data.folds={folds} is too many for this corpus: {error}") from error
    split = corpus.split.astype(object)
    split[rows] = "train"
    split[rows[parts[fold][1]]] = "validation"
    return dataclasses.replace(corpus, split=split.astype(str))


def resolve_auto(data: Any) -> tuple[str, str]:
    """Returns the corpus to use for `auto` and a sentence that says why, without opening it.

    Raises:
        UserError: a representation that only precomputed arrays can have is not prepared: mistyped, most likely.
    """
    if data.corpus != "auto":
        return data.corpus, f"corpus {data.corpus}, as asked"
    from tfds_fma.reading import find_prepared

    for subset in ("medium", "small"):
        found = find_prepared(data.data_dir, subset, data.representation)
        if found:
            return f"fma_{subset}", f"corpus fma_{subset}: prepared FMA found in {found}"
    if not _is_computed(data.representation):
        raise UserError(_not_prepared(data, "small"))
    return "demo", (
        "corpus demo: SYNTHETIC music, since neither fma_medium nor fma_small is prepared in "
        f"{Path(data.data_dir).resolve()}; `python -m tfds_fma.prepare --help` tells how to prepare FMA"
    )


def _open_fma(data: Any) -> Corpus:
    from tfds_fma import demo, reading

    try:
        if data.corpus == "demo":
            made = demo.ensure_demo(data.data_dir, data.representation, log=log.info)
            return _from_tfds("demo", made, data.placement)
        subset = data.corpus.removeprefix("fma_")
        path = reading.find_prepared(data.data_dir, subset, data.representation)
        if path is None:
            raise UserError(_not_prepared(data, subset))
        return _from_tfds(data.corpus, path, data.placement)
    except FmaError as error:
        raise UserError(str(error)) from error


def _is_computed(representation: str) -> bool:
    """Whether tfds_fma can make it from FMA; if not, the name is one for precomputed arrays, or mistyped."""
    try:
        get_representation(representation)
    except FmaError:
        return False
    return True


def _not_prepared(data: Any, subset: str) -> str:
    """Says that a dataset is not there, what is, and how to prepare it."""
    folder = Path(data.data_dir).expanduser()
    prepared = folder.glob(f"{layout.DATASET_NAME}/*/{layout.VERSION}/dataset_info.json")
    there = ", ".join(sorted(path.parent.parent.name for path in prepared))
    options = f"--subset {subset} --representation {data.representation} --data_dir {data.data_dir}"
    if _is_computed(data.representation):
        remedy = (
            f"Get fma_metadata.zip and fma_{subset}.zip (the FMA data set's page on GitHub, mdeff/fma, has the "
            f"addresses), then run: python -m tfds_fma.prepare --source DIR {options}"
        )
    else:
        remedy = (
            f"{data.representation} is none of the representations that tfds_fma computes "
            f"({', '.join(REPRESENTATIONS)}): correct --config.data.representation. Or, if that is the name for "
            f"arrays of your own, run: python -m tfds_fma.prepare --from_arrays FILE.npz --table FILE.csv {options}"
        )
    return (
        f"corpus {data.corpus} with {data.representation} is not prepared in {folder.resolve()}. Prepared there: "
        f"{there or 'nothing'}. {remedy}. Or point --config.data.data_dir at the folder where it is."
    )


def stays_on_disk(placement: str, stored: int, available: int | None) -> bool:
    """Whether clips are to be left on the disk, by `config.data.placement`: if it is auto, where they would not fit.

    Args:
        placement: auto, device, host or stream.
        stored: bytes of all clips.
        available: bytes of memory that are free; None: unknown, and taken as enough.
    """
    if placement != "auto" or available is None or stored <= SHARE * available:
        return placement == "stream"
    log.info(
        "the clips take %.1f GiB, more than %.0f %% of the %.1f GiB of memory that are free: they stay on the disk, "
        "and batches are read from there (config.data.placement=stream)",
        stored / 2**30, 100 * SHARE, available / 2**30,
    )  # fmt: skip
    return True


def _from_tfds(name: str, path: Path, placement: str) -> Corpus:
    from tfds_fma import reading

    table, clips = _read_tfds(path, stays_on_disk(placement, reading.stored_bytes(path), available_memory()))
    genres, label = tuple(reading.class_names(path)), table["genre"].astype(np.int32)
    subgenres, parents, subgenre = find_subgenres(
        [list(ids) for ids in table["genres_all"]], label, table["split"] == "train", genres, set(GENRE_IDS.values())
    )
    return Corpus(
        name=name,
        genres=genres,
        clips=clips,
        track_id=table["track_id"],
        label=label,
        subgenres=subgenres,
        subgenre_parents=parents,
        subgenre=subgenre,
        split=table["split"],
        artist=np.where(table["artist_id"] >= 0, table["artist_id"].astype(str), ""),
        album=np.where(table["album_id"] >= 0, table["album_id"].astype(str), ""),
        subset=table["subset"].astype(str),
    )


def _read_tfds(path: Path, lazy: bool) -> tuple[dict[str, np.ndarray], np.ndarray | LazyClips]:
    """Reads the columns, and the clips or where they lie, of all clips that have a top genre."""
    from tfds_fma import reading

    clips: Any
    table, clips = reading.open_dataset(path) if lazy else reading.read_dataset(path)
    labelled = np.flatnonzero(table["genre"] >= 0)
    total = len(table["genre"])
    if len(labelled) < total:
        log.info("%d of %d clips have no top genre and are left out", total - len(labelled), total)
        table = {name: column[labelled] for name, column in table.items()}
    if lazy:
        return table, LazyClips(clips, labelled)
    if len(labelled) < total:
        for row, kept in enumerate(labelled):
            clips[row] = clips[kept]  # in place: there may not be memory for two copies of FMA-large
        clips = clips[: len(labelled)]
    return table, clips


def find_subgenres(
    genres_all: Sequence[Sequence[int]],
    label: np.ndarray,
    train: np.ndarray,
    genres: Sequence[str],
    top_ids: Collection[int],
    min_clips: int = 10,
) -> tuple[tuple[str, ...], tuple[int, ...], np.ndarray]:
    """Finds the second level of the genre tree.

    FMA's `genres_all` lists a clip's genres and their ancestors in the tree of `genres.csv`. So the commonest of
    them below the top is the sub-genre nearest to it.

    Args:
        genres_all: for each clip, FMA's ids of its genres.
        label: int [clip].
        train: bool [clip]: training clips, which are counted.
        genres: label names.
        top_ids: FMA's ids of the top genres.
        min_clips: a sub-genre with fewer training clips of its top genre does not count.

    Returns:
        `subgenres`, `subgenre_parents` and `subgenre` of a `Corpus`.
    """
    below = [[i for i in ids if i not in top_ids] for ids in genres_all]
    count = collections.Counter(
        (parent, i) for parent, ids, counted in zip(label.tolist(), below, train, strict=True) if counted for i in ids
    )
    kept = sorted(pair for pair, clips in count.items() if clips >= min_clips)
    number = {pair: len(genres) + i for i, pair in enumerate(kept)}
    subgenre = np.array(label, np.int32)
    for row, (parent, ids) in enumerate(zip(label.tolist(), below, strict=True)):
        pairs = [(parent, i) for i in ids if (parent, i) in number]
        if pairs:
            subgenre[row] = number[max(pairs, key=lambda pair: (count[pair], -pair[1]))]
    names = (*genres, *(f"{genres[parent]}/{i}" for parent, i in kept))
    return names, (*range(len(genres)), *(parent for parent, _ in kept)), subgenre


def _open_arrays(data: Any) -> Corpus:
    settings = data.arrays
    columns = Columns(**settings.columns)
    files = ArrayFiles(**{**settings, "columns": columns, "flags": _ARRAY_FLAGS})
    if data.placement == "stream" and not files.clips.endswith(".npy"):
        raise UserError(
            f"config.data.placement=stream reads clips one by one from an .npy file, but here they are in "
            f"{files.place}, which has to be read whole. Save them with numpy.save (and their track ids beside them: "
            "--config.data.arrays.ids=FILE.npy), or leave config.data.placement at auto."
        )
    try:
        arrays = read_arrays(files)
        clips: np.ndarray | LazyClips
        if isinstance(arrays.clips, np.memmap) and stays_on_disk(
            data.placement, arrays.clips.nbytes, available_memory()
        ):
            mel_first = files.axes == "clip mel time"
            stored = arrays.clips.transpose(0, 2, 1) if mel_first else arrays.clips
            # Whether the values are finite is seen as they are read.
            clips = LazyClips(ArrayFile(stored, mel_first, TrackNames(arrays.tracks.track_id)))
        else:
            require_finite(files, arrays)
            clips = np.ascontiguousarray(arrays.clips)  # time first also in memory
    except FmaError as error:
        raise UserError(str(error)) from error
    if len(clips) < len(arrays.table):
        log.info("%d rows of %s have no clip", len(arrays.table) - len(clips), files.table)
    tracks = arrays.tracks
    number = {genre: i for i, genre in enumerate(arrays.genres)}
    return Corpus(
        name="arrays",
        genres=arrays.genres,
        clips=clips,
        track_id=tracks.track_id,
        label=np.array([number[genre] for genre in tracks.genre.tolist()], np.int32),
        split=tracks.split,
        artist=tracks.artist,
        album=tracks.album,
        subset=tracks.subset,
    )
