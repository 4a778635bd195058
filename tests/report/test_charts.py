"""Charts: text stays text, long lines and curves are thinned, the same chart is the same text."""

import re

import numpy as np
import pytest
import sklearn.metrics

from mgc_jax.evaluation.metrics import precision_recall
from mgc_jax.report import charts


def test_charts():
    """Text stays text and is escaped; long lines are thinned; the same chart is the same text."""
    x = np.linspace(0, 1, 20_000)
    line = charts.Line("a & b", x, x**2, charts.COLOURS[0])
    chart, again = (
        charts.line_chart("A <title>", [line], x_label="x", y_label="y", caption='so "it" is') for _ in range(2)
    )
    assert chart == again
    assert len(chart.svg) < 40_000
    assert "A &lt;title&gt;" in chart.svg
    assert "a &amp; b" in chart.svg
    assert "so &#34;it&#34; is" in chart.svg
    kept = charts.thinned(20_000)
    assert (kept[0], kept[-1]) == (0, 19_999)
    assert len(kept) <= 300
    np.testing.assert_array_equal(charts.thinned(5), np.arange(5))


def test_names_in_charts_are_only_names():
    """Dollar signs are no formula, and a name that begins with _ is in the legend."""
    names = ["$HOME", "cost $5 and $6", "_hidden", "a$"]
    x = np.linspace(0, 1, 5)
    lines = [charts.Line(name, x, x, charts.COLOURS[0]) for name in names]
    drawn = charts.line_chart("$x", lines, x_label="$", y_label="y", caption="", mark=(0.5, "_$"))
    for name in [*names, "_$", "$x"]:
        assert f">{name}<" in drawn.svg
    series = [charts.Dots(name, {"$a $b": 1.0, "_c": 2.0}, {}, charts.COLOURS[0]) for name in names]
    drawn = charts.dot_chart("dots", ["$a $b", "_c"], series, x_label="x", caption="")
    for name in [*names, "$a $b", "_c"]:
        assert f">{name}<" in drawn.svg
    assert '<rect width="100%" height="100%" fill="#fff"/>' in charts.standalone(drawn)


def test_thin_curve_keeps_the_ends_and_the_shape():
    rng = np.random.default_rng(8)
    scores = np.log(rng.dirichlet(np.ones(16), 3000))
    label = rng.integers(0, 16, 3000)
    scores[np.arange(3000), label] += 2
    precision, recall = precision_recall(label, scores)
    thin = charts.thin_curve(precision, recall, 300)
    assert 290 <= len(thin[0]) == len(thin[1]) <= 300
    for i in (0, -1):
        assert (thin[0][i], thin[1][i]) == (precision[i], recall[i])
    assert np.all(np.diff(thin[1]) <= 0)
    assert set(zip(*thin, strict=True)) <= set(zip(precision, recall, strict=True))
    assert -np.diff(thin[1]).min() < 1 / 298 + 1.001 / 3000  # even, to a clip
    assert sklearn.metrics.auc(thin[1], thin[0]) == pytest.approx(sklearn.metrics.auc(recall, precision), abs=2e-3)


def test_a_short_curve_stays():
    curve = precision_recall(np.array([2]), np.log([[0.2, 0.5, 0.3]]))
    assert charts.thin_curve(*curve) == curve


def test_charts_side_by_side_have_the_same_axes():
    """Whatever the number of entries in their legends."""
    x = np.linspace(0, 1, 5)
    boxes = set()
    for size in (1, 2, 5):
        lines = [charts.Line(f"line {i}", x, x, charts.COLOURS[i]) for i in range(size)]
        svg = charts.line_chart("A", lines, x_label="epoch", y_label="y", caption="").svg
        boxes.add(re.search(r"<clipPath[^>]*>\s*<rect ([^>]*)/>", svg)[1])
    assert len(boxes) == 1
