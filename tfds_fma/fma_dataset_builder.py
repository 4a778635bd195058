"""The TFDS builder ``fma``: Free Music Archive clips as ArrayRecord files, without TensorFlow.

Three things differ from a builder as TFDS's guide has it:

* Records are written straight to their shards, in the order of the track table. TFDS's own writer keeps a
  whole split in memory to shuffle it and, beyond 1 GB (FMA-small's training split has 1.7 GB), spills to disk
  through TensorFlow, which is not there.
* Clips that cannot be used do not stop the run; ``rejects.csv`` beside the data lists them, and
  ``damaged.csv`` those that are used though the decoder found errors in them (it tells worker processes, not Beam).
* An interrupted run keeps the shards that it has finished, and the next one continues.
"""

import collections
import contextlib
import csv
import dataclasses
import shutil
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from tfds_fma.clips.make import Clip, Reject
from tfds_fma.clips.resampling import implementation
from tfds_fma.clips.sources import ClipSource, fma_source
from tfds_fma.errors import UserError
from tfds_fma.labels import SUBSETS, genres_of, own_name
from tfds_fma.parallel import ordered_map
from tfds_fma.progress import Progress, progress_bar
from tfds_fma.representations.base import AudioRepresentation, Representation
from tfds_fma.representations.registry import REPRESENTATIONS, get_representation
from tfds_fma.source.tracks import STORED_SPLITS, Track
from tfds_fma.storage import beam, layout
from tfds_fma.storage.columns import Unfit, load_columns, write_columns
from tfds_fma.storage.shards import (
    Shard,
    ShardJob,
    ShardResult,
    Staging,
    features_of,
    plan_shards,
)

REJECTS_FILE = "rejects.csv"
DAMAGED_FILE = "damaged.csv"  # used, though the decoder found errors in the audio; with the columns of the rejects
SONGS_FILE = "songs.csv"  # of a collection: track_id -> path, and the number of the window
REJECTS_COLUMNS = ("track_id", "path", "split", "genre", "reason", "detail")


@dataclass(kw_only=True)
class FmaConfig(tfds.core.BuilderConfig):
    """A subset of FMA in one representation.

    Attributes:
      subset: see `tfds_fma.labels.SUBSETS`; or the name of a music collection, see `tfds_fma.labels.own_subset`.
      representation: name of a representation, see `tfds_fma.representations`.
    """

    subset: str
    representation: str


def make_config(subset: str, representation: str, description: str) -> FmaConfig:
    """Returns a config under the name that `tfds_fma.storage.layout` gives it."""
    return FmaConfig(
        name=layout.config_name(subset, representation),
        description=f"{subset if own_name(subset) else f'FMA-{subset}'}, {description}",
        subset=subset,
        representation=representation,
    )


