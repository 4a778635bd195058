"""The report of a run and the comparison of runs: what stands in them, and that they need nothing else."""

import dataclasses
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from helpers import make_corpus

from mgc_jax.config import keys
from mgc_jax.errors import UserError
from mgc_jax.evaluation import metrics
from mgc_jax.evaluation.bootstrap import ArtistBootstrap, mcnemar, paired
from mgc_jax.evaluation.mistakes import load_examples, save_examples
from mgc_jax.evaluation.predictions import Predictions
from mgc_jax.evaluation.predictions_file import load_predictions, save_predictions
from mgc_jax.evaluation.results import finish
from mgc_jax.report.__main__ import main
from mgc_jax.report.attention import attention_of, bag_weights, preferred_and_others
from mgc_jax.report.comparison import (
    comparable_levels,
    different_options,
    paired_differences,
    scores_of,
    write_comparison,
)
from mgc_jax.report.finished_run import read_run, results_digest
from mgc_jax.report.html import decimals, limits, p_value, shade, signed
from mgc_jax.report.run_page import changed_options, training_curves, write_report

GENRES = ("Rock", "<script>alert(1)</script>", "Jazz")
VOID = {"meta", "link", "br", "img"}


def make_predictions(seed: int = 0, pooling: bool = True, corpus: str = "fma_small") -> Predictions:
    """Scores of 40 training and 40 validation clips in bags of 1 to 4, better than chance; an artist for each bag."""
    rng = np.random.default_rng(seed)
    sizes = np.tile([1, 2, 3, 4], 8)
    bag = np.repeat(np.arange(len(sizes)), sizes)
    label = ((bag // 2) % len(GENRES)).astype(np.int32)
    logits = rng.normal(size=(2, len(bag), len(GENRES))) + 1.5 * np.eye(len(GENRES))[label]
    logits[1] = logits[1][np.concatenate([[0], np.cumsum(sizes)[:-1]])][bag]  # one score for each bag
    scores = (logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)).astype(np.float32)
    attention = rng.uniform(size=len(bag))
    attention /= np.bincount(bag, attention)[bag]
    return Predictions(
        genres=GENRES,
        track_id=np.arange(len(bag)) + 7000,
        split=np.where(bag < 16, "train", "validation"),
        label=label,
        artist=np.char.add("<b>artist ", bag.astype(str)),
        album=bag.astype(str),
        bag=bag,
        clip_scores=scores[0],
        bag_scores=scores[1] if pooling else None,
        attention=attention.astype(np.float32) if pooling else None,
        train_clips=np.array([500.0, 90.0, 150.0]),
        info={"corpus": corpus},
    )


def make_run(folder, seed=0, steps=True, test=False, **changes):
    """A run's folder, as training leaves it."""
    folder.mkdir(parents=True)
    about = {
        "model": "CRNN-TF + MATT", "parameters": 12345, "corpus": "fma_small", "fingerprint": "f00d", "best_step": 20,
        "last_step": 30, "selected_by": "validation/bag/micro_ap", "seconds": {"train": 12.5}, "weights": seed,
        "logit_adjustment": 0.0, "bag_key": "pair",
    }  # fmt: skip
    pooling = changes.pop("pooling", True)
    about |= changes
    predictions = make_predictions(seed, pooling, about["corpus"])
    if test:
        split = np.where(predictions.bag >= 20, "test", predictions.split)
        predictions = dataclasses.replace(predictions, split=split)
    finish(predictions, about, folder, "a run")
    saved = keys.default()
    saved.optimizer.learning_rate = 0.0625
    saved.data.corpus = about["corpus"]
    saved.data.data_dir = str(folder / "nowhere")
    (folder / "config.json").write_text(json.dumps(keys.to_json(saved)))
    if steps:
        lines = []
        for step in range(1, 31):
            lines.append({"step": step, "epoch": step / 10, "train/loss": 3 / step, "train/accuracy": step / 31})
            if step % 10 == 0:
                values = {"accuracy": 0.1 + step / 50, "micro_ap": 0.2 + step / 50}
                lines.append({"step": step, **{f"validation/bag/{name}": x for name, x in values.items()}})
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 31, "ep')
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "first", test=True)


