"""Writing a dataset shard by shard, so that an interrupted run continues and a cluster can share the work.

A shard is a fixed range of the track table: which clips turn out to be unusable does not change where the others go.
So shards can be made in any order and by anyone, and the files are the same byte for byte. Finished shards wait in a
folder of their own (`Staging`), each with a note of what is in it, until all are there.
"""

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import shutil
import socket
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import soundfile
import soxr

from tfds_fma.clips.make import Clip, Reject
from tfds_fma.clips.sources import ClipSource
from tfds_fma.errors import UserError
from tfds_fma.representations.base import Representation
from tfds_fma.source.tracks import STORED_SPLITS, Track
from tfds_fma.storage import layout

# 500 of MATT's spectrograms. Small enough that an interrupted run loses half a minute of one core's work.
_SHARD_BYTES = 128 << 20


@dataclass(frozen=True)
class Shard:
    """A range of the track table.

    Attributes:
      split: one of `STORED_SPLITS`.
      number: position among the shards of the split.
      tracks: the tracks whose clips belong into it.
      stamp: a hash of all that its bytes depend on.
    """

    split: str
    number: int
    tracks: tuple[Track, ...]
    stamp: str


@dataclass(frozen=True)
class ShardResult:
    """What became of a shard.

    Attributes:
      records: number of clips written.
      record_bytes: their size.
      padded: how many of them had zeros added.
      rejects: the tracks that could not be used.
      damaged: those whose audio the decoder found errors in, and which are used all the same.
    """

    records: int
    record_bytes: int
    padded: int
    rejects: tuple[Reject, ...]
    damaged: tuple[Reject, ...]


