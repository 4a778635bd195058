"""The command's work: analyse a run, find neighbours, compare two runs. Each returns what the terminal shows."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from mgc_jax.analysis import comparison, projection, tables
from mgc_jax.analysis.clips import AnalysedClips, analyse_clips
from mgc_jax.analysis.map_page import MAP, write_map
from mgc_jax.analysis.neighbours import about_table, format_neighbours, neighbours
from mgc_jax.analysis.opening import FOLDER, about_best, make_folder, opened

log = logging.getLogger(__name__)

_OF_ALL_CLIPS = (MAP, *tables.ARRAYS, tables.PROJECTOR)  # beside the tables


def analyse(run: Path, splits: Sequence[str] | None, method: str, overrides: Mapping[str, str]) -> str:
    """Analyses a run, and writes everything to its folder `analysis`.

    Args:
        run: folder of the run.
        splits: names; None: train and validation.
        method: of the map: pca, umap, or auto.
        overrides: of the configuration.

    Raises:
        UserError: the run cannot be opened (see `opening.opened`), a split is empty, UMAP is not installed, or a file
            cannot be written.
    """
    method = projection.choose(method)
    with opened(run, overrides) as opened_run:
        clips = analyse_clips(opened_run, splits)
        folder = make_folder(run / FOLDER)
        files = [*_write_tables(clips, folder), *tables.write_arrays(clips, folder)]
        files.append(tables.write_projector(clips, folder / tables.PROJECTOR))
        files.append(write_map(clips, projection.project(clips.embeddings, method), run.resolve().name, folder))
    return "\n".join(map(str, files))


def _write_tables(clips: AnalysedClips, folder: Path) -> tuple[Path, Path]:
    return tables.write_clips(clips, folder), tables.write_bags(clips, folder)


def find_neighbours(
    run: Path,
    track_id: int,
    k: int,
    splits: Sequence[str] | None,
    overrides: Mapping[str, str],
    *,
    other_artists: bool,
) -> str:
    """Finds the nearest neighbours of a song, in the tables that an earlier analysis of these weights left, else new.

    Args:
        run: folder of the run.
        track_id: the song.
        k: how many.
        splits: among whose songs; None: those of the earlier analysis, or train and validation.
        overrides: of the configuration.
        other_artists: leave out songs of the same artist.

    Raises:
        UserError: as `analyse`, or there is no such song.
    """
    folder = run / FOLDER
    there = about_table(folder)
    best = about_best(run)
    current = bool(best) and all(there.get(name) == value for name, value in best.items())
    if not current or (splits is not None and set(splits) != set(there["splits"])):
        with opened(run, overrides) as opened_run:
            _write_tables(analyse_clips(opened_run, splits), make_folder(folder))
        earlier = [name for name in _OF_ALL_CLIPS if (folder / name).exists()]
        if earlier and there and not current:
            log.warning(
                "the tables are of the best checkpoint now; of an earlier one are %s. To write them again: "
                "mgc-jax analyse %s",
                ", ".join(earlier),
                run,
            )
    return format_neighbours(neighbours(folder, track_id, k, other_artists=other_artists))


def compare(run: Path, other: Path, splits: Sequence[str] | None, cka_clips: int, overrides: Mapping[str, str]) -> str:
    """Compares two runs on the same corpus; writes to `analysis/compared/<OTHER>` of the first (see
    `comparison_folder`).

    Args:
        run: folder of one run.
        other: folder of the other.
        splits: names; None: train and validation.
        cka_clips: how many clips the layers are compared on, at most.
        overrides: of the configurations.

    Raises:
        UserError: as `analyse`, or the runs are of different corpora.
    """
    with opened(run, overrides) as first, opened(other, overrides, beside=first.experiment) as second:
        clips, other_clips = (analyse_clips(opened_run, splits) for opened_run in (first, second))
        track_id = clips.predictions.track_id[comparison.sample_rows(clips, cka_clips)]
        grams = (
            comparison.layer_grams(first, clips, track_id),
            comparison.layer_grams(second, other_clips, track_id),
        )
        folder = make_folder(comparison_folder(run, other))
        text = comparison.write_comparison(
            (str(run.resolve()), str(other.resolve())), clips, other_clips, grams, folder
        )
    return f"{text}\n\n{folder}"


def comparison_folder(run: Path, other: Path) -> Path:
    """Returns where the comparison with a run is written: by the name of its folder, and eight digits of the hash of
    its path if there is a comparison with another run of that name.
    """
    path = other.resolve()
    folder = run / FOLDER / "compared" / path.name
    try:
        compared = Path(json.loads((folder / comparison.COMPARISON).read_text())["runs"][1]).resolve()
    except (OSError, ValueError, LookupError, TypeError):  # none, or damaged
        return folder
    digest = hashlib.sha256(bytes(path)).hexdigest()
    return folder if compared == path else folder.with_name(f"{folder.name}-{digest[:8]}")
