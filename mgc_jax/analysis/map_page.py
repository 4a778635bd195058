"""The map of an analysis: a web page in one file, on which every clip is a point."""

from pathlib import Path
from typing import Any

import numpy as np

from mgc_jax.analysis.clips import AnalysedClips
from mgc_jax.analysis.opening import REMEDY
from mgc_jax.analysis.projection import Projection
from mgc_jax.evaluation.levels import LEVELS
from mgc_jax.report.charts import COLOURS
from mgc_jax.report.html import render_page
from mgc_jax.runtime.files import write_text

MAP = "map.html"
_STEPS = 65535  # along the longer side: of places on the map as whole numbers


def write_map(clips: AnalysedClips, projection: Projection, run: str, folder: Path) -> Path:
    """Writes `map.html`; it needs no network.

    Args:
        clips: the points.
        projection: their places.
        run: name of the run.
        folder: for the file.
    """
    page = render_page(
        "map.html",
        run=run,
        corpus=clips.about["corpus"],
        clips=len(clips.predictions),
        splits=clips.about["splits"],
        level=LEVELS[clips.level].title,
        caption=projection.caption,
        synthetic_music=clips.about["corpus"] == "demo",
        data=page_data(clips, projection.places),
    )
    write_text(folder / MAP, page, REMEDY)
    return folder / MAP


def page_data(clips: AnalysedClips, places: np.ndarray) -> dict[str, Any]:
    """Returns what the page's script draws: a list per column, and names that repeat as numbers.

    Args:
        clips: the points.
        places: float [clip, 2].
    """
    scored = clips.predictions
    low = places.min(axis=0)
    side = float(np.ptp(places, axis=0).max()) or 1.0
    x, y = np.round((places - low) / side * _STEPS).astype(int).T
    data: dict[str, Any] = {
        "steps": _STEPS,
        "colours": COLOURS,
        "genres": scored.genres,
        "splits": clips.about["splits"],
        "x": x.tolist(),
        "y": y.tolist(),
        "track": scored.track_id.tolist(),
        "title": clips.names.title.tolist(),
        "genre": scored.label.tolist(),
        "predicted": clips.predicted.tolist(),
        "split": [clips.about["splits"].index(split) for split in scored.split.tolist()],
    }
    for name, values in (("artist", clips.shown_artist), ("album", scored.album)):
        words, number = np.unique(values, return_inverse=True)
        data |= {f"{name}s": words.tolist(), name: number.tolist()}
    return data