@pytest.fixture(scope="module")
def page(run):
    return write_report(run).read_text()


class Outline(HTMLParser):
    """Checks that tags are closed in order; collects elements, and text by section."""

    def __init__(self, page: str):
        super().__init__()
        self.open, self.elements, self.sections, self._section = [], [], {}, "head"
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag == "section":
            self._section = dict(attributes)["id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if self.open and self.open[-1] != "style":
            self.sections[self._section] = self.sections.get(self._section, "") + " ".join(text.split()) + " "


def check_page(page: str) -> Outline:
    """What every page must be: whole, alone, without scripts, and legible to those who do not see it."""
    outline = Outline(page)
    tags = [tag for tag, _ in outline.elements]
    assert "script" not in tags
    assert tags.count("h1") == 1
    for tag, attributes in outline.elements:
        for name in ("src", "href", "xlink:href", "action", "srcset", "data"):
            assert attributes.get(name, "#").startswith(("#", "data:")), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes)
        if tag == "svg":
            assert attributes["role"] == "img"
            assert attributes["aria-label"]
        if tag == "th":
            assert attributes["scope"] in ("col", "row", "colgroup", "rowgroup")
        if tag == "img":
            assert attributes["alt"]
    assert tags.count("caption") == tags.count("table") - page.count('<div class="card">')
    assert "http" not in page
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', page) + re.findall(r"url\(#([^)]+)\)", page)) <= set(ids)
    return outline


def test_page_is_whole_and_alone(page):
    check_page(page)
    assert len(page) < 1_000_000


def test_page_has_the_numbers_of_the_results(run, page):
    outline = check_page(page)
    results = json.loads((run / "results.json").read_text())
    shown = outline.sections["results"]
    for split in ("train", "validation", "test"):
        for level in ("clip", "clip_mean", "bag"):
            for metric in ("accuracy", "balanced_accuracy", "macro_f1", "weighted_f1", "micro_ap", "ece"):
                value = f"{results['splits'][split][level][metric]:.3f}"
                assert re.search(rf"\b{value}\b", shown), (split, level, metric)
    low, high = results["splits"]["test"]["intervals"]["bag"]["micro_ap"]
    assert f"{low:.3f} to {high:.3f}" in shown
    assert results["splits"]["validation"]["intervals"]["bag"]["micro_ap"] == [None, None]  # of four artists
    assert f"{results['splits']['validation']['bag']['micro_ap']:.3f} \N{EN DASH} " in shown
    assert "A dash: fewer than 10 artists, too few for an interval." in shown
    # What is looked at in detail is the test split, since it was evaluated; all can be seen from the head.
    assert "CRNN-TF + MATT on fma_small" in outline.sections["head"]
    assert "has been looked at once" in outline.sections["head"]
    row = results["splits"]["test"]["per_genre"]["bag"]["Jazz"]
    assert f"{row['precision']:.3f} {row['recall']:.3f} {row['f1']:.3f}" in outline.sections["genres"]
    assert "rare, <100" in outline.sections["genres"]
    assert "rare, <200" in outline.sections["genres"]
    scored = load_predictions(run / "predictions.parquet").of_split("test")
    counts = metrics.confusion(scored.label, scored.predicted("bag"), 3)[[0, 2, 1]][:, [0, 2, 1]]  # by training clips
    for genre, numbers in zip(("Rock", "Jazz", "<script>alert(1)</script>"), counts, strict=True):
        cells = " ".join(str(number) for number in numbers if number)
        text = re.sub(" +", " ", outline.sections["confusion"])
        assert f"{genre} {numbers.sum()} {cells}" in text
    assert "0.0625" in outline.sections["environment"]


