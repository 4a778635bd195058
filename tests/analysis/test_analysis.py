"""What `mgc-jax analyse` writes, against evaluation, the model itself, and other libraries."""

import csv
import hashlib
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet
import pytest
import sklearn.metrics
from flax import nnx
from helpers import make_corpus, small_config

from mgc_jax import modes
from mgc_jax.analysis import __main__ as command
from mgc_jax.analysis import comparison, projection, tables, work
from mgc_jax.analysis.layers import encoder_grams
from mgc_jax.analysis.opening import OpenedRun, opened
from mgc_jax.config.options import encoder_options, pooling_options
from mgc_jax.errors import UserError
from mgc_jax.evaluation.predictions_file import load_predictions
from mgc_jax.experiment import Experiment
from mgc_jax.loading import load_model

NASTY = [
    "</script><script>alert(1)</script>",
    "tab\tand\nline",
    '"quoted", with comma',
    "<!--<script>",
    "\u2028\x85 &amp;",
    "",
]


def configured(folder, pooling="matt", **changes):
    """An MLP on feature vectors, and a table with titles and artists' names."""
    folder.mkdir(exist_ok=True)
    config = small_config(folder, make_corpus(clip_shape=(6,)))
    table = folder / "tracks.csv"
    rows = list(csv.reader(table.open()))
    titles = {row[0]: NASTY[i % len(NASTY)] for i, row in enumerate(rows[1:])}
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*rows[0], "title", "artist_name"])
        writer.writerows([*row, titles[row[0]], f"artist <{row[3]}>"] for row in rows[1:])
    config.data.arrays.axes = "clip feature"
    config.model.encoder = encoder_options("mlp", hidden=(8,))
    config.model.pooling = pooling_options(pooling)
    config.train.epochs = 1
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(scope="module")
def analysed(tmp_path_factory):
    """A run of MATT that was analysed, and hashes of its files before."""
    folder = tmp_path_factory.mktemp("analysis")
    run = folder / "run"
    modes.train(configured(folder), run)
    before = hashes(run)
    work.analyse(run, None, "pca", {})
    return run, before


def hashes(folder):
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in ("train.log", ".lock")]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def read(run, name="clips.parquet"):
    table = pyarrow.parquet.read_table(run / "analysis" / name)
    columns = {column: np.array(table[column].to_pylist()) for column in table.column_names}
    return columns, table.schema


def test_clips_are_those_of_evaluation_with_titles(analysed):
    run, _ = analysed
    columns, schema = read(run)
    expected = load_predictions(run / "predictions.parquet")
    assert set(expected.split) == {"train", "validation"}
    for name in ("track_id", "split", "artist", "album", "bag"):
        assert columns[name].tolist() == getattr(expected, name).tolist()
    genres = np.array(expected.genres)
    np.testing.assert_array_equal(columns["genre"], genres[expected.label])
    for level, scores in (("clip", expected.clip_scores), ("bag", expected.bag_scores)):
        np.testing.assert_array_equal(columns[f"predicted_{level}"], genres[expected.predicted(level)])
        np.testing.assert_array_equal(np.stack([columns[f"{level}/{genre}"] for genre in genres], 1), scores)
    np.testing.assert_array_equal(columns["attention"], expected.attention)
    under = {genre: columns[f"attention/{genre}"] for genre in genres}
    for genre in genres:
        np.testing.assert_allclose(np.bincount(columns["bag"], under[genre]), 1, rtol=1e-5)
    of_predicted = [under[genre][i] for i, genre in enumerate(columns["predicted_bag"])]
    np.testing.assert_array_equal(of_predicted, expected.attention)
    assert (schema.field("embedding").type.list_size, str(schema.field("embedding").type.value_type)) == (8, "float")
    rows = {int(row["track_id"]): row for row in csv.DictReader((run.parent / "tracks.csv").open(newline=""))}
    assert columns["title"].tolist() == [rows[track]["title"].strip() for track in columns["track_id"].tolist()]
    assert columns["artist_name"].tolist() == [rows[track]["artist_name"] for track in columns["track_id"].tolist()]


def test_embeddings_are_those_of_the_loaded_model(analysed):
    run, _ = analysed
    columns, _ = read(run)
    corpus = make_corpus(clip_shape=(6,))
    _, aux = load_model(run)(corpus.clips[columns["track_id"] - 1000])
    np.testing.assert_allclose(columns["embedding"], aux["embedding"], rtol=1e-5, atol=1e-6)


