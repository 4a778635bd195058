"""Statistics of measured times: percentiles, and ratios, reported only where the noise allows it."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

MOST_SPREAD = 0.1  # interquartile range over median of the paired ratios
LEAST_PAIRS = 5
_PERCENTILES = (5, 25, 50, 75, 95, 99)


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Returns p5, p25, p50, p75, p95, p99 and max."""
    found = dict(zip((f"p{p}" for p in _PERCENTILES), np.percentile(values, _PERCENTILES).tolist(), strict=True))
    return found | {"max": float(max(values))}


@dataclasses.dataclass(frozen=True)
class Ratio:
    """How many times as much one thing is as another, from pairs that were measured side by side.

    Attributes:
        median: of the ratios of the pairs; not to be reported where `refused` says something.
        low: their first quartile.
        high: their third quartile.
        pairs: how many there were.
        refused: why the ratio is not reported; empty if it is.
    """

    median: float
    low: float
    high: float
    pairs: int
    refused: str = ""

    def __str__(self) -> str:
        if self.refused:
            return f"not reported: {self.refused}"
        return f"{self.median:.3g} (quartiles {self.low:.3g} to {self.high:.3g}, {self.pairs} pairs)"

    def to_json(self) -> Mapping[str, object]:
        """Returns what a JSON file holds of it: the figures, or why there are none."""
        figures = {"median": self.median, "low": self.low, "high": self.high, "pairs": self.pairs}
        return {"pairs": self.pairs, "refused": self.refused} if self.refused else figures


def paired_ratio(above: Sequence[float], below: Sequence[float], scale: float = 1.0) -> Ratio:
    """Returns the ratio of two things that were measured in turn, so that each pair shares the state of the machine.

    The rule: the median of the paired ratios, reported only if there are at least `LEAST_PAIRS` pairs and the
    interquartile range of the ratios is at most `MOST_SPREAD` of their median.

    Args:
        above: measurements of one thing, above 0.
        below: of the other; measurement i of both were made one after the other.
        scale: what the ratios are divided by.

    Raises:
        ValueError: the two do not pair up, or a measurement is not above 0.
    """
    if len(above) != len(below) or not len(above):
        raise ValueError(f"{len(above)} and {len(below)} measurements do not pair up")
    if min(*above, *below) <= 0:
        raise ValueError("a measurement is not above 0")
    ratios = np.asarray(above, float) / np.asarray(below, float) / scale
    low, median, high = np.percentile(ratios, [25, 50, 75]).tolist()
    refused = ""
    if len(ratios) < LEAST_PAIRS:
        refused = f"{len(ratios)} pairs of runs are too few, {LEAST_PAIRS} are needed"
    elif high - low > MOST_SPREAD * median:
        refused = f"too noisy, the interquartile range is {(high - low) / median:.0%} of the median"
    return Ratio(median, low, high, len(ratios), refused)
