"""Both papers' tables: what is published, what is planned, what is run, and how it is written."""

import csv
import dataclasses
import html
import io
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import make_corpus, save_arrays
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    precision_recall_fscore_support,
    top_k_accuracy_score,
)

from mgc_jax.config import keys
from mgc_jax.errors import UserError
from mgc_jax.evaluation import metrics
from mgc_jax.evaluation.predictions import Predictions, concatenate
from mgc_jax.evaluation.predictions_file import PREDICTIONS_FILE, save_predictions
from mgc_jax.evaluation.results import level_metrics
from mgc_jax.papers import NOTES, PAPERS, matt_tables, ubc_tables
from mgc_jax.papers.system import Published
from mgc_jax.runtime.files import write_json
from mgc_jax.runtime.workdir import OtherCorpusError
from mgc_jax.tables import runs, sources
from mgc_jax.tables.build import Request, describe, make_tables
from mgc_jax.tables.measure import measure, rare_genres
from mgc_jax.tables.plan import PARTS, TITLES, Cell, Data, Number, cells, numbers
from mgc_jax.tables.runs import Outcome, Settings, limited, run_cells
from mgc_jax.tables.sources import FromFile, Prepared
from mgc_jax.tables.write import Document, Entry, Section, comma_separated, markdown, page, shown
from tfds_fma.representations.feature_names import FEATURE_SETS, columns_of

ROOT = Path(__file__).parents[2]
# FMA-medium: training clips, those outside FMA-small, test clips (analysis.ipynb of mdeff/fma).
MEDIUM = {
    "Rock": (5681, 4881, 711), "International": (814, 14, 102), "Folk": (1215, 415, 152),
    "Experimental": (1801, 1001, 225), "Instrumental": (1045, 245, 174), "Pop": (945, 145, 119),
    "Hip-Hop": (1761, 961, 220), "Electronic": (5050, 4250, 632), "Soul-RnB": (94, 94, 42), "Blues": (58, 58, 8),
    "Old-Time / Historic": (408, 408, 51), "Jazz": (306, 306, 39), "Country": (142, 142, 18),
    "Classical": (495, 495, 62), "Spoken": (94, 94, 12), "Easy Listening": (13, 13, 6),
}  # fmt: skip
GENRES = tuple(MEDIUM)
SETS = tuple((row.name, row.features) for row in matt_tables.TABLE1)
DATA = Data(SETS, True, GENRES, ("test", "validation"), (100, 200))
UBC_DATA = dataclasses.replace(DATA, feature_sets=(("3 MFCC", "mfcc"),))


def is_count(percent: float, clips: int, digits: int = 2) -> bool:
    """Whether a printed percentage is a whole number of clips, rounded."""
    return abs(round(percent * clips / 100) * 100 / clips - percent) <= 0.5 * 10**-digits + 1e-9


# What is published.


def test_accuracies_are_whole_numbers_of_clips():
    for row in matt_tables.TABLE1:
        assert len(columns_of([row.features])) == row.dimensions
        for value in (*row.baselines, row.matt):
            assert is_count(value, 2573), (row.name, value)
        assert is_count(row.mil, 2573) == (row.name != "1 Chroma")  # as a note says
    for value in (matt_tables.CASE_STUDY["bags"], matt_tables.FIG4C["MLP+MATT"], matt_tables.FIG4C["MLP+MIL"]):
        assert is_count(value.value, 2573)
    for system in ("CRNN+MIL", "CRNN-TF+MIL", "CRNN+MATT", "CRNN-TF+MATT"):
        assert is_count(matt_tables.FIG4C[system].value, 2572, digits=3)
    for pair in ubc_tables.TABLE2.values():
        assert all(is_count(value.value, 800, digits=4) for value in pair)
    assert is_count(ubc_tables.SVC_ON_MFCC.value, 800)


def test_fmas_results_round_to_those_of_table_1():
    printed = [
        (44, 44, 48, 49), (40, 37, 42, 41), (58, 55, 61, 53), (42, 45, 46, 48), (41, 45, 44, 45), (51, 50, 54, 53),
        (42, 46, 48, 48), (37, 39, 39, 39), (42, 45, 45, 46), (60, 55, 63, 54), (60, 55, 63, 53), (61, 52, 63, 58),
    ]  # fmt: skip
    for row, values in zip(matt_tables.TABLE1, printed, strict=True):
        assert tuple(int(value + 0.5) for value in row.baselines) == values
        assert row.features in FEATURE_SETS


def test_table_2_is_the_hits_of_the_notebook():
    printed = {
        "LR": ((None, 7.06, 25.29), (None, 6.38, 22.87)),
        "KNN, k = 5": ((17.06, 25.88, 45.29), (15.43, 23.94, 41.49)),
        "SVM": ((11.76, 19.41, 44.71), (10.64, 17.55, 40.42)),
        "MLP": ((None, 10.59, 28.23), (None, 10.11, 27.13)),
        "MLP+MATT": ((28.24, 44.71, 47.06), (26.60, 41.49, 44.15)),
        "CRNN": ((9.41, 13.53, 34.71), (8.51, 12.23, 38.83)),
        "CRNN+MATT": ((54.12, 55.88, 57.65), (49.47, 51.60, 61.7)),
        "CRNN-TF": ((None, 9.41, 20.59), (None, 8.51, 18.62)),
        "CRNN-TF+MATT": ((54.12, 63.53, 65.29), (49.47, 59.04, 61.17)),  # the latter as the notebook has them
    }
    for system, rows in printed.items():
        for threshold, values in zip(("<100", "<200"), rows, strict=True):
            for k, value in zip(matt_tables.TABLE2_K, values, strict=True):
                given = matt_tables.table2(system, threshold, k)
                if value is None:
                    assert given.value < 5
                    assert "below 5" in given.notes
                else:
                    assert given.value == pytest.approx(value, abs=0.0101)
    assert matt_tables.table2("MLP+MIL", "<100", 2) is None
    assert not is_count(71.21, 188)  # the number that the paper prints and that cannot be
    assert "shifted" in matt_tables.table2("CRNN-TF+MATT", "<200", 5).notes