def test_the_vector_of_a_bag_gives_its_score(analysed):
    """MATT's activation and head on the weighted mean give the score of the genre whose query weighed."""
    run, _ = analysed
    bags, _ = read(run, "bags.parquet")
    clips, _ = read(run)
    first = np.searchsorted(clips["bag"], bags["bag"])
    assert bags["clips"].tolist() == np.bincount(clips["bag"]).tolist()
    assert bags["predicted"].tolist() == clips["predicted_bag"][first].tolist()
    assert bags["genre"].tolist() == clips["genre"][first].tolist()
    model = load_model(run)
    logits = np.asarray(model.model.head(np.tanh(bags["embedding"])))
    log_scores = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    for i, genre in enumerate(bags["predicted"]):
        expected = clips[f"bag/{genre}"][first[i]]
        assert log_scores[i, model.genres.index(genre)] == pytest.approx(expected, abs=1e-5)


def test_results_of_the_run_stay_as_they_were(analysed):
    run, before = analysed
    after = {path: digest for path, digest in hashes(run).items() if f"{run}/analysis/" not in path}
    assert after == before


def test_the_page_holds_every_clip_and_no_markup_of_titles(analysed):
    run, _ = analysed
    page = (run / "analysis" / "map.html").read_text()
    assert page.count("</script>") == 2
    assert "alert(1)</" not in page
    assert not re.search(r"""(src|href)=["']?(https?:)?//|@import|url\(""", page)
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    columns, _ = read(run)
    assert data["title"] == columns["title"].tolist()
    assert [data["artists"][i] for i in data["artist"]] == columns["artist_name"].tolist()
    assert [data["albums"][i] for i in data["album"]] == columns["album"].tolist()
    assert [data["genres"][i] for i in data["predicted"]] == columns["predicted_bag"].tolist()
    assert [data["splits"][i] for i in data["split"]] == columns["split"].tolist()
    places = np.array([data["x"], data["y"]]).T
    expected, _ = projection.principal_components(columns["embedding"])
    expected = (expected - expected.min(0)) / np.ptp(expected, axis=0).max()
    np.testing.assert_allclose(places / data["steps"], expected, atol=1e-3)


def test_the_projector_has_a_line_per_clip(analysed):
    run, _ = analysed
    folder, (columns, _) = run / "analysis" / "projector", read(run)
    lines = (folder / "metadata.tsv").read_text().split("\n")
    assert lines.pop() == ""
    header, *rows = [line.split("\t") for line in lines]
    assert {len(row) for row in rows} == {len(header)}
    assert [row[header.index("track_id")] for row in rows] == columns["track_id"].astype(str).tolist()
    assert r"tab\tand\nline" in {row[header.index("title")] for row in rows}
    np.testing.assert_allclose(np.loadtxt(folder / "tensors.tsv"), columns["embedding"], rtol=1e-5)
    text = (folder / "projector_config.pbtxt").read_text()
    assert re.findall(r"tensor_shape: (\d+)", text) == [str(len(rows)), "8"]
    for name in re.findall(r'_path: "(.+?)"', text):
        assert (folder / name).is_file()


def test_embeddings_are_a_corpus_to_train_on(analysed, tmp_path):
    run, _ = analysed
    config = configured(tmp_path)
    config.data.arrays.clips = str(run / "analysis" / "embeddings.npz")
    config.data.arrays.table = str(run / "analysis" / "embeddings.csv")
    experiment = Experiment(config, tmp_path / "run")
    columns, _ = read(run)
    np.testing.assert_array_equal(experiment.corpus.clips, columns["embedding"].astype(np.float32))
    for name in ("track_id", "split", "artist", "album"):
        assert getattr(experiment.corpus, name).tolist() == columns[name].tolist()
    results = modes.train(config, tmp_path / "run")
    assert results["splits"]["validation"]["clips"] == np.sum(columns["split"] == "validation")


def test_neighbours_are_the_nearest_by_cosine(analysed):
    run, _ = analysed
    columns, _ = read(run)
    distances = sklearn.metrics.pairwise.cosine_distances(columns["embedding"])
    track = int(columns["track_id"][5])
    own, *songs = tables_neighbours(run, track, 7)
    expected = [i for i in np.argsort(distances[5], kind="stable") if i != 5][:7]
    assert own["track_id"] == track
    np.testing.assert_allclose([song["distance"] for song in songs], distances[5][expected], atol=1e-5)
    others = tables_neighbours(run, track, 1000, other_artists=True)[1:]
    assert len(others) == np.sum(columns["artist"] != columns["artist"][5])
    assert own["artist"] not in {song["artist"] for song in others}
    text = work.find_neighbours(run, track, 7, None, {}, other_artists=False)
    assert len(text.splitlines()) == 9


