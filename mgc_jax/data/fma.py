"""FMA as prepared by `tfds_fma`, and the demo corpus, which is made where it is missing."""

import logging
from pathlib import Path
from typing import Any

import numpy as np

from mgc_jax.data.corpus import Corpus
from mgc_jax.data.on_disk import LazyClips, stays_on_disk
from mgc_jax.data.sub_genres import find_subgenres
from mgc_jax.errors import UserError
from mgc_jax.runtime.memory import available_memory
from tfds_fma.labels import GENRE_IDS
from tfds_fma.representations.registry import REPRESENTATIONS, get_representation
from tfds_fma.storage import layout

log = logging.getLogger(__name__)


def open_fma(data: Any) -> Corpus:
    """Opens prepared FMA, or the demo corpus; raises `UserError` with what to do if it is not there."""
    from tfds_fma import demo, reading

    if data.corpus == "demo":
        made = demo.ensure_demo(data.data_dir, data.representation, log=log.info)
        return _from_tfds("demo", made, data.placement)
    subset = data.corpus.removeprefix("fma_")
    path = reading.find_prepared(data.data_dir, subset, data.representation)
    if path is None:
        raise UserError(not_prepared(data, subset))
    return _from_tfds(data.corpus, path, data.placement)


def is_computed(representation: str) -> bool:
    """Whether tfds_fma can make it from FMA; if not, the name is one for precomputed arrays, or mistyped."""
    try:
        get_representation(representation)
    except UserError:
        return False
    return True


def not_prepared(data: Any, subset: str) -> str:
    """Says that a dataset is not there, what is, and how to prepare it."""
    folder = Path(data.data_dir).expanduser()
    prepared = folder.glob(f"{layout.DATASET_NAME}/*/{layout.VERSION}/dataset_info.json")
    there = ", ".join(sorted(path.parent.parent.name for path in prepared))
    options = f"--subset {subset} --representation {data.representation} --data_dir {data.data_dir}"
    if is_computed(data.representation):
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
