"""Genre metrics of scores, as scikit-learn defines them, and the averages over bags."""

import numpy as np


def genre_metrics(label: np.ndarray, log_scores: np.ndarray, predicted: np.ndarray | None = None) -> dict[str, float]:
    """Accuracy, balanced accuracy, macro F1 and micro average precision, as scikit-learn defines them.

    Args:
        label: int [n].
        log_scores: [n, genre].
        predicted: int [n]; by default the genres of the highest scores.

    Returns:
        `accuracy`; `balanced_accuracy`, the mean recall of the genres that occur; `macro_f1` over the genres that
        occur among labels or predictions; `micro_ap`, the average precision of all n x genre scores against the
        one-hot labels (MATT, section IV-B).
    """
    from sklearn.metrics import average_precision_score, f1_score, recall_score

    if predicted is None:
        predicted = log_scores.argmax(axis=1)
    one_hot = np.eye(log_scores.shape[1], dtype=bool)[label]
    return {
        "accuracy": float(np.mean(predicted == label)),
        "balanced_accuracy": float(recall_score(label, predicted, labels=np.unique(label), average="macro")),
        "macro_f1": float(f1_score(label, predicted, average="macro", zero_division=0)),
        "micro_ap": float(average_precision_score(one_hot.ravel(), np.exp(log_scores).ravel())),
    }


def mean_log_scores(log_scores: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Averages the clips' log scores over each bag and normalizes: the clip-average baseline.

    Args:
        log_scores: [clip, genre], bag after bag.
        offsets: [bag + 1], as in `Bags`.

    Returns:
        Log scores [bag, genre].
    """
    mean = np.add.reduceat(log_scores, offsets[:-1], axis=0) / np.diff(offsets)[:, None]
    return mean - np.logaddexp.reduce(mean, axis=1, keepdims=True)
