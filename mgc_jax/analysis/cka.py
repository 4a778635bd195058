"""Linear centred kernel alignment: how alike two models see the same clips, layer by layer.

Kornblith, Norouzi, Lee and Hinton, "Similarity of Neural Network Representations Revisited", ICML 2019, section 3.
With centred features X [clip, p] and Y [clip, q] it is ||Y'X||^2 / (||X'X|| ||Y'Y||), Frobenius norms. The Gram
matrices XX' and YY' [clip, clip], which do not grow with the features, give the same. It is 1 for a layer and itself,
and does not change where features are rotated, mirrored or scaled as a whole.
"""

from collections.abc import Callable, Mapping

import numpy as np

Features = Callable[[np.ndarray], Mapping[str, np.ndarray]]


def linear_cka(gram: np.ndarray, other: np.ndarray) -> float:
    """Returns linear CKA from two Gram matrices of the same clips, float64 [clip, clip], from 0 to 1.

    NaN where the features of one are the same for all clips.
    """
    first, second = centred(gram), centred(other)
    norms = np.linalg.norm(first) * np.linalg.norm(second)
    return float(np.sum(first * second) / norms) if norms > 0 else float("nan")


def centred(gram: np.ndarray) -> np.ndarray:
    """Returns the Gram matrix of the same features minus their mean over the clips."""
    return gram - gram.mean(axis=0) - gram.mean(axis=1, keepdims=True) + gram.mean()


def gram_matrices(features: Features, rows: np.ndarray, hold: int, chunk: int) -> dict[str, np.ndarray]:
    """Returns the Gram matrix of each layer's features.

    The first map of a convolutional encoder may have a million features of a clip. Those of `hold` clips are in memory
    at once; where there are more clips, the features of later ones are computed again for every such block.

    Args:
        features: rows -> layer -> float32 [clip, feature].
        rows: int [clip].
        hold: clips.
        chunk: clips that `features` is asked for beside those.

    Returns:
        Layer -> float64 [clip, clip]. A mean is taken off the features, so that rounding is relative to how clips
        differ: what is `centred` stays the same.
    """
    number = len(rows)
    offset = {name: values.mean(axis=0) for name, values in features(rows[:chunk]).items()}
    grams = {name: np.zeros((number, number)) for name in offset}
    for begin in range(0, number, hold):
        end = min(begin + hold, number)
        held = {name: values - offset[name] for name, values in features(rows[begin:end]).items()}
        for name, values in held.items():
            grams[name][begin:end, begin:end] = values @ values.T
        for later in range(end, number, chunk):
            for name, values in features(rows[later : later + chunk]).items():
                block = held[name] @ (values - offset[name]).T
                grams[name][begin:end, later : later + chunk] = block
                grams[name][later : later + chunk, begin:end] = block.T
    return grams
