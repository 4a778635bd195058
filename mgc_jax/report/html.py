"""Pages in HTML: templates, one stylesheet, and number formats.

A page is one file that loads nothing and, but for the map of an analysis, runs nothing: the stylesheet and the charts
are in it.
"""

import functools
import json
import math
from collections.abc import Sequence
from typing import Any

import jinja2
from markupsafe import Markup

from mgc_jax.evaluation.bootstrap import FEWEST_ARTISTS
from mgc_jax.evaluation.levels import LEVELS
from mgc_jax.evaluation.metrics import METRICS

_NONE = "\N{EN DASH}"
_MINUS = "\N{MINUS SIGN}"


def render_page(template: str, **values: Any) -> str:
    """Renders a template of this folder; text in the values is escaped."""
    titles = {name: level.title for name, level in LEVELS.items()}
    known = {"level_titles": titles, "metrics": METRICS, "fewest_artists": FEWEST_ARTISTS}
    return _environment().get_template(template).render(known | values)


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
        decimals=decimals, count=whole, signed=signed, limits=limits, p_value=p_value, shade=shade, json=json.dumps,
        script_data=script_data,
    )  # fmt: skip
    return environment


def script_data(value: Any) -> Markup:
    """Returns JSON that can stand in a script element, whatever its text holds: nothing in it ends the element."""
    return Markup(json.dumps(value, separators=(",", ":")).replace("<", "\\u003c"))


def decimals(value: float | None, digits: int = 3) -> str:
    """Formats a number with `digits` decimals; a dash where there is none."""
    return _NONE if value is None or math.isnan(value) else f"{value:.{digits}f}"


def whole(value: float | None) -> str:
    """Formats a whole number with separated thousands; a dash where there is none."""
    return _NONE if value is None else f"{value:,.0f}"


def signed(value: float, digits: int = 3) -> str:
    """Formats a difference with its sign."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", _MINUS)


def limits(interval: Sequence[float | None] | None, digits: int = 3) -> str:
    """Formats the limits of an interval; a dash where they are not known, nothing where there is no interval."""
    if interval is None:
        return ""
    there = [bound for bound in interval if bound is not None and not math.isnan(bound)]
    if len(there) < 2:
        return _NONE
    low, high = (f"{bound:.{digits}f}".replace("-", _MINUS) for bound in there)
    return f"{low} to {high}"


def p_value(p: float) -> str:
    """Formats a p-value."""
    return "p <0.001" if p < 0.0005 else f"p {decimals(p)}"


def shade(share: float) -> str:
    """Returns the colours of a table cell for a share from 0 to 1: white to dark blue, with text that can be read."""
    rgb = [round(255 + share * (end - 255)) for end in (0, 82, 140)]
    return f"background:rgb({','.join(map(str, rgb))});color:{'#fff' if share > 0.5 else '#1b1f24'}"