class Builder(tfds.core.GeneratorBasedBuilder):
    """Free Music Archive: 30 s clips with genre, artist and album (TFDS name ``fma``)."""

    VERSION = tfds.core.Version(layout.VERSION)
    RELEASE_NOTES = {  # noqa: RUF012
        "1.0.0": "First release: subsets small and medium as MATT's log-mel spectrograms.",
        "1.1.0": (
            "Subsets large and full; PRCNN's log-mel spectrograms, audio, and FMA's 518 features; further features "
            "genres_all and subset; shards of fixed ranges of the track table."
        ),
    }
    BUILDER_CONFIGS = [  # noqa: RUF012
        make_config(subset, representation.name, representation.description)
        for subset in SUBSETS
        for representation in REPRESENTATIONS.values()
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Put fma_metadata and fma_small or fma_medium (https://github.com/mdeff/fma), zipped or extracted, "
        "into one folder and give that folder as manual_dir. `python -m tfds_fma.prepare --download` fetches them."
    )

    builder_config: FmaConfig

    def __init__(
        self,
        *,
        clip_source: ClipSource | None = None,
        staging_dir: Path | None = None,
        workers: int | None = None,
        progress: bool = True,
        log: Callable[[str], None] | None = None,
        **kwargs: Any,
    ):
        """Creates the builder.

        Args:
          clip_source: where tracks and clips come from; by default the FMA tree in TFDS's `manual_dir`.
          staging_dir: where finished shards wait; by default beside the version folder.
          workers: processes that decode; by default one per usable core.
          progress: whether to show a progress bar.
          log: takes lines for people.
          **kwargs: as for any TFDS builder (config, data_dir, ...).
        """
        kwargs.setdefault("file_format", "array_record")
        self._clip_source = clip_source
        self._given_staging_dir = staging_dir
        self._workers = workers
        self._progress = progress
        self._log = log or (lambda line: None)
        self.rejects: list[Reject] = []
        self.damaged: list[Reject] = []
        self.padded = 0
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        """Describes the examples."""
        config, given = self.builder_config, self._clip_source
        representation = given.representation if given else get_representation(config.representation)
        return self.dataset_info_from_configs(
            features=features_of(representation, given.genres if given else genres_of(config.subset)),
            supervised_keys=("clip", "genre"),
            homepage="" if own_name(config.subset) else "https://github.com/mdeff/fma",
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(
                {layout.RESAMPLER: given.resampler if given else _resampler_of(representation)}
            ),
        )

    @property
    def _staging_dir(self) -> Path:
        # Absolute: a worker of Beam may run in another working folder.
        return (self._given_staging_dir or Path(self.data_dir).parent / layout.STAGING).absolute()

    def download_and_prepare(self, **kwargs: Any) -> None:
        """Prepares the dataset; see TFDS for the arguments. The finished shards wait until all is in its place.

        The columns file comes last, as it holds hashes of what TFDS writes about the shards.
        """
        super().download_and_prepare(**kwargs)
        folder = Path(self.data_dir)
        try:
            load_columns(folder)
        except Unfit:
            write_columns(folder, self.info)
        shutil.rmtree(self._staging_dir, ignore_errors=True)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> Any:
        """Not used: `_generate_splits` makes shards instead."""
        raise NotImplementedError

    def _generate_examples(self) -> Any:
        """Not used: `_generate_splits` makes shards instead."""
        raise NotImplementedError

    def _generate_splits(self, dl_manager: Any, download_config: Any) -> list[tfds.core.SplitInfo]:
        """Writes all splits and the list of rejects; a split without a usable clip is left out.

        Of TFDS's download options those of Beam are used: with one of them, Beam makes the shards.

        Raises:
          UserError: if the source makes no sense, the disk is full, or no clip at all can be used.
        """
        config = self.builder_config
        source = self._clip_source or fma_source(
            Path(dl_manager.manual_dir), config.subset, config.representation, self._log
        )
        staging = Staging(self._staging_dir, source.representation, source.genres)
        shards = plan_shards(source)
        pending = [shard for shard in shards if staging.finished(shard) is None]
        kept = sum(len(shard.tracks) for shard in shards) - sum(len(shard.tracks) for shard in pending)
        if kept:
            self._log(f"{config.name}: {kept} tracks are done from an interrupted run")
        if download_config.beam_options is not None or download_config.beam_runner is not None:
            if not source.parallel:
                raise UserError(f"There is nothing for Beam to do: {config.representation} takes seconds without it.")
            staging.folder.mkdir(parents=True, exist_ok=True)  # workers must not: it may be a folder of theirs alone
            jobs = [ShardJob(staging, shard, dataclasses.replace(source, tracks=())) for shard in pending]
            beam.make_shards(jobs, download_config.beam_options, download_config.beam_runner)
        else:
            self._make_shards(source, staging, pending)
        infos = self._collect(staging, shards)
        if source.place is not None:
            self._write_songs(source.tracks, source.place)
        return infos

    def _make_shards(self, source: ClipSource, staging: Staging, shards: list[Shard]) -> None:
        """Makes shards on this machine, one after the other; workers make the clips, across the ends of shards."""
        tracks = [track for shard in shards for track in shard.tracks]
        clips: Generator[Clip | Reject, None, None]
        if source.parallel:
            clips = ordered_map(source.make, tracks, self._workers)
        else:
            clips = (source.make(track) for track in tracks)
        bar = progress_bar(self.builder_config.name, len(tracks), "clips", show=self._progress)
        with bar, contextlib.closing(clips):
            for shard in shards:
                staging.write(shard, _take(clips, len(shard.tracks), bar))

    def _collect(self, staging: Staging, shards: list[Shard]) -> list[tfds.core.SplitInfo]:
        """Brings the shards into the dataset, except those that turned out empty; writes the rejects.

        Raises:
          UserError: if a shard is not there, or no clip at all can be used.
        """
        results = {}
        for shard in shards:
            result = staging.finished(shard)
            if result is None:
                raise UserError(
                    f"{staging.path(shard)} is missing or incomplete, though it was made. With Beam, the data folder "
                    "must be one that all workers share. Run the same command again; the other shards are kept."
                )
            results[shard] = result
        self.rejects = [reject for result in results.values() for reject in result.rejects]
        self.damaged = [clip for result in results.values() for clip in result.damaged]
        self.padded = sum(result.padded for result in results.values())
        if not any(result.records for result in results.values()):
            raise UserError(_nothing_usable(self.rejects))
        infos = []
        for split in STORED_SPLITS:
            full = {shard: result for shard, result in results.items() if shard.split == split and result.records}
            if full:
                infos.append(self._collect_split(split, staging, full))
        _write_rejects(Path(self.data_dir) / REJECTS_FILE, self.rejects)
        if self.damaged:
            _write_rejects(Path(self.data_dir) / DAMAGED_FILE, self.damaged)
        return infos

    def _write_songs(self, tracks: Iterable[Track], place: Callable[[Track], tuple[str, str]]) -> None:
        """Writes which file, and which window of it, each clip is from."""
        rejected = {reject.track.track_id for reject in self.rejects}
        with (Path(self.data_dir) / SONGS_FILE).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("track_id", "path", "window"))
            for track in tracks:
                if track.track_id not in rejected:
                    writer.writerow((track.track_id, *place(track)))

    def _collect_split(self, split: str, staging: Staging, results: dict[Shard, ShardResult]) -> tfds.core.SplitInfo:
        """Gives the shards of one split their final names, and leaves them where they wait, too."""
        template = tfds.core.ShardedFileTemplate(
            data_dir=self.data_path,
            dataset_name=self.name,
            split=split,
            filetype_suffix=self.info.file_format.file_suffix,
        )
        for shard, final in zip(results, template.sharded_filepaths(len(results)), strict=True):
            _link(staging.path(shard), Path(final))
        return tfds.core.SplitInfo(
            name=split,
            shard_lengths=[result.records for result in results.values()],
            num_bytes=sum(result.record_bytes for result in results.values()),
            filename_template=template,
        )


