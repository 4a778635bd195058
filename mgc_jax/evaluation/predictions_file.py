"""The scores of every clip and every bag, as a table in a file: all that a metric needs.

A run leaves `predictions.parquet`; other software can write such a file too, as Parquet or CSV. One row per clip:

* `track_id`, `split` (train, validation or test) and `genre`, the true one, or (multi-label) `genres`, all true ones:
  a list of names, in CSV joined by "|";
* `artist` and `album`, empty (or nan, None, NA, -1) where unknown, and `bag`, any name or number of the bag that holds
  the clip within its split, empty (or one of these) if it is alone; without a column `bag`, bags are those of the
  corpus, if one is given; otherwise clips that share an artist and an album form one, and other clips stand alone;
* `clip/<genre>`, a column for each genre: the scores of the clip alone; and `bag/<genre>`: those of its bag. Both, or
  one of them. A clip has one genre, so its scores are a distribution. Probabilities, where none is negative and none
  above 1: then those of a clip must sum to 1. Log probabilities, where none is positive and those of a clip sum so.
  Logits otherwise, which become log probabilities (a logit says nothing beside those of another clip). Percent and
  negative log probabilities are refused: as logits they would say something else. Multi-label each score is about a
  genre by itself: a probability, where all lie between 0 and 1, and log odds otherwise; in a tree of genres each gets
  the highest score of its subtree.
* optional: `predicted_clip`, `predicted_clip_mean` and `predicted_bag`, predicted genres where a classifier predicts
  by another rule than the highest score; `attention`, the clip's weight in its bag; `fold`, of a cross-validation.

A Parquet file that this program wrote says so in its metadata, and its scores are the log scores of the run as they
stand, also MATT's, which are no distribution (multi-label: log odds, with the tree of the genres). CSV cannot say so.

If there are rows of the training split, they also give the number of training clips of each genre.
"""

import dataclasses
import functools
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import scipy.special

from mgc_jax.config.keys import MULTI_LABEL, SINGLE_LABEL
from mgc_jax.data.bags import bags_of
from mgc_jax.data.corpus import SPLIT_NAMES, Corpus
from mgc_jax.data.labels import SEPARATOR
from mgc_jax.errors import UserError
from mgc_jax.evaluation.levels import LEVELS
from mgc_jax.evaluation.predictions import Predictions, genre_counts, training_clips
from mgc_jax.runtime.files import writing
from tfds_fma.paths import local_path
from tfds_fma.source.arrays import genre_names
from tfds_fma.source.track_table import without_unknown

log = logging.getLogger(__name__)

PREDICTIONS_FILE = "predictions.parquet"
_METADATA = b"mgc_jax"


def save_predictions(predictions: Predictions, path: Path) -> None:
    """Writes a file, Parquet or (by its name) CSV; an interruption leaves the old one or the new one."""
    columns: dict[str, Any] = {
        "track_id": predictions.track_id,
        "split": predictions.split,
        "artist": predictions.artist,
        "album": predictions.album,
        "bag": predictions.bag,
    }
    if predictions.multi_label:
        names = [np.array(predictions.genres)[row].tolist() for row in predictions.label]
        columns["genres"] = np.array(list(map(SEPARATOR.join, names))) if path.suffix == ".csv" else names
    else:
        columns["genre"] = np.array(predictions.genres)[predictions.label]
        columns |= {
            f"predicted_{level}": np.array(predictions.genres)[predictions.predicted(level)]
            for level in predictions.levels
        }
    if predictions.fold is not None:
        columns["fold"] = predictions.fold
    if predictions.attention is not None:
        columns["attention"] = predictions.attention
    for level, scores in (("clip", predictions.clip_scores), ("bag", predictions.bag_scores)):
        if scores is not None:
            columns |= {f"{level}/{genre}": scores[:, i] for i, genre in enumerate(predictions.genres)}
    about: dict[str, Any] = {"genres": predictions.genres, "parents": predictions.parents, "info": predictions.info}
    for name in ("train_clips", "train_clips_outside_small"):
        value = getattr(predictions, name)
        about[name] = None if value is None else value.tolist()
    if path.suffix == ".csv":  # which has no types: all digits, so that float32 comes back as it was
        columns = {n: v.astype(np.float64) if v.dtype == np.float32 else v for n, v in columns.items()}
    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    temporary = path.with_suffix(".tmp")
    with writing(path):
        if path.suffix == ".csv":
            pyarrow.csv.write_csv(table, temporary)
        else:
            pyarrow.parquet.write_table(table.replace_schema_metadata({_METADATA: json.dumps(about)}), temporary)
        temporary.replace(path)


