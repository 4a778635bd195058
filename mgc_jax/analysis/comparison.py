"""Two models on the same corpus: how alike their layers are, and which clips get another genre."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mgc_jax.analysis.cka import linear_cka
from mgc_jax.analysis.clips import AnalysedClips
from mgc_jax.analysis.layers import encoder_grams
from mgc_jax.analysis.opening import OpenedRun
from mgc_jax.analysis.tables import write_csv
from mgc_jax.evaluation.bootstrap import mcnemar
from mgc_jax.evaluation.levels import LEVELS
from mgc_jax.evaluation.predictions import Predictions
from mgc_jax.runtime.files import write_json

COMPARISON = "comparison.json"


def sample_rows(clips: AnalysedClips, most: int) -> np.ndarray:
    """Draws clips for the comparison of layers, always the same ones: int [clip], ascending."""
    number = len(clips.predictions)
    return np.sort(np.random.default_rng(0).permutation(number)[:most])


def layer_grams(run: OpenedRun, clips: AnalysedClips, track_id: np.ndarray) -> dict[str, np.ndarray]:
    """Returns Gram matrices of a run's layers, of the embedding, and of the log scores of the clips alone.

    Args:
        run: the run.
        clips: what it made of its clips.
        track_id: int64 [clip]: those to compare on, which the run has.
    """
    of_encoder = encoder_grams(run, _rows_of(run.experiment.corpus.track_id, track_id))
    named = {f"encoder.{name}": gram for name, gram in of_encoder.items()}
    rows = _rows_of(clips.predictions.track_id, track_id)
    assert clips.predictions.clip_scores is not None  # a model of ours scores clips alone
    last = {"embedding": clips.embeddings[rows], "log scores": clips.predictions.clip_scores[rows]}
    wide = {name: values.astype(np.float64) for name, values in last.items()}
    return named | {name: values @ values.T for name, values in wide.items()}


def cka_table(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> np.ndarray:
    """Returns linear CKA of every layer of one model with every layer of the other: float64 [layer, layer]."""
    return np.array([[linear_cka(gram, other) for other in second.values()] for gram in first.values()])


class Changes(NamedTuple):
    """The predicted genres of two models on the clips of the first.

    Attributes:
        rows: int [clip]: clips whose predicted genre is another one, as rows of the first model's table.
        other_rows: int [clip]: the same clips as rows of the second's.
        right: bool [clip], of all clips: the first model is right.
        other_right: bool [clip], likewise of the second.
    """

    rows: np.ndarray
    other_rows: np.ndarray
    right: np.ndarray
    other_right: np.ndarray


def changed_clips(first: Predictions, second: Predictions, level: str) -> Changes:
    """Compares the predicted genres of two models at a level that both have; their clips and genres are the same."""
    other = _rows_of(second.track_id, first.track_id)
    before, after = first.predicted(level), second.predicted(level)[other]
    rows = np.flatnonzero(before != after)
    return Changes(rows, other[rows], before == first.label, after == first.label)


def write_comparison(
    names: tuple[str, str],
    first: AnalysedClips,
    second: AnalysedClips,
    grams: tuple[dict[str, np.ndarray], dict[str, np.ndarray]],
    folder: Path,
) -> str:
    """Writes `cka.csv`, `changed.csv` and `comparison.json`; returns the text for the terminal.

    Args:
        names: the folders of the runs.
        first: the clips of one run.
        second: those of the other, of the same corpus and splits.
        grams: of the layers of both.
        folder: for the files.
    """
    table = cka_table(*grams)
    rows, columns = (list(of_layers) for of_layers in grams)
    cells = ((name, *row) for name, row in zip(rows, table.tolist(), strict=True))
    write_csv(folder / "cka.csv", ("layer", *columns), cells)
    level = "bag" if first.level == second.level == "bag" else "clip"
    changes = changed_clips(first.predictions, second.predictions, level)
    _write_changed(first, second, level, changes, folder / "changed.csv")
    right, other_right = changes.right, changes.other_right
    values: dict[str, Any] = {
        "runs": list(names),
        "level": level,
        "splits": first.about["splits"],
        "clips": len(right),
        "changed": len(changes.rows),
        "both_right": int(np.sum(right & other_right)),
        "only_first_right": int(np.sum(right & ~other_right)),
        "only_second_right": int(np.sum(~right & other_right)),
        "neither_right": int(np.sum(~right & ~other_right)),
        "mcnemar": mcnemar(right, other_right),
        "cka_clips": len(next(iter(grams[0].values()))),
    }
    write_json(folder / COMPARISON, values)
    return format_comparison(values, rows, columns, table)


def _write_changed(first: AnalysedClips, second: AnalysedClips, level: str, changes: Changes, path: Path) -> None:
    scored, other = first.predictions, second.predictions
    genres = np.array(scored.genres)
    columns = {
        "track_id": scored.track_id,
        "title": first.names.title,
        "artist": first.shown_artist,
        "album": scored.album,
        "split": scored.split,
        "genre": genres[scored.label],
        "predicted": genres[scored.predicted(level)],
    }
    lists = [values[changes.rows].tolist() for values in columns.values()]
    lists.append(genres[other.predicted(level)[changes.other_rows]].tolist())
    write_csv(path, (*columns, "predicted_by_other"), zip(*lists, strict=True))


def format_comparison(values: dict[str, Any], rows: list[str], columns: list[str], table: np.ndarray) -> str:
    """Returns what the terminal shows.

    Args:
        values: of `comparison.json`.
        rows: layers of the first model.
        columns: layers of the second.
        table: linear CKA [row, column].
    """
    width = max(map(len, rows))
    widths = [max(len(name), 5) for name in columns]

    def line(name: str, cells: Iterable[str]) -> str:
        return "  ".join([name.ljust(width), *(cell.rjust(size) for cell, size in zip(cells, widths, strict=True))])

    lines = [
        f"first: {values['runs'][0]}",
        f"second: {values['runs'][1]}",
        "",
        f"linear CKA on {values['cka_clips']:,} clips; rows: layers of the first, columns: of the second",
        line("", columns),
        *(line(name, (f"{value:.3f}" for value in row)) for name, row in zip(rows, table, strict=True)),
        "",
        f"predicted genres ({LEVELS[values['level']].title}): {values['changed']:,} of {values['clips']:,} changed",
        f"right: both {values['both_right']:,}, only the first {values['only_first_right']:,}, only the second "
        f"{values['only_second_right']:,}, neither {values['neither_right']:,}",
        f"McNemar p {values['mcnemar']:.3g}; it takes clips of an artist as independent, so it is too small",
    ]
    return "\n".join(lines)


def _rows_of(track_id: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Returns the row of each wanted track, which is there."""
    order = np.argsort(track_id)
    return order[np.searchsorted(track_id, wanted, sorter=order)]
