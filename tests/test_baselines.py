import dataclasses
import importlib
import json
import logging
import warnings

import numpy as np
import pytest
from helpers import make_corpus, save_arrays
from ml_collections import ConfigDict
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, f1_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from mgc_jax.baselines import couple, evaluate_workdir, fit, make_estimator, train_and_evaluate
from mgc_jax.config import checks, keys, options
from mgc_jax.data.bags import bags_of
from mgc_jax.data.open import open_corpus
from mgc_jax.errors import UserError
from mgc_jax.modes import train as train_model
from mgc_jax.papers import fma
from mgc_jax.report.finished_run import read_run
from tfds_fma.clips.make import Clip
from tfds_fma.clips.sources import ClipSource
from tfds_fma.labels import GENRES
from tfds_fma.preparation import prepare_clips
from tfds_fma.representations.feature_names import FEATURE_SETS, columns_of
from tfds_fma.representations.registry import REPRESENTATIONS
from tfds_fma.source.tracks import Track


@pytest.fixture
def vectors():
    """A corpus of feature vectors of very different scales."""
    corpus = make_corpus(num_clips=240, clip_shape=(6,))
    clips = corpus.clips.astype(np.float32) * np.float32(10) ** np.arange(-3, 3) + 5
    return dataclasses.replace(corpus, clips=clips.astype(np.float32))


def baseline_config(folder, corpus, name, **options):
    config = keys.default()
    config.update_from_flattened_dict(save_arrays(corpus, folder))
    config.data.arrays.axes = "clip feature"
    config.data.bag_key = "pair"
    config.baseline.name = name
    config.baseline.update(options)
    checks.validate(config)
    return config


def standardized(corpus):
    """Training vectors and labels, and those of the test split, as scikit-learn's user would have them."""
    train, test = corpus.indices("train"), bags_of(corpus, "test", "pair").clips
    scaler = StandardScaler().fit(corpus.clips[train].astype(np.float64))
    assert not np.allclose(scaler.mean_, corpus.clips.mean(axis=0), rtol=1e-3)  # of the training split only
    x = [scaler.transform(corpus.clips[rows].astype(np.float64)) for rows in (train, test)]
    return x[0], corpus.label[train], x[1], corpus.label[test]


@pytest.mark.parametrize(
    ("name", "options", "direct"),
    [
        ("lr", {"C": 0.5}, LogisticRegression(C=0.5, random_state=3)),
        ("knn", {"n_neighbors": 7}, KNeighborsClassifier(n_neighbors=7)),
        ("svm", {"C": 0.3}, SVC(C=0.3)),
        ("mlp", {"hidden_layer_sizes": (8,), "max_iter": 400}, MLPClassifier((8,), max_iter=400, random_state=3)),
    ],
)
def test_results_are_those_of_scikit_learn(tmp_path, vectors, name, options, direct, capsys):
    config = baseline_config(tmp_path, vectors, name, **options)
    config.seed = 3
    results = train_and_evaluate(config, tmp_path / "run", test=True)
    train, train_label, test, label = standardized(vectors)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        predicted = direct.fit(train, train_label).predict(test)
    clip = results["splits"]["test"]["clip"]
    assert clip["accuracy"] == np.mean(predicted == label)
    assert clip["macro_f1"] == pytest.approx(f1_score(label, predicted, average="macro"), abs=1e-12)
    if name != "svm":  # which has no probabilities of its own
        expected = average_precision_score(np.eye(3)[label].ravel(), direct.predict_proba(test).ravel())
        assert clip["micro_ap"] == pytest.approx(expected, abs=1e-9)
    assert 0.6 < clip["accuracy"] < 1
    assert results["splits"]["test"]["clip_mean"]["accuracy"] > clip["accuracy"]

    assert json.loads((tmp_path / "run" / "results.json").read_text()) == results
    files = {path.name for path in (tmp_path / "run").iterdir()}  # and train.log, where anything is logged
    assert files - {"train.log"} == {".lock", "config.json", "results.json", "predictions.parquet"}
    again = evaluate_workdir(config, tmp_path / "run")  # without another look at the test split
    assert again["test_evaluations"] == 1
    assert again["splits"] == results["splits"]
    assert results["splits"].keys() == {"train", "validation", "test"}
    assert "clip mean" in capsys.readouterr().out