def load_predictions(
    path: str | Path, corpus: Corpus | None = None, *, bag_key: str = "paper", pseudo_album_gap: int = 20
) -> Predictions:
    """Reads predictions from a file, of ours or of other software; see the head of this module.

    Examples:
        >>> import mgc_jax
        >>> predictions = mgc_jax.load_predictions("runs/matt/predictions.parquet")  # doctest: +SKIP
        >>> validation = predictions.of_split("validation")  # doctest: +SKIP
        >>> mgc_jax.genre_metrics(validation.label, validation.clip_scores)  # doctest: +SKIP

    Args:
        path: Parquet, or CSV with a header row.
        corpus: gives, by track id, what the file lacks of genre, split, artist, album and bag, and counts the training
            clips; by default all that must be in the file. Its genres must be those of the file, and its test clips
            are test clips whatever the file says; other differences are logged, and the file counts.
        bag_key: how the corpus makes the bags that are scored, as `config.data` has it.
        pseudo_album_gap: the same.

    Raises:
        UserError: the file cannot be read, lacks a column, or has values that make no sense.
    """
    path = local_path(path)
    corpus = corpus and corpus.with_inner_in_training()  # nothing is selected here
    columns, about = _read_columns(path)
    ours = "info" in about
    if "track_id" not in columns:
        raise UserError(f"{path} has no column track_id; it has {', '.join(columns) or 'none'}.")
    if not len(columns["track_id"]):
        raise UserError(f"{path} has no rows.")
    track_id = _numbers(path, columns, "track_id", np.int64)
    several = _has_several(path, columns, about, corpus)
    if corpus is not None:
        given = _from_corpus(path, track_id, corpus, bag_key, pseudo_album_gap)
        columns = given | _reconciled(path, track_id, columns, given, corpus.name)
        if (unused := ~np.isin(columns["split"], SPLIT_NAMES) & (columns["split"] == given["split"])).any():
            if unused.all():
                raise UserError(
                    f"{path}: none of its clips is in a split of corpus {corpus.name}. Add a column split."
                )
            log.info("%s: %d clips are in none of the splits of corpus %s: left out", path, unused.sum(), corpus.name)
            columns, track_id = {name: values[~unused] for name, values in columns.items()}, track_id[~unused]
    if several and "genres" in columns and (unknown := columns["genres"] == "").any():
        if unknown.all():
            raise UserError(f"{path}: no clip has a genre in the column genres.")
        log.info("%s: %d clips without a genre are left out: unknown is not none", path, unknown.sum())
        columns, track_id = {name: values[~unknown] for name, values in columns.items()}, track_id[~unknown]
    label_column = "genres" if several else "genre"
    for name in ("split", label_column):
        if name not in columns:
            raise UserError(
                f"{path} has no column {name}. Add it, or name the corpus (--config FILE), which has it for each "
                "track id."
            )
    scored = list(dict.fromkeys(name.partition("/")[2] for name in columns if _is_score(name)))
    if not scored:
        raise UserError(f"{path} has no scores: a column clip/<genre> or bag/<genre> for each genre.")
    genres = tuple(about.get("genres") or (corpus.genres if corpus is not None else scored))
    parents = _parents(path, about, corpus, genres) if several else ()
    split = _split_names(columns["split"])
    if unknown := sorted(set(map(str, split.tolist())) - set(SPLIT_NAMES)):
        raise UserError(f"{path}: {unknown[0]!r} in the column split is none of {', '.join(SPLIT_NAMES)}.")
    if len(np.unique(track_id)) < len(track_id):
        values, counts = np.unique(track_id, return_counts=True)
        raise UserError(
            f"{path} has several rows of a track, for instance of {values[counts.argmax()]}; a clip has one row."
        )
    if corpus is not None:
        _log_absent(path, track_id, split, corpus)
    artist, album = (_text(path, columns, name, len(track_id)) for name in ("artist", "album"))
    order, bag = _number_bags(path, columns, split, track_id, artist, album)
    label = (
        _genre_sets(path, columns["genres"], genres, parents)
        if several
        else _genre_numbers(path, "genre", columns["genre"], genres)
    )
    predicted = {
        level: _genre_numbers(path, f"predicted_{level}", columns[f"predicted_{level}"], genres)[order]
        for level in LEVELS
        if f"predicted_{level}" in columns
    }
    train_clips, outside_small = (
        _counts(about, name, genres) for name in ("train_clips", "train_clips_outside_small")
    )
    if corpus is not None:
        train_clips, outside_small = (_in_order(counts, corpus.genres, genres) for counts in training_clips(corpus))
    elif train_clips is None and np.any(split == "train"):
        train_clips = genre_counts(label[split == "train"], len(genres))
    scores_of = functools.partial(_scores, path, columns, genres=genres, ours=ours, several=several)
    predictions = Predictions(
        genres=genres,
        parents=parents,
        track_id=track_id[order],
        split=split[order],
        label=label[order],
        artist=artist[order],
        album=album[order],
        bag=bag,
        clip_scores=_raised(scores_of("clip"), parents)[order] if _has(columns, "clip") else None,
        bag_scores=_raised(scores_of("bag"), parents)[order] if _has(columns, "bag") else None,
        attention=_numbers(path, columns, "attention", np.float32)[order] if "attention" in columns else None,
        fold=_numbers(path, columns, "fold", np.int32)[order] if "fold" in columns else None,
        train_clips=None if train_clips is None else np.asarray(train_clips, float),
        train_clips_outside_small=outside_small,
        info=about.get("info", {}),
    )
    _check_bag_scores(path, predictions)
    own = {level: values for level, values in predicted.items() if level in predictions.levels}
    own = {level: values for level, values in own.items() if np.any(values != predictions.predicted(level))}
    return dataclasses.replace(predictions, predicted_genres=own)


