"""What MATT prints (Liu and Zhang, SMC 2022), and what of it cannot be compared with anything.

"MATT: A Multiple-instance Attention Mechanism for Long-tail Music Genre Classification", with the notebooks and curves
in its repository JohannesLiu/Music-Genre-Classification (folders MATT/notebook and MATT/plot). Its columns LR, KNN,
SVM and MLP are FMA's own (Defferrard et al. 2017, baselines.ipynb of mdeff/fma).
"""

from typing import NamedTuple

from mgc_jax.papers.system import Published

# Why a figure is not what it seems; the tables number these and print them below.
NOTES = {
    "fma": (
        "FMA's own result (baselines.ipynb of mdeff/fma), with its two decimals; MATT's Table I rounds it to whole "
        "percents. KNN has k = 200."
    ),
    "three checkpoints": (
        "MATT gives three accuracies of this system: 68.40 % (Table I), 68.83 % (section IV-D, and the "
        "precision-recall curve) and 69.06 % (the checkpoint of Table II)."
    ),
    "no count": (
        "47.74 % of 2,573 clips is no whole number of them. It is 1,228 of 2,572, the number of test clips of "
        "MATT's CRNN runs."
    ),
    "unscaled": (
        "INVALID as a baseline: fitted on features that were not standardized, KNN with k = 5; LR and MLP had not "
        "converged. The notebook (fma_version/4.1) prints accuracies of 47.69, 44.81, 45.94 and 54.57 % for these LR, "
        "KNN, SVM and MLP, not the 61, 52, 63 and 58 % of Table I."
    ),
    "mismatched scale": (
        "INVALID: fitted on features that were not standardized, but the scores of the curve were computed on "
        "standardized ones (notebook fma_version/4.1): KNN's curve has four points, and the MLP has an average "
        "precision of 0.13 with an accuracy of 54.6 %."
    ),
    "misaligned": (
        "INVALID: the notebook (fma_version/4.1) takes the scores of clips for scores of bags and repeats row i for "
        "every clip of bag i, so that scores and genres do not belong together."
    ),
    "shifted": (
        "Mis-transcribed: the paper prints 59.04, 61.17 and 71.21 here. The notebook (fma_version/4.1) has 49.47, "
        "59.04 and 61.17, as given here; 71.21 is the average precision on its next line, and no multiple of 1/188."
    ),
    "International": (
        "The paper's list of rare genres has International, with 814 training clips: 102 of its 170 (188) test clips "
        "are not rare. It is the list of genres with fewer than 100 training clips outside FMA-small."
    ),
    "below 5": "Printed as <5.0; the number of hits is in the notebook (fma_version/4.1).",
    "mean of batches": "The mean of the accuracies of batches (from the name of the result file).",
    "ties": "Many scores are saturated and tied: average precision 0.624 by steps, 0.646 by trapezoids.",
    "singletons": (
        "63.69 % is the accuracy on the test bags of a single clip (notebook fma_version/4.1, start == end), not "
        "on all clips without their bags, as section IV-D has it."
    ),
    "not all clips": (
        "INVALID for all clips: section IV-D gives 63.69 % for them without their bags, but it is the accuracy on the "
        "test bags of a single clip (notebook fma_version/4.1, start == end)."
    ),
    "FMA's MLP": "58 % is FMA's MLP (58.14 %), not a model that MATT trained.",
}  # fmt: skip


class FeatureSet(NamedTuple):
    """A row of MATT's Table I.

    Attributes:
        name: as the paper prints it.
        features: as `config.data.features` has it.
        dimensions: numbers per clip.
        baselines: accuracy in percent of FMA's LR, KNN, SVM and MLP.
        mil: accuracy in percent of MLP+MIL.
        matt: of MLP+MATT.
    """

    name: str
    features: str
    dimensions: int
    baselines: tuple[float, float, float, float]
    mil: float
    matt: float