def test_evaluation_in_other_bags_leaves_the_configuration(tmp_path, vectors):
    config, folder = baseline_config(tmp_path, vectors, "lr"), tmp_path / "run"
    first = train_and_evaluate(config, folder)
    saved = (folder / "config.json").read_bytes()
    config.data.bag_key = "published"
    other = evaluate_workdir(config, folder)
    assert (folder / "config.json").read_bytes() == saved
    assert (first["bag_key"], other["bag_key"]) == ("pair", "published")
    config.data.bag_key = "pair"
    assert train_and_evaluate(config, folder)["splits"] == first["splits"]  # the first command is not refused


def test_a_clip_that_the_fingerprint_does_not_cover_may_not_change_either(tmp_path):
    corpus = make_corpus(num_clips=2100, clip_shape=(6,))
    config = baseline_config(tmp_path, corpus, "lr")
    train_and_evaluate(config, tmp_path / "run")
    clips = corpus.clips.copy()
    clips[1] *= -1
    save_arrays(dataclasses.replace(corpus, clips=clips), tmp_path)
    with pytest.raises(UserError, match="its tracks, splits or clips differ"):
        evaluate_workdir(config, tmp_path / "run")


def test_an_interrupted_evaluation_is_no_other_run(tmp_path, vectors, monkeypatch):
    """The command of the training shows the results of the training."""
    config, folder = baseline_config(tmp_path, vectors, "knn", n_neighbors=7), tmp_path / "run"
    first = train_and_evaluate(config, folder)
    config.data.bag_key = "published"
    with monkeypatch.context() as patch:
        patch.setattr("mgc_jax.baselines.fit", lambda *_: [][0])
        with pytest.raises(IndexError):
            evaluate_workdir(config, folder)
    assert read_run(folder).config["data"]["bag_key"] == "pair"
    with pytest.raises(UserError, match="another configuration"):
        train_and_evaluate(config, folder)
    config.data.bag_key = "pair"
    assert train_and_evaluate(config, folder) == first
    assert first["baseline"] | {"n_neighbors": 7, "standardize": True} == first["baseline"]


def test_probabilities_of_pairs_that_agree_are_exact():
    probability = np.random.default_rng(0).dirichlet(np.ones(5), 20)
    odds = probability[:, None, :] / probability[:, :, None] * (1 - np.eye(5))
    np.testing.assert_allclose(couple(odds), probability, rtol=1e-12)


def test_probabilities_of_the_svm_are_calibrated_and_rank_better_than_those_of_votes():
    corpus = make_corpus(num_clips=1500, clip_shape=(6,))
    fitted = fit(SVC(), corpus, standardize=True)
    train, train_label, test, label = standardized(corpus)
    direct = SVC().fit(train, train_label)
    np.testing.assert_array_equal(fitted.classifier.predict(test), direct.predict(test))
    probability = fitted.calibrated.predict_proba(test)
    np.testing.assert_allclose(probability.sum(axis=1), 1)
    assert np.mean(probability.argmax(axis=1) == direct.predict(test)) > 0.97
    assert abs(probability.max(axis=1).mean() - np.mean(direct.predict(test) == label)) < 0.05
    votes = CalibratedClassifierCV(SVC(), ensemble=False).fit(train, train_label).predict_proba(test)
    ours, theirs = (average_precision_score(np.eye(3)[label].ravel(), p.ravel()) for p in (probability, votes))
    assert ours > theirs