def tables_neighbours(run, track, k, **options):
    from mgc_jax.analysis.neighbours import neighbours

    return neighbours(run / "analysis", track, k, **options)


def test_an_unknown_song_and_an_empty_split_are_named(analysed):
    run, _ = analysed
    with pytest.raises(UserError, match=r"no track 7 among the .* clips .*\(train, validation\)"):
        work.find_neighbours(run, 7, 3, None, {}, other_artists=False)
    with pytest.raises(SystemExit):
        command._parse([str(run), "--splits", "training"])


def test_neighbours_of_other_splits_write_the_tables_again(analysed, tmp_path):
    run = shutil.copytree(analysed[0], tmp_path / "run")
    track = int(np.flatnonzero(make_corpus(clip_shape=(6,)).split == "test")[0]) + 1000
    work.find_neighbours(run, track, 3, ["test"], {}, other_artists=False)
    assert set(read(run)[0]["split"]) == {"test"}


def test_files_of_earlier_weights_are_named(analysed, tmp_path, monkeypatch, caplog):
    run = shutil.copytree(analysed[0], tmp_path / "run")
    track = int(read(run)[0]["track_id"][0])
    work.find_neighbours(run, track, 3, None, {}, other_artists=False)
    work.find_neighbours(run, track, 3, ["train"], {}, other_artists=False)
    assert "of an earlier one" not in caplog.text
    about = work.about_best(run)
    monkeypatch.setattr(work, "about_best", lambda run: about | {"step": about["step"] + 1})
    work.find_neighbours(run, track, 3, ["train"], {}, other_artists=False)
    assert "of an earlier one are map.html, embeddings.npz, embeddings.csv, projector" in caplog.text
    assert f"mgc-jax analyse {run}" in caplog.text


@pytest.mark.parametrize(
    "pooling", ["none", "mean", "gated_attention", "noisy_or", "hierarchical_matt", "set_transformer"]
)
def test_every_pooling_can_be_analysed(tmp_path, pooling):
    config = configured(tmp_path, pooling)
    experiment = Experiment(config, tmp_path / "run")
    from mgc_jax.analysis.clips import analyse_clips

    about = {"corpus": "arrays", "fingerprint": "", "step": 0, "weights": None}
    clips = analyse_clips(OpenedRun(experiment, (experiment.params, experiment.batch_stats), about), ["validation"])
    tables.write_clips(clips, tmp_path)
    tables.write_bags(clips, tmp_path)
    names = pyarrow.parquet.read_schema(tmp_path / "clips.parquet").names
    assert ("predicted_bag" in names) == ("attention" in names) == (pooling != "none")
    assert ("attention/Jazz" in names) == (pooling in ("noisy_or", "hierarchical_matt"))
    bags = pyarrow.parquet.read_table(tmp_path / "bags.parquet")
    assert len(bags) == len(experiment.bags["validation"])
    if pooling in ("none", "mean"):
        sums = np.add.reduceat(clips.embeddings, clips.predictions.offsets[:-1])
        expected = sums / clips.predictions.bag_sizes[:, None]
        np.testing.assert_allclose(np.array(bags["embedding"].to_pylist()), expected, rtol=1e-5, atol=1e-6)


# ---- Comparison


@pytest.mark.parametrize(
    ("encoder", "options", "layers"),
    [
        ("crnn", {"gru_units": 4}, ["blocks.0", "blocks.1", "first_gru", "second_gru"]),
        ("fcn4", {}, ["blocks.0", "blocks.1"]),
        ("crnn_tf", {"gru_units": 4}, ["blocks.0", "blocks.1", "along_frequency", "along_time", "dense"]),
    ],
)
def test_layers_are_recorded_whatever_the_encoder(tmp_path, encoder, options, layers):
    """In the order of the calls. The last layer of CRNN and FCN-4 is the embedding; GRUs have the axis of the clips
    behind another one.
    """
    changes = {"filters": (4, 4), "pools": ((2, 4), (2, 4)), **options}
    config = small_config(tmp_path, make_corpus())
    config.model.encoder = encoder_options(encoder, **changes)
    run = Experiment(config, tmp_path / "run")
    weights = run.params, run.batch_stats
    rows = run.corpus.indices("validation")[::2]
    grams = encoder_grams(OpenedRun(run, weights, {}), rows)
    assert list(grams) == layers

    @jax.jit
    def outputs(weights, clips):
        model, x = nnx.merge(run.graph, *weights), run.inputs.evaluation(clips)
        mask = jnp.ones(len(x), bool)
        block = model.encoder.blocks[0](x.swapaxes(1, 2)[..., None], mask, False)
        return model.embed(x, mask), block.reshape(len(x), -1)

    embedding, block = (np.asarray(value, np.float64) for value in outputs(weights, run.corpus.clips[rows]))
    centre = np.eye(len(rows)) - 1 / len(rows)
    for name, features in ((layers[-1], embedding), (layers[0], block)):
        if name == "dense":  # before its activation
            continue
        np.testing.assert_allclose(
            centre @ grams[name] @ centre, centre @ features @ features.T @ centre, rtol=1e-4, atol=1e-4
        )


