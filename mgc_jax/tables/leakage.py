"""What a configuration is worth under several splits, and what their training and test clips share.

What training and test share, a model can recognize instead of the genre: segments of the same song, songs of the same
artist. Beside each accuracy stands how much of the test split is so.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from mgc_jax.data.corpus import albums_of_artists
from mgc_jax.errors import UserError
from mgc_jax.evaluation.levels import LEVELS
from mgc_jax.evaluation.predictions import Predictions
from mgc_jax.papers import gtzan
from mgc_jax.tables.measure import Measured, measure
from mgc_jax.tables.plan import Cell
from mgc_jax.tables.runs import Outcome, Settings, run_cells

_NAMES = {"8-1-1": "random clips", "8-1-1-albums": "random albums", "fma": "the corpus's own"}


@dataclasses.dataclass(frozen=True)
class Row:
    """What a configuration is worth under one split.

    Attributes:
        rule: of `mgc_jax.data.splits.SPLITS`.
        clips: of the test split.
        albums: percent of them whose album is also trained on.
        artists: percent of them whose artist is.
        accuracy: in percent, by level.
        error: why there is none, or not of all seeds; empty: there is.
    """

    rule: str
    clips: int = 0
    albums: float = 0.0
    artists: float = 0.0
    accuracy: dict[str, Measured] = dataclasses.field(default_factory=dict)
    error: str = ""


def compare(config: ConfigDict, rules: Sequence[str], folder: Path, seeds: int = 1) -> list[Row]:
    """Trains a configuration under several splits, and evaluates it on their test clips.

    What is trained in the folder is not trained again.

    Args:
        config: a validated configuration, whose corpus is not `auto`.
        rules: of `mgc_jax.data.splits.SPLITS`; the draws are the same for all seeds.
        folder: of the runs.
        seeds: runs under each split.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the folder {folder} cannot be written: {error}") from error
    configs = {}
    for rule in rules:
        configs[rule] = config.copy_and_resolve_references()
        configs[rule].data.split = rule
    cells = {rule: Cell(rule) for rule in rules}
    outcomes = run_cells([*cells.values()], lambda cell: configs[cell.system], Settings(folder, seeds))
    return [_row(rule, outcomes[cell]) for rule, cell in cells.items()]


def _row(rule: str, outcome: Outcome) -> Row:
    tests = [run.of_split("test") for run in outcome.runs]
    if not tests or not len(tests[0]):
        return Row(rule, error=outcome.error or "the split has no test clips")
    measured = {level: measure("accuracy", tests, level) for level in tests[0].levels}
    return Row(
        rule,
        len(tests[0]),
        shared(outcome.runs[0], "album"),
        shared(outcome.runs[0], "artist"),
        {level: value for level, value in measured.items() if value is not None},
        outcome.error,
    )


def shared(run: Predictions, column: str) -> float:
    """Returns the percentage of test clips whose album or artist is also trained on; an unknown one is not.

    Args:
        run: predictions of the training and the test split.
        column: album or artist.
    """
    trained, tested = (_names(run.of_split(split), column) for split in ("train", "test"))
    known = set(trained) - {""}
    return 100 * float(np.mean([name in known for name in tested]))


def _names(run: Predictions, column: str) -> list[str]:
    """The artist of each clip, or its album with its artist: two may have albums of one title; "" where unknown."""
    names = run.artist if column == "artist" else albums_of_artists(run.album, run.artist)
    return names.tolist()


def markdown(rows: Sequence[Row], title: str, corpus: str) -> str:
    """Writes the table.

    Args:
        rows: of `compare`.
        title: of the table.
        corpus: its name; on GTZAN the rules have the names that it is known by, and Feng's figure stands below.
    """
    of_gtzan = corpus == gtzan.PAPER.corpus
    levels = [level for level in LEVELS if any(level in row.accuracy for row in rows)]
    titles = {"clip": "segment", "clip_mean": "song"} if of_gtzan else {}
    head = ["split", "test clips", f"{'song' if of_gtzan else 'album'} in training, %", "artist in training, %"]
    table = [
        [*head, *(f"accuracy, %: {titles.get(level, LEVELS[level].title)}" for level in levels)],
        ["---", *["---:"] * (3 + len(levels))],
    ]
    for row in rows:
        name = f"{(gtzan.PROTOCOLS if of_gtzan else _NAMES).get(row.rule, row.rule)} (`{row.rule}`)"
        values = [f"{row.clips:,}", f"{row.albums:.1f}", f"{row.artists:.1f}"] if row.clips else [""] * 3
        table.append([name, *values, *(_shown(row.accuracy.get(level)) for level in levels)])
    lines = [f"# {title}", "", *(f"| {' | '.join(cells)} |" for cells in table), ""]
    measured = [value for row in rows for value in row.accuracy.values()]
    said = [
        *(
            ["mean over the seeds ± their standard deviation"]
            if any(m.deviation is not None for m in measured)
            else []
        ),
        *(["the 95 % interval: bootstrap over artists"] if any(m.low is not None for m in measured) else []),
    ]
    if said:
        lines.append(f"In each cell: {', and '.join(said)}.")
    if of_gtzan:
        lines.append(
            "A song has the mean of the scores of its segments. Feng et al. (2017) print "
            f"{gtzan.PUBLISHED.value:g} %, under a split that is not known."
        )
    lines += [f"FAILED, {row.rule}: {row.error}" for row in rows if row.error]
    return "\n".join(lines) + "\n"


def _shown(measured: Measured | None) -> str:
    if measured is None:
        return ""
    deviation = "" if measured.deviation is None else f" ± {measured.deviation:.1f}"
    interval = "" if measured.low is None else f" ({measured.low:.1f} to {measured.high:.1f})"
    return f"{measured.mean:.1f}{deviation}{interval}"