def test_the_papers_list_of_rare_genres_is_found_from_the_counts():
    train, outside, test = (np.array([counts[i] for counts in MEDIUM.values()]) for i in range(3))
    run = predictions().replace(genres=GENRES, train_clips=train, train_clips_outside_small=outside)
    listed = ["Easy Listening", "International", "Blues", "Spoken", "Soul-RnB"]  # as the notebook has them
    for threshold, limit, clips, rare in (("<100", 100, 170, 68), ("<200", 200, 188, 86)):
        genres = rare_genres(run, f"<{limit} (paper, 100)")
        assert {GENRES[genre] for genre in genres} == {*listed, *(["Country"] if limit == 200 else [])}
        assert test[list(genres)].sum() == clips == matt_tables.TABLE2_CLIPS[threshold]
        assert test[list(rare_genres(run, f"<{limit}"))].sum() == rare
    assert rare_genres(run.replace(train_clips_outside_small=None), "<100 (paper, 100)") == ()


def test_reports_agree_with_themselves():
    for report in (ubc_tables.FIG2, ubc_tables.FIG3):
        rates = np.array(list(report.genres.values()))
        np.testing.assert_allclose(rates.mean(axis=0), report.macro, atol=0.011)
        assert report.weighted == report.macro  # 100 clips of each genre
        assert rates[:, 1].mean() == pytest.approx(report.accuracy, abs=0.005)  # 100 clips of each genre
        f1 = 2 * rates[:, 0] * rates[:, 1] / rates[:, :2].sum(axis=1)
        np.testing.assert_allclose(rates[:, 2], f1, atol=0.011)


def test_curves_agree_with_themselves():
    for curve in matt_tables.FIG4.values():
        f1 = 2 * curve.precision * curve.recall / (curve.precision + curve.recall)
        assert f1 == pytest.approx(curve.max_f1, abs=0.002)
    assert {name.removesuffix(", k = 5") for name in matt_tables.FIG4} == set(matt_tables.FIG4C)


# What is planned.


@pytest.mark.parametrize("paper", PARTS)
def test_every_place_has_one_number_and_every_note_is_known(paper):
    plan = numbers(paper, DATA if paper == "matt" else UBC_DATA, PARTS[paper])
    places = [(number.part, number.row, number.column) for number in plan]
    assert len(places) == len(set(places))
    assert {number.part for number in plan} == {part for name, part in TITLES if name == paper}
    for number in plan:
        given = number.published.notes if number.published else ()
        assert set((*given, *number.notes)) <= set(NOTES)
    names = [cell.name for cell in cells(plan)]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"[a-z0-9_+-]+", name) for name in names), names


def test_the_plan_has_the_papers_places():
    plan = numbers("matt", DATA, PARTS["matt"])
    with_published = {}
    for number in plan:
        if number.published is not None:
            with_published.setdefault(number.part, []).append(number)
    assert len(with_published["table1"]) == 12 * 6
    assert len(with_published["table2"]) == 9 * 6
    assert len(with_published["fig4"]) == 12 * 13 + 6  # the AP of bags only where there are any
    assert len(with_published["fig4c"]) == 12
    assert all(number.level != "clip_mean" for part in with_published.values() for number in part)
    bag_rows = {number.row for number in plan if number.level == "clip_mean" and number.part == "table2"}
    assert {"LR, clip mean", "MLP+MATT, clip mean", "CRNN-TF+MATT, clip mean"} <= bag_rows
    assert {number.row for number in with_published["table2"]} >= {"KNN, k = 5"}  # as the notebook fitted it
    assert {number.row for number in with_published["fig4c"]} >= {"KNN"}  # FMA's, with k = 200
    (of_bags, *_) = [number for number in plan if (number.row, number.column) == ("MLP+MATT", "AP of bags")]
    assert (of_bags.metric, of_bags.published.value) == ("multi_hot_bag_micro_ap", 0.7202)
    ubc = numbers("ubc", UBC_DATA, PARTS["ubc"])
    assert sum(number.published is not None for number in ubc if number.part == "table2") == 13
    ablations = [number for number in ubc if number.part == "ablations"]
    assert len(ablations) == 2 * 7
    assert [number.published.value for number in ablations if number.published] == [51.25, 44.125]
    assert [number.row for number in ablations if not number.notes] == ["5-layer CNN"] * 2


@pytest.mark.parametrize("paper", PARTS)
@pytest.mark.parametrize("corpus", ["demo", "fma_small", "fma_medium"])
def test_every_cell_is_a_valid_configuration(paper, corpus, tmp_path):
    source = Prepared(paper, corpus, str(tmp_path))
    source._train_clips = 805
    for cell in cells(numbers(paper, DATA if paper == "matt" else UBC_DATA, PARTS[paper])):
        config = limited(source.config(cell), Settings(tmp_path, epochs=3))
        assert config.data.corpus == corpus
        assert config.data.features == cell.features
        assert config.train.epochs <= 3
        if config.baseline.name == "knn":
            usual = 28 if corpus == "demo" else 200
            assert config.baseline.n_neighbors == (5 if cell.system == "KNN, k = 5" else usual)


@pytest.mark.parametrize(("file", "paper"), [("echonest", "matt"), ("vggish", "matt"), ("fma_small_mels", "ubc")])
def test_every_cell_of_a_configuration_file_is_valid(file, paper, tmp_path):
    source = FromFile(paper, ROOT / "configs" / f"{file}.py", {"data.arrays.table": "table.csv"})
    source._train_clips = 10_000
    vectors = file != "fma_small_mels"
    data = dataclasses.replace(DATA, feature_sets=((file, ""),) if vectors else (), spectrograms=not vectors)
    planned = cells(numbers(paper, data, PARTS[paper]))
    assert len(planned) >= 6
    for cell in planned:
        config = limited(source.config(cell), Settings(tmp_path, folds=5))
        assert config.data.arrays.table == "table.csv"
        assert config.data.folds == 5
        if config.baseline.name == "knn":
            assert config.baseline.n_neighbors == (5 if cell.system == "KNN, k = 5" else 100)
        if cell.system == "MLP+MATT":  # no hidden layer, as in the paper
            assert config.model.encoder.hidden == ()
            assert config.model.pooling.name == "matt"
        if cell.system == "3-layer CNN":
            assert config.model.encoder.filters == (16, 32, 64)


