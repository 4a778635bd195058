"""What stands in every place of every table: which system's scores, seen how, and what the paper has there."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mgc_jax.evaluation.levels import LEVELS
from mgc_jax.papers import fma, matt_tables, ubc, ubc_tables
from mgc_jax.papers.system import Published

# What can be made of vectors alone, or of spectrograms alone; the other parts use what there is.
VECTORS_ONLY = (("matt", "table1"), ("matt", "case_study"))
SPECTROGRAMS_ONLY = (("ubc", "ablations"), ("ubc", "fig2"), ("ubc", "fig3"))
PARTS = {
    "matt": ("table1", "table2", "fig4", "case_study"),
    "ubc": ("table2", "ablations", "fig2", "fig3"),
}
TITLES = {
    ("matt", "table1"): "Table I: accuracy (%) of feature sets and models",
    ("matt", "table1_variants"): "Table I again: accuracy (%) of variants",
    ("matt", "table2"): "Table II: Top@K accuracy (%) on rare genres",
    ("matt", "fig4"): "Figure 4 a, b: precision and recall",
    ("matt", "fig4c"): "Figure 4 c: accuracy (%)",
    ("matt", "case_study"): "Section IV-D: without album and artist (accuracy, %)",
    ("ubc", "table2"): "Table 2: accuracy (%) of the ablations",
    ("ubc", "ablations"): "Ablations that the text names: accuracy (%)",
    ("ubc", "fig2"): "Figure 2: classification report of PRCNN",
    ("ubc", "fig3"): "Figure 3: classification report of the attention model",
}
CLIP_MEAN = LEVELS["clip_mean"].title
CLASSICAL = ("LR", "KNN", "SVM", "MLP")
MLP_FAMILY = ("MLP+MIL", "MLP+MATT")
HIDDEN = {f"{system}, hidden layer": system for system in MLP_FAMILY}  # ours, after MATT's text, which has an MLP
CRNN_FAMILIES = ("CRNN", "CRNN+MIL", "CRNN+MATT", "CRNN-TF", "CRNN-TF+MIL", "CRNN-TF+MATT")
KNN_5 = "KNN, k = 5"  # of the curves and of Table II; Table I quotes FMA, which has k = 200
EQUATION_1 = {f"{system}, equation 1": system for system in ("MLP+MATT", "CRNN+MATT", "CRNN-TF+MATT")}
PAIR_KEYS = "MLP+MATT, trained on pair keys"
_ADDITIVE = {"model.pooling.score": "additive", "model.pooling.activation": "none"}
# Name: (system, what differs from it, by dotted key).
VARIANTS: dict[str, tuple[str, Mapping[str, Any]]] = {
    KNN_5: ("KNN", {"baseline.n_neighbors": 5}),
    PAIR_KEYS: ("MLP+MATT", {"data.bag_key": "pair"}),
    **{name: (system, _ADDITIVE) for name, system in EQUATION_1.items()},
}
LITERAL = "... and attention, as drawn"
OVER_TIME = "RNN with attention over time"
SVC = fma.system("SVM").other_name


@dataclass(frozen=True)
class Cell:
    """A system that is trained, once per seed.

    Attributes:
        system: its name, as the tables have it.
        features: which of FMA's features it sees; empty: what the corpus has.
    """

    system: str
    features: str = ""

    @property
    def name(self) -> str:
        """The name of its runs: of their folders and in the progress."""
        name = "_".join(re.findall("[a-z0-9]+", self.system.lower().replace("...", "prcnn")))
        return f"{name}-{self.features}" if self.features else name


@dataclass(frozen=True)
class Number:
    """What stands in one place of a table.

    Attributes:
        part: the table or figure.
        row: its row.
        column: its column.
        cell: whose scores.
        level: clip, clip_mean or bag.
        metric: one of `mgc_jax.tables.measure`.
        split: test or validation.
        published: the paper's.
        notes: further keys of `mgc_jax.papers.NOTES`.
    """

    part: str
    row: str
    column: str
    cell: Cell
    level: str
    metric: str
    split: str
    published: Published | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Data:
    """What the corpus has, as far as the plan depends on it.

    Attributes:
        feature_sets: (row of Table I, features) of what can be trained on vectors; none: the corpus has no vectors.
        spectrograms: whether it has spectrograms.
        genres: label names.
        splits: to report on, the main one first.
        tail: a genre with fewer training clips is rare: the lower and the higher limit.
        paper_keys: whether training bags have the paper's keys, with the genre.
    """

    feature_sets: tuple[tuple[str, str], ...]
    spectrograms: bool
    genres: tuple[str, ...]
    splits: tuple[str, ...]
    tail: tuple[int, int]
    paper_keys: bool = True


def numbers(paper: str, data: Data, parts: Sequence[str]) -> list[Number]:
    """Lists all places of a paper's tables, table by table."""
    plans = {
        ("matt", "table1"): _table1,
        ("matt", "table2"): _table2,
        ("matt", "fig4"): _fig4,
        ("matt", "case_study"): _case_study,
        ("ubc", "table2"): _ubc_table2,
        ("ubc", "ablations"): _ablations,
        ("ubc", "fig2"): lambda data: _report(data, "fig2", "PRCNN: CNN and RNN", ubc_tables.FIG2),
        ("ubc", "fig3"): lambda data: _report(data, "fig3", LITERAL, ubc_tables.FIG3),
    }
    return [number for part in PARTS[paper] if part in parts for number in plans[paper, part](data)]


