"""Pages in HTML: templates, one stylesheet, and how numbers are written in them.

A page is one file that loads nothing and runs nothing: the stylesheet and the charts are in it.
"""

import functools
import json
import math
from collections.abc import Sequence
from typing import Any

import jinja2

# Views, as a reader who has not seen the code can take them.
VIEW_NAMES = {"clip": "each clip alone", "clip_mean": "clips averaged over the bag", "bag": "bag model"}


VIEW_MEANINGS = {
    "clip": "every clip is scored alone, as a bag of one",
    "clip_mean": "the log scores of the clips are averaged over their bag: what the bag is worth without any pooling "
    "that is learned",
    "bag": "the model pools the clips of a bag, and its answer counts for each of them",
}


METRIC_NAMES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "weighted_f1": "weighted F1",
    "micro_ap": "micro AP",
    "ece": "ECE",
}


_NONE = "\N{EN DASH}"


_MINUS = "\N{MINUS SIGN}"


def render(template: str, **values: Any) -> str:
    """Renders a template of this folder; text in the values is escaped."""
    return _environment().get_template(template).render(view_names=VIEW_NAMES, metric_names=METRIC_NAMES, **values)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mgc_jax.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        decimals=decimals, count=count, signed=signed, limits=limits, p_value=p_value, shade=shade, json=json.dumps
    )
    return environment


def decimals(value: float | None, digits: int = 3) -> str:
    """Writes a number with so many decimals; a dash where there is none."""
    return _NONE if value is None or math.isnan(value) else f"{value:.{digits}f}"


def count(value: float | None) -> str:
    """Writes a whole number, thousands apart."""
    return _NONE if value is None else f"{value:,.0f}"


def signed(value: float, digits: int = 3) -> str:
    """Writes a difference with its sign."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", _MINUS)


def limits(interval: Sequence[float | None] | None, digits: int = 3) -> str:
    """Writes the limits of an interval; nothing where there is none."""
    there = [bound for bound in interval or () if bound is not None and not math.isnan(bound)]
    if len(there) < 2:
        return ""
    low, high = (f"{bound:.{digits}f}".replace("-", _MINUS) for bound in there)
    return f"{low} to {high}"


def p_value(p: float) -> str:
    """Writes a p-value."""
    return "p <0.001" if p < 0.0005 else f"p {decimals(p)}"


def shade(share: float) -> str:
    """Returns the colours of a table cell for a share from 0 to 1: white to dark blue, with text that can be read."""
    rgb = [round(255 + share * (end - 255)) for end in (0, 82, 140)]
    return f"background:rgb({','.join(map(str, rgb))});color:{'#fff' if share > 0.5 else '#1b1f24'}"
