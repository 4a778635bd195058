"""A corpus: the arrays of all clips and their track table, whatever they came from."""

import dataclasses
import functools
import logging
import zlib

import numpy as np

from mgc_jax.data.on_disk import LazyClips, in_parts
from tfds_fma.identity import sample_step, table_digest

log = logging.getLogger(__name__)

SPLIT_NAMES = ("train", "validation", "test")
INNER = "inner validation"  # clips of the training folds that select the checkpoint which a fold is scored with


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Clips and their track table; row i of every array is clip i.

    Attributes:
        name: what the user calls it: demo, fma_small, fma_medium, fma_large, fma_full, own_NAME, arrays.
        genres: label names; `label` indexes them.
        clips: [clip, time, mel], [clip, feature] or audio [clip, samples]; uint8, float16, float32, or int16 (audio).
            In memory, or on the disk: then indexing reads them.
        track_id: int64 [clip].
        label: int32 [clip]; of a multi-label corpus bool [clip, genre], closed upwards over `parents`.
        split: str [clip], one of `SPLIT_NAMES`; `INNER` in a fold of a cross-validation; of a clip that the corpus's
            own split leaves out, another word.
        artist: str [clip], "" where unknown.
        album: str [clip], "" where unknown.
        subgenres: names; the first are `genres` themselves, for clips that have no sub-genre. Only hierarchical
            pooling uses sub-genres; by default there are none but these.
        subgenre_parents: the genre that each of them belongs to.
        subgenre: int32 [clip], indexes `subgenres`.
        features: which of FMA's features the clips hold, as in `config.data.features`; empty: what was prepared.
        subset: str [clip], the smallest of FMA's subsets that has the clip (small, medium, large), "" where unknown.
        resampler: what resampled the audio that the clips are made of, with its version; "" if nothing, or unknown.
        parents: of a multi-label corpus, the genre above each, an index into `genres`; -1: a top genre. Empty where
            every clip has one genre.
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
    resampler: str = ""
    parents: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.subgenre is None:
            object.__setattr__(self, "subgenres", self.genres)
            object.__setattr__(self, "subgenre_parents", tuple(range(len(self.genres))))
            object.__setattr__(self, "subgenre", self.label)
        if self.subset is None:
            object.__setattr__(self, "subset", np.full(len(self), ""))

    def __len__(self) -> int:
        return len(self.track_id)

    @property
    def multi_label(self) -> bool:
        """Whether a clip may have several genres (`config.task=multi_label`)."""
        return bool(self.parents)

    def indices(self, split: str) -> np.ndarray:
        """Returns the rows of one split, in the corpus's order."""
        return np.flatnonzero(self.split == split)

    @property
    def selects_on(self) -> str:
        """The split whose scores select a checkpoint; it may be empty."""
        return INNER if INNER in self.split else "validation"

    def with_inner_in_training(self) -> "Corpus":
        """Returns the corpus as it is for what selects nothing: no clip of the training folds is set aside."""
        return dataclasses.replace(self, split=np.where(self.split == INNER, "train", self.split))

    @functools.cached_property
    def fingerprint(self) -> str:
        """A short hash of the table and of a thousand clips: tells two corpora apart; `clips_digest` has all clips.

        Of clips on the disk it is looked up, where `tfds_fma.prepare` has computed it.
        """
        digest = table_digest(self.genres, self.clips.shape, self.clips.dtype, self)
        known = self.clips.fingerprints.get(digest.hexdigest()) if isinstance(self.clips, LazyClips) else None
        if known:
            return known
        for some in in_parts(self.clips, sample_step(len(self))):
            digest.update(np.ascontiguousarray(some).tobytes())
        return digest.hexdigest()

    @functools.cached_property
    def clips_digest(self) -> str:
        """A checksum of all clips, which the fingerprint samples; empty of clips on the disk: it would read them all.

        CRC-32, at 3 to 4 GB/s.
        """
        if isinstance(self.clips, LazyClips):
            return ""
        checksum = 0
        for some in in_parts(self.clips, 1):
            checksum = zlib.crc32(np.ascontiguousarray(some).reshape(-1).view(np.uint8).data, checksum)
        return f"{checksum:08x}"

    def _clip_shape(self) -> str:
        """Names the axes of a clip: audio is int16 [samples], features are other vectors."""
        if self.clips.ndim == 3:
            return f"{self.clips.shape[1]} frames x {self.clips.shape[2]} mels"
        if self.clips.dtype == np.int16:
            return f"{self.clips.shape[1]} samples"
        return f"{self.clips.shape[1]} features" + (f" ({self.features})" if self.features else "")

    def summary(self) -> str:
        """Returns one line for the log."""
        what = "SYNTHETIC music, " if self.name == "demo" else ""
        splits = dict.fromkeys(("train", self.selects_on, "validation", "test", *np.unique(self.split).tolist()))
        counts = ", ".join(f"{len(self.indices(split)):,} {split}" for split in splits)
        return (
            f"corpus {self.name}: {what}{len(self):,} clips of {self._clip_shape()} "
            f"({counts}), {len(self.genres)} genres, fingerprint {self.fingerprint}"
        )


def known_or_alone(names: np.ndarray, track_id: np.ndarray) -> np.ndarray:
    """Gives each clip whose artist or album is unknown ("") one of its own: str [clip]."""
    return np.where(names == "", np.char.add("track ", track_id.astype(str)), names)


def albums_of_artists(album: np.ndarray, artist: np.ndarray) -> np.ndarray:
    """Tells albums of one title by two artists apart: str [clip], "" where the album is unknown."""
    of_artist = np.char.add(np.char.add(album.astype(str), "\n"), artist.astype(str))  # no name holds a newline
    return np.where(album == "", "", of_artist)