def cells(wanted: Sequence[Number]) -> list[Cell]:
    """Lists what must be trained for some numbers, each once, the quickest kinds first."""
    return list(dict.fromkeys(number.cell for number in wanted))


def _table1(data: Data) -> Iterator[Number]:
    by_features = {row.features: row for row in matt_tables.TABLE1}
    for row, features in data.feature_sets:
        printed = by_features.get(features)
        values: dict[str, Published] = {}
        if printed:
            values = {
                system: Published(value, ("fma",))
                for system, value in zip(CLASSICAL, printed.baselines, strict=True)
            } | {"MLP+MIL": Published(printed.mil), "MLP+MATT": Published(printed.matt)}  # fmt: skip
            if features == "chroma":
                values["MLP+MIL"] = Published(printed.mil, ("no count",))
            if features == "all":
                values["MLP+MATT"] = Published(printed.matt, ("three checkpoints",))
        for system in (*CLASSICAL, *MLP_FAMILY):
            cell = Cell(system, features)
            for column, level in _levels(system):
                given = values.get(system) if level != "clip_mean" else None
                metric = "paper_accuracy" if given and level == "bag" else "accuracy"
                yield Number("table1", row, column, cell, level, metric, data.splits[0], given)
    for row, features in data.feature_sets:
        for system in (KNN_5, *HIDDEN, "MLP+MATT, equation 1"):
            for column, level in _levels(system):
                yield Number("table1_variants", row, column, Cell(system, features), level, "accuracy", data.splits[0])


def _table2(data: Data) -> Iterator[Number]:
    for cell in (*_feature_systems(data), *_spectrogram_systems(data)):
        for row, level in _levels(cell.system):
            for threshold, limit in zip(matt_tables.TABLE2_CLIPS, data.tail, strict=True):
                for name, genres in ((f"<{limit}, paper's list", paper_list(limit, data)), (f"<{limit}", f"<{limit}")):
                    for k in matt_tables.TABLE2_K:
                        given = None
                        if genres == paper_list(limit, data) and level != "clip_mean":
                            given = matt_tables.table2(cell.system, threshold, k)
                        metric = f"top_{k} {genres}"
                        yield Number("table2", row, f"{name}: K={k}", cell, level, metric, data.splits[0], given)


def paper_list(limit: int, data: Data) -> str:
    """The name of the paper's list of rare genres for a limit."""
    return f"<{limit} (paper, {data.tail[0]})"


def _fig4(data: Data) -> Iterator[Number]:
    for cell in (*_feature_systems(data), *_spectrogram_systems(data)):
        curve = matt_tables.FIG4.get(cell.system, matt_tables.NO_CURVE)
        for row, level in _levels(cell.system):
            values: dict[str, tuple[str, float | None]] = {
                "AP": ("micro_ap", curve.ap),
                "AP of bags": ("multi_hot_bag_micro_ap", curve.bag_ap),
                "AP of bags, first clip's genre": ("bag_micro_ap", None),
                "highest F1": ("max_f1", curve.max_f1),
                "precision there": ("precision_at_max_f1", curve.precision),
                "recall there": ("recall_at_max_f1", curve.recall),
            }
            for recall, precision in zip(matt_tables.RECALLS, curve.precision_at, strict=True):
                values[f"P at R={recall}"] = (f"precision_at {recall}", precision)
            for column, (metric, value) in values.items():
                if metric.endswith("bag_micro_ap") and level == "clip":
                    continue  # clips are scored, not bags
                given = None if value is None or level == "clip_mean" else Published(value, curve.notes)
                yield Number("fig4", row, column, cell, level, metric, data.splits[0], given)
    for cell in (*_feature_systems(data), *_spectrogram_systems(data)):
        for row, level in _levels(cell.system):
            given = matt_tables.FIG4C.get(cell.system) if level != "clip_mean" else None
            split = data.splits[0]
            if level != "bag":
                yield Number("fig4c", row, "accuracy", cell, level, "accuracy", split, given)
            else:  # the notebooks count bags by their first clip
                yield Number("fig4c", row, "accuracy", cell, level, "accuracy", split)
                yield Number("fig4c", row, "as the notebooks count", cell, level, "paper_accuracy", split, given)


