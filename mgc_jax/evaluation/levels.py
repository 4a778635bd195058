"""The levels at which a split is scored, with one title each in every table, page and message."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Level:
    """What a score is of.

    Attributes:
        title: in tables and charts.
        meaning: in a sentence.
    """

    title: str
    meaning: str


# By name: in results.json, in `train.select` and in predictions files.
LEVELS = {
    "clip": Level("clip", "every clip is scored alone, as a bag of one"),
    "clip_mean": Level(
        "clip mean",
        "the log scores of the clips are averaged over their bag: what the bag is worth without a trained pooling",
    ),
    "bag": Level("bag", "the model pools the clips of a bag, and its scores count for each of them"),
}
