"""Writes embeddings of audio files as arrays to train on: `mgc-jax embed MODEL SONG... --out x.npz`."""

import argparse
import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mgc_jax.errors import UserError
from mgc_jax.predict import add_songs, check_place
from mgc_jax.runtime.files import replacing, write_text
from mgc_jax.runtime.process_setup import prepare_process
from mgc_jax.runtime.terminal import run_command, say
from mgc_jax.songs.files import as_text
from tfds_fma.paths import local_path

# The default names of config.data.arrays.columns, and what people want to see.
_COLUMNS = ("track_id", "split", "genre_top", "artist_id", "album_id", "title", "path")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status: 1 if a file could not be used."""
    parser = argparse.ArgumentParser(
        prog="mgc-jax embed",
        description="Writes the embeddings of songs, each the mean over its windows, to FILE.npz, and a table of the "
        "songs to FILE.csv, as config.data.corpus=arrays reads them. Track ids are the numbers that files are named "
        "by, as FMA's are, else 1, 2, ... Genres are those of the tags, and every song is in the training split: "
        "correct the table, give another one, or cross-validate (config.data.split=folds).",
        epilog="Exit status: 0 if all files were used, 1 if one was not, or nothing could be done.",
    )
    add_songs(parser)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE.npz", help="the arrays; the table lies beside"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the files, if they exist")
    given = parser.parse_args(arguments)
    prepare_process()
    return run_command(lambda: _embed(given))


def _embed(given: argparse.Namespace) -> int:
    from mgc_jax.loading import load_model
    from mgc_jax.songs.predict import EmbeddedSong, Failure, embed_songs
    from mgc_jax.songs.table import one_line

    out = local_path(given.out)
    check_place("--out", out, ".npz")
    if not given.overwrite and (there := [path for path in (out, out.with_suffix(".csv")) if path.exists()]):
        raise UserError(f"{there[0]} exists. Replace it with --overwrite, or choose another --out")
    model = load_model(given.model)
    songs: list[EmbeddedSong] = []
    failed: list[Failure] = []
    for found in embed_songs(model, given.songs, hop=given.hop, workers=given.workers, progress=True):
        if isinstance(found, EmbeddedSong):
            songs.append(found)
        else:
            failed.append(found)
            say(f"not used: {one_line(as_text(found.path))}: {found.reason}\n", sys.stderr)
    songs.sort(key=lambda song: song.number)
    if not songs:
        raise UserError("no file could be used; nothing was written")
    write_embeddings(out, songs)
    say(f"{len(songs):,} embeddings in {out}, their table in {out.with_suffix('.csv')}\n", sys.stdout)
    return 1 if failed else 0


def write_embeddings(out: Path, songs: Sequence) -> None:
    """Writes `track_id` and `embedding` [song, feature] to an .npz file, and the table of the songs beside it.

    Args:
        out: the file.
        songs: `mgc_jax.songs.predict.EmbeddedSong`s.

    Raises:
        UserError: they cannot be written.
    """
    ids = track_ids([song.path for song in songs])
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(_COLUMNS)
    for track_id, song in zip(ids, songs, strict=True):
        tags = song.tags
        rows.writerow((track_id, "train", tags.genre, tags.artist, tags.album, tags.title, as_text(song.path)))
    remedy = "Make room there, or choose another --out."
    means = np.stack([song.embeddings.mean(axis=0) for song in songs])
    with replacing(out, remedy) as temporary, temporary.open("wb") as file:
        np.savez(file, track_id=np.array(ids), embedding=means)
    write_text(out.with_suffix(".csv"), text.getvalue(), remedy)


def track_ids(paths: Sequence[Path]) -> list[int]:
    """Returns the numbers that files are named by, or 1, 2, ... if one has none or two have the same."""
    numbers = [int(path.stem) for path in paths if path.stem.isascii() and path.stem.isdigit() and len(path.stem) < 18]
    return numbers if len(set(numbers)) == len(paths) else list(range(1, len(paths) + 1))


if __name__ == "__main__":
    sys.exit(main())