def _case_study(data: Data) -> Iterator[Number]:
    split, column = data.splits[0], "accuracy"
    study = matt_tables.CASE_STUDY
    for _, features in data.feature_sets[-1:]:
        ours = (*reversed(HIDDEN), "MLP+MATT, equation 1", *([PAIR_KEYS] if data.paper_keys else []))
        for system in (*reversed(MLP_FAMILY), *ours):
            cell = Cell(system, features)
            given = study if system == "MLP+MATT" else {}
            metric = "paper_accuracy" if given else "accuracy"
            yield Number("case_study", f"{system}, bags", column, cell, "bag", metric, split, given.get("bags"))
            for row, metric, key in (
                ("all clips, as bags of one", "accuracy", "clips"),
                ("clips that are alone in their bag", "alone_accuracy", "singletons"),
            ):
                yield Number(
                    "case_study", f"{system}, {row}", column, cell, "clip", metric, split, given.get(key)
                )  # fmt: skip
            row = f"{system}, all clips, {CLIP_MEAN}"
            yield Number("case_study", row, column, cell, "clip_mean", "accuracy", split)
        cell = Cell("MLP", features)
        given_clips = study["trained on clips"]
        yield Number("case_study", "MLP, trained on clips", column, cell, "clip", "accuracy", split, given_clips)
        row = f"MLP, trained on clips, {CLIP_MEAN}"
        yield Number("case_study", row, column, cell, "clip_mean", "accuracy", split)


def _ubc_table2(data: Data) -> Iterator[Number]:
    splits = _ubc_splits(data)
    ours = (OVER_TIME, "PRCNN of Feng et al.")
    systems = [Cell(system) for system in (*ubc_tables.TABLE2, *ours)] if data.spectrograms else []
    systems += [Cell(SVC, features) for _, features in data.feature_sets]
    for cell in systems:
        validation, test = ubc_tables.TABLE2.get(cell.system, (None, None))
        if cell.system == SVC:
            test = ubc_tables.SVC_ON_MFCC
        notes = ("no attention",) if cell.system == LITERAL else ()
        for split in splits:
            given = validation if split == "validation" else test
            yield Number("table2", cell.system, f"{split} accuracy", cell, "clip", "accuracy", split, given, notes)
    for cell in systems:  # in columns of their own, so that the paper's table stays as it is
        for split in splits:
            yield Number("table2", cell.system, f"{split}, {CLIP_MEAN}", cell, "clip_mean", "accuracy", split)


def _ablations(data: Data) -> Iterator[Number]:
    """Beside the systems that they vary, the best of which the report has in Table 2."""
    if not data.spectrograms:
        return
    for system in ("5-layer CNN", *(system.name for system in ubc.ABLATIONS)):
        varied = "pools alone" if "pool" in system else "our values"
        printed = ubc_tables.TABLE2.get(system)
        notes = () if printed else (varied,)
        for split in _ubc_splits(data):
            given = next((value for value in printed or () if value.split == split), None)
            yield Number(
                "ablations", system, f"{split} accuracy", Cell(system), "clip", "accuracy", split, given, notes
            )


def _ubc_splits(data: Data) -> tuple[str, ...]:
    return tuple(split for split in ("validation", "test") if split in data.splits)


def _report(data: Data, part: str, system: str, printed: ubc_tables.Report) -> Iterator[Number]:
    if not data.spectrograms:
        return
    cell, split = Cell(system), data.splits[0]
    columns = {"precision": 0, "recall": 1, "f1": 2}
    rows: list[tuple[str, str, tuple[float, float, float] | None]] = [
        (genre, genre, printed.genres.get(genre)) for genre in sorted(data.genres)
    ]
    rows += [("macro average", "macro", printed.macro), ("weighted average", "weighted", printed.weighted)]
    for row, name, values in rows:
        for column, position in columns.items():
            given = Published(values[position]) if values else None
            yield Number(part, row, column, cell, "clip", f"{column} {name}", split, given)
        clips = 100 * len(printed.genres) if name in ("macro", "weighted") else 100
        yield Number(
            part, row, "support", cell, "clip", f"support {name}", split, Published(clips) if values else None
        )
        if system == LITERAL:
            yield Number(part, row, f"f1 of {OVER_TIME}", Cell(OVER_TIME), "clip", f"f1 {name}", split)
    accuracy = Published(100 * printed.accuracy, ("two places",) if system != LITERAL else ("attention's validation",))
    yield Number(part, "accuracy (%)", "f1", cell, "clip", "accuracy", split, accuracy)
    if system == LITERAL:
        yield Number(part, "accuracy (%)", f"f1 of {OVER_TIME}", Cell(OVER_TIME), "clip", "accuracy", split)


def _feature_systems(data: Data) -> list[Cell]:
    """The systems of Table II and figure 4 on vectors: all features."""
    systems = (*CLASSICAL, KNN_5, *MLP_FAMILY, *HIDDEN, "MLP+MATT, equation 1")
    return [Cell(system, features) for _, features in data.feature_sets[-1:] for system in systems]


def _spectrogram_systems(data: Data) -> list[Cell]:
    ours = [name for name, system in EQUATION_1.items() if system in CRNN_FAMILIES]
    return [Cell(system) for system in (*CRNN_FAMILIES, *ours)] if data.spectrograms else []


def _levels(system: str) -> tuple[tuple[str, str], ...]:
    """Returns (name in the table, level): as the paper has the system, and its clip mean."""
    main = "bag" if "+" in system else "clip"
    return (system, main), (f"{system}, {CLIP_MEAN}", "clip_mean")