def test_accuracy_of_a_model_that_is_told_the_genre_is_not_drawn_beside_validation(run, page, tmp_path):
    told = tmp_path / "told"
    shutil.copytree(run, told)
    log = told / "metrics.jsonl"
    log.write_text(log.read_text().replace("train/accuracy", "train/accuracy_told_genre"))
    curves = [training_curves(read_run(folder)) for folder in (run, told)]
    drawn, without = ([chart for chart in of_run if "Accuracy" in chart.caption] for of_run in curves)
    assert "and on training batches as the loss saw them" in drawn[0].caption
    assert "There is none in training, where the model is told the genre" in without[0].caption
    assert len(curves[0]) == len(curves[1])


def test_hostile_names_are_text(page):
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "<b>artist" not in page
    assert "&lt;b&gt;artist" in page


def test_the_split_of_the_details(run, tmp_path):
    """Without predictions on test, the details are of validation."""
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    predictions = load_predictions(folder / "predictions.parquet")
    save_predictions(predictions.take(predictions.split != "test"), folder / "predictions.parquet")
    assert "Genres on the validation split" in write_report(folder).read_text()
    assert "Genres on the test split" in write_report(run).read_text()


def test_demo_is_marked(tmp_path, page):
    banner = "SYNTHETIC MUSIC: these numbers say nothing about music"
    assert banner not in page
    demo = make_run(tmp_path / "demo", corpus="demo")
    assert banner in write_report(demo).read_text()
    other = make_run(tmp_path / "other")
    assert banner in write_comparison([other, demo], tmp_path).read_text()
    assert not (demo / "nowhere").exists()  # the demo corpus is not made for its pictures


@pytest.mark.parametrize(
    ("file", "sections"),
    [
        ("metrics.jsonl", {"training": "No training curves"}),
        ("config.json", {"environment": "no config.json"}),
        (
            "predictions.parquet",
            {
                "confusion": "No confusion matrix",
                "scores": "No curves",
                "attention": "No attention",
                "confused": "No clips",
            },
        ),
    ],
)
def test_what_is_missing_leaves_out_its_section(run, tmp_path, file, sections):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    (folder / file).unlink()
    outline = check_page(write_report(folder).read_text())
    for section, sentence in sections.items():
        assert sentence in outline.sections[section]


def test_results_of_an_early_version(tmp_path):
    """Accuracy and little else, and no file but this."""
    values = {"accuracy": 0.625, "balanced_accuracy": 0.5, "macro_f1": 0.4, "micro_ap": 0.7}
    result = {"clips": 10, "bags": 4, "clip": values, "clip_mean": values, "majority_accuracy": 0.3}
    (tmp_path / "results.json").write_text(json.dumps({"corpus": "fma_small", "splits": {"validation": result}}))
    outline = check_page(write_report(tmp_path).read_text())
    assert "0.625" in outline.sections["results"]
    assert "No table of genres" in outline.sections["genres"]
    check_page(write_comparison([tmp_path, make_run(tmp_path / "new")], tmp_path).read_text())


def test_cross_validation(tmp_path):
    folder = make_run(tmp_path / "run", steps=False, folds=5)
    outline = check_page(write_report(folder).read_text())
    assert "cross-validation of 5 folds" in outline.sections["head"]
    assert "Each fold has its own curves" in outline.sections["training"]


@pytest.mark.parametrize("early", [False, True])
def test_files_of_two_evaluations_are_not_mixed(tmp_path, early):
    """Whichever file was copied; early versions did not say whose predictions they are, but the accuracies do."""
    first, second = make_run(tmp_path / "first"), make_run(tmp_path / "second", seed=1)
    if early:
        for folder in (first, second):
            file = folder / "predictions.parquet"
            save_predictions(load_predictions(file).replace(info={"corpus": "fma_small"}), file)
            assert read_run(folder).predictions.info == {"corpus": "fma_small"}
    for name in ("predictions.parquet", "results.json"):
        mixed = tmp_path / name
        shutil.copytree(first, mixed)
        shutil.copy(second / name, mixed)
        with pytest.raises(UserError, match=rf"than results\.json; --mode eval --workdir {mixed} makes both again"):
            read_run(mixed)