@pytest.mark.parametrize("name", ["lr", "svm"])
def test_genres_without_training_clips_and_two_genres(vectors, name):
    rows = vectors.label != 1
    two = {
        field: getattr(vectors, field)[rows]
        for field in ("clips", "track_id", "label", "split", "artist", "album", "subset")
    }
    corpus = dataclasses.replace(vectors, **two)
    fitted = fit(make_estimator(ConfigDict({"name": name}), seed=0), corpus, standardize=True)
    predictions = fitted.score_split(corpus, "test", bags_of(corpus, "test", "pair"))
    probability = np.exp(predictions.clip_scores)
    assert probability[:, 1].max() < 1e-300
    np.testing.assert_allclose(probability.sum(axis=1), 1)
    assert np.isfinite(predictions.levels["clip_mean"]).all()
    assert np.mean(predictions.predicted("clip") == predictions.label) > 0.75
    _, _, test, _ = standardized(corpus)
    np.testing.assert_allclose(probability[:, [0, 2]], fitted.calibrated.predict_proba(test), rtol=1e-9)


def test_without_standardization(vectors):
    fitted = fit(KNeighborsClassifier(), vectors, standardize=False)
    train, test = vectors.indices("train"), vectors.indices("test")
    direct = KNeighborsClassifier().fit(vectors.clips[train], vectors.label[train])
    np.testing.assert_array_equal(fitted.classifier.predict(vectors.clips[test]), direct.predict(vectors.clips[test]))


def test_a_fit_that_has_not_converged_is_one_line_of_the_log(tmp_path, vectors, caplog):
    config = baseline_config(tmp_path, vectors, "lr", max_iter=1)
    caplog.set_level(logging.WARNING, "mgc_jax")
    train_and_evaluate(config, tmp_path / "run")
    (record,) = caplog.records
    assert "LogisticRegression" in record.getMessage()
    assert "max_iter" in record.getMessage()
    assert "\n" not in record.getMessage()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("svm", {"c": 1.0}, "SVC of scikit-learn has no parameter c. It has: C, break_ties, .*tol"),
        ("svm", {"C": -1.0}, "SVC of scikit-learn cannot be fitted: The 'C' parameter"),
        ("knn", {"n_neighbors": 1000}, r"n_neighbors=1000 is invalid: there are \d+ training clips"),
        ("mlp", {"hidden_layer_sizes": (0,)}, "hidden_layer_sizes must be > 0"),
    ],
)
def test_bad_options_are_named(tmp_path, vectors, name, options, message):
    with pytest.raises(UserError, match=message):
        train_and_evaluate(baseline_config(tmp_path, vectors, name, **options), tmp_path / "run")
    assert not (tmp_path / "run" / "results.json").exists()


def test_spectrograms_and_single_clips_are_refused(tmp_path, corpus, vectors):
    config = baseline_config(tmp_path, corpus, "lr")
    config.data.arrays.axes = "clip time mel"
    with pytest.raises(UserError, match=r"the baselines take feature vectors, but a clip .* is 40 x 12"):
        train_and_evaluate(config, tmp_path / "run")
    train = vectors.indices("train")
    rare = np.where(np.isin(np.arange(len(vectors)), train[1:]) & (vectors.label == 2), 0, vectors.label)
    rare[train[0]] = 2
    config = baseline_config(tmp_path, dataclasses.replace(vectors, label=rare), "svm")
    with pytest.raises(UserError, match="the genre Jazz has a single training clip"):
        train_and_evaluate(config, tmp_path / "run")


def test_a_workdir_is_of_one_configuration_and_corpus(tmp_path, vectors):
    config = baseline_config(tmp_path, vectors, "knn", n_neighbors=3)
    with pytest.raises(UserError, match="holds no trained model"):
        evaluate_workdir(config, tmp_path / "run")
    train_and_evaluate(config, tmp_path / "run")
    other = config.copy_and_resolve_references()
    other.baseline.n_neighbors = 4
    neural = keys.default()
    neural.update_from_flattened_dict(save_arrays(vectors, tmp_path))
    for job, wrong in ((train_and_evaluate, other), (evaluate_workdir, other), (train_model, neural)):
        with pytest.raises(UserError, match=r"another configuration \(baseline\.n"):
            job(wrong, tmp_path / "run")
    save_arrays(dataclasses.replace(vectors, clips=vectors.clips + 1), tmp_path)
    with pytest.raises(UserError, match=r"was trained on corpus arrays \(fingerprint"):
        evaluate_workdir(config, tmp_path / "run")
    (tmp_path / "run" / "results.json").write_text("null")  # damaged: written anew
    assert train_and_evaluate(config, tmp_path / "run")["model"] == "KNN"


