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
            where the key leaves the genre out). Of a multi-label corpus 0, or the row of its target (`genre_shares`).
        subgenre: int32 [bag]: the sub-genre of that clip; of a multi-label corpus 0.
    """

    clips: np.ndarray
    offsets: np.ndarray
    label: np.ndarray
    subgenre: np.ndarray

    def __len__(self) -> int:
        return len(self.label)

    @property
    def sizes(self) -> np.ndarray:
        """Number of clips per bag: int64 [bag]."""
        return np.diff(self.offsets)

    def take(self, bags: np.ndarray) -> "Bags":
        """Returns some of the bags, in the order given; one may be there several times."""
        sizes = self.sizes[bags]
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], sizes)
        clips = self.clips[np.repeat(self.offsets[bags], sizes) + within]
        return Bags(clips, offsets, self.label[bags], self.subgenre[bags])


def bags_of(corpus: Corpus, split: str, key: str, pseudo_album_gap: int = 20) -> Bags:
    """Groups the clips of one split into the bags that are scored.

    A bag is what is known: album and artist, or the one of them that is given. A clip with neither is a bag
    of its own. Where the album is unknown, a pseudo-album stands for it.

    Args:
        corpus: the corpus.
        split: train, validation or test.
        key: of `config.keys.BAG_KEYS`. "paper" and "pair": (album, artist), since a true genre in the key would sort
            the clips by the label that is to be predicted; "published": (album, artist, genre) in training and
            validation and (album, artist) in test, as the published code counts.
        pseudo_album_gap: an artist's clips of unknown album whose consecutive track ids are at most this far
            apart form a pseudo-album; 0: all clips of the artist form one bag.
    """
    return _grouped(corpus, split, key == "published" and split != "test", pseudo_album_gap)


def training_bags(corpus: Corpus, key: str, pseudo_album_gap: int = 20) -> Bags:
    """Groups the training clips into the bags that a model is trained on.

    Args:
        corpus: the corpus.
        key: of `config.keys.BAG_KEYS`. "paper" and "published": (album, artist, genre); "pair": (album, artist), as
            all bags of a multi-label corpus, whose clips have no one genre to be sorted by.
        pseudo_album_gap: as in `bags_of`.
    """
    return _grouped(corpus, "train", key != "pair" and not corpus.multi_label, pseudo_album_gap)


def _grouped(corpus: Corpus, split: str, by_genre: bool, pseudo_album_gap: int) -> Bags:
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
    genre = corpus.label[rows] if by_genre else np.zeros(len(rows), np.int32)

    bag_of_key: dict[tuple, int] = {}
    bag = np.array(
        [bag_of_key.setdefault(k, len(bag_of_key)) for k in zip(album, artist, pseudo, own, genre, strict=True)],
        np.int64,
    )
    order = np.argsort(bag, kind="stable")
    offsets = np.concatenate([[0], np.cumsum(np.bincount(bag, minlength=len(bag_of_key)))]).astype(np.int64)
    clips = rows[order]
    return Bags(clips, offsets, *_labels(corpus, clips[offsets[:-1]]))


def single_clip_bags(corpus: Corpus, split: str) -> Bags:
    """Returns bags of one clip each: how a clip-level model sees the corpus."""
    rows = corpus.indices(split)
    return Bags(rows, np.arange(len(rows) + 1), *_labels(corpus, rows))


def _labels(corpus: Corpus, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns genre and sub-genre of clips; of a multi-label corpus zeros."""
    if corpus.multi_label:
        unknown = np.zeros(len(rows), np.int32)
        return unknown, unknown
    return corpus.label[rows], corpus.subgenre[rows]


def genre_shares(corpus: Corpus, bags: Bags) -> tuple[Bags, np.ndarray]:
    """Returns what bags of a multi-label corpus are trained on: the share of a bag's clips that have each genre.

    Cross entropy is linear in the target, so with this one the loss of a bag is the mean, over its clips, of the loss
    that its scores have on the labels of the clip: as evaluation scores the clips of a bag. The union of the labels
    would teach that all clips of a compilation are what one of them is.

    Returns:
        The bags, with the row of its target as the label of each; and the different targets, float32 [target, genre].
    """
    had = np.add.reduceat(corpus.label[bags.clips], bags.offsets[:-1], axis=0, dtype=np.float32)
    targets, row = np.unique(had / bags.sizes[:, None].astype(np.float32), axis=0, return_inverse=True)
    return dataclasses.replace(bags, label=row.reshape(-1).astype(np.int32)), targets


def numbered_bags(segment: np.ndarray) -> Bags:
    """Returns bags by the number of each clip's bag: int [clip], all numbers from 0 on. Labels are unknown, and 0."""
    offsets = np.concatenate([[0], np.cumsum(np.bincount(segment))])
    unknown = np.zeros(len(offsets) - 1, np.int32)
    return Bags(np.argsort(segment, kind="stable"), offsets, label=unknown, subgenre=unknown)
