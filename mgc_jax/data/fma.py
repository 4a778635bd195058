"""FMA, or a music collection, as prepared by `tfds_fma`, and the demo corpus, which is made where it is missing."""

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mgc_jax.config.keys import MULTI_LABEL, SINGLE_LABEL
from mgc_jax.data.corpus import Corpus
from mgc_jax.data.labels import of_fma
from mgc_jax.data.on_disk import LazyClips, stays_on_disk
from mgc_jax.errors import UserError
from mgc_jax.runtime.memory import available_memory
from tfds_fma.identity import labelled_table, table_columns
from tfds_fma.labels import own_name
from tfds_fma.paths import local_path
from tfds_fma.representations.registry import REPRESENTATIONS, get_representation
from tfds_fma.storage import layout

log = logging.getLogger(__name__)


def open_fma(data: Any, task: str = SINGLE_LABEL) -> Corpus:
    """Opens prepared FMA, or the demo corpus; raises `UserError` with what to do if it is not there."""
    return _from_tfds(data.corpus, prepared_folder(data), data.placement, task)


def prepared_folder(data: Any) -> Path:
    """Returns the folder of prepared FMA, or of the demo, which is made where it is missing.

    Raises:
        UserError: FMA is not prepared; the message says what to do.
    """
    from tfds_fma import demo, reading

    if data.corpus == "demo":
        return demo.ensure_demo(data.data_dir, data.representation, log=log.info)
    subset = data.corpus.removeprefix("fma_")
    path = reading.find_prepared(data.data_dir, subset, data.representation)
    if path is None:
        raise UserError(not_prepared(data, subset))
    return path


def is_computed(representation: str) -> bool:
    """Whether tfds_fma can make it from FMA; if not, the name is one for precomputed arrays, or mistyped."""
    try:
        get_representation(representation)
    except UserError:
        return False
    return True


def not_prepared(data: Any, subset: str) -> str:
    """Says that a dataset is not there, what is, and how to prepare it."""
    folder = local_path(data.data_dir)
    prepared = folder.glob(f"{layout.DATASET_NAME}/*/{layout.VERSION}/dataset_info.json")
    there = ", ".join(sorted(path.parent.parent.name for path in prepared))
    options = f"{layout.subset_flag(subset)} --representation {data.representation} --data_dir {data.data_dir}"
    if own_name(subset) == "gtzan":
        options = options.replace("--name gtzan ", "")
        remedy = f"Prepare GTZAN: python -m tfds_fma.prepare --gtzan genres.tar.gz {options}"
    elif own_name(subset):
        remedy = f"Prepare your music: python -m tfds_fma.prepare --audio FOLDER {options}"
    elif is_computed(data.representation):
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


def _from_tfds(name: str, path: Path, placement: str, task: str) -> Corpus:
    from tfds_fma import reading

    labels_of = _genre_sets if task == MULTI_LABEL else _top_genres
    prepared, genres = reading.open_prepared(path, log.info), reading.class_names(path)
    clips: np.ndarray | LazyClips
    if stays_on_disk(placement, prepared.nbytes, available_memory()):
        rows, fields = labels_of(name, prepared.columns(), genres)
        clips = LazyClips(prepared.clips, rows, fingerprints=prepared.fingerprints)
    else:
        columns, clips = prepared.read()
        rows, fields = labels_of(name, columns, genres)
        clips = _keep_rows(clips, rows)
    return Corpus(name=name, clips=clips, resampler=reading.resampler_of(path), **fields)


def _top_genres(
    name: str, columns: Mapping[str, np.ndarray], genres: tuple[str, ...]
) -> tuple[np.ndarray, dict[str, Any]]:
    """Returns the rows of the clips that have a top genre, and what a `Corpus` says of them."""
    table = labelled_table(columns, genres)
    left_out = len(columns["genre"]) - len(table.rows)
    if left_out:
        log.info("%d of %d clips have no top genre and are left out", left_out, len(columns["genre"]))
    fields = {field.name: getattr(table, field.name) for field in dataclasses.fields(table) if field.name != "rows"}
    return table.rows, {"genres": genres, **fields}


def _genre_sets(
    name: str, columns: Mapping[str, np.ndarray], genres: tuple[str, ...]
) -> tuple[np.ndarray, dict[str, Any]]:
    """Returns the rows of the clips that have any genre of FMA's tree, and what a `Corpus` says of them."""
    sets = of_fma(columns["genres_all"].tolist(), name).trainable(columns["split"] == "train")
    rows = np.flatnonzero(sets.label.any(axis=1))
    if len(rows) < len(sets.label):
        log.info("%d of %d clips have no known genre and are left out", len(sets.label) - len(rows), len(sets.label))
    kept = {field: column[rows] for field, column in table_columns(columns).items()}
    return rows, {"genres": sets.genres, "parents": sets.parents, "label": sets.label[rows], **kept}


def _keep_rows(clips: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Returns some clips, in place: there may not be memory for two copies of FMA-large."""
    if len(rows) < len(clips):
        for row, kept in enumerate(rows):
            clips[row] = clips[kept]
    return clips[: len(rows)]