_SPLIT_NAMES = {"training": "train", "val": "validation", "valid": "validation"}  # FMA's and others'


def _split_names(values: np.ndarray) -> np.ndarray:
    """Returns a column of splits with the names of this project."""
    return np.array([_SPLIT_NAMES.get(name, name) for name in values.tolist()])


def _is_score(name: str) -> bool:
    return name.partition("/")[0] in ("clip", "bag") and "/" in name


def _counts(about: dict[str, Any], name: str, genres: tuple[str, ...]) -> np.ndarray | None:
    """Returns the file's counts of training clips, if they are of its genres."""
    counts = about.get(name)
    return np.array(counts, float) if isinstance(counts, list) and len(counts) == len(genres) else None


def _in_order(counts: np.ndarray | None, names: Sequence[str], wanted: Sequence[str]) -> np.ndarray | None:
    """Returns counts by genre in the order of other genres; 0 for one that has none."""
    if counts is None:
        return None
    by_name = dict(zip(names, counts.tolist(), strict=True))
    return np.array([by_name.get(name, 0.0) for name in wanted])


def _check_bag_scores(path: Path, predictions: Predictions) -> None:
    """Raises `UserError` unless the clips of a bag have the same scores of the bag."""
    scores, first = predictions.bag_scores, np.repeat(predictions.offsets[:-1], predictions.bag_sizes)
    if scores is not None and not np.allclose(scores, scores[first], rtol=1e-3, atol=1e-3):
        row = int(np.abs(scores - scores[first]).max(axis=1).argmax())
        raise UserError(
            f"{path}: tracks {predictions.track_id[first[row]]} and {predictions.track_id[row]} are in one bag, but "
            "their columns bag/<genre> differ. Give the bags that were scored in a column bag."
        )


