"""The TFDS builder ``fma``: Free Music Archive clips as ArrayRecord files, without TensorFlow.

Two things differ from a builder as TFDS's guide has it:

* Records are written straight to their shards, in the order of the track table. TFDS's own writer keeps a
  whole split in memory to shuffle it and, beyond 1 GB (FMA-small's training split has 1.7 GB), spills to disk
  through TensorFlow, which is not there.
* Clips that cannot be used do not stop the run; ``rejects.csv`` beside the data lists them.
"""

import collections
import contextlib
import csv
import functools
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.core import example_serializer
from tqdm import tqdm

from tfds_fma import layout
from tfds_fma.clips import Clip, Reject, make_clip
from tfds_fma.errors import FmaError
from tfds_fma.labels import SUBSETS, genres_of
from tfds_fma.metadata import SPLITS, Track, read_tracks
from tfds_fma.parallel import ordered_map
from tfds_fma.representations import REPRESENTATIONS, get_representation
from tfds_fma.sources import find_containers

REJECTS_FILE = "rejects.csv"
REJECTS_COLUMNS = ("track_id", "path", "split", "genre", "reason", "detail")

_SHARD_BYTES = 256 << 20


@dataclass(kw_only=True)
class FmaConfig(tfds.core.BuilderConfig):
    """A subset of FMA in one representation.

    Attributes:
      subset: ``small`` or ``medium``.
      representation: name of a representation in `tfds_fma.representations`.
    """

    subset: str
    representation: str