def test_the_options_are_those_of_the_evaluation(tmp_path):
    first = make_run(tmp_path / "first")
    second = make_run(tmp_path / "second", logit_adjustment=4.0, bag_key="published")
    changed = {key: value for key, value, _ in changed_options(read_run(second).config)}
    assert changed["eval.logit_adjustment"] == 4.0
    assert changed["data.bag_key"] == "paper, and published in evaluation"
    assert "paper, and published in evaluation" in write_report(second).read_text()
    options = dict(different_options([read_run(first), read_run(second)]))
    assert options["eval.logit_adjustment"] == [0.0, 4.0]


def test_the_page_says_which_results_it_shows(run, page):
    assert f'<meta name="results" content="{results_digest(run)}">' in page


def test_spectrograms(tmp_path):
    """The clips that are confused most are shown, from what the run has kept of them."""
    corpus = make_corpus()
    folder = make_run(tmp_path / "run")
    assert "the run has not kept any" in check_page(write_report(folder).read_text()).sections["confused"]
    predictions = make_predictions()
    predictions = dataclasses.replace(predictions, track_id=corpus.track_id[: len(predictions)])
    save_predictions(predictions, folder / "predictions.parquet")
    save_examples(predictions, corpus, folder)
    outline = check_page(write_report(folder).read_text())
    shown = re.findall(r"track (\d+)", outline.sections["confused"])
    assert len([tag for tag, _ in outline.elements if tag == "img"]) == len(shown)
    examples = load_examples(folder)
    row = int(np.flatnonzero(corpus.track_id == int(shown[0]))[0])
    np.testing.assert_allclose(examples[int(shown[0])], corpus.clips[row], rtol=1e-3)  # kept in half precision
    (folder / "examples.npz").write_bytes(b"PK")
    assert "the run has not kept any" in check_page(write_report(folder).read_text()).sections["confused"]


def test_most_confused_come_first(page, run):
    scored = load_predictions(run / "predictions.parquet").of_split("test")
    wrong = scored.clip_scores.argmax(axis=1) != scored.label
    surest = np.flatnonzero(wrong)[scored.clip_scores[wrong].max(axis=1).argmax()]
    tracks = re.findall(r"track (\d+)", Outline(page).sections["confused"])
    assert int(tracks[0]) == scored.track_id[surest]
    bags = scored.bag[np.searchsorted(scored.track_id, np.array(tracks, int))]
    assert len(set(bags)) == len(bags)


def test_attention():
    """Two bags of four: one attends to a single clip, one to all alike."""
    scored = make_predictions().take(np.isin(make_predictions().bag, [3, 7]))
    weights = np.array([1, 0, 0, 0, 2, 2, 2, 2], np.float32)  # of any scale
    right = np.array([1, 0, 0, 1, 1, 1, 1, 1], bool)
    label = scored.label
    clip_scores = np.log(np.full((8, 3), 0.05, np.float32) + 0.85 * np.eye(3)[np.where(right, label, (label + 1) % 3)])
    scored = dataclasses.replace(scored, attention=weights, clip_scores=clip_scores.astype(np.float32))
    np.testing.assert_allclose(bag_weights(scored), [1, 0, 0, 0, 0.25, 0.25, 0.25, 0.25])
    preferred, others = preferred_and_others(scored, bag_weights(scored), np.array([0, 1]), right)
    np.testing.assert_allclose(preferred, [1, np.nan])
    np.testing.assert_allclose(others, [1 / 3, np.nan])
    found = attention_of(scored)
    assert found["total"]["effective"] == pytest.approx((1 + 4) / 2)
    assert found["total"]["relative"] == pytest.approx((1 / 4 + 1) / 2)
    assert found["difference"]["value"] == pytest.approx(2 / 3)
    assert found["difference"]["bags"] == 1
    assert attention_of(dataclasses.replace(scored, attention=None)) is None