TABLE1 = (
    FeatureSet("1 Chroma", "chroma", 84, (43.61, 43.92, 48.31, 48.50), 47.74, 39.53),
    FeatureSet("2 Tonnetz", "tonnetz", 42, (40.11, 37.31, 42.25, 40.85), 45.90, 43.45),
    FeatureSet("3 MFCC", "mfcc", 140, (57.83, 54.99, 60.98, 53.17), 64.71, 63.19),
    FeatureSet("4 Spec. Centroid", "spectral_centroid", 7, (42.40, 45.36, 45.71, 47.84), 49.36, 44.93),
    FeatureSet("5 Spec. BW", "spectral_bandwidth", 7, (40.54, 45.39, 44.46, 44.97), 43.26, 44.23),
    FeatureSet("6 Spec. Contrast", "spectral_contrast", 49, (50.91, 49.55, 54.45, 52.90), 55.69, 49.59),
    FeatureSet("7 Spec. Rolloff", "spectral_rolloff", 7, (41.74, 46.25, 47.53, 48.08), 49.16, 49.20),
    FeatureSet("8 RMS Energy", "rmse", 7, (37.31, 38.52, 38.90, 39.06), 41.08, 38.67),
    FeatureSet("9 Zero-Crossing", "zcr", 7, (42.29, 44.73, 45.43, 46.44), 47.96, 46.91),
    FeatureSet("3+6", "mfcc+spectral_contrast", 189, (59.77, 55.31, 63.04, 53.75), 65.68, 68.91),
    FeatureSet(
        "3+6+4", "mfcc+spectral_contrast+spectral_centroid", 196, (59.81, 55.23, 63.39, 52.62), 65.84, 63.31
    ),
    FeatureSet("1 to 9", "all", 518, (61.10, 51.77, 62.88, 58.14), 69.22, 68.40),
)  # fmt: skip


# MATT's Table II: clips of rare genres whose genre is among the first K, of the 170 of its first list and the 188 of
# its second one (notebook fma_version/4.1).
TABLE2_CLIPS = {"<100": 170, "<200": 188}


TABLE2_K = (2, 3, 5)


TABLE2_HITS = {
    "LR": {"<100": (3, 12, 43), "<200": (3, 12, 43)},
    "KNN, k = 5": {"<100": (29, 44, 77), "<200": (29, 45, 78)},
    "SVM": {"<100": (20, 33, 76), "<200": (20, 33, 76)},
    "MLP": {"<100": (5, 18, 48), "<200": (5, 19, 51)},
    "MLP+MATT": {"<100": (48, 76, 80), "<200": (50, 78, 83)},
    "CRNN": {"<100": (16, 23, 59), "<200": (16, 23, 73)},
    "CRNN+MATT": {"<100": (92, 95, 98), "<200": (93, 97, 116)},
    "CRNN-TF": {"<100": (4, 16, 35), "<200": (4, 16, 35)},
    "CRNN-TF+MATT": {"<100": (92, 108, 111), "<200": (93, 111, 115)},
}


_BELOW_5 = 5.0  # percent


def table2(system: str, threshold: str, k: int) -> Published | None:
    """Returns the Top@K accuracy in percent of MATT's Table II; None for a system that it does not have."""
    if system not in TABLE2_HITS:
        return None
    notes = {"CRNN": ["misaligned"], "CRNN-TF": ["misaligned"], "CRNN+MATT": [], "MLP+MATT": [], "CRNN-TF+MATT": []}
    value = 100 * TABLE2_HITS[system][threshold][TABLE2_K.index(k)] / TABLE2_CLIPS[threshold]
    why = [*notes.get(system, ["unscaled"])]
    if value < _BELOW_5:
        why.append("below 5")
    if system == "CRNN-TF+MATT" and threshold == "<200":
        why.append("shifted")
    return Published(value, tuple(why))


class Curve(NamedTuple):
    """A precision-recall curve of MATT's figure 4 (its CSV files): clips, the scores of bags copied to their clips.

    Attributes:
        ap: average precision.
        bag_ap: the same over bags (printed in notebook fma_version/4.1); None: clips were scored, not bags.
        max_f1: the highest F1.
        precision: there.
        recall: there.
        precision_at: precision at the lowest recall that is at least .1, .2, ... .9.
        notes: keys of `NOTES`.
    """

    ap: float | None
    bag_ap: float | None
    max_f1: float | None
    precision: float | None
    recall: float | None
    precision_at: tuple[float | None, ...]
    notes: tuple[str, ...] = ()


RECALLS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


_MISMATCH = ("mismatched scale",)


