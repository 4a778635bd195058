"""The baselines of FMA's paper and of MATT's Table I on feature vectors, with scikit-learn.

Logistic regression, k nearest neighbours, a support vector machine and a multilayer perceptron, on standardized
features (the scaler is fitted on the training split). They see the same splits as the models, and are scored by the
same metrics; in a fold of a cross-validation they are fitted on all training clips, those that select a model's
checkpoint among them. No model is stored: fitting is deterministic, so evaluation fits again.
"""

import contextlib
import copy
import dataclasses
import itertools
import json
import logging
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from ml_collections import ConfigDict
from sklearn.base import ClassifierMixin, clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits

from mgc_jax.config import keys
from mgc_jax.data.bags import Bags, bags_of
from mgc_jax.data.corpus import Corpus
from mgc_jax.data.open import open_corpus
from mgc_jax.data.splits import nonempty_splits
from mgc_jax.errors import UserError
from mgc_jax.evaluation.predictions import Predictions, concatenate, of_corpus
from mgc_jax.evaluation.results import finish, show_earlier
from mgc_jax.runtime.files import write_json
from mgc_jax.runtime.terminal import clock
from mgc_jax.runtime.workdir import check_same_corpus, claim

log = logging.getLogger(__name__)

ESTIMATORS: dict[str, type[ClassifierMixin]] = {
    "lr": LogisticRegression,
    "knn": KNeighborsClassifier,
    "svm": SVC,
    "mlp": MLPClassifier,
}
_TITLES = {"lr": "LR", "knn": "KNN", "svm": "SVM", "mlp": "MLP (scikit-learn)"}
_SMALL = 2**20  # numbers; below, BLAS is faster with one thread, on a busy machine tenfold
_CALIBRATION_FOLDS = 5  # as many as libsvm has
_TEMPERATURE = 0.07  # of the weights of neighbours in DINO (Caron et al. 2021) and X-ARES


def train_and_evaluate(config: ConfigDict, workdir: Path, *, test: bool = False) -> dict[str, Any]:
    """Fits the baseline and evaluates it on training and validation split.

    Args:
        config: a validated configuration with a baseline, whose corpus is not `auto`.
        workdir: the run's folder.
        test: evaluate it on the test split, too.

    Returns:
        What `results.json` holds.

    Raises:
        UserError: bad input, or a workdir that holds another run.
    """
    with claim(workdir, config, create=True):
        return _fit_and_evaluate(config, workdir, test, again=False)


def evaluate_workdir(config: ConfigDict, workdir: Path, *, test: bool = False) -> dict[str, Any]:
    """Evaluates the baseline of a workdir (`--mode eval`) by fitting it again; returns the results."""
    with claim(workdir, config, create=False):
        return _fit_and_evaluate(config, workdir, test)


def _fit_and_evaluate(config: ConfigDict, workdir: Path, test: bool, *, again: bool = True) -> dict[str, Any]:
    title = _TITLES[config.baseline.name]
    estimator = make_estimator(config.baseline, config.seed)
    corpus = open_corpus(config.data)
    log.info(corpus.summary())
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):  # no results yet, or damaged ones
        check_same_corpus(corpus, json.loads((workdir / "results.json").read_text()), workdir)
    training = corpus.with_inner_in_training()
    check_corpus(estimator, training)
    saved = keys.to_json(config)
    about: dict[str, Any] = {
        "model": title,
        "corpus": corpus.name,
        "fingerprint": corpus.fingerprint,
        "clips_digest": corpus.clips_digest,
        "baseline": saved["baseline"] | {"standardize": config.data.standardize},
        "seed": config.seed,
        "bag_key": config.data.bag_key,
    }
    what = f"{corpus.clips.shape[1]} features{f' ({corpus.features})' if corpus.features else ''}"
    headline, splits = f"{title} on {corpus.name}, {what}", nonempty_splits(corpus, test=test)
    if not again and (earlier := show_earlier(about, workdir, headline, test="test" in splits)):
        return earlier
    if not again:  # what --mode eval changes is in the results
        write_json(workdir / "config.json", saved)
    log.info("%s on %s training clips: %s", title, f"{len(training.indices('train')):,}", estimator)
    start = time.perf_counter()
    fitted = fit(estimator, training, config.data.standardize)
    trained = time.perf_counter()
    parts = []
    for split in splits:
        bags = bags_of(corpus, split, config.data.bag_key, config.data.pseudo_album_gap)
        parts.append(fitted.score_split(corpus, split, bags))
    about["seconds"] = {"train": trained - start, "evaluate": time.perf_counter() - trained}
    results = finish(concatenate(parts), about, workdir, headline)
    log.info("fitted in %s; results in %s", clock(trained - start), workdir / "results.json")
    return results


