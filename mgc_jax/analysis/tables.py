"""The tables of an analysis: clips and bags, embeddings as arrays to train on, and TensorBoard's projector."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from mgc_jax.analysis.clips import AnalysedClips
from mgc_jax.analysis.opening import REMEDY, make_folder
from mgc_jax.runtime.files import replacing, write_text
from mgc_jax.songs.table import one_line

CLIPS, BAGS = "clips.parquet", "bags.parquet"
ARRAYS, PROJECTOR = ("embeddings.npz", "embeddings.csv"), "projector"
METADATA = b"mgc_jax_analysis"
_CHUNK = 4096  # rows that are turned into text or Arrow at once


def write_clips(clips: AnalysedClips, folder: Path) -> Path:
    """Writes `clips.parquet`: a row per clip.

    Columns: `track_id`, `title`, `artist`, `artist_name`, `album`, `genre`, `split`, `bag`; `predicted_clip` and, of a
    bag model, `predicted_bag`; log scores `clip/<genre>` and `bag/<genre>`, as in a run's `predictions.parquet`;
    `attention`, the weight in the bag under the query of the predicted genre, and `attention/<genre>` under every
    query, where there are such; `embedding`, a list of fixed size.
    """
    scored = clips.predictions
    genres = np.array(scored.genres)
    columns = _described(clips) | {"bag": scored.bag}
    for level in ("clip", "bag") if scored.bag_scores is not None else ("clip",):
        columns[f"predicted_{level}"] = genres[scored.predicted(level)]
    for level, scores in (("clip", scored.clip_scores), ("bag", scored.bag_scores), ("attention", clips.attention)):
        if scores is not None:
            columns |= {f"{level}/{genre}": scores[:, i] for i, genre in enumerate(scored.genres)}
    if scored.attention is not None:
        columns["attention"] = scored.attention
    return _write_parquet(folder / CLIPS, columns, clips.embeddings, clips.about)


def write_bags(clips: AnalysedClips, folder: Path) -> Path:
    """Writes `bags.parquet`: a row per bag.

    Columns: `bag`, `split`, `artist`, `artist_name`, `album`, `clips` (how many), `genre` (of the first clip),
    `predicted`, and `embedding`, as `AnalysedClips.bag_embeddings` says. Without a bag model `predicted` is by the
    mean of the clips' log scores.
    """
    scored = clips.predictions
    first, genres = scored.offsets[:-1], np.array(scored.genres)
    described = {
        name: values[first] for name, values in _described(clips).items() if name not in ("track_id", "title")
    }
    level = "bag" if scored.bag_scores is not None else "clip_mean"
    columns: dict[str, np.ndarray] = {
        "bag": scored.bag[first], **described, "clips": scored.bag_sizes,
        "predicted": genres[scored.predicted(level)[first]],
    }  # fmt: skip
    return _write_parquet(folder / BAGS, columns, clips.bag_embeddings(), clips.about)


def _described(clips: AnalysedClips) -> dict[str, np.ndarray]:
    scored = clips.predictions
    return {
        "track_id": scored.track_id,
        "title": clips.names.title,
        "artist": scored.artist,
        "artist_name": clips.names.artist_name,
        "album": scored.album,
        "genre": np.array(scored.genres)[scored.label],
        "split": scored.split,
    }


def _write_parquet(
    path: Path, columns: Mapping[str, np.ndarray], embeddings: np.ndarray, about: Mapping[str, Any]
) -> Path:
    width = embeddings.shape[1]

    def rows(begin: int) -> pa.Table:
        arrays = {name: pa.array(values[begin : begin + _CHUNK]) for name, values in columns.items()}
        flat = pa.array(np.ascontiguousarray(embeddings[begin : begin + _CHUNK], np.float32).reshape(-1))
        arrays["embedding"] = pa.FixedSizeListArray.from_arrays(flat, width)
        return pa.table(arrays).replace_schema_metadata({METADATA: json.dumps(dict(about))})

    first = rows(0)
    with replacing(path, REMEDY) as temporary, pyarrow.parquet.ParquetWriter(temporary, first.schema) as writer:
        for begin in range(0, len(embeddings), _CHUNK):
            writer.write_table(first if begin == 0 else rows(begin))
    return path


def write_arrays(clips: AnalysedClips, folder: Path) -> tuple[Path, Path]:
    """Writes `embeddings.npz` and `embeddings.csv`, which the corpus `arrays` reads under its default names.

    The .npz holds `embedding` float32 [clip, feature] and `track_id`; the table `track_id`, `split`, `genre_top`,
    `artist_id`, `album_id`, `title` and `artist_name`.
    """
    arrays, table = (folder / name for name in ARRAYS)
    with replacing(arrays, REMEDY) as temporary, temporary.open("wb") as file:
        np.savez(file, embedding=clips.embeddings, track_id=clips.predictions.track_id)
    described = _described(clips)
    names = {"genre_top": "genre", "artist_id": "artist", "album_id": "album"}
    header = ("track_id", "split", "genre_top", "artist_id", "album_id", "title", "artist_name")
    columns = [described[names.get(name, name)].tolist() for name in header]
    write_csv(table, header, zip(*columns, strict=True))
    return arrays, table


def write_csv(path: Path, header: Sequence[str], rows: Any) -> None:
    """Writes a table as CSV, whole or not at all."""
    with replacing(path, REMEDY) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


_PROJECTOR_CONFIG = """embeddings {{
  tensor_name: "embeddings"
  tensor_shape: {clips}
  tensor_shape: {features}
  tensor_path: "tensors.tsv"
  metadata_path: "metadata.tsv"
}}
"""


def write_projector(clips: AnalysedClips, folder: Path) -> Path:
    """Writes a folder that `tensorboard --logdir` shows under Projector; returns it.

    `tensors.tsv` has a row of numbers per clip, `metadata.tsv` a header and the same rows in words, and
    `projector_config.pbtxt` names both (TensorBoard's `ProjectorConfig`). Tabs and line breaks in words are escaped.
    """
    folder = make_folder(folder)
    with replacing(folder / "tensors.tsv", REMEDY) as temporary, temporary.open("w", encoding="utf-8") as file:
        for begin in range(0, len(clips.embeddings), _CHUNK):
            np.savetxt(file, clips.embeddings[begin : begin + _CHUNK], fmt="%.6g", delimiter="\t")
    described = _described(clips) | {"predicted": np.array(clips.predictions.genres)[clips.predicted]}
    with replacing(folder / "metadata.tsv", REMEDY) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in _lines(described))
    clips_and_features = dict(zip(("clips", "features"), clips.embeddings.shape, strict=True))
    write_text(folder / "projector_config.pbtxt", _PROJECTOR_CONFIG.format(**clips_and_features), REMEDY)
    return folder


def _lines(columns: Mapping[str, np.ndarray]) -> Iterator[str]:
    yield "\t".join(columns)
    for row in zip(*(values.tolist() for values in columns.values()), strict=True):
        yield "\t".join(one_line(str(value)) for value in row)