def plan_shards(source: ClipSource) -> list[Shard]:
    """Divides the tracks into shards, split by split, in the order of the table."""
    size = max(1, _SHARD_BYTES // clip_bytes(source.representation))
    shards = []
    for split in STORED_SPLITS:
        tracks = tuple(track for track in source.tracks if track.split == split)
        parts = [tracks[start : start + size] for start in range(0, len(tracks), size)]
        shards += [Shard(split, number, part, _stamp(source, part)) for number, part in enumerate(parts)]
    return shards


def _stamp(source: ClipSource, tracks: tuple[Track, ...]) -> str:
    """Hashes all that the bytes of a shard depend on."""
    libraries = (np.__version__, scipy.__version__, soundfile.__libsndfile_version__, soxr.__version__)
    states = [source.state(track) for track in tracks]
    everything = (layout.VERSION, source.representation, source.genres, source.identity, libraries, tracks, states)
    return hashlib.blake2b(repr(everything).encode(), digest_size=16).hexdigest()


def clip_bytes(representation: Representation) -> int:
    """Returns the size of a clip in bytes."""
    return int(np.prod(representation.shape)) * np.dtype(representation.dtype).itemsize


def features_of(representation: Representation, genres: tuple[str, ...]) -> Any:
    """Returns the TFDS features of an example."""
    import tensorflow_datasets as tfds

    return tfds.features.FeaturesDict(
        {
            # Raw bytes: a list of numbers takes twice the space and 20 times as long to write.
            "clip": tfds.features.Tensor(
                shape=representation.shape, dtype=np.dtype(representation.dtype), encoding="bytes"
            ),
            "track_id": tfds.features.Scalar(np.int64),
            "genre": tfds.features.ClassLabel(names=genres),  # -1: no top genre
            "genres_all": tfds.features.Sequence(np.int64),
            "artist_id": tfds.features.Scalar(np.int64),
            "album_id": tfds.features.Scalar(np.int64),
            "title": tfds.features.Text(),
            "artist": tfds.features.Text(),
            "duration": tfds.features.Scalar(np.float32),
            "subset": tfds.features.Text(),  # FMA's label: the smallest subset that has the track
        }
    )


@dataclass(frozen=True)
class Staging:
    """The folder of finished shards.

    Attributes:
      folder: where it is.
      representation: of the clips.
      genres: of the dataset.
    """

    folder: Path
    representation: Representation
    genres: tuple[str, ...]

    def path(self, shard: Shard) -> Path:
        """Returns the file of a shard's records."""
        return self.folder / f"{shard.split}-{shard.number:05d}.array_record"

    def finished(self, shard: Shard) -> ShardResult | None:
        """Returns what became of a shard that is there, made from the same source; None if it has to be made."""
        try:
            note = json.loads(self._note(shard).read_text(encoding="utf-8"))
            if note["stamp"] != shard.stamp or self.path(shard).stat().st_size != note["file_bytes"]:
                return None
            tracks = {track.track_id: track for track in shard.tracks}
            rejects, damaged = (
                tuple(Reject(tracks[number], *words) for number, *words in note[name])
                for name in ("rejects", "damaged")
            )
            return ShardResult(note["records"], note["record_bytes"], note["padded"], rejects, damaged)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, shard: Shard, clips: Iterable[Clip | Reject]) -> ShardResult:
        """Writes a shard from the clips of its tracks, in order.

        Raises:
          UserError: if the disk is full or cannot be written.
        """
        # Beam may have two workers make the same shard: each has a file of its own.
        attempt = f"{shard.split}-{shard.number:05d}.{uuid.uuid4().hex}"
        partial, unnamed = self.folder / f"{attempt}.records.partial", self.folder / f"{attempt}.note.partial"
        try:
            with write_errors_explained(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                result = self._write_records(partial, shard, clips)
                note: dict[str, Any] = {
                    "stamp": shard.stamp,
                    "file_bytes": partial.stat().st_size,
                    "records": result.records,
                    "record_bytes": result.record_bytes,
                    "padded": result.padded,
                }
                for name, listed in (("rejects", result.rejects), ("damaged", result.damaged)):
                    note[name] = [[r.track.track_id, r.path, r.reason, r.detail] for r in listed]
                unnamed.write_text(json.dumps(note), encoding="utf-8")
                partial.replace(self.path(shard))
                # The note comes last: it says that the records are complete.
                unnamed.replace(self._note(shard))
        finally:
            partial.unlink(missing_ok=True)
            unnamed.unlink(missing_ok=True)
        return result

    def _write_records(self, path: Path, shard: Shard, clips: Iterable[Clip | Reject]) -> ShardResult:
        from array_record.python.array_record_module import ArrayRecordWriter
        from tensorflow_datasets.core import example_serializer

        features = features_of(self.representation, self.genres)
        serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
        rejects, damaged, records, record_bytes, padded = [], [], 0, 0, 0
        with _writer_errors_as_os_errors():
            # Compression would save a tenth, and take as long as all else that is done here and on reading.
            writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")
        for track, clip in zip(shard.tracks, clips, strict=True):
            if isinstance(clip, Reject):
                rejects.append(clip)
                continue
            example = serializer.get_tf_example(features.encode_example(_example(track, clip)))
            # Otherwise the order of the fields depends on the process.
            record = example.SerializeToString(deterministic=True)
            with _writer_errors_as_os_errors():
                writer.write(record)
            if clip.damage:
                damaged.append(Reject(track, clip.path, "damaged", clip.damage))
            records, record_bytes, padded = records + 1, record_bytes + len(record), padded + clip.padded
        with _writer_errors_as_os_errors():
            writer.close()
        return ShardResult(records, record_bytes, padded, tuple(rejects), tuple(damaged))

    def _note(self, shard: Shard) -> Path:
        return self.path(shard).with_suffix(".json")


def _example(track: Track, clip: Clip) -> dict[str, Any]:
    """The example of a track, as TFDS takes it."""
    fields = {field.name: getattr(track, field.name) for field in dataclasses.fields(Track)}  # not those of SongTrack
    del fields["split"]
    return fields | {"clip": clip.array, "genre": track.genre or -1}


@contextlib.contextmanager
def write_errors_explained(folder: Path) -> Iterator[None]:
    """Turns failed writing into a UserError that says what is kept."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "Make room" if full else "Mend that"
        raise UserError(
            f"Cannot write to {folder} ({error.strerror or error}). {remedy} and run the same command again: the "
            "shards that are finished are kept."
        ) from error


@contextlib.contextmanager
def _writer_errors_as_os_errors() -> Iterator[None]:
    """ArrayRecord raises RuntimeError whatever went wrong, with the text of the system's error."""
    try:
        yield
    except RuntimeError as error:
        full = os.strerror(errno.ENOSPC) in str(error)
        raise OSError(*(errno.ENOSPC, os.strerror(errno.ENOSPC)) if full else (errno.EIO, str(error))) from error


@dataclass(frozen=True)
class ShardJob:
    """All that a worker on another machine needs to make a shard; `source` needs no tracks."""

    staging: Staging
    shard: Shard
    source: ClipSource


def make_shard(job: ShardJob) -> None:
    """Makes one shard, clip after clip (runs in a Beam worker).

    Raises:
      UserError: this machine does not see the folders, or would make other bytes of them.
    """
    here = socket.gethostname()
    if not job.staging.folder.is_dir():
        raise UserError(
            f"The worker on {here} does not see {job.staging.folder}: the data folder must be one that all workers "
            "share, under the same path"
        )
    # Otherwise clips that this machine does not see would be rejected as missing.
    if _stamp(job.source, job.shard.tracks) != job.shard.stamp:
        raise UserError(
            f"The worker on {here} does not see the audio as the main process does, or has another NumPy, SciPy, "
            "libsndfile or soxr: mount the same folders under the same paths, and install the same versions"
        )
    job.staging.write(job.shard, map(job.source.make, job.shard.tracks))


def free_bytes(folder: Path) -> int:
    """Free space in bytes where a folder is, or would be made."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