def test_variants_differ_in_what_their_names_say(tmp_path):
    prepared = Prepared("matt", "fma_medium", str(tmp_path))
    by_file = FromFile("matt", ROOT / "configs" / "vggish.py", {"data.arrays.table": "table.csv"})
    by_file._train_clips = 10_000
    shown = {"KNN, k = 5", "MLP+MATT, equation 1", "MLP+MATT, trained on pair keys"}
    assert shown <= {cell.system for cell in cells(numbers("matt", DATA, PARTS["matt"]))}
    for source, features, bag_key in ((prepared, "all", {"data.bag_key"}), (by_file, "", set())):
        for variant, base, expected in (
            ("KNN, k = 5", "KNN", {"baseline.n_neighbors"}),
            ("MLP+MATT, equation 1", "MLP+MATT", {"model.pooling.score", "model.pooling.activation"}),
            ("MLP+MATT, trained on pair keys", "MLP+MATT", bag_key),  # the file has them already
        ):
            of_variant, of_base = (
                dict(keys.leaves(source.config(Cell(system, features)))) for system in (variant, base)
            )
            assert {key for key, value in of_variant.items() if of_base[key] != value} == expected
    no_pairs = cells(numbers("matt", dataclasses.replace(DATA, paper_keys=False), PARTS["matt"]))
    assert shown - {cell.system for cell in no_pairs} == {"MLP+MATT, trained on pair keys"}


def test_the_data_decide_what_is_left_out(tmp_path):
    save_arrays(make_corpus(clip_shape=(6,)), tmp_path)
    (tmp_path / "small.py").write_text(CONFIG)
    overrides = {"data.arrays.clips": str(tmp_path / "clips.npz"), "data.arrays.table": str(tmp_path / "tracks.csv")}
    source = FromFile("matt", tmp_path / "small.py", overrides)
    data, lacks = source.data(0, "", None, ())
    assert data.feature_sets == (("small", ""),)
    assert not data.spectrograms
    assert data.splits == ("test", "validation")
    assert not data.paper_keys
    assert "CRNN" in lacks[0]
    assert "6 features of small" in lacks[1]
    assert source.data(0, "validation", (3, 5), ())[0] == dataclasses.replace(
        data, splits=("validation",), tail=(3, 5)
    )
    assert source.data(3, "", None, ())[0].splits == ("validation",)
    with pytest.raises(UserError, match="--split test is invalid: cross-validation"):
        source.data(3, "test", None, ())
    with pytest.raises(UserError, match="need spectrograms"):
        FromFile("ubc", tmp_path / "small.py", overrides).data(0, "", None, ())
    with pytest.raises(UserError, match=r"--config\.model\.pooling\.name is for the tables"):
        FromFile("matt", tmp_path / "small.py", {"model.pooling.name": "max"})
    (tmp_path / "other.py").write_text(
        "from mgc_jax.config import default\ndef get_config(x=''):\n    return default()"
    )
    with pytest.raises(UserError, match=r"must be encoder and pooling, such as 'mlp[+]none'"):
        FromFile("matt", tmp_path / "other.py", {}).data(0, "", None, ())


# What is run.