@pytest.mark.parametrize(("bags", "shown"), [(9, "(no interval: of 9 artists only)"), (10, "interval over artists ")])
def test_attention_of_few_artists_has_no_interval(tmp_path, bags, shown):
    """Nor is anything said of what it prefers."""
    folder = make_run(tmp_path / "run")

    def few(predictions):
        sizes = np.bincount(predictions.bag)
        return predictions.take(np.isin(predictions.bag, 16 + np.flatnonzero(sizes[16:] > 1)[:bags]))

    page = write_report(changed_predictions(folder, few)).read_text()
    assert shown in check_page(page).sections["attention"]
    prefers = [word in page for word in ("prefers clips", "no clear preference")]
    assert sum(prefers) == (bags == 10)


def test_pairs_of_few_artists_have_no_interval(tmp_path):
    folders = [
        changed_predictions(make_run(tmp_path / name, seed=i), lambda p: p.take(p.bag < 25))
        for i, name in enumerate(("first", "second"))
    ]
    page = write_comparison(folders, tmp_path).read_text()
    shown = check_page(page).sections["differences"]
    assert "9 artists" in shown
    assert "\N{EN DASH} p \N{EN DASH}" in shown
    assert " to " not in shown
    assert 'class="best"' not in page[page.index('<section id="differences">') : page.index('<section id="genres">')]


def test_paired_difference_is_that_of_the_functions(tmp_path):
    """On the clips that both scored, with the scores of whole bags."""
    first, second = make_run(tmp_path / "first"), make_run(tmp_path / "second", seed=1)
    predictions = load_predictions(second / "predictions.parquet")
    kept = np.arange(len(predictions)) % 3 > 0  # cuts through bags
    save_predictions(predictions.take(kept), second / "predictions.parquet")
    page = write_comparison([first, second], tmp_path / "both.html").read_text()
    shown = check_page(page).sections["differences"]

    a, b = (load_predictions(folder / "predictions.parquet").of_split("validation") for folder in (first, second))
    rows = np.searchsorted(a.track_id, b.track_id)
    samples = []
    for scored, chosen in ((a, rows), (b, slice(None))):
        scores = scored.levels["clip_mean"][chosen]
        samples.append(ArtistBootstrap(b.artists).metrics(b.label, scores, scores.argmax(axis=1)))
    for metric in ("accuracy", "balanced_accuracy", "macro_f1", "micro_ap"):
        low, high, p = paired(samples[1][metric], samples[0][metric], 16)
        assert f"{limits((low, high))} {p_value(p)}" in shown
    right = [x.levels["clip_mean"][r].argmax(axis=1) == b.label for x, r in ((b, slice(None)), (a, rows))]
    assert f"{signed(right[0].mean() - right[1].mean())} " in shown
    assert p_value(mcnemar(*right)) in shown
    assert f"{len(b)} clips" in shown
    assert "only those that both scored count" in shown


def test_sign_of_a_difference():
    """The second minus the first."""
    label = np.array([0, 1, 2] * 10)
    good, bad = np.log(np.full((30, 3), 0.1)), np.zeros((30, 3))
    good[np.arange(30), label] = np.log(0.8)
    wrong = np.zeros(30, int)
    (row,) = paired_differences(
        label, np.arange(30).astype(str), {"clip": (bad, wrong)}, {"bag": (good, label)}, [("bag", "clip")]
    )
    assert row["levels"] == ("bag", "clip")
    assert row["metrics"]["accuracy"]["difference"] == pytest.approx(2 / 3)
    assert row["metrics"]["accuracy"]["interval"][0] > 0.3
    assert row["mcnemar"] == pytest.approx(2 * 0.5**20)


def test_a_bag_model_is_compared_with_averaged_clips():
    pooled, plain = make_predictions(), make_predictions(pooling=False)
    same = [("clip", "clip"), ("clip_mean", "clip_mean")]
    assert comparable_levels(pooled, pooled) == [*same, ("bag", "bag")]
    assert comparable_levels(plain, pooled) == [*same, ("bag", "clip_mean")]
    assert comparable_levels(pooled, plain) == [*same, ("clip_mean", "bag")]
    assert scores_of(plain).keys() == {"clip", "clip_mean"}