FIG4 = {
    "LR": Curve(
        0.3664, None, 0.4198, 0.371, 0.484, (0.662, 0.588, 0.499, 0.429, 0.360, 0.277, 0.209, 0.143, 0.079), _MISMATCH
    ),
    "KNN, k = 5": Curve(
        0.0791, None, 0.1699, 0.106, 0.425, (0.106, 0.106, 0.106, 0.106, 0.062, 0.062, 0.062, 0.062, 0.062), _MISMATCH
    ),
    "SVM": Curve(
        0.0948, None, 0.1829, 0.140, 0.264, (0.087, 0.138, 0.108, 0.105, 0.076, 0.072, 0.076, 0.084, 0.091), _MISMATCH
    ),
    "MLP": Curve(
        0.1313, None, 0.2181, 0.191, 0.255, (0.233, 0.212, 0.165, 0.126, 0.105, 0.092, 0.082, 0.073, 0.068), _MISMATCH
    ),
    "MLP+MIL": Curve(
        0.6523, 0.5850, 0.6533, 0.650, 0.657, (0.932, 0.870, 0.843, 0.839, 0.761, 0.666, 0.584, 0.321, 0.140)
    ),
    "MLP+MATT": Curve(
        0.7321, 0.7202, 0.6744, 0.692, 0.657, (0.996, 0.959, 0.929, 0.897, 0.852, 0.761, 0.634, 0.414, 0.312)
    ),
    "CRNN": Curve(
        0.6244, None, 0.5981, 0.741, 0.502, (0.977, 0.963, 0.919, 0.865, 0.740, 0.500, 0.372, 0.229, 0.154)
    ),
    "CRNN-TF": Curve(
        0.6244, None, 0.6129, 0.617, 0.608, (0.861, 0.861, 0.831, 0.801, 0.711, 0.622, 0.500, 0.377, 0.204), ("ties",)
    ),
    "CRNN+MIL": Curve(
        0.6959, 0.6511, 0.6459, 0.670, 0.624, (1.000, 0.983, 0.905, 0.833, 0.753, 0.677, 0.564, 0.444, 0.282)
    ),
    "CRNN-TF+MIL": Curve(
        0.6107, 0.5153, 0.6064, 0.629, 0.586, (0.941, 0.859, 0.794, 0.706, 0.705, 0.592, 0.472, 0.366, 0.230)
    ),
    "CRNN+MATT": Curve(
        0.7357, 0.6817, 0.6939, 0.687, 0.701, (0.956, 0.937, 0.922, 0.917, 0.877, 0.778, 0.687, 0.492, 0.280)
    ),
    "CRNN-TF+MATT": Curve(
        0.7268, 0.7121, 0.6847, 0.708, 0.663, (0.985, 0.956, 0.943, 0.936, 0.849, 0.748, 0.649, 0.428, 0.238)
    ),
}  # fmt: skip


NO_CURVE = Curve(None, None, None, None, None, (None,) * len(RECALLS))  # of a system that the paper does not have


# MATT's figure 4 c: accuracies in percent, from the names of its result files (notebook fma_version/4.1).
FIG4C = {
    "LR": Published(61.10, ("fma",)),
    "KNN": Published(51.77, ("fma",)),
    "SVM": Published(62.88, ("fma",)),
    "MLP": Published(58.14, ("fma",)),
    "MLP+MIL": Published(100 * 1781 / 2573),
    "MLP+MATT": Published(100 * 1771 / 2573, ("three checkpoints",)),
    "CRNN": Published(63.233, ("mean of batches",)),
    "CRNN-TF": Published(64.757, ("mean of batches",)),
    "CRNN+MIL": Published(100 * 1850 / 2572),
    "CRNN-TF+MIL": Published(100 * 1849 / 2572),
    "CRNN+MATT": Published(100 * 1777 / 2572),
    "CRNN-TF+MATT": Published(100 * 1776 / 2572),
}


# MATT's section IV-D: accuracies in percent.
CASE_STUDY = {
    "bags": Published(68.83),
    "clips": Published(63.69, ("not all clips",)),
    "singletons": Published(63.69, ("singletons",)),
    "trained on clips": Published(58.0, ("FMA's MLP",)),
}