def predictions(split="test", seed=0, genres=("Rock", "Folk", "Jazz"), pooled=True, clips=60) -> Predictions:
    """Fake predictions: bags of one to four clips, right more often than not."""
    rng = np.random.default_rng(seed)
    of_corpus = np.random.default_rng(7)
    label = of_corpus.integers(0, len(genres), clips).astype(np.int32)
    bag = np.cumsum(of_corpus.random(clips) < 0.5)
    bag = np.unique(bag, return_inverse=True)[1]

    def scores() -> np.ndarray:
        logits = rng.normal(size=(clips, len(genres))) + 1.5 * np.eye(len(genres))[label]
        return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)

    first = np.searchsorted(bag, bag)
    return Predictions(
        genres=tuple(genres), track_id=np.arange(clips) + (1000 if split == "test" else 5000),
        split=np.full(clips, split), label=label, artist=(bag // 2).astype(str), album=bag.astype(str), bag=bag,
        clip_scores=scores(), bag_scores=scores()[first] if pooled else None,
        train_clips=np.array([50.0, 20, 3, *range(40, 40 + len(genres) - 3)])[: len(genres)],
        train_clips_outside_small=np.array([40.0, 15, 3, *range(5, 5 + len(genres) - 3)])[: len(genres)],
    )  # fmt: skip


@pytest.fixture
def fake_runs(monkeypatch):
    """Training that leaves predictions at once; returns the configurations that were trained."""
    trained = []

    class FakeCorpus:
        fingerprint, clips_digest = "f00d", "c11b5"

    def train(config, workdir, *, test):
        trained.append((workdir.name, config.baseline.name, config.seed))
        if config.baseline.name == "svm":
            raise UserError("the genre Jazz has a single training clip | <b>")
        workdir.mkdir(parents=True, exist_ok=True)
        write_json(workdir / "config.json", keys.to_json(config))
        pooled = config.model.pooling.name != "none" and not config.baseline.name
        given = predictions(seed=config.seed, pooled=pooled, split="test" if test else "validation")
        save_predictions(given, workdir / PREDICTIONS_FILE)
        splits = {"validation": {}} | {given.splits[0]: level_metrics(given)}
        results = {
            "fingerprint": "f00d",
            "clips_digest": FakeCorpus.clips_digest,
            "splits": splits,
            "selected_by": "validation/bag/micro_ap",
        }
        write_json(workdir / "results.json", results)

    monkeypatch.setattr(runs.modes, "train", train)
    monkeypatch.setattr(runs, "open_corpus", lambda data: FakeCorpus)
    return trained


def configure(cell: Cell):
    return Prepared("matt", "fma_medium", "nowhere").config(cell)


def test_finished_runs_are_not_made_again_and_others_are_kept(fake_runs, tmp_path):
    wanted = [Cell("LR", "mfcc"), Cell("MLP+MATT", "mfcc")]
    settings = Settings(tmp_path, seeds=2)
    first = run_cells(wanted, configure, settings)
    names = ["lr-mfcc-seed0", "mlp_matt-mfcc-seed0", "mlp_matt-mfcc-seed1"]  # LR does not depend on the seed
    assert [name for name, *_ in fake_runs] == names
    assert [len(outcome.runs) for outcome in first.values()] == [1, 2]
    again = run_cells(wanted, configure, settings)
    assert len(fake_runs) == 3
    np.testing.assert_array_equal(again[wanted[1]].runs[1].bag_scores, first[wanted[1]].runs[1].bag_scores)

    (tmp_path / "lr-mfcc-seed0" / "results.json").unlink()  # interrupted
    run_cells(wanted, configure, settings)
    assert fake_runs[3:] == [("lr-mfcc-seed0", "lr", 0)]

    run_cells(wanted, configure, dataclasses.replace(settings, epochs=3))  # another configuration: a new folder
    assert [name for name, *_ in fake_runs[4:]] == ["mlp_matt-mfcc-seed0-2", "mlp_matt-mfcc-seed1-2"]
    run_cells(wanted, configure, settings)
    assert len(fake_runs) == 6

    results = json.loads((tmp_path / "lr-mfcc-seed0" / "results.json").read_text())  # another corpus: a new folder
    write_json(tmp_path / "lr-mfcc-seed0" / "results.json", results | {"fingerprint": "beef"})
    run_cells(wanted[:1], configure, settings)
    assert fake_runs[6:] == [("lr-mfcc-seed0-2", "lr", 0)]
    for number, digest in ((2, "0ther"), (3, "")):  # other clips; not recorded, as by an earlier version
        change_results(tmp_path / f"lr-mfcc-seed0-{number}", clips_digest=digest)
        run_cells(wanted[:1], configure, settings)
    assert fake_runs[7:] == [("lr-mfcc-seed0-3", "lr", 0)]


def test_a_run_without_the_test_split_is_evaluated_on_it_when_that_is_wanted(fake_runs, tmp_path):
    run_cells([Cell("LR", "mfcc")], configure, Settings(tmp_path, test=False))
    run_cells([Cell("LR", "mfcc")], configure, Settings(tmp_path, test=False))
    assert len(fake_runs) == 1
    run_cells([Cell("LR", "mfcc")], configure, Settings(tmp_path, test=True))
    assert [name for name, *_ in fake_runs] == ["lr-mfcc-seed0"] * 2


class FakeSource:
    """A corpus of three genres with one set of features."""

    name = "fma_medium"

    def data(self, folds, split, tail, parts):
        return Data(
            (("1 to 9", "all"),), False, ("Rock", "Folk", "Jazz"), ("test", "validation"), tail or (10, 30)
        ), []

    def config(self, cell):
        return configure(cell)


def test_a_failed_cell_stops_nothing_and_is_marked(fake_runs, tmp_path, caplog):
    caplog.set_level("INFO", "mgc_jax.tables")
    assert not make_tables(Request("matt", tmp_path, seeds=2, resamples=50), FakeSource())
    assert len(fake_runs) == 1 + 1 + 1 + 1 + 7 * 2
    assert any(re.match(r"3/18 svm-all-seed0: .*FAILED: the genre Jazz", line) for line in caplog.messages)
    rows = list(csv.DictReader((tmp_path / "tables.csv").open()))
    failed = [row for row in rows if row["row"].startswith("SVM") or row["column"].startswith("SVM")]
    assert failed
    assert all(row["ours"] == "" and "FAILED: the genre Jazz" in row["note"] for row in failed)
    others = [row for row in rows if "FAILED" not in row["note"]]
    assert all(row["ours"] for row in others)
    text = (tmp_path / "tables.md").read_text()
    assert "**failed**" in text
    assert r"single training clip \| &lt;b&gt;" in text
    assert "single training clip | &lt;b&gt;" in (tmp_path / "tables.html").read_text()
    for name in ("fig4a", "fig4c"):
        assert (tmp_path / f"{name}.svg").read_text().startswith("<svg xmlns=")


@pytest.mark.parametrize("failure", [UserError("another process works in it"), MemoryError("9 GiB\nof memory")])
def test_a_failed_seed_leaves_the_others(fake_runs, tmp_path, monkeypatch, failure):
    train, fails = runs.modes.train, [True]

    def sometimes(config, workdir, *, test):
        if config.seed == 1 and fails[0]:
            raise failure
        train(config, workdir, test=test)

    monkeypatch.setattr(runs.modes, "train", sometimes)
    cell, settings = Cell("MLP+MATT", "mfcc"), Settings(tmp_path, seeds=3)
    outcome = run_cells([cell], configure, settings)[cell]
    assert len(outcome.runs) == 2
    assert outcome.error.startswith("seed 1: ")
    if isinstance(failure, MemoryError):
        assert "MemoryError: 9 GiB (see " in outcome.error
        assert "Traceback" in (tmp_path / "mlp_matt-mfcc-seed1" / "train.log").read_text()
    number = Number("table1", "row", "column", cell, "bag", "accuracy", "test")
    entry = Entry(number, measure("accuracy", [run.of_split("test") for run in outcome.runs], "bag"), outcome.error)
    section = Section("table1", "A table", [entry])
    assert shown(entry, section.notes).ours != "failed"
    assert next(iter(section.notes)).startswith("FAILED: seed 1: ")
    fails[0] = False
    outcome = run_cells([cell], configure, settings)[cell]
    assert (len(outcome.runs), outcome.error) == (3, "")
    assert [name for name, *_ in fake_runs].count("mlp_matt-mfcc-seed1") == 1


def test_an_interruption_ends_the_command(fake_runs, tmp_path, monkeypatch):
    def interrupted(config, workdir, *, test):
        raise KeyboardInterrupt

    monkeypatch.setattr(runs.modes, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_cells([Cell("LR", "mfcc")], configure, Settings(tmp_path))


@pytest.mark.parametrize(
    "damage",
    [
        lambda run: (run / PREDICTIONS_FILE).write_bytes(b"PAR1 cut"),
        lambda run: (run / "results.json").write_text("[]"),
        lambda run: (run / "results.json").write_text('{"splits": 3}'),
    ],
)
def test_a_damaged_run_is_evaluated_again(fake_runs, tmp_path, damage):
    cell = Cell("LR", "mfcc")
    run_cells([cell], configure, Settings(tmp_path))
    damage(tmp_path / "lr-mfcc-seed0")
    outcome = run_cells([cell], configure, Settings(tmp_path))[cell]
    assert (len(outcome.runs), outcome.error) == (1, "")
    assert [name for name, *_ in fake_runs] == ["lr-mfcc-seed0"] * 2


def change_results(run, **changes):
    write_json(run / "results.json", json.loads((run / "results.json").read_text()) | changes)


@pytest.mark.parametrize(
    "change",
    [
        lambda run: change_results(run, logit_adjustment=4.0),
        lambda run: change_results(run, bag_key="published"),
        lambda run: save_predictions(predictions(seed=9, pooled=False), run / PREDICTIONS_FILE),
    ],
)
def test_a_run_that_was_evaluated_in_another_way_is_evaluated_again(fake_runs, tmp_path, change):
    cell = Cell("LR", "mfcc")
    before = run_cells([cell], configure, Settings(tmp_path))[cell].runs[0]
    change(tmp_path / "lr-mfcc-seed0")
    after = run_cells([cell], configure, Settings(tmp_path))[cell].runs[0]
    assert [name for name, *_ in fake_runs] == ["lr-mfcc-seed0"] * 2
    np.testing.assert_array_equal(before.clip_scores, after.clip_scores)


def test_an_interrupted_run_on_another_corpus_is_left_as_it_is(fake_runs, tmp_path, monkeypatch):
    train, cell = runs.modes.train, Cell("LR", "mfcc")
    run_cells([cell], configure, Settings(tmp_path))
    (tmp_path / "lr-mfcc-seed0" / "results.json").unlink()

    def changed(config, workdir, *, test):
        if (workdir / "config.json").exists():
            raise OtherCorpusError("the run was trained on another corpus")
        train(config, workdir, test=test)

    monkeypatch.setattr(runs.modes, "train", changed)
    outcome = run_cells([cell], configure, Settings(tmp_path))[cell]
    assert (len(outcome.runs), outcome.error) == (1, "")
    assert [name for name, *_ in fake_runs] == ["lr-mfcc-seed0", "lr-mfcc-seed0-2"]


def test_a_part_alone_takes_nothing_away(fake_runs, tmp_path):
    def tables():
        return {row["table"] for row in csv.DictReader((tmp_path / "tables.csv").open())}

    class WithoutSVM(FakeSource):
        def config(self, cell):
            return configure(Cell("LR", cell.features) if cell.system == "SVM" else cell)

    (tmp_path / "fig2.svg").write_text("stale")
    make_tables(Request("matt", tmp_path, resamples=20, parts=("case_study",)), WithoutSVM())
    assert tables() == {"case_study"}
    assert "left out" in (tmp_path / "tables.md").read_text()
    assert not list(tmp_path.glob("*.svg"))
    assert make_tables(Request("matt", tmp_path, resamples=20), WithoutSVM())
    everything, trained = tables(), len(fake_runs)
    assert everything == {"case_study", "table1", "table1_variants", "table2", "fig4", "fig4c"}
    assert make_tables(Request("matt", tmp_path, resamples=20, parts=("case_study",)), WithoutSVM())
    assert tables() == everything
    assert len(fake_runs) == trained
    assert (tmp_path / "fig4a.svg").exists()


@pytest.mark.parametrize(
    ("paper", "corpus", "split", "folds", "same"),
    [
        ("matt", "fma_medium", "test", 0, True),
        ("matt", "fma_medium", "validation", 0, False),
        ("matt", "fma_medium", "test", 5, False),
        ("matt", "demo", "test", 0, False),
        ("ubc", "fma_small", "test", 0, True),
        ("ubc", "fma_small", "validation", 0, True),  # Table 2 has a column of its own for it
    ],
)
def test_published_figures_are_of_the_same_clips_only_on_their_split(tmp_path, paper, corpus, split, folds, same):
    part = "table2" if paper == "ubc" else "table1"
    genres = ("Rock", "Folk", "Jazz")
    data = Data(SETS[:1], paper == "ubc", genres, (split,), (10, 30))
    plan = numbers(paper, data, (part,))
    outcomes = {cell: Outcome((predictions(split=split, pooled="+" in cell.system),)) for cell in cells(plan)}
    made = describe(Request(paper, tmp_path, folds=folds, resamples=20), corpus, data, plan, outcomes, [])
    rows = [row for row in csv.DictReader(io.StringIO(comma_separated(made))) if row["published"]]
    assert rows
    assert {row["same_clips"] for row in rows} == {"yes" if same else "no"}
    assert any("other clips" in fact for fact in made.facts) != same
    assert (" [+" in page(made) or " [-" in page(made)) != same


def test_validation_figures_of_the_report_are_not_those_of_test(tmp_path):
    data = dataclasses.replace(UBC_DATA, splits=("validation",))
    for number in numbers("ubc", data, ("fig2", "table2")):
        if number.published:
            assert number.published.split == ("validation" if number.part == "table2" else "test")


def test_only_what_is_wanted_of_the_demo_is_made(tmp_path, monkeypatch):
    opened = []

    def open_corpus(data):
        opened.append(data.representation)
        return make_corpus()

    monkeypatch.setattr(sources, "open_corpus", open_corpus)
    for paper, parts in (("ubc", ("fig2",)), ("ubc", ("fig2", "table2")), ("matt", ("table1",))):
        Prepared(paper, "demo", str(tmp_path)).data(0, "", None, parts)
    assert opened == ["mel_120x128", "features_518", "features_518"]


# What is measured.


def test_a_resample_without_a_genre_says_nothing_about_it(monkeypatch):
    """Folk has one artist, who is not drawn in about a third of the resamples; and is always predicted right."""
    rare = np.arange(60) < 3
    label = np.where(rare, 1, 0).astype(np.int32)
    artist = np.where(rare, "folk", np.arange(60).astype(str))
    scores = np.log(np.full((60, 3), 0.05) + 0.85 * np.eye(3)[label])
    run = predictions().replace(label=label, artist=artist, clip_scores=scores, bag_scores=None, bag=np.arange(60))
    for metric in ("precision", "recall", "f1"):
        folk = measure(f"{metric} Folk", [run], "clip")
        assert (folk.mean, folk.low, folk.high) == (1, None, None)  # of one artist there is no interval
        assert measure(f"{metric} macro", [run], "clip").low == 1
    monkeypatch.setattr("mgc_jax.evaluation.bootstrap.FEWEST_ARTISTS", 1)
    for metric in ("precision", "recall", "f1"):
        folk = measure(f"{metric} Folk", [run], "clip")
        assert (folk.mean, folk.low, folk.high) == (1, 1, 1)
    never = measure("precision Jazz", [run.replace(label=np.where(rare, 2, 0).astype(np.int32))], "clip")
    assert never.mean == 0  # as scikit-learn has it
    assert never.high == 0


def test_every_number_of_a_curve_has_an_interval():
    several = [predictions(seed=seed, clips=200) for seed in range(2)]
    names = ("max_f1", "precision_at_max_f1", "recall_at_max_f1", "precision_at 0.1", "precision_at 0.9")
    for metric in names:
        found = measure(metric, several, "bag", resamples=200)
        assert found.low < found.mean < found.high or found.low <= found.mean == 1, metric


def test_numbers_are_those_of_scikit_learn():
    run = predictions(clips=200)
    label, one_hot = run.label, np.eye(3)[run.label]
    for level, scores in run.levels.items():
        predicted = scores.argmax(axis=1)

        def ours(metric, level=level):
            return measure(metric, [run], level, resamples=20).mean

        assert ours("accuracy") == pytest.approx(100 * accuracy_score(label, predicted))
        assert ours("micro_ap") == pytest.approx(average_precision_score(one_hot.ravel(), scores.ravel()))
        rates = precision_recall_fscore_support(label, predicted, zero_division=0)
        for metric, values in zip(("precision", "recall", "f1"), rates, strict=False):
            assert ours(f"{metric} Folk") == pytest.approx(values[1])
            assert ours(f"{metric} macro") == pytest.approx(values.mean())
            assert ours(f"{metric} weighted") == pytest.approx(np.average(values, weights=rates[3]))
        assert ours("support Folk") == rates[3][1]
        assert ours("support macro") == 200
        rare = np.isin(label, [1, 2])
        top = top_k_accuracy_score(label[rare], scores[rare], k=2, labels=range(3))
        assert ours("top_2 <30") == pytest.approx(100 * top)  # fewer than 30 training clips: Folk, Jazz
        assert measure("top_2 <30", [run], level).clips == rare.sum()
    alone = np.repeat(run.bag_sizes == 1, run.bag_sizes)
    right = run.predicted("clip") == label
    assert measure("alone_accuracy", [run], "clip").mean == pytest.approx(100 * right[alone].mean())
    paper = metrics.paper_accuracy(label, run.bag_scores, run.offsets)
    assert measure("paper_accuracy", [run], "bag").mean == pytest.approx(100 * paper)
    assert measure("bag_micro_ap", [run], "bag").mean == metrics.bag_micro_ap(label, run.bag_scores, run.offsets)
    genres = np.array([one_hot[start:end].max(axis=0) for start, end in itertools.pairwise(run.offsets)])
    assert (genres.sum(axis=1) > 1).any()
    expected = average_precision_score(genres.ravel(), run.bag_scores[run.offsets[:-1]].ravel())
    of_bags = measure("multi_hot_bag_micro_ap", [run], "bag", resamples=50)
    assert of_bags.mean == pytest.approx(expected)
    assert of_bags.low < expected < of_bags.high


def test_seeds_and_intervals():
    several = [predictions(seed=seed, clips=200) for seed in range(3)]
    values = [100 * accuracy_score(run.label, run.predicted("bag")) for run in several]
    measured = measure("accuracy", several, "bag")
    assert measured.mean == pytest.approx(np.mean(values))
    assert measured.deviation == pytest.approx(np.std(values, ddof=1))
    assert measured.seeds == 3
    assert measured.low < measured.mean < measured.high
    single = measure("accuracy", several[:1], "bag")
    assert single.deviation is None
    alike = measure("accuracy", [several[0]] * 3, "bag")  # the same run thrice: no narrower
    assert (alike.low, alike.high) == (single.low, single.high)
    assert measured.high - measured.low < single.high - single.low  # the mean of three that differ by chance
    assert measure("accuracy", [predictions(pooled=False)], "bag") is None
    assert measure("top_2 <2", several, "bag") is None  # no genre is that rare


# How it is written.


def test_support_is_a_whole_number_without_a_difference():
    (number,) = [
        n for n in numbers("ubc", UBC_DATA, ("fig2",)) if (n.row, n.column) == ("Rock", "support")
    ]  # fmt: skip
    entry = Entry(number, measure("support Rock", [predictions()], "clip"), comparable=True)
    written = shown(entry, {})
    assert written.ours == str(int(np.sum(predictions().label == 0)))
    assert written.paper == "paper 100"
    assert entry.difference is None


def test_bags_are_counted_as_the_paper_counts_them_beside_its_figure(tmp_path):
    data = Data((("1 to 9", "all"),), False, ("Rock", "Folk", "Jazz"), ("test",), (10, 30))
    plan = numbers("matt", data, ("table1", "case_study"))
    run = predictions()
    outcomes = {cell: Outcome((run if "+" in cell.system else run.replace(bag_scores=None),)) for cell in cells(plan)}
    made = describe(Request("matt", tmp_path, resamples=20), "fma_medium", data, plan, outcomes, [])
    paper = 100 * metrics.paper_accuracy(run.label, run.bag_scores, run.offsets)
    per_clip = 100 * accuracy_score(run.label, run.predicted("bag"))
    assert paper != pytest.approx(per_clip)
    rows = {(row["row"], row["column"]): row for row in csv.DictReader(io.StringIO(comma_separated(made)))}
    for place in (("1 to 9", "MLP+MATT"), ("1 to 9", "MLP+MIL"), ("MLP+MATT, bags", "accuracy")):
        assert float(rows[place]["ours"]) == pytest.approx(paper)
        assert float(rows[place]["ours_per_clip"]) == pytest.approx(per_clip)
        assert float(rows[place]["difference"]) == pytest.approx(paper - float(rows[place]["published"]))
    assert rows["1 to 9", "LR"]["ours_per_clip"] == ""
    assert rows["1 to 9", "LR"]["dimensions"] == "518"
    assert rows["MLP+MATT, bags", "accuracy"]["dimensions"] == ""
    assert "| | Dim\\. |" in markdown(made) or "| | Dim. |" in markdown(made)
    assert "| 1 to 9 | **518** |" in markdown(made)
    assert '<th scope="row">1 to 9</th><td>518</td>' in page(made)
    assert rows["MLP+MATT, all clips, as bags of one", "accuracy"]["difference"] == ""
    assert rows["MLP+MATT, clips that are alone in their bag", "accuracy"]["difference"] != ""
    assert f"<small>per clip {per_clip:.1f}</small>" in page(made)
    assert "counted as in MATT's notebooks" in html.unescape(page(made))


def document(row="MLP+MATT", genres=("Rock", "Folk", "Jazz")):
    given = Published(40.0, ("three checkpoints",))
    number = Number("table1", row, "MLP, clip mean", Cell("MLP+MATT"), "bag", "accuracy", "test", given)
    curve = dataclasses.replace(number, column="AP", metric="micro_ap", published=None)
    lost = dataclasses.replace(number, column="lost", published=Published(36.64, ("unscaled",)))
    other = dataclasses.replace(number, column="of other clips")
    several = [predictions(seed=seed, genres=genres) for seed in range(2)]
    entries = [
        Entry(number, measure("accuracy", several, "bag"), comparable=True),
        Entry(curve, measure("micro_ap", several, "bag"), comparable=True),
        Entry(lost, measure("accuracy", several, "bag"), comparable=True),
        Entry(other, measure("accuracy", several, "bag"), comparable=False),
    ]
    section = Section("table1", "A table", entries, facts=["a fact"], warnings=["Rock: 1 clip"])
    return Document("matt", "Tables", True, ["Corpus demo"], [section], ["Rock: 1 clip"])


def test_markdown_csv_and_html_agree():
    made = document()
    rows = list(csv.DictReader(io.StringIO(comma_separated(made))))
    assert [row["column"] for row in rows] == ["MLP, clip mean", "AP", "lost", "of other clips"]
    accuracy, ap, lost, other = rows
    several = [predictions(seed=seed) for seed in range(2)]
    expected = np.mean([100 * accuracy_score(run.label, run.predicted("bag")) for run in several])
    assert float(accuracy["ours"]) == pytest.approx(expected)
    assert float(accuracy["difference"]) == pytest.approx(expected - 40)
    assert (accuracy["seeds"], accuracy["clips"], accuracy["published"]) == ("2", "60", "40.0")
    assert other["difference"] == accuracy["difference"]
    assert (accuracy["same_clips"], other["same_clips"], ap["same_clips"]) == ("yes", "no", "")
    assert lost["difference"] == ""  # nothing is compared with an invalid figure
    assert accuracy["note"] == NOTES["three checkpoints"]
    assert all(row["corpus_is_synthetic"] == "SYNTHETIC" for row in rows)

    text, code = markdown(made), page(made)
    cell = f"{expected:.1f} ± {float(accuracy['deviation']):.1f}"
    interval = f"{float(accuracy['low']):.1f} to {float(accuracy['high']):.1f}"
    paper = f"paper 40.00 ({expected - 40:+.1f})"
    assert f"**{cell}**<br>{interval}<br>{paper}<sup>a</sup> |" in text
    assert f"<td>{cell}<small>{interval}</small><small>{paper}<sup>a</sup></small></td>" in code
    assert f"paper 40.00 [{expected - 40:+.1f}]" in code
    for value, digits in ((ap, 3), (lost, 1)):
        assert f"**{float(value['ours']):.{digits}f} ± " in text
        assert f"<td>{float(value['ours']):.{digits}f} ± " in code
    for written in (text, html.unescape(code)):
        assert written.count("SYNTHETIC MUSIC") >= 2
        assert NOTES["unscaled"] in written.replace("\\", "")
    assert "src=" not in code  # the page loads nothing
    assert 'href="http' not in code


def test_names_are_escaped():
    evil = "<script>alert(1)</script> | *x* [y](z)"
    text, code = markdown(document(row=evil)), page(document(row=evil))
    assert "<script>" not in text
    assert "<script>" not in code
    assert r"\| \*x\* \[y\](z) |" in text
    (line,) = [line for line in text.splitlines() if "alert" in line]
    assert len(re.findall(r"(?<!\\)\|", line)) == 1 + 5  # a row name and four cells
    assert html.escape(evil, quote=False) in code


def test_all_parts_are_described(tmp_path):
    for paper in PARTS:
        genres = ("Rock", "Folk", "Pop", "International", "Hip-Hop", "Instrumental", "Electronic", "Experimental")
        sets = (("3 MFCC", "mfcc"),) if paper == "ubc" else (("1 to 9", "all"),)
        data = Data(sets, True, genres, ("test", "validation"), (10, 45))
        plan = numbers(paper, data, PARTS[paper])
        both = [
            dataclasses.replace(predictions(genres=genres, seed=i), split=np.full(60, split))
            for i, split in enumerate(("test", "validation"))
        ]
        outcomes = {}
        for cell in cells(plan):
            pooled = [run if "+" in cell.system else dataclasses.replace(run, bag_scores=None) for run in both]
            joined = dataclasses.replace(pooled[1], track_id=pooled[1].track_id + 5000)
            outcomes[cell] = Outcome((concatenate([pooled[0], joined]),), selected_by="validation/bag/micro_ap")
        made = describe(Request(paper, tmp_path, resamples=20), PAPERS[paper].corpus, data, plan, outcomes, [])
        for section in made.sections:
            empty = [entry.number for entry in section.entries if entry.measured is None]
            assert not empty, empty[:3]
            compared = [entry for entry in section.entries if entry.difference is not None]
            assert bool(compared) == (section.name != "table1_variants")
            assert not any(NOTES[n].startswith("INVALID") for e in compared for n in e.number.published.notes)
        charts = [name for section in made.sections for name, _ in section.charts]
        assert charts == (["fig4a", "fig4b", "fig4c"] if paper == "matt" else ["fig2", "fig3"])
        assert not made.synthetic
        assert "SYNTHETIC" not in page(made)


# The command.

CONFIG = """
from mgc_jax.config import options
from mgc_jax.config import default
def get_config(system="mlp+matt"):
    encoder, _, pooling = system.partition("+")
    config = default()
    config.data.corpus = "arrays"
    config.data.bag_key = "pair"
    config.data.arrays.axes = "clip feature"
    config.model.encoder = options.encoder_options(encoder)
    config.model.pooling = options.pooling_options(pooling)
    config.batch.clips = 64
    config.optimizer.learning_rate = 0.01
    config.train.epochs = 2
    config.train.select = "clip/micro_ap" if pooling == "none" else "bag/micro_ap"
    return config
"""


def command(folder, *arguments, timeout=60):
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "mgc_jax.tables", *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["name the paper, matt or ubc"]),
        (["mat"], ["'mat'", "matt or ubc"]),
        (["matt", "more"], ["'more'", "--help"]),
        (["matt", "--corpu=demo"], ["corpu"]),
        (["matt", "--corpus=gtzan"], ["gtzan", "fma_small"]),
        (["matt", "--seeds=0"], ["seeds", "0"]),
        (["matt", "--seeds=many"], ["seeds", "many"]),
        (["matt", "--folds=1"], ["--folds 1", "at least 2"]),
        (["matt", "--only=fig2"], ["--only fig2", "table1, table2, fig4, case_study"]),
        (["ubc", "--tail=200,100"], ["--tail 200,100", "100,200"]),
        (["ubc", "--tail=ten"], ["--tail ten"]),
        (["matt", "--corpus=fma_medium"], ["fma_medium", "not prepared", "python -m tfds_fma.prepare"]),
        (["matt", "--config=gone.py"], ["gone.py"]),
        (["matt", "--config.train.epochs=2"], ["give --config FILE"]),
        (["matt", "--config=small.py", "--config.data.arays.table=x"], ["arays"]),
        (["matt", "--config=small.py", "--corpus=demo"], ["--config and --corpus"]),
        (["matt", "--config=small.py:mlp+matt"], ["takes no argument here"]),
        (["matt", "--config=small.py", "--config.data.arrays.table=gone.csv"], ["gone.csv", "does not exist"]),
    ],
    ids=lambda value: " ".join(value)[-40:],
)
def test_a_mistake_is_one_clear_line(tmp_path, arguments, parts):
    (tmp_path / "small.py").write_text(CONFIG)
    result = command(tmp_path, *arguments)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    for part in parts:
        assert part in line