def make_estimator(baseline: ConfigDict, seed: int) -> ClassifierMixin:
    """Returns the estimator, not yet fitted.

    Args:
        baseline: `config.baseline`. Beside scikit-learn's own values, the weights of k nearest neighbours may be
            "softmax" (`softmax_weights`).
        seed: `random_state` of the estimators that have one.

    Raises:
        UserError: an option is none of the estimator's parameters.
    """
    kind = ESTIMATORS[baseline.name]
    options = {key: value for key, value in baseline.items() if key != "name"}
    parameters = kind().get_params()
    unknown = sorted(options.keys() - parameters.keys())
    if unknown:
        raise UserError(
            f"config.baseline: {kind.__name__} of scikit-learn has no parameter {', '.join(unknown)}. It has: "
            f"{', '.join(sorted(parameters))}."
        )
    if options.get("weights") == "softmax":
        options["weights"] = softmax_weights
    return kind(**({"random_state": seed} if "random_state" in parameters else {}) | options)


def softmax_weights(distance: np.ndarray) -> np.ndarray:
    """Returns the weight of each neighbour: the softmax of minus the distance at temperature 0.07, not normalized.

    With metric="cosine", whose distance is one minus the similarity, scikit-learn's KNN then is the weighted KNN of
    DINO (Caron et al. 2021) and X-ARES.

    Args:
        distance: [clip, neighbour].
    """
    return np.exp((distance.min(axis=1, keepdims=True) - distance) / _TEMPERATURE)


