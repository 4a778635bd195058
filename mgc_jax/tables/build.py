"""From what a user asks for to the files of the tables: data, plan, runs, numbers, text."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mgc_jax.config.keys import LAST_STEP
from mgc_jax.data.corpus import INNER
from mgc_jax.errors import UserError
from mgc_jax.evaluation.bootstrap import FEWEST_ARTISTS, concentration_warnings
from mgc_jax.evaluation.predictions import Predictions
from mgc_jax.papers import NOTES, PAPERS, matt_tables
from mgc_jax.tables import pictures
from mgc_jax.tables.measure import measure, rare_genres
from mgc_jax.tables.plan import KNN_5, PAIR_KEYS, PARTS, TITLES, Cell, Data, Number, cells, numbers, paper_list
from mgc_jax.tables.runs import Outcome, Settings, finished_cells, run_cells
from mgc_jax.tables.sources import Source
from mgc_jax.tables.write import Document, Entry, Section, write

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Request:
    """What the user asks for.

    Attributes:
        paper: matt or ubc.
        folder: of the tables; the runs are in its folder `runs`.
        seeds: runs per cell.
        folds: of a cross-validation; 0: none.
        split: test or validation; empty: test where there is one.
        epochs: limit for neural systems; 0: none.
        parts: of the paper; empty: all.
        tail: a genre with fewer training clips is rare; None: 100 and 200, on the demo 5 and 8.
        resamples: of the bootstrap.
    """

    paper: str
    folder: Path
    seeds: int = 1
    folds: int = 0
    split: str = ""
    epochs: int = 0
    parts: tuple[str, ...] = ()
    tail: tuple[int, int] | None = None
    resamples: int = 1000


def make_tables(request: Request, source: Source) -> bool:
    """Trains what is missing and writes all tables; returns whether every cell was filled.

    Raises:
        UserError: the data cannot be used, or none of the tables can be made of it.
    """
    parts = request.parts or PARTS[request.paper]
    data, lacks = source.data(request.folds, request.split, request.tail, parts)
    plan = numbers(request.paper, data, parts)
    for sentence in lacks:
        log.info(sentence)
    if not plan:
        raise UserError(f"none of the tables that were asked for can be made on {source.name}: {' '.join(lacks)}")
    settings = Settings(
        request.folder / "runs", request.seeds, request.folds, request.epochs, test="test" in data.splits
    )
    try:
        settings.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the folder {request.folder} cannot be written: {error}") from error
    outcomes = run_cells(cells(plan), source.config, settings)
    plan, more = _with_finished_parts(request, source, data, plan, settings)
    outcomes = more | outcomes
    left_out = [part for part in PARTS[request.paper] if part not in {number.part for number in plan}]
    if request.parts and left_out:
        lacks = [*lacks, f"Not asked for, and left out since not all of their runs are there: {', '.join(left_out)}."]
    document = describe(request, source.name, data, plan, outcomes, lacks)
    for path in write(document, request.folder):
        log.info("wrote %s", path)
    return not any(outcome.error for outcome in outcomes.values())


def _with_finished_parts(
    request: Request, source: Source, data: Data, plan: Sequence[Number], settings: Settings
) -> tuple[list[Number], dict[Cell, Outcome]]:
    """Adds the parts that were not asked for but whose runs are all there: the files hold all that can be shown."""
    parts, outcomes = list(request.parts or PARTS[request.paper]), {}
    known = {*cells(plan)}
    for part in PARTS[request.paper]:
        wanted = cells(numbers(request.paper, data, [part])) if part not in parts else []
        others = [cell for cell in wanted if cell not in known]
        finished = finished_cells(others, source.config, settings)
        if wanted and len(finished) == len(others):
            parts.append(part)
            outcomes.update(finished)
            log.info("with %s, whose runs are all there", part)
    return numbers(request.paper, data, parts), outcomes


def describe(
    request: Request,
    corpus: str,
    data: Data,
    plan: Sequence[Number],
    outcomes: Mapping[Cell, Outcome],
    lacks: Sequence[str],
) -> Document:
    """Puts numbers and words together.

    Args:
        request: what the user asks for.
        corpus: its name.
        data: what it has.
        plan: the places to fill.
        outcomes: the runs of each cell.
        lacks: sentences on what is left out.
    """
    synthetic = corpus == "demo"
    of_split = {
        (cell, split): [run.of_split(split) for run in outcome.runs]
        for cell, outcome in outcomes.items()
        for split in data.splits
    }
    entries = [
        Entry(
            number,
            measure(number.metric, of_split[number.cell, number.split], number.level, request.resamples),
            outcomes[number.cell].error,
            comparable=_same_clips(request, corpus, number),
            per_clip=measure("accuracy", of_split[number.cell, number.split], number.level, request.resamples)
            if number.metric == "paper_accuracy" and number.part != "fig4c"  # which has a column for it
            else None,
        )
        for number in plan
    ]
    example = next((runs[0] for (_, split), runs in of_split.items() if runs and split == data.splits[0]), None)
    first_runs = {
        cell.system: runs[0]
        for (cell, split), runs in of_split.items()
        if runs and split == data.splits[0] and cell in {n.cell for n in plan if n.part == "fig4"}
    }
    sections = []
    for part in dict.fromkeys(number.part for number in plan):
        of_part = [entry for entry in entries if entry.number.part == part]
        sections.append(
            Section(
                part,
                TITLES[request.paper, part],
                of_part,
                facts=[
                    *_facts(request, corpus, outcomes, of_part, of_split),
                    *_more(request.paper, part, data, of_part, example),
                ],
                warnings=_warnings(request.paper, part, data, example),
                charts=_charts(request.paper, part, of_part, first_runs, synthetic),
                dimensions=_dimensions(of_part) if part in ("table1", "table1_variants") else {},
            )
        )
    facts = [
        f"Corpus {corpus}"
        + (
            ": SYNTHETIC MUSIC. That every place is filled shows that everything works, no more." if synthetic else "."
        ),
        *([_summary(example, data.splits[0], request)] if example is not None else []),
        *_looks(outcomes, data),
        f"Published: {PAPERS[request.paper].title}, on the {PAPERS[request.paper].test_clips:,} test clips of "
        f"{PAPERS[request.paper].corpus}{', Table 2 also on its validation clips' * (request.paper == 'ubc')}."
        + _other_clips(entries),
        *lacks,
    ]
    title = f"{PAPERS[request.paper].title}: tables and figures, ours beside theirs"
    return Document(request.paper, title, synthetic, facts, sections, _concentration(example))


def _summary(run: Predictions, split: str, request: Request) -> str:
    how = (
        f"the validation clips of {request.folds} folds, grouped by artist" if request.folds else f"the {split} split"
    )
    return (
        f"Ours: {how}, {len(run):,} clips by {len(np.unique(run.artists)):,} artists in {len(run.bag_sizes):,} bags, "
        f"{len(run.genres)} genres."
    )


def _same_clips(request: Request, corpus: str, number: Number) -> bool:
    """Whether our number is of the clips that the published one is of."""
    given = number.published
    same = corpus == PAPERS[request.paper].corpus and not request.folds
    return same and given is not None and number.split == given.split


def _other_clips(entries: Sequence[Entry]) -> str:
    """Says which differences are of other clips; nothing where none is."""
    same = {entry.comparable for entry in entries if entry.number.published is not None}
    if same == {True, False}:
        return " Differences in square brackets are of other clips and say little."
    return " Those are other clips: differences, in square brackets, say little." if same == {False} else ""


def _looks(outcomes: Mapping[Cell, Outcome], data: Data) -> list[str]:
    """Says how often the test split has been looked at, if it has."""
    looks = max((outcome.test_evaluations for outcome in outcomes.values()), default=0)
    if "test" not in data.splits or not looks:
        return []
    times = "once" if looks == 1 else f"up to {looks} times"
    return [f"The test split was evaluated {times} with each of these runs (test_evaluations in results.json)."]


def _facts(
    request: Request,
    corpus: str,
    outcomes: Mapping[Cell, Outcome],
    entries: Sequence[Entry],
    of_split: Mapping[tuple[Cell, str], Sequence[Predictions]],
) -> list[str]:
    """Says of a table what its numbers are of."""
    seeds = sorted({entry.measured.seeds for entry in entries if entry.measured is not None})
    splits = dict.fromkeys(entry.number.split for entry in entries)
    clips = {split: _clips(entries, split, of_split) for split in splits}
    facts = [
        f"Corpus {corpus}, {' and '.join(f'{split} split{clips[split]}' for split in splits)}; "
        f"{_count(max(seeds, default=0), 'seed')}"
        + (" (LR, KNN and SVM do not depend on it: one)" if len(seeds) > 1 else "")
        + (f"; at most {_count(request.epochs, 'epoch')} of neural systems" if request.epochs else "")
        + ".",
        "In a cell: our mean"
        + (" ± its standard deviation over seeds" if seeds and seeds[-1] > 1 else "")
        + "; below it the 95 % interval of a bootstrap over artists: what other artists of the same kind would have "
        f"given these models, left out of fewer than {FEWEST_ARTISTS} artists; last the published number, and ours "
        "less it.",
    ]
    chosen = {outcomes[entry.number.cell].selected_by for entry in entries} - {""}
    if LAST_STEP in chosen:
        facts.append("Of our models the last checkpoint counts: nothing selected one.")
    chosen -= {LAST_STEP}
    if chosen:
        facts.append(
            f"Our models: the checkpoint that was best by {' or '.join(sorted(chosen))}. " + _selection(request)
        )
        if any(name.startswith(INNER) for name in chosen):
            facts.append(
                "Inner validation clips are some of the training folds, by artists of their own: no fold that is "
                "scored selected anything. scikit-learn's baselines are fitted on them, too."
            )
        if any(name.startswith("validation") for name in chosen) and "validation" in splits:
            facts.append(
                "On the validation split the models' results are optimistic: their checkpoints were chosen on these "
                "clips. scikit-learn's baselines choose nothing."
            )
    return facts


def _clips(entries: Sequence[Entry], split: str, of_split: Mapping[tuple[Cell, str], Sequence[Predictions]]) -> str:
    """Says how many clips a table's runs have of a split; nothing where there is none."""
    sizes = sorted({len(run) for entry in entries for run in of_split[entry.number.cell, split]})
    return f" ({' or '.join(f'{size:,}' for size in sizes)} clips)" if sizes else ""