@pytest.mark.slow
def test_from_the_command_line_to_the_files(tmp_path):
    (tmp_path / "small.py").write_text(CONFIG)
    save_arrays(make_corpus(num_clips=240, clip_shape=(6,)), tmp_path)
    arguments = ["matt", "--config=small.py", "--config.data.arrays.clips=clips.npz", "--seeds=2", "--tail=40,60",
                 "--config.data.arrays.table=tracks.csv", "--epochs=1"]  # fmt: skip
    first = command(tmp_path, *arguments, timeout=300)
    assert first.returncode == 0, first.stderr
    folder = tmp_path / "tables" / "matt-small"
    assert len(list((folder / "runs").iterdir())) == 4 + 6 * 2
    rows = list(csv.DictReader((folder / "tables.csv").open()))
    assert {row["table"] for row in rows} == {"table1", "table1_variants", "table2", "fig4", "fig4c", "case_study"}
    results = json.loads((folder / "runs" / "lr-seed0" / "results.json").read_text())
    (lr,) = [row for row in rows if row["table"] == "table1" and row["column"] == "LR"]
    assert float(lr["ours"]) == pytest.approx(100 * results["splits"]["test"]["clip"]["accuracy"])
    assert (float(lr["low"]), float(lr["high"])) == pytest.approx(
        tuple(100 * bound for bound in results["splits"]["test"]["intervals"]["clip"]["accuracy"])
    )
    matt = [row for row in rows if row["table"] == "table1" and row["column"] == "MLP+MATT"]
    assert matt[0]["seeds"] == "2"
    again = command(tmp_path, *arguments)
    assert again.returncode == 0, again.stderr
    assert again.stderr.count(": there, ") == 16
    assert list(csv.DictReader((folder / "tables.csv").open())) == rows

    crossed = command(tmp_path, *arguments, "--folds=2", "--only=case_study", "--seeds=1", timeout=300)
    assert crossed.returncode == 0, crossed.stderr
    assert "2 folds, grouped by artist" in (folder / "tables.md").read_text()
    assert (folder / "runs" / "mlp-seed0-2" / "fold-1").is_dir()  # the other runs are kept


def test_folds_are_for_the_tables_to_set_but_not_what_selects_in_them():
    file = ROOT / "configs" / "echonest.py"
    for key in ("data.fold", "data.folds", "model.encoder.name"):
        with pytest.raises(UserError, match=rf"--config\.{key} is for the tables to set"):
            FromFile("matt", file, {key: 1})
    assert FromFile("matt", file, {"data.fold_selection": "scored"}).overrides