@pytest.fixture(scope="module")
def features_518(tmp_path_factory):
    """A data folder with a prepared FMA-small of 518 features: the value is the number of the column, and the clip."""
    folder = tmp_path_factory.mktemp("data")
    tracks = tuple(
        Track(number, split, "Rock", number, number, "", "", 30.0)
        for number, split in enumerate(("train", "train", "validation", "test"), start=1)
    )

    def make(track):
        return Clip(np.arange(518, dtype=np.float32) + 1000 * track.track_id, padded=False)

    source = ClipSource(tracks, GENRES[:8], REPRESENTATIONS["features_518"], make, parallel=False, identity="test")
    prepare_clips(lambda: source, "small", "features_518", folder, progress=False, log=lambda line: None)
    return folder


def features_config(folder, features, **changes):
    config = fma.baseline("lr", features)
    config.data.update(corpus="fma_small", data_dir=str(folder), **changes)
    return config


@pytest.mark.parametrize("name", FEATURE_SETS)
def test_each_feature_set_takes_its_columns(features_518, name):
    config = features_config(features_518, name)
    checks.validate(config)
    corpus = open_corpus(config.data)
    np.testing.assert_array_equal(corpus.clips[1] - 2000, columns_of(FEATURE_SETS[name]))
    assert f"clips of {len(columns_of(FEATURE_SETS[name]))} features ({name}) (2 train" in corpus.summary()


def test_feature_sets_of_equal_width_tell_corpora_apart(features_518):
    corpora = {
        name: open_corpus(features_config(features_518, name).data) for name in ("rmse", "zcr", "spectral_rolloff")
    }
    assert {corpus.clips.shape for corpus in corpora.values()} == {(4, 7)}
    assert len({corpus.fingerprint for corpus in corpora.values()}) == 3
    everything = open_corpus(features_config(features_518, "").data)
    assert everything.clips.shape == (4, 518)
    assert "4 clips of 518 features (2 train" in everything.summary()


@pytest.mark.parametrize(
    ("features", "changes", "message"),
    [
        ("mfc", {}, "config.data.features='mfc' is invalid: Unknown features 'mfc'. Choose from: all, chroma"),
        ("mfcc+", {}, "Unknown features ''"),
        ("mfcc", {"representation": "features_mfcc"}, "config.data.representation is features_mfcc; set that to feat"),
        ("mfcc", {"representation": "mel_1360x96"}, "leave config.data.features empty"),
        ("mfcc", {"corpus": "arrays"}, "config.data.arrays.features"),
    ],
)
def test_features_that_there_are_not(tmp_path, features, changes, message):
    config = fma.baseline("lr", features)
    config.data.update(changes)
    with pytest.raises(UserError, match=message.replace("+", r"\+")):
        checks.validate(config)


def test_the_demo_has_a_counterpart_of_every_representation():
    for name, counterpart in (
        ("mel_1360x96_nfft512", "mel_256x96"),
        ("mel_640x128", "mel_120x128"),
        ("audio_16000", "audio_16000_short"),
        ("features_518", "features_518"),
        ("features_mfcc", "features_mfcc"),
    ):
        config = keys.default()
        config.data.representation = name
        assert keys.resolve_demo(config).data.representation == counterpart


def test_arguments_of_config_files():
    assert options.arguments("", features="all", k=200) == {"features": "all", "k": 200}
    given = options.arguments("k=5,features=mfcc+zcr", features="all", k=200)
    assert given == {"features": "mfcc+zcr", "k": 5}
    for wrong in ("features", "feature=mfcc", "mfcc", "k=", "k=5 features=all"):
        with pytest.raises(UserError, match="after the config file"):
            options.arguments(wrong, features="all", k=200)
    with pytest.raises(UserError, match="'five' is not a whole number"):
        options.arguments("k=five", features="all", k=200)
    knn = importlib.import_module("configs.knn").get_config("features=mfcc,k=5")
    assert (knn.data.features, knn.baseline.n_neighbors) == ("mfcc", 5)