def _selection(request: Request) -> str:
    if request.paper == "matt":
        return (
            "Those of the paper's MIL, MATT and CRNN systems were apparently chosen on the test split: the names of "
            "its result files hold test metrics, and its training framework (that of JohannesLiu/HNRE-Pytorch) keeps "
            "the checkpoint of the best test score."
        )
    return "The report does not say how its checkpoints were chosen."


def _more(paper: str, part: str, data: Data, entries: Sequence[Entry], example: Predictions | None) -> list[str]:
    """Returns the facts of one table."""
    facts = []
    if any(entry.per_clip is not None for entry in entries):
        facts.append(
            "The accuracies of bag models that have a published one are counted as in MATT's notebooks: a bag has "
            "its first clip's genre and counts as many times as it has clips. “Per clip”: the share of clips whose "
            "own genre is predicted, as all other accuracies here are."
        )
    if part == "fig4" and any(entry.number.column == "AP of bags" for entry in entries):
        facts.append(
            "AP of bags: all genres of a bag's clips are right, as in the published figures; beside it, that of its "
            "first clip alone."
        )
    if part == "fig3":
        facts.append(NOTES["no attention"])
    if paper == "matt" or part == "table2":
        facts.append(
            "“Clip mean”: the log scores of the clips, averaged over their bag of one album and artist. It needs no "
            "training on bags. It is the baseline for bag models, since a clip-level model does not know the bag."
        )
    if paper == "matt":
        facts.append(
            "MATT's code, as far as it is published, feeds its networks features and spectrograms (in dB) as they "
            "are. Ours are standardized, spectrograms per mel band (config.data.standardize)."
        )
    if paper == "matt" and data.feature_sets:
        facts.append(
            "MLP+MIL and MLP+MATT have no hidden layer, as in MATT's result files (encoder “Blank”). MATT's text has "
            "an MLP: the systems with a hidden layer."
        )
    if any("+MATT" in entry.number.cell.system for entry in entries):
        facts.append(
            "MATT has the dot product of its published code, but with trained queries; there they stay random, and "
            "training has others than inference. “Equation 1”: the additive score of the paper's text, without the "
            "code's tanh on the bag vector."
        )
    if any(entry.number.cell.system == KNN_5 for entry in entries):
        facts.append(
            "KNN has k = 200 as in FMA's paper (on other corpora the square root of the training clips, at most 200). "
            "MATT's curves and its Table II have k = 5."
        )
    if any(entry.number.cell.system == PAIR_KEYS for entry in entries):
        facts.append(
            "“Pair keys”: in training, too, a bag is an album and artist, of whatever genres; elsewhere, as in MATT's "
            "code, training bags are of one genre. The bags that are scored are the same."
        )
    if any("+MIL" in entry.number.cell.system for entry in entries):
        facts.append(
            "MIL averages the clips of a bag and then has a linear layer, so averaging the log scores of its clips "
            "over the bag gives the very scores of its bags."
        )
    if (paper, part) == ("matt", "table2"):
        facts.append(
            "Published: from the hits in the notebook (fma_version/4.1). So 40.43 and 28.24 stand here for the "
            "paper's 40.42 and 28.23."
        )
    if (paper, part) == ("matt", "table2") and example is not None and example.train_clips is not None:
        for published_clips, limit in zip(matt_tables.TABLE2_CLIPS.values(), data.tail, strict=True):
            facts.append(
                f"<{limit}, paper's list: {_genres_and_clips(example, paper_list(limit, data))}; {published_clips} "
                "clips in the paper."
            )
            facts.append(
                f"<{limit}, genres with fewer training clips than that: {_genres_and_clips(example, f'<{limit}')}."
            )
        if example.train_clips_outside_small is None:
            facts.append(
                "The paper's lists are not reported here: which clips are of FMA-small is not known (prepare the "
                "corpus again, or name the column: --config.data.arrays.columns.subset)."
            )
        facts.append(NOTES["International"])
    return facts


