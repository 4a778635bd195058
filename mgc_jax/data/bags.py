"""Bags: the clips of one split that share an album and an artist (MATT, section III-C a)."""

import dataclasses

import numpy as np

from mgc_jax.data.corpus import Corpus


@dataclasses.dataclass(frozen=True)
class Bags:
    """The bags of one split, in order of their first clip.

    Attributes:
        clips: int64 [clip]: rows of the corpus, bag after bag.
        offsets: int64 [bag + 1]: bag b holds `clips[offsets[b] : offsets[b + 1]]`.
        label: int32 [bag]: the genre of the bag's first clip (a bag may hold several genres
            where the key leaves the genre out).
    """

    clips: np.ndarray
    offsets: np.ndarray
    label: np.ndarray

    def __len__(self) -> int:
        return len(self.label)

    @property
    def sizes(self) -> np.ndarray:
        """Number of clips per bag: int64 [bag]."""
        return np.diff(self.offsets)


def bags_of(corpus: Corpus, split: str, key: str, pseudo_album_gap: int = 20) -> Bags:
    """Groups the clips of one split.

    A bag is what is known: album and artist, or the one of them that is given. A clip with neither is a bag
    of its own. Where the album is unknown, a pseudo-album stands for it.

    Args:
        corpus: the corpus.
        split: train, validation or test.
        key: "paper": (album, artist, genre) in training and validation and (album, artist) in test, as the
            published code has it; "pair": (album, artist) everywhere.
        pseudo_album_gap: an artist's clips of unknown album whose consecutive track ids are at most this far
            apart form a pseudo-album; 0: all clips of the artist form one bag.
    """
    rows = corpus.indices(split)
    artist, album = corpus.artist[rows], corpus.album[rows]
    track_id = corpus.track_id[rows]
    pseudo = np.zeros(len(rows), np.int64)
    if pseudo_album_gap:
        for name in np.unique(artist[(album == "") & (artist != "")]):
            his = np.flatnonzero((album == "") & (artist == name))
            his = his[np.argsort(track_id[his], kind="stable")]
            pseudo[his[1:]] = np.cumsum(np.diff(track_id[his]) > pseudo_album_gap)
    own = np.where((artist == "") & (album == ""), track_id, -1)  # neither known: a bag of its own
    genre = corpus.label[rows] if key == "paper" and split != "test" else np.zeros(len(rows), np.int32)

    bag_of_key: dict[tuple, int] = {}
    bag = np.array(
        [bag_of_key.setdefault(k, len(bag_of_key)) for k in zip(album, artist, pseudo, own, genre, strict=True)],
        np.int64,
    )
    order = np.argsort(bag, kind="stable")
    offsets = np.concatenate([[0], np.cumsum(np.bincount(bag, minlength=len(bag_of_key)))]).astype(np.int64)
    clips = rows[order]
    return Bags(clips=clips, offsets=offsets, label=corpus.label[clips[offsets[:-1]]])


def single_clip_bags(corpus: Corpus, split: str) -> Bags:
    """Returns bags of one clip each: how a clip-level model sees the corpus."""
    rows = corpus.indices(split)
    return Bags(clips=rows, offsets=np.arange(len(rows) + 1), label=corpus.label[rows])