def test_a_model_is_like_itself_and_changes_nothing(analysed, tmp_path):
    run = analysed[0]
    twin = shutil.copytree(run, tmp_path / "twin", ignore=shutil.ignore_patterns("analysis"))
    text = work.compare(run, twin, None, 50, {})
    folder = run / "analysis" / "compared" / "twin"
    rows = list(csv.reader((folder / "cka.csv").open()))
    assert rows[0] == ["layer", "encoder.layers.0", "embedding", "log scores"]
    np.testing.assert_allclose(np.diag(np.array([row[1:] for row in rows[1:]], float)), 1, atol=1e-6)
    values = json.loads((folder / "comparison.json").read_text())
    assert (values["changed"], values["mcnemar"], values["cka_clips"]) == (0, 1.0, 50)
    right = load_predictions(run / "predictions.parquet")
    assert values["both_right"] == np.sum(right.predicted("bag") == right.label)
    assert values["runs"] == [str(run), str(twin)]
    assert "1.000" in text


def test_comparisons_with_runs_of_one_name_stay_apart(tmp_path):
    run, here, there = tmp_path / "run", tmp_path / "a" / "same", tmp_path / "b" / "same"
    folder = run / "analysis" / "compared" / "same"
    assert work.comparison_folder(run, here) == folder
    folder.mkdir(parents=True)
    (folder / "comparison.json").write_text("{}")
    assert work.comparison_folder(run, there) == folder
    (folder / "comparison.json").write_text(json.dumps({"runs": [str(run), str(here)]}))
    assert work.comparison_folder(run, here) == folder
    other = work.comparison_folder(run, there)
    assert re.fullmatch("same-[0-9a-f]{8}", other.name)
    assert other == work.comparison_folder(run, there) != work.comparison_folder(run, tmp_path / "c" / "same")


def test_another_model_changes_the_genres_that_the_table_lists(analysed, tmp_path):
    run = analysed[0]
    modes.train(configured(tmp_path, "gated_attention", seed=3, **{"model.encoder.hidden": (5,)}), tmp_path / "other")
    work.compare(run, tmp_path / "other", ["validation"], 1000, {})
    first, second = (
        load_predictions(folder / "predictions.parquet").of_split("validation") for folder in (run, tmp_path / "other")
    )
    assert first.track_id.tolist() == second.track_id.tolist()
    before, after = first.predicted("bag"), second.predicted("bag")
    folder = run / "analysis" / "compared" / "other"
    rows = list(csv.DictReader((folder / "changed.csv").open(newline="")))
    assert [int(row["track_id"]) for row in rows] == first.track_id[before != after].tolist()
    assert [row["predicted_by_other"] for row in rows] == [first.genres[g] for g in after[before != after]]
    values = json.loads((folder / "comparison.json").read_text())
    assert values["only_second_right"] == np.sum((after == first.label) & (before != first.label))
    assert values["clips"] == len(first)


def test_changes_are_found_by_track_whatever_the_order():
    from mgc_jax.evaluation.predictions import Predictions

    def predictions(track_id, scores):
        words = np.full(len(track_id), "")
        return Predictions(
            ("a", "b"), np.array(track_id), words, np.array(track_id, np.int32) % 2, words, words,
            np.arange(len(track_id)), clip_scores=np.array(scores, float),
        )  # fmt: skip

    first = predictions([4, 5, 6, 7], [[1, 0], [1, 0], [1, 0], [0, 1]])
    second = predictions([7, 6, 5, 4], [[1, 0], [1, 0], [0, 1], [1, 0]])
    changes = comparison.changed_clips(first, second, "clip")
    assert first.track_id[changes.rows].tolist() == second.track_id[changes.other_rows].tolist() == [5, 7]
    assert changes.right.tolist() == [True, False, True, True]
    assert changes.other_right.tolist() == [True, True, True, False]


