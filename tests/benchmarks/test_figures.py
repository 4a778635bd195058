"""The figures of docs/results.md are drawn from its tables."""

import importlib.util
import re
from pathlib import Path

import pytest

_SPEC = importlib.util.spec_from_file_location("figures", Path(__file__).parents[2] / "benchmarks" / "figures.py")
figures = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(figures)
PAGE, draw, tables_of, value_of = figures.PAGE, figures.draw, figures.tables_of, figures.value_of

TABLE = """
| system | accuracy | note | minus the mean |
|---|---|---|---|
| mean | 67.0 ± 1.9 | x | |
| **other** | **69.7** ± 1.7 | y | +2.6 (\N{MINUS SIGN}0.4 to +5.9) |

![A caption](pictures/results_x.svg)
"""


def test_a_figure_is_of_the_table_above_it():
    [(name, rows)] = tables_of(f"| another | 1 |\n|---|---|\n| row | 2 |\n\nText.\n{TABLE}")
    assert name == "pictures/results_x.svg"
    assert [row[0] for row in rows] == ["system", "mean", "**other**"]
    drawn = re.findall(r"<text[^>]*>([^<]*)</text>", draw(rows))
    assert {"mean", "other", "accuracy", "minus the mean"} <= set(drawn)
    assert "note" not in drawn


def test_a_figure_without_a_table_is_an_error():
    with pytest.raises(ValueError, match=r"results_x\.svg has no table above it"):
        list(tables_of(TABLE.partition("!")[1] + TABLE.partition("!")[2]))


def test_values_are_means_with_deviations_or_values_with_intervals():
    assert value_of("67.0 ± 1.9") == (67.0, pytest.approx(65.1), pytest.approx(68.9))
    assert value_of("**+2.6** (\N{MINUS SIGN}0.4 to +5.9)") == (2.6, -0.4, 5.9)
    assert value_of("67.0") == (67.0, 67.0, 67.0)
    assert value_of("yes") is None


def test_every_figure_of_the_page_is_there_and_has_its_rows():
    for name, (_, *rows) in tables_of(PAGE.read_text()):
        text = (PAGE.parent / name).read_text()
        assert all(f">{row[0].replace('&', '&amp;')}</text>" in text for row in rows), name