def _has_several(path: Path, columns: dict[str, np.ndarray], about: dict[str, Any], corpus: Corpus | None) -> bool:
    """Whether clips have several genres; raises `UserError` if the file, or file and corpus, mix the two tasks."""
    if "genre" in columns and "genres" in columns:
        raise UserError(
            f"{path} has both a column genre and a column genres: leave genre for one genre per clip, or genres for "
            "several."
        )
    several = "genres" in columns or bool(about.get("parents"))
    if corpus is not None and not columns.keys() & {"genre", "genres"}:  # the corpus has the genres
        return corpus.multi_label
    if corpus is not None and several != corpus.multi_label:
        has, task = ("several genres", MULTI_LABEL) if several else ("one genre", SINGLE_LABEL)
        raise UserError(f"{path} has {has} per clip; evaluate it with --config.task={task}.")
    return several


def _parents(path: Path, about: dict[str, Any], corpus: Corpus | None, genres: tuple[str, ...]) -> tuple[int, ...]:
    """Returns the tree of the genres: of the file, else of the corpus; else no genre is above another one."""
    if "parents" not in about:
        return corpus.parents if corpus is not None and corpus.genres == genres else (-1,) * len(genres)
    given = about["parents"]
    is_tree = isinstance(given, list) and len(given) == len(genres)
    if not is_tree or not all(isinstance(p, int) and -1 <= p < genre for genre, p in enumerate(given)):
        raise UserError(f"{path} is damaged: the parents of its genres are no tree; --mode eval writes it again.")
    return tuple(given)


def _genre_sets(path: Path, values: np.ndarray, genres: tuple[str, ...], parents: tuple[int, ...]) -> np.ndarray:
    """Returns the genres of each clip, closed upwards: bool [clip, genre]."""
    label = np.zeros((len(values), len(genres)), bool)
    for row, value in enumerate(values.tolist()):
        names = genre_names(value, SEPARATOR)
        label[row, _genre_numbers(path, "genres", np.array(names, object), genres)] = True
    return _raised(label, parents)


def _raised(values: np.ndarray, parents: tuple[int, ...]) -> np.ndarray:
    """Raises the value of each genre, [clip, genre], to the highest one of its subtree, as other software may not."""
    values = values.copy() if parents else values
    for genre in reversed(range(len(parents))):
        if parents[genre] >= 0:
            np.maximum(values[:, parents[genre]], values[:, genre], out=values[:, parents[genre]])
    return values