def test_runs_that_cannot_be_paired(tmp_path):
    first = make_run(tmp_path / "first")
    other = make_run(tmp_path / "other", corpus="fma_medium", fingerprint="beef")
    features = make_run(tmp_path / "features", fingerprint="cafe")  # another representation of the same clips
    without = make_run(tmp_path / "without")
    (without / "predictions.parquet").unlink()
    page = write_comparison([first, other, features, without], tmp_path).read_text()
    shown = check_page(page).sections["differences"]
    assert "other: not paired: it is on another corpus" in shown
    assert "without: not paired: this run has no predictions" in shown
    assert "features: not paired" not in shown
    assert "40 clips" in shown


def changed_predictions(folder, change):
    """Changes a run's predictions and evaluates them anew."""
    about = {key: value for key, value in json.loads((folder / "results.json").read_text()).items() if key != "splits"}
    finish(change(load_predictions(folder / "predictions.parquet")), about, folder, "")
    return folder


def with_other_bags(predictions):
    return predictions.replace(bag=np.arange(len(predictions)), bag_scores=predictions.clip_scores)


def with_another_genre(predictions):
    return predictions.replace(genres=("Rock", GENRES[1], "Polka"))


@pytest.mark.parametrize(
    ("about", "change", "words", "paired"),
    [
        (
            {"corpus": "fma_medium", "fingerprint": "beef"},
            lambda p: p.take(np.arange(len(p)) % 2 == 0),
            "it is on another corpus: fma_medium (fingerprint beef, 20 validation clips in 16 bags); the first is on "
            "fma_small (fingerprint f00d, 40 validation clips in 16 bags).",
            "not paired: it is on another corpus",
        ),
        (
            {"corpus": "arrays", "fingerprint": "beef"},
            lambda p: p.replace(label=(p.label + 1) % 3),
            "it is on another corpus: arrays (fingerprint beef, 40",
            "not paired: it is on another corpus",
        ),
        (
            {},
            lambda p: p.take(np.arange(len(p)) > 60),
            "it scored other clips: 19 of its 19 are among the 40",
            "19 clips",
        ),
        (
            {"fingerprint": "fold"},
            lambda p: p.replace(track_id=p.track_id + 9999),
            "it scored other clips: 0 of its 40",
            "not paired: the validation splits of the two share no clip",
        ),
        (
            {},
            with_another_genre,
            "it has other genres (Jazz, Polka in one of the two only)",
            "not paired: it has other",
        ),
        ({}, with_other_bags, "its bags hold other clips (data.bag_key, or the albums)", "40 clips"),
    ],
)
def test_runs_that_were_not_evaluated_on_the_same_say_so(tmp_path, about, change, words, paired):
    first, second = make_run(tmp_path / "first"), make_run(tmp_path / "second", seed=1, **about)
    changed_predictions(second, change)
    page = write_comparison([first, second], tmp_path).read_text()
    outline = check_page(page)
    assert "validation split of each" in outline.sections["head"]
    assert f"second: {words}" in outline.sections["head"]
    assert paired in outline.sections["differences"]
    genres = page[page.index('<section id="genres">') : page.index('<section id="curves">')]
    assert 'class="best"' not in genres
    support = load_predictions(second / "predictions.parquet").of_split("validation").label == 0
    assert f"<small>{support.sum()} clips</small>" in genres


def test_other_bags_are_paired_clip_by_clip_alone(tmp_path):
    first, second = make_run(tmp_path / "first"), make_run(tmp_path / "second", seed=1)
    changed_predictions(second, with_other_bags)
    page = write_comparison([first, second], tmp_path).read_text()
    differences = page[page.index('<section id="differences">') : page.index('<section id="genres">')]
    assert re.findall(r'<td class="text">([^<]+)', differences) == ["clip"]