class Builder(tfds.core.GeneratorBasedBuilder):
    """Free Music Archive: 30 s clips with genre, artist and album (TFDS name ``fma``)."""

    VERSION = tfds.core.Version(layout.VERSION)
    RELEASE_NOTES = {  # noqa: RUF012
        layout.VERSION: "First release: subsets small and medium as MATT's log-mel spectrograms."
    }
    BUILDER_CONFIGS = [  # noqa: RUF012
        FmaConfig(
            name=layout.config_name(subset, representation.name),
            description=f"FMA-{subset}, {representation.description}",
            subset=subset,
            representation=representation.name,
        )
        for subset in SUBSETS
        for representation in REPRESENTATIONS.values()
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Put fma_metadata and fma_small or fma_medium (https://github.com/mdeff/fma), zipped or extracted, "
        "into one folder and give that folder as manual_dir."
    )

    builder_config: FmaConfig

    def __init__(self, *, workers: int | None = None, progress: bool = True, **kwargs: Any):
        """Creates the builder.

        Args:
          workers: processes that decode; by default one per CPU core.
          progress: whether to show a progress bar.
          **kwargs: as for any TFDS builder (config, data_dir, ...).
        """
        kwargs.setdefault("file_format", "array_record")
        super().__init__(**kwargs)
        self._workers = workers
        self._progress = progress
        # Of the run in progress: clips as the workers deliver them, what became of them, the progress bar.
        self._clips: Generator[Clip | Reject, None, None]
        self._bar: tqdm
        self.rejects: list[Reject] = []
        self.padded = 0

    def _info(self) -> tfds.core.DatasetInfo:
        """Describes the examples."""
        representation = get_representation(self.builder_config.representation)
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    # Raw bytes: a list of numbers takes twice the space and 20 times as long to write.
                    "clip": tfds.features.Tensor(
                        shape=representation.shape, dtype=np.dtype(representation.dtype), encoding="bytes"
                    ),
                    "track_id": tfds.features.Scalar(np.int64),
                    "genre": tfds.features.ClassLabel(names=genres_of(self.builder_config.subset)),
                    "artist_id": tfds.features.Scalar(np.int64),
                    "album_id": tfds.features.Scalar(np.int64),
                    "title": tfds.features.Text(),
                    "artist": tfds.features.Text(),
                    "duration": tfds.features.Scalar(np.float32),
                }
            ),
            supervised_keys=("clip", "genre"),
            homepage="https://github.com/mdeff/fma",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterable]:
        """Returns the examples of each split, in the order of the track table."""
        source = Path(dl_manager.manual_dir)
        subset = self.builder_config.subset
        tracks = read_tracks(source, subset)
        containers = find_containers(source, subset)
        by_split = {name: [track for track in tracks if track.split == name] for name in SPLITS.values()}
        representation = get_representation(self.builder_config.representation)
        # One pool of workers serves all splits; results come in the order in which the splits are written.
        in_order = [track for split in by_split.values() for track in split]
        self._clips = ordered_map(functools.partial(make_clip, containers, representation), in_order, self._workers)
        self._bar = tqdm(
            desc=self.builder_config.name, total=len(in_order), unit=" clips", disable=None if self._progress else True
        )
        return {name: self._generate_examples(split) for name, split in by_split.items()}

    def _generate_examples(self, tracks: list[Track]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields (position in the split, example); notes rejects and padded clips."""
        position = 0
        for track in tracks:
            clip = next(self._clips)
            self._bar.update()
            if isinstance(clip, Reject):
                self.rejects.append(clip)
                continue
            self.padded += clip.padded
            yield (
                position,
                {
                    "clip": clip.array,
                    "track_id": track.track_id,
                    "genre": track.genre,
                    "artist_id": track.artist_id,
                    "album_id": track.album_id,
                    "title": track.title,
                    "artist": track.artist,
                    "duration": track.duration,
                },
            )
            position += 1

    def _generate_splits(self, dl_manager: Any, download_config: Any) -> list[tfds.core.SplitInfo]:
        """Writes all splits and the list of rejects; a split without a usable clip is left out.

        Raises:
          FmaError: if no clip at all can be used.
        """
        del download_config  # its options concern TFDS's own writer
        self.rejects, self.padded = [], 0
        splits = self._split_generators(dl_manager)
        with self._bar, contextlib.closing(self._clips):
            infos = [self._write_split(name, examples) for name, examples in splits.items()]
        written = [info for info in infos if info is not None]
        if not written:
            raise FmaError(_nothing_usable(self.rejects, dl_manager.manual_dir))
        self._write_rejects(Path(self.data_dir) / REJECTS_FILE)
        return written

    def _write_split(self, name: str, examples: Iterable[tuple[int, dict[str, Any]]]) -> tfds.core.SplitInfo | None:
        """Writes the shards of one split, in order; returns None if there is no example."""
        features = self.info.features
        serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
        # The number of shards is part of each file's name and known only at the end.
        unnamed: list[Path] = []
        lengths: list[int] = []
        total_bytes, room, writer = 0, 0, None
        for _, example in examples:
            record = serializer.serialize_example(features.encode_example(example))
            if writer is None or len(record) > room:
                if writer is not None:
                    writer.close()
                unnamed.append(Path(self.data_dir) / f"{name}-{len(unnamed)}.unnamed")
                lengths.append(0)
                writer, room = ArrayRecordWriter(str(unnamed[-1]), "group_size:1"), _SHARD_BYTES
            writer.write(record)
            room -= len(record)
            total_bytes += len(record)
            lengths[-1] += 1
        if writer is None:
            return None
        writer.close()
        template = self._get_filename_template(split_name=name)
        for path, final in zip(unnamed, template.sharded_filepaths(len(unnamed)), strict=True):
            path.rename(final)
        return tfds.core.SplitInfo(name=name, shard_lengths=lengths, num_bytes=total_bytes, filename_template=template)

    def _write_rejects(self, path: Path) -> None:
        """Writes the table of rejects (the header alone if there are none)."""
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(REJECTS_COLUMNS)
            for reject in self.rejects:
                track = reject.track
                writer.writerow((track.track_id, reject.path, track.split, track.genre, reject.reason, reject.detail))


def count_reasons(rejects: Iterable[Reject]) -> str:
    """Sums rejects up: ``50 missing, 1 short``."""
    counts = collections.Counter(reject.reason for reject in rejects)
    return ", ".join(f"{count} {reason}" for reason, count in counts.most_common())


def _nothing_usable(rejects: list[Reject], source: Any) -> str:
    """The message for a source of which no clip can be used."""
    first = rejects[0]
    return (
        f"None of the {len(rejects)} clips of the table could be used ({count_reasons(rejects)}). Looked in "
        f"{source}, first for {first.path}: {first.detail}. FMA's clips lie in numbered folders, as in the "
        "official zip files."
    )