# ---- What is refused


def test_other_corpora_and_missing_ones_are_refused(analysed, tmp_path):
    run = analysed[0]
    other = configured(tmp_path / "other")
    there = dict(clips=other.data.arrays.clips, table=other.data.arrays.table)
    np.savez(
        there["clips"], clips=1 + make_corpus(clip_shape=(6,)).clips, track_id=make_corpus(clip_shape=(6,)).track_id
    )
    with pytest.raises(UserError, match="was trained on corpus arrays"):
        work.analyse(run, None, "pca", {f"data.arrays.{name}": path for name, path in there.items()})
    modes.train(other, tmp_path / "run")
    with pytest.raises(UserError, match="was trained on corpus arrays"):
        work.compare(run, tmp_path / "run", None, 10, {})
    with pytest.raises(UserError, match="does not exist"):
        work.analyse(run, None, "pca", {"data.arrays.clips": str(tmp_path / "gone.npz")})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "holds no run"),
        (lambda folder: shutil.rmtree(folder / "checkpoints"), "no complete checkpoint"),
        (lambda folder: (folder / "fold-0").mkdir(), "cross-validation; analyse one of its runs"),
        (lambda folder: as_baseline(folder / "config.json"), "baseline of scikit-learn, which has no embeddings"),
    ],
)  # fmt: skip
def test_folders_without_a_model_are_refused(analysed, tmp_path, make, message):
    folder = tmp_path / "run"
    if message == "holds no run":
        folder.mkdir()
    else:
        shutil.copytree(analysed[0], folder, ignore=shutil.ignore_patterns("analysis"))
    make(folder)
    with pytest.raises(UserError, match=message), opened(folder, {}):
        pass


def as_baseline(path):
    config = json.loads(path.read_text())
    config["baseline"]["name"] = "lr"
    path.write_text(json.dumps(config))


def test_an_empty_split_is_named(analysed, monkeypatch):
    with opened(analysed[0], {}) as run:
        from mgc_jax.analysis import clips

        monkeypatch.setattr(clips, "nonempty_splits", lambda corpus, test: ["train"])
        with pytest.raises(UserError, match="no clips in the split validation; it has train"):
            clips.analyse_clips(run, ["train", "validation"])


def test_a_full_disk_leaves_the_old_table(analysed, tmp_path, monkeypatch):
    path = tmp_path / "table.csv"
    tables.write_csv(path, ("a",), [(1,)])

    def full():
        yield (2,)
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match=r"table.csv cannot be written: No space left.*give the same command again"):
        tables.write_csv(path, ("a",), full())
    assert path.read_text() == "a\n1\n"
    assert list(tmp_path.iterdir()) == [path]


def test_umap_that_is_not_installed_is_one_sentence(monkeypatch):
    monkeypatch.setattr(projection.importlib.util, "find_spec", lambda name: None)
    assert projection.choose("auto") == "pca"
    with pytest.raises(UserError, match=r"pip install 'mgc-jax\[analysis\]'"):
        projection.choose("umap")


def test_the_command_takes_overrides_anywhere():
    given, overrides = command._parse(["--config.data.data_dir=x=y", "run", "--neighbours", "7", "-k", "3"])
    assert (overrides, given.neighbours, given.k, given.other) == ({"data.data_dir": "x=y"}, 7, 3, None)
    with pytest.raises(SystemExit):
        command._parse(["run", "other", "--neighbours", "7"])
    with pytest.raises(SystemExit):
        command._parse(["run", "-k", "0"])


# ---- The map's places


@pytest.mark.parametrize("shape", [(1, 5), (2, 5), (9, 1), (40, 6)])
def test_components_are_those_of_the_singular_values(shape):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    places, shares = projection.principal_components(x)
    assert places.shape == (shape[0], 2)
    u, s, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)
    expected = np.zeros((shape[0], 2))
    expected[:, : min(2, *shape)] = (u * s)[:, :2]
    np.testing.assert_allclose(np.abs(places), np.abs(expected), atol=1e-5)
    if shape[0] > 2:
        np.testing.assert_allclose(shares[: min(2, *shape)], (s**2 / np.sum(s**2))[:2], rtol=1e-5)


def test_points_in_one_place_are_a_map():
    assert projection.project(np.ones((4, 3), np.float32), "pca").places.tolist() == [[0, 0]] * 4