def test_runs_of_the_same_clips_have_the_highest_in_bold(tmp_path):
    first, second = make_run(tmp_path / "first"), make_run(tmp_path / "second", seed=1, pooling=False)
    for folder in (first, second):
        for gone in ((), ("predictions.parquet",)):  # also where the results alone say that they are the same
            for name in gone:
                (folder / name).unlink()
            page = write_comparison([first, second], tmp_path).read_text()
            assert "not evaluated on the same" not in page
            assert page[page.index('<section id="genres">') :].count('class="best"') == 3
    results = json.loads((second / "results.json").read_text())
    results["fingerprint"] = "beef"
    (second / "results.json").write_text(json.dumps(results))
    assert "not evaluated on the same" in write_comparison([first, second], tmp_path).read_text()


def test_comparison_shows_what_differs(tmp_path):
    first, second = make_run(tmp_path / "a" / "run"), make_run(tmp_path / "b" / "run", seed=1)
    saved = json.loads((second / "config.json").read_text())
    saved["optimizer"]["learning_rate"], saved["model"]["encoder"]["name"] = 0.5, "<i>"
    (second / "config.json").write_text(json.dumps(saved))
    page = write_comparison([first, second], tmp_path).read_text()
    outline = check_page(page)
    assert "a/run" in outline.sections["runs"]  # told apart by the folder above
    shown = outline.sections["configurations"]
    assert "optimizer.learning_rate 0.0625 0.5" in shown
    assert "optimizer.name" not in shown
    assert 'model.encoder.name "<i>"' in shown
    results = json.loads((second / "results.json").read_text())["splits"]["validation"]
    assert decimals(results["per_genre"]["bag"]["Rock"]["f1"]) in outline.sections["genres"]
    assert len([tag for tag, _ in outline.elements if tag == "svg"]) == 3  # two metrics over epochs, precision-recall


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: shutil.rmtree(run), "there is no folder"),
        (lambda run: (run / "results.json").unlink(), "has no results.json"),
        (lambda run: (run / "results.json").write_text('{"splits": {"vali'), "is it cut off"),
        (lambda run: (run / "results.json").write_text("{}"), "has no results"),
        (lambda run: (run / "results.json").write_text('{"splits": {"test": 3}}'), "'test' is no result"),
        (lambda run: (run / "results.json").write_text('{"splits": {"test": {"clips": 3}}}'), "'test' is no result"),
        (
            lambda run: (run / "results.json").write_text('{"splits": {"test": {"clips": 1, "bags": 1, "clip": {}}}}'),
            "'test' is no result",
        ),
        (lambda run: (run / "report.html.tmp").mkdir(), "cannot be written"),
        (lambda run: (run / "predictions.parquet").write_bytes(b"PAR1 cut"), "cannot be read as Parquet"),
        (lambda run: (run / "config.json").write_text("[]"), "not a JSON object"),
    ],
)
def test_errors_are_for_people(run, tmp_path, capsys, damage, message):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    damage(folder)
    assert main([str(folder)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert str(folder) in error


def test_command(run, tmp_path, capsys):
    assert main([str(run)]) == 0
    assert capsys.readouterr().out.strip() == str(run / "report.html")
    second = make_run(tmp_path / "second", seed=1)
    capsys.readouterr()
    assert main([str(run), str(second), "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "compare.html")
    assert main([str(run), str(second), "--out", str(tmp_path / "no" / "such.html")]) == 1
    assert "choose another --out" in capsys.readouterr().err
    assert main([str(run), "--out", str(tmp_path)]) == 1
    assert "--out is for" in capsys.readouterr().err
    assert main([str(run), str(run)]) == 1
    assert "given twice" in capsys.readouterr().err
    assert main([str(tmp_path)]) == 1
    assert "It holds runs: second" in capsys.readouterr().err
    with pytest.raises(UserError, match="there is no folder"):
        read_run(tmp_path / "nothing")


def test_changed_options():
    saved = keys.default()
    saved.train.epochs = 7
    saved.model.encoder.name = "crnn"
    saved.demo.train = {"epochs": 3}
    assert changed_options(keys.to_json(saved)) == [("model.encoder.name", "crnn", None), ("train.epochs", 7, 60)]


def test_date_is_that_of_the_results(tmp_path):
    folder = make_run(tmp_path / "run")
    results = json.loads((folder / "results.json").read_text())
    (folder / "results.json").write_text(json.dumps(results | {"date": "2024-02-29T12:34:56+00:00"}))
    assert "2024-02-29 12:34 UTC" in write_report(folder).read_text()
    (folder / "results.json").write_text(json.dumps(results | {"date": "some day"}))
    assert "UTC" not in check_page(write_report(folder).read_text()).sections["head"]


def test_top_k_has_its_intervals(run, page):
    row = json.loads((run / "results.json").read_text())["splits"]["test"]["top_k"]["bag"]["<200"]
    assert f"{decimals(row['2'])} {limits(row['intervals']['2'])}" in check_page(page).sections["genres"]


def test_comparison_is_on_the_split_that_most_runs_have(tmp_path):
    both = [make_run(tmp_path / name, seed=i, test=True) for i, name in enumerate(("first", "second"))]
    third = make_run(tmp_path / "third")
    head = check_page(write_comparison([*both, third], tmp_path).read_text()).sections["head"]
    assert "third: it scored other clips: 10 of its 40 are among the 10 of the first." in head
    assert "On the validation split of each, which all of them were evaluated on" in head
    for folder in both:
        results = json.loads((folder / "results.json").read_text())
        del results["splits"]["validation"]
        (folder / "results.json").write_text(json.dumps(results))
    head = check_page(write_comparison([*both, third], tmp_path).read_text()).sections["head"]
    assert "On the test split, which 2 of 3 runs were evaluated on. Not: third" in head


def test_numbers():
    assert decimals(0.12345) == "0.123"
    assert decimals(float("nan")) == decimals(None) == "\N{EN DASH}"
    assert signed(0.0004) == signed(-0.0004) == "0.000"
    assert signed(0.25) == "+0.250"
    assert signed(-0.25) == "\N{MINUS SIGN}0.250"
    assert limits((-0.5, 0.25)) == "\N{MINUS SIGN}0.500 to 0.250"
    assert limits(None) == ""
    assert limits((float("nan"), float("nan"))) == limits((None, None)) == "\N{EN DASH}"
    assert p_value(0.0123) == "p 0.012"
    assert p_value(1e-9) == "p <0.001"
    assert shade(0) == "background:rgb(255,255,255);color:#1b1f24"
    assert shade(1) == "background:rgb(0,82,140);color:#fff"


def test_advice_on_the_test_split_is_given_only_where_there_is_one(tmp_path):
    """The predictions say which splits the corpus has; those of early versions do not."""
    folder = make_run(tmp_path / "run")
    predictions = load_predictions(folder / "predictions.parquet")
    heads = []
    for info in ({"corpus_splits": ["train", "validation", "test"]}, {"corpus_splits": ["train", "validation"]}, {}):
        save_predictions(predictions.replace(info=info), folder / "predictions.parquet")
        heads.append(check_page(write_report(folder).read_text()).sections["head"])
    assert "--test" in heads[0]
    assert "test split" not in heads[1]
    assert "No test split has been evaluated." in heads[2]
    assert "--test" not in heads[2]


def test_what_does_not_apply_is_left_out(tmp_path):
    """A baseline has no steps and no attention; genres without counts and artists have no such columns."""
    folder = make_run(tmp_path / "run", steps=False, pooling=False)
    results = json.loads((folder / "results.json").read_text())
    del results["best_step"]
    result = results["splits"]["validation"]
    for row in result["top_k"]["clip"].values():
        row["clips"] = 0
    (folder / "results.json").write_text(json.dumps(results))
    predictions = load_predictions(folder / "predictions.parquet")
    save_predictions(predictions.of_split("validation").replace(train_clips=None), folder / "predictions.parquet")
    page = write_report(folder).read_text()
    outline = check_page(page)
    assert not {"training", "attention"} & outline.sections.keys()
    assert "Top-K" not in page
    head = outline.sections["genres"].split("number beside it.")[1].split("Rock")[0]
    assert "artists" in head
    assert "training clips" not in head
