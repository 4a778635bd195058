"""The clips that the settings of the bench share: opened once, and placed once for each number of devices."""

import dataclasses
import logging
from collections.abc import Iterable
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from mgc_jax.bench.synthetic import synthetic_corpus
from mgc_jax.data.corpus import Corpus
from mgc_jax.data.on_disk import ArrayFile, LazyClips, TrackNames
from mgc_jax.data.open import open_corpus
from mgc_jax.data.placement import ClipStore, DeviceClips, HostClips, place_clips
from mgc_jax.runtime.devices import data_mesh

log = logging.getLogger(__name__)


class SharedClips:
    """The corpus as each placement has it.

    Of the clips that lie on devices only those asked for last are there: what a setting needs of their memory is what
    it would need alone.

    Attributes:
        corpora: by placement; where several have the clips in memory, they are the same.
    """

    def __init__(self, config: ConfigDict, placements: Iterable[str], folder: Path):
        """Opens every corpus; nothing is on a device yet.

        Args:
            config: a validated configuration.
            placements: values of `config.data.placement`.
            folder: there the clips of a synthetic corpus lie that are to be streamed.

        Raises:
            UserError: a corpus is not there, or cannot be had in that way.
        """
        make = _synthetic if config.bench.data == "synthetic" else _opened
        self.corpora = make(config, dict.fromkeys(placements), folder)
        self._workers = config.data.workers
        self._placed: dict[tuple[str, int], ClipStore] = {}
        self._there: tuple[str, int] | None = None

    def placed(self, placement: str, devices: int) -> ClipStore:
        """Returns the clips on the first `devices` devices; those returned before are taken off their devices."""
        key = placement, devices
        if key != self._there:
            self.free()
            clips = self.corpora[placement].clips
            found = self._placed.get(key)
            if found is None:
                mesh = data_mesh(jax.devices()[:devices])
                self._placed[key] = found = place_clips(clips, placement, mesh, self._workers)
            elif isinstance(found, DeviceClips) and isinstance(clips, np.ndarray):
                found.place(clips)
            if isinstance(found, DeviceClips):
                jax.block_until_ready(found(np.zeros(devices, np.int32)))
            self._there = key
        return self._placed[key]

    def free(self) -> None:
        """Takes the clips off the devices."""
        found = None if self._there is None else self._placed[self._there]
        if isinstance(found, DeviceClips):
            found.free()
        self._there = None


def where(clips: ClipStore) -> str:
    """Says where clips really are: device, host or stream."""
    if isinstance(clips, DeviceClips):
        return "device"
    return "host" if isinstance(clips, HostClips) else "stream"


def _synthetic(config: ConfigDict, placements: Iterable[str], folder: Path) -> dict[str, Corpus]:
    corpus = synthetic_corpus(config)
    found = dict.fromkeys(placements, corpus)
    if "stream" in found:
        file = folder / "clips.npy"
        np.save(file, np.asarray(corpus.clips))
        store = ArrayFile(np.load(file, mmap_mode="r"), False, TrackNames(corpus.track_id))
        found["stream"] = dataclasses.replace(corpus, clips=LazyClips(store))
    return found


def _opened(config: ConfigDict, placements: Iterable[str], _: Path) -> dict[str, Corpus]:
    found: dict[str, Corpus] = {}
    in_memory: Corpus | None = None
    for placement in placements:
        if in_memory is not None and placement != "stream":
            found[placement] = in_memory
            continue
        data = config.data.copy_and_resolve_references()
        data.placement = placement
        found[placement] = corpus = open_corpus(data)
        if not isinstance(corpus.clips, LazyClips):
            in_memory = corpus
    return found
