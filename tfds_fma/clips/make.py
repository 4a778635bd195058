"""One track -> its clip in stored form, or the reason why not (what a worker process does).

Apart from the builder so that workers need not import TFDS, which takes seconds.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from tfds_fma.clips.decode import damage_in_words, decode
from tfds_fma.errors import ClipError
from tfds_fma.parallel import take_printed
from tfds_fma.representations.base import AudioRepresentation
from tfds_fma.source.audio_files import Container
from tfds_fma.source.tracks import Track


@dataclass(frozen=True)
class Reject:
    """A track that is in the table and not in the dataset, or there with a damaged clip.

    `reason` is one word, `detail` a line.
    """

    track: Track
    path: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Clip:
    """A clip in its stored form.

    Attributes:
      array: what is stored.
      padded: whether zeros were added to reach its length.
      damage: what the decoder said of errors in the audio, in a line; "" if nothing.
      path: the copy that it was made of, if there is such a line.
    """

    array: np.ndarray
    padded: bool
    damage: str = ""
    path: str = ""


def make_clip(containers: tuple[Container, ...], representation: AudioRepresentation, track: Track) -> Clip | Reject:
    """Reads, decodes and represents the clip of one track (runs in a worker process).

    The containers are tried in order until one has a copy that can be used. If there is none, the reject names the
    first copy there is, else the place where the first one should be.
    """
    rejects = []
    for container in containers:
        try:
            return _make_clip_from(container, representation, track)
        except ClipError as error:
            rejects.append(Reject(track, container.location(track.track_id), error.reason, error.detail))
    return next((reject for reject in rejects if reject.reason != "missing"), rejects[0])


def _make_clip_from(container: Container, representation: AudioRepresentation, track: Track) -> Clip:
    """Makes the clip of one track from the copy in one container."""
    excerpt_of = track.duration if container.whole_tracks else None
    place = container.location(track.track_id)
    return clip_from(container.open(track.track_id), representation, excerpt_of, place)


def clip_from(
    opened: AbstractContextManager[BinaryIO],
    representation: AudioRepresentation,
    excerpt_of: float | None,
    place: str,
) -> Clip:
    """Decodes and represents one clip.

    Args:
      opened: its file.
      representation: what to make of it.
      excerpt_of: see `decode`.
      place: names the file for people.

    Raises:
      ClipError: it cannot be used.
    """
    take_printed()
    with opened as file:
        audio = decode(
            file,
            representation.sample_rate,
            representation.samples,
            at_most=representation.at_most,
            excerpt_of=excerpt_of,
            resampler=representation.resampler,
        )
    damage = damage_in_words(take_printed())
    return Clip(representation.compute(audio.samples), audio.padded, damage, place if damage else "")