def check_corpus(estimator: ClassifierMixin, corpus: Corpus) -> None:
    """Raises `UserError` unless the estimator can be fitted on the clips of the corpus."""
    if corpus.clips.ndim != 2 or corpus.clips.dtype == np.int16:  # audio is int16
        raise UserError(
            f"the baselines take feature vectors, but a clip of corpus {corpus.name} is "
            f"{' x '.join(map(str, corpus.clips.shape[1:]))} {corpus.clips.dtype}. Give "
            "--config.data.representation=features_518, or arrays with axes 'clip feature'."
        )
    counts = np.bincount(corpus.label[corpus.indices("train")], minlength=len(corpus.genres))
    if np.count_nonzero(counts) < 2:
        raise UserError(f"all training clips are {corpus.genres[counts.argmax()]}: there is nothing to classify")
    if isinstance(estimator, KNeighborsClassifier) and estimator.n_neighbors > counts.sum():
        raise UserError(
            f"config.baseline.n_neighbors={estimator.n_neighbors} is invalid: there are {counts.sum():,} training "
            "clips. Give fewer neighbours."
        )
    if isinstance(estimator, SVC) and 1 in counts:
        raise UserError(
            f"the genre {corpus.genres[np.flatnonzero(counts == 1)[0]]} has a single training clip, and the "
            "probabilities of the SVM are calibrated on clips that it has not seen. Leave the genre out."
        )


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A fitted baseline.

    Attributes:
        scaler: standardizes the features; None: they are taken as they are.
        classifier: predicts the genres.
        calibrated: predicts probabilities (SVM: pairwise coupling, whose arg max can differ from the classifier's
            prediction).
    """

    scaler: StandardScaler | None
    classifier: Any
    calibrated: Any

    def score_split(self, corpus: Corpus, split: str, bags: Bags) -> Predictions:
        """Scores every clip of the bags of a split."""
        vectors = _vectors(corpus, bags.clips, self.scaler)
        probability = np.zeros((len(vectors), len(corpus.genres)))
        probability[:, self.calibrated.classes_] = self.calibrated.predict_proba(vectors)
        if isinstance(self.calibrated, KNeighborsClassifier):  # one more neighbour, shared by all genres: no
            votes = self.calibrated.n_neighbors  # probability is 0, whose log would rule the genre out in a clip mean
            probability = (votes * probability + 1 / len(corpus.genres)) / (votes + 1)
        log_scores = np.log(np.maximum(probability, np.finfo(np.float64).tiny))
        predicted = {} if self.calibrated is self.classifier else {"clip": self.classifier.predict(vectors)}
        return of_corpus(corpus, split, bags, log_scores, predicted_genres=predicted)


def fit(estimator: ClassifierMixin, corpus: Corpus, standardize: bool) -> Fitted:
    """Fits scaler and estimator on the training split.

    Raises:
        UserError: scikit-learn refuses a value among the estimator's parameters.
    """
    rows = corpus.indices("train")
    label = corpus.label[rows]
    scaler = StandardScaler().fit(_vectors(corpus, rows, None)) if standardize else None
    vectors = _vectors(corpus, rows, scaler)
    threads = 1 if vectors.size < _SMALL else None
    with _explained(estimator), threadpool_limits(threads, "blas"):
        estimator.fit(vectors, label)
        calibrated = fit_sigmoids(estimator, vectors, label) if isinstance(estimator, SVC) else estimator
    return Fitted(scaler, estimator, calibrated)


def fit_sigmoids(svm: SVC, vectors: np.ndarray, label: np.ndarray) -> "PairwiseProbabilities":
    """Fits a sigmoid for each pair of genres to decision values from cross-validation on the training split.

    Args:
        svm: already fitted.
        vectors: [clip, feature].
        label: int [clip].
    """
    classes, counts = np.unique(label, return_counts=True)
    folds = StratifiedKFold(min(_CALIBRATION_FOLDS, counts.min()))
    with joblib.parallel_config(backend="threading"):  # libsvm lets other threads run
        decision = cross_val_predict(
            _with_pairs(clone(svm)), vectors, label, cv=folds, method="decision_function", n_jobs=-1
        )
    decision = decision.reshape(len(label), -1)
    sigmoids = []
    for pair, (first, second) in enumerate(itertools.combinations(classes, 2)):
        both = (label == first) | (label == second)
        sigmoids.append(LogisticRegression().fit(decision[both, pair, None], label[both] == first))
    return PairwiseProbabilities(_with_pairs(copy.copy(svm)), tuple(sigmoids))


@dataclasses.dataclass(frozen=True)
class PairwiseProbabilities:
    """Probabilities of an SVM: those of each pair of genres (Platt 1999), coupled (Price et al. 1995).

    libsvm's own are of this kind, but scikit-learn gives them up (`SVC(probability=True)`). What it recommends
    instead, `CalibratedClassifierCV`, sees the votes of the pairs and not by how much each is won, which costs
    average precision.

    Attributes:
        svm: the SVM, with a decision value for each pair of classes.
        sigmoids: of each pair, in the order of the decision values: the probability of the first class.
    """

    svm: SVC
    sigmoids: tuple[LogisticRegression, ...]

    @property
    def classes_(self) -> np.ndarray:
        """The class of each column of probabilities."""
        return self.svm.classes_

    def predict_proba(self, vectors: np.ndarray) -> np.ndarray:
        """Returns float64 [clip, class]."""
        decision = self.svm.decision_function(vectors).reshape(len(vectors), -1)
        size = len(self.classes_)
        odds = np.zeros((len(vectors), size, size))  # the other class : this one
        for pair, (i, j) in enumerate(itertools.combinations(range(size), 2)):
            first = self.sigmoids[pair].predict_proba(decision[:, pair, None])[:, 1].clip(1e-7, 1 - 1e-7)
            odds[:, i, j], odds[:, j, i] = (1 - first) / first, first / (1 - first)
        return couple(odds)


def couple(odds: np.ndarray) -> np.ndarray:
    """Returns the probabilities of classes whose pairs have given odds (exact where the pairs agree).

    Args:
        odds: [clip, class, class]: of the second class against the first; 0 on the diagonal.

    Returns:
        [clip, class], with the sum 1.
    """
    probability = 1 / (1 + odds.sum(axis=2))
    return probability / probability.sum(axis=1, keepdims=True)


def _with_pairs(svm: SVC) -> SVC:
    return svm.set_params(decision_function_shape="ovo", break_ties=False)


def _vectors(corpus: Corpus, rows: np.ndarray, scaler: StandardScaler | None) -> np.ndarray:
    """Returns float64 [clip, feature], standardized if there is a scaler."""
    vectors = corpus.clips[rows].astype(np.float64)
    return vectors if scaler is None else scaler.transform(vectors)


@contextlib.contextmanager
def _explained(estimator: ClassifierMixin) -> Iterator[None]:
    """Logs scikit-learn's warnings during a fit, and raises its errors as `UserError`."""
    name = type(estimator).__name__
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield
        except (ValueError, TypeError) as error:
            raise UserError(f"{name} of scikit-learn cannot be fitted: {' '.join(str(error).split())}") from error
    messages = dict.fromkeys(  # once each, in their order
        f"{str(warning.message).splitlines()[0]}; more steps: --config.baseline.max_iter"
        if issubclass(warning.category, ConvergenceWarning)
        else " ".join(str(warning.message).split())
        for warning in caught
    )
    for message in messages:
        log.warning("%s: %s", name, message)