def _resampler_of(representation: Representation) -> str:
    return implementation(representation.resampler) if isinstance(representation, AudioRepresentation) else ""


def _link(path: Path, target: Path) -> None:
    """Gives a file a second name; a copy where the file system has no such thing."""
    try:
        target.hardlink_to(path)
    except OSError:
        shutil.copyfile(path, target)


def _take(clips: Iterator[Clip | Reject], count: int, bar: Progress) -> Iterator[Clip | Reject]:
    """Yields the next `count` clips and moves the progress bar."""
    for _ in range(count):
        yield next(clips)
        bar.update()


def _write_rejects(path: Path, rejects: list[Reject]) -> None:
    """Writes the table of rejects (the header alone if there are none)."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(REJECTS_COLUMNS)
        for reject in rejects:
            track = reject.track
            writer.writerow((track.track_id, reject.path, track.split, track.genre, reject.reason, reject.detail))


def count_reasons(rejects: Iterable[Reject]) -> str:
    """Sums rejects up: ``50 missing, 1 short``."""
    counts = collections.Counter(reject.reason for reject in rejects)
    return ", ".join(f"{count} {reason}" for reason, count in counts.most_common())


def _nothing_usable(rejects: list[Reject]) -> str:
    """The message for a source of which no clip can be used."""
    first = rejects[0]
    numbered = first.reason == "missing" and type(first.track) is Track  # of a collection: where its table says
    hint = " FMA's clips lie in numbered folders, as in the official zip files." if numbered else ""
    return (
        f"None of the {len(rejects)} clips of the table could be used ({count_reasons(rejects)}). The first is "
        f"{first.path}: {first.detail.removesuffix('.')}.{hint}"
    )