def _dimensions(entries: Sequence[Entry]) -> dict[str, int]:
    """Returns the numbers per clip of the rows that are sets of FMA's features."""
    printed = {row.name: row.dimensions for row in matt_tables.TABLE1}
    return {row: printed[row] for row in dict.fromkeys(entry.number.row for entry in entries) if row in printed}


def _genres_and_clips(example: Predictions, name: str) -> str:
    genres = rare_genres(example, name)
    clips = int(np.isin(example.label, genres).sum())
    return f"{', '.join(example.genres[genre] for genre in genres) or 'none'} ({_count(clips, 'clip')})"


def _warnings(paper: str, part: str, data: Data, example: Predictions | None) -> list[str]:
    """Names the genres that few artists carry, of those that a table is about."""
    if (paper, part) == ("matt", "table2") and example is not None and example.train_clips is not None:
        keys = [key for limit in data.tail for key in (paper_list(limit, data), f"<{limit}")]
        return _concentration(example, {genre for key in keys for genre in rare_genres(example, key)})
    return _concentration(example) if part in ("fig2", "fig3") else []


def _concentration(example: Predictions | None, genres: set[int] | None = None) -> list[str]:
    if example is None:
        return []
    chosen = example if genres is None else example.take(np.isin(example.label, list(genres)))
    return concentration_warnings(chosen.label, chosen.artists, chosen.genres)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _charts(
    paper: str, part: str, entries: Sequence[Entry], runs: Mapping[str, Predictions], synthetic: bool
) -> list[tuple[str, pictures.Chart]]:
    charts = []
    # What the published values are of, for the captions.
    clips = f"on {PAPERS[paper].corpus}'s test split"
    if not any(entry.comparable for entry in entries):
        clips += ": other clips than ours"
    if part == "fig4":
        charts = [(name, pictures.curves(name, runs, clips, synthetic)) for name in ("fig4a", "fig4b")]
    elif part == "fig4c":
        chosen: dict[str, Entry] = {}
        for entry in entries:  # beside the published number, what is counted as it is
            chosen[entry.number.row] = entry
        charts = [("fig4c", pictures.dots("Accuracy", list(chosen.values()), "accuracy (%)", clips, synthetic))]
    elif part in ("fig2", "fig3"):
        f1 = [entry for entry in entries if entry.number.column == "f1" and entry.number.metric != "accuracy"]
        charts = [(part, pictures.dots("F1 of each genre", f1, "F1", clips, synthetic))]
    return [(name, chart) for name, chart in charts if chart is not None]