def _read_columns(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    if not path.is_file():
        raise UserError(f"there is no predictions file {path}")
    kind = "CSV" if path.suffix == ".csv" else "Parquet"
    try:
        table = _read_csv(path) if path.suffix == ".csv" else pyarrow.parquet.read_table(path)
        about = json.loads((table.schema.metadata or {}).get(_METADATA, b"{}"))
        columns = {name: _column(name, table[name]) for name in table.column_names}
    except KeyError as error:
        raise UserError(f"{path} has several columns {error}; each needs a name of its own.") from error
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(f"{path} cannot be read as {kind}: {' '.join(str(error).split())}") from error
    return columns, about if isinstance(about, dict) else {}


# Columns of names, of which some may be numbers.
_NAMES = ("split", "genre", "genres", "artist", "album", "bag", *(f"predicted_{level}" for level in LEVELS))


def _column(name: str, values: pa.ChunkedArray) -> np.ndarray:
    """Returns the values of a column: of names as Python's, None where one is missing; otherwise numbers, NaN there.

    `to_numpy` alone would give what is missing in a dictionary (a categorical column) its last category, and turn
    whole numbers beside gaps into floating-point ones, which may be the same for two of them.
    """
    if name in _NAMES:
        items = values.to_pylist()
        if name == "genres" and not all(isinstance(n, str | None) for item in items for n in _as_list(item)):
            raise ValueError("the column genres is neither text nor lists of text")
        if name == "genres":  # in an order of their own, so that they can be compared
            names = [item if isinstance(item, list) else genre_names(item or "", SEPARATOR) for item in items]
            items = [SEPARATOR.join(sorted(filter(None, item))) for item in names]
        return np.array([*items, None], object)[:-1]  # in one row, whatever the values are
    return (values.cast(values.type.value_type) if pa.types.is_dictionary(values.type) else values).to_numpy()


def _as_list(item: Any) -> list[Any]:
    return item if isinstance(item, list) else [item]


def _read_csv(path: Path) -> pa.Table:
    """Reads names as text even where they are numbers."""
    types = {name: pa.string() for name in _NAMES}
    return pyarrow.csv.read_csv(path, convert_options=pyarrow.csv.ConvertOptions(column_types=types))


def _numbers(path: Path, columns: dict[str, np.ndarray], name: str, dtype: Any) -> np.ndarray:
    """Returns a column of numbers, of a type, or (None) floating-point as it is; -inf is the log of 0."""
    values = columns[name]
    try:
        numbers = values.astype(values.dtype if values.dtype.kind == "f" else np.float64)
        if np.isnan(numbers).any() or np.isposinf(numbers).any():
            raise ValueError("a value is missing or not finite")
        if dtype is None:
            return numbers
        if np.issubdtype(dtype, np.integer):
            if np.any(numbers != np.floor(numbers)):
                raise ValueError("a value is no whole number")
            return values.astype(dtype)  # not by way of floating point, which has fewer digits
        return numbers.astype(dtype)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: the column {name} is not of numbers ({error}).") from error


def _text(path: Path, columns: dict[str, np.ndarray], name: str, size: int) -> np.ndarray:
    values = columns.get(name)
    if values is None:
        return np.full(size, "")
    names = np.array(["" if value is None or value != value else _name(value) for value in values.tolist()])
    return without_unknown(names, f"{path}, column {name!r}", log.info)


def _name(value: Any) -> str:
    """A name as text; a number with missing ones beside it has become a float."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _has(columns: dict[str, np.ndarray], level: str) -> bool:
    return any(name.startswith(f"{level}/") for name in columns)


def _scores(
    path: Path, columns: dict[str, np.ndarray], level: str, *, genres: tuple[str, ...], ours: bool, several: bool
) -> np.ndarray:
    """Returns the log scores (or log odds) [clip, genre] of a level of the file, and logs what they were taken as.

    Those of a Parquet file of ours are log scores as they stand: MATT's are no distribution.
    """
    there = [name for name in columns if name.startswith(f"{level}/")]
    wrong = sorted({f"{level}/{genre}" for genre in genres} ^ set(there))
    if wrong:
        problem = "is a score of no known genre" if wrong[0] in there else "is missing"
        raise UserError(f"{path}: the column {wrong[0]!r} {problem}; the genres are {', '.join(genres)}.")
    scores = np.stack([_numbers(path, columns, f"{level}/{genre}", None) for genre in genres], axis=1)
    if ours:
        return scores
    wide, least = scores.astype(np.float64), np.finfo(np.float64).tiny
    if several:
        probabilities = scores.min() >= 0 and scores.max() <= 1
        if scores.min() >= 0 and not probabilities:
            raise UserError(
                f"{path}: the columns {level}/<genre> are all at least 0 and up to {scores.max():.3g}, so "
                "neither probabilities nor log odds. Divide percent by 100."
            )
        if scores.max() < 0:
            log.warning("%s: the columns %s/<genre> are all below 0: as log odds they predict no genre. If they are "
                        "log probabilities, give probabilities instead", path, level)  # fmt: skip
        taken_as = "probabilities" if probabilities else "log odds"
        log.info("%s: the columns %s/<genre> are taken as %s, of each genre by itself", path, level, taken_as)
        return scipy.special.logit(np.clip(wide, least, 1 - _LEAST_DOUBT)) if probabilities else scores
    _refuse_other_forms(path, level, wide)
    taken_as, result = "logits", scores
    if scores.min() >= 0 and scores.max() <= 1 + _ROUNDING:
        taken_as, result = "probabilities", np.log(np.clip(wide, least, 1))
        if (uneven := ~_sum_to_one(wide)).any():
            row = int(uneven.argmax())
            raise UserError(
                f"{path}: the columns {level}/<genre> are all between 0 and 1, but those of track "
                f"{columns['track_id'][row]} sum to {wide[row].sum():.3g}, as do not probabilities of its one genre "
                f"({int(uneven.sum())} of {len(scores)} rows are so). Divide each row by its sum (also those of a "
                "multi-label model), or, if these are logits, subtract 1 from all of them."
            )
    elif scores.max() <= _ROUNDING and _sum_to_one(np.exp(wide)).all():
        taken_as, result = "log probabilities", np.maximum(scores, np.log(least).astype(scores.dtype))
    else:
        logits = np.clip(wide, -1e300, 1e300)
        logits -= logits.max(axis=1, keepdims=True)
        result = np.maximum(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)), np.log(least))
    log.info("%s: the columns %s/<genre> are taken as %s", path, level, taken_as)
    return result


def _refuse_other_forms(path: Path, level: str, scores: np.ndarray) -> None:
    """Raises `UserError` for scores [clip, genre] that are plainly no logits, and no other form that is read."""
    if scores.min() < 0 or _sum_to_one(scores).all():
        return
    rounding = max(100 * _ROUNDING_OF_SUM, 0.5 * scores.shape[1])  # of whole percent, each
    if (np.abs(scores.sum(axis=1) - 100) <= rounding).all():
        raise UserError(f"{path}: the columns {level}/<genre> are percent; divide by 100.")
    if _sum_to_one(np.exp(-scores)).all():
        raise UserError(f"{path}: the columns {level}/<genre> are negative log probabilities; change the sign.")


def _sum_to_one(probability: np.ndarray) -> np.ndarray:
    """Whether the probabilities of each clip, [clip, genre], sum to 1 but for rounding: bool [clip]."""
    return np.abs(probability.sum(axis=1) - 1) <= _ROUNDING_OF_SUM


_LEAST_DOUBT = 2.0**-53  # so that a probability of 1 has finite log odds
_ROUNDING = 1e-3  # of (log) probabilities in half precision
_ROUNDING_OF_SUM = 0.02  # of a distribution in bfloat16 (0.004), or of two decimals and up to a dozen genres


def _genre_numbers(path: Path, name: str, values: np.ndarray, genres: tuple[str, ...]) -> np.ndarray:
    number = {genre: i for i, genre in enumerate(genres)}
    try:
        return np.array([number[str(value)] for value in values.tolist()], np.int32)
    except KeyError as error:
        raise UserError(
            f"{path}: {error.args[0]!r} in the column {name} is no genre that has scores: those are "
            f"{', '.join(genres)}."
        ) from None


def _number_bags(
    path: Path,
    columns: dict[str, np.ndarray],
    split: np.ndarray,
    track_id: np.ndarray,
    artist: np.ndarray,
    album: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns an order of the rows in which bags lie side by side, and their numbers in that order."""
    keys: list[tuple[Any, ...]]
    if "bag" in columns:
        names = _text(path, columns, "bag", len(split))
        rows = zip(split.tolist(), track_id.tolist(), names.tolist(), strict=True)
        keys = [(s, "bag", bag) if bag else (s, "alone", track) for s, track, bag in rows]
    else:
        keys = [
            (s, a, b) if a and b else (s, t)
            for s, t, a, b in zip(split.tolist(), track_id.tolist(), artist.tolist(), album.tolist(), strict=True)
        ]
    number: dict[Any, int] = {}
    bag = np.array([number.setdefault(key, len(number)) for key in keys], np.int64)
    order = np.argsort(bag, kind="stable")
    return order, bag[order]


def _from_corpus(
    path: Path, track_id: np.ndarray, corpus: Corpus, bag_key: str, pseudo_album_gap: int
) -> dict[str, np.ndarray]:
    row_of = {track: row for row, track in enumerate(corpus.track_id.tolist())}
    missing = [track for track in track_id.tolist() if track not in row_of]
    if missing:
        raise UserError(
            f"{path}: track {missing[0]} and {len(missing) - 1} others are not in corpus {corpus.name}; is it the "
            "right one?"
        )
    rows = np.array([row_of[track] for track in track_id.tolist()], int)
    bag_of_row, number = np.zeros(len(corpus), np.int64), 0
    for split in SPLIT_NAMES:
        bags = bags_of(corpus, split, bag_key, pseudo_album_gap)
        bag_of_row[bags.clips] = number + np.repeat(np.arange(len(bags)), bags.sizes)
        number += len(bags)  # the file may put the clips of two splits into one
    names = np.array(corpus.genres)
    if corpus.multi_label:
        genre = {"genres": np.array([SEPARATOR.join(sorted(names[row])) for row in corpus.label[rows]], object)}
    else:
        genre = {"genre": names[corpus.label[rows]]}
    return genre | {
        "split": corpus.split[rows],
        "artist": corpus.artist[rows],
        "album": corpus.album[rows],
        "bag": bag_of_row[rows],
    }


_OTHER = {"genre": "another genre", "genres": "other genres"}


def _reconciled(
    path: Path, track_id: np.ndarray, columns: dict[str, np.ndarray], given: dict[str, np.ndarray], corpus: str
) -> dict[str, np.ndarray]:
    """Returns the columns of a file beside those that a corpus gives for its clips; the test clips of both are test.

    Raises:
        UserError: the genres differ.
    """
    columns = dict(columns)
    column = next((name for name in ("genre", "genres") if name in columns and name in given), None)
    if column:
        ours, theirs = columns[column], given[column]
        other = np.array([a is not None and str(a) != b for a, b in zip(ours, theirs, strict=True)])
        if other.any():
            row = int(other.argmax())
            raise UserError(
                f"{path}: {other.sum()} of {len(other)} clips have {_OTHER[column]} than in corpus {corpus}, for "
                f"instance track {track_id[row]}: {ours[row]!r}, and there {str(theirs[row])!r}. Name the corpus that "
                f"was scored, or leave out the column {column}."
            )
    if "artist" in columns:
        ours, theirs = _text(path, columns, "artist", len(track_id)), given["artist"]
        known = (ours != "") & (theirs != "")
        pairs = len(set(zip(ours[known], theirs[known], strict=True)))
        renamed = pairs == len(set(ours[known])) == len(set(theirs[known]))  # names for numbers, for instance
        if not renamed and (other := known & (ours != theirs)).any():
            log.warning("%s: %d of %d clips have another artist than in corpus %s; that of the file counts",
                        path, other.sum(), len(other), corpus)  # fmt: skip
    if "split" in columns:
        ours, theirs = _split_names(columns["split"]), given["split"]
        if (other := ours != theirs).any():
            test = " (test clips of the corpus are of the test split all the same)" if "test" in theirs[other] else ""
            log.warning("%s: %d of %d clips are of another split than in corpus %s; that of the file counts%s",
                        path, other.sum(), len(other), corpus, test)  # fmt: skip
            columns["split"] = np.where(theirs == "test", "test", ours)
    return columns


def _log_absent(path: Path, track_id: np.ndarray, split: np.ndarray, corpus: Corpus) -> None:
    """Logs how many clips of the corpus are not in the file, of each split that is."""
    for name in SPLIT_NAMES:
        clips = corpus.track_id[corpus.split == name]
        absent = len(np.setdiff1d(clips, track_id))
        if absent and name in split:
            log.warning("%s: %d of %d %s clips of the corpus are not in the file", path, absent, len(clips), name)
