"""What the PRCNN report prints, and what of it cannot be compared with anything.

Fadaviardakani, Chow and Goh, "Parallel Recurrent and Convolutional Neural Networks for Music Genre Classification"
(University of British Columbia, 2020).
"""

from typing import NamedTuple

from mgc_jax.papers.system import Published

# Why a figure is not what it seems; the tables number these and print them below.
NOTES = {
    "no attention": (
        "The attention of the report's figure 4 cannot act: its weights sum to 1 over an axis along which what they "
        "weight does not vary, so that the output is the GRU's last state, and the CNN gets no gradient."
    ),
    "two places": (
        "The report has three accuracies of PRCNN: 45 % validation and 36.375 % test (Table 2, on a GPU), and 45 % "
        "test (figure 2, on another machine); it could not explain the difference."
    ),
    "rounded": "Printed as 39.4 %, which of 800 clips can only be 39.375 %.",
    "svc": (
        "For reference: a support vector machine on the statistics of MFCC (usage.ipynb of mdeff/fma), above every "
        "deep model of the report on the test split."
    ),
    "our values": (
        "The report varied kernel size, dropout and activation, and gives neither values nor results; it also says "
        "that the kernel was (3, 1) throughout. The values are ours."
    ),
    "pools alone": "The report used pools of (2, 2), (4, 4), (2, 1) and (4, 2), and gives no result for each.",
    "attention's validation": (
        "40 % test accuracy in figure 3 (local machine), 26.25 % in Table 2 (GPU); 41.625 % validation in both."
    ),
}  # fmt: skip


# Table 2: validation and test accuracy in percent.
TABLE2 = {
    "RNN": (Published(40.375, split="validation"), Published(29.5)),
    "5-layer CNN": (Published(51.25, split="validation"), Published(44.125)),
    "3-layer CNN": (Published(39.375, ("rounded",), "validation"), Published(26.0)),
    "PRCNN: CNN and RNN": (Published(45.0, ("two places",), "validation"), Published(36.375, ("two places",))),
    "CNN and 2-layer RNN": (Published(46.25, split="validation"), Published(35.5)),
    "... and attention, as drawn": (
        Published(41.625, ("no attention",), "validation"),
        Published(26.25, ("no attention", "attention's validation")),
    ),
}


SVC_ON_MFCC = Published(46.38, ("svc",))  # test accuracy on FMA-small


class Report(NamedTuple):
    """A classification report: precision, recall and F1 of each genre and of their means, and accuracy.

    Each genre has 100 clips.
    """

    genres: dict[str, tuple[float, float, float]]
    macro: tuple[float, float, float]
    weighted: tuple[float, float, float]
    accuracy: float


FIG2 = Report(
    {
        "Electronic": (0.57, 0.56, 0.57),
        "Experimental": (0.26, 0.37, 0.30),
        "Folk": (0.28, 0.34, 0.31),
        "Hip-Hop": (0.59, 0.87, 0.70),
        "Instrumental": (0.47, 0.32, 0.38),
        "International": (0.54, 0.41, 0.47),
        "Pop": (0.38, 0.21, 0.27),
        "Rock": (0.58, 0.51, 0.54),
    },
    macro=(0.46, 0.45, 0.44),
    weighted=(0.46, 0.45, 0.44),
    accuracy=0.45,
)


FIG3 = Report(
    {
        "Electronic": (0.49, 0.62, 0.55),
        "Experimental": (0.32, 0.12, 0.18),
        "Folk": (0.18, 0.16, 0.17),
        "Hip-Hop": (0.74, 0.68, 0.71),
        "Instrumental": (0.33, 0.56, 0.42),
        "International": (0.38, 0.42, 0.40),
        "Pop": (0.21, 0.21, 0.21),
        "Rock": (0.53, 0.40, 0.46),
    },
    macro=(0.40, 0.40, 0.39),
    weighted=(0.40, 0.40, 0.39),
    accuracy=0.40,
)
