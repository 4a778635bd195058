"""The demo corpus: a small synthetic FMA tree, for those who have no FMA at hand.

    python -m tfds_fma.demo --out DIR            # about a thousand clips of 6 s
    python -m tfds_fma.demo --out DIR --dummy    # six clips of 30 s: the folder dummy_data
    python -m tfds_fma.demo --out DIR --gtzan 20 # GTZAN's folders and names with 20 excerpts of each genre

It is laid out as the real thing (`tracks.csv` with three header rows, `genres.csv`, numbered folders of MP3
files) and meant to go through the same code. Its genres have FMA-medium's long tail, its splits keep artists
apart, and albums hold several clips. The music is procedural (`tfds_fma.synthesis.music`); nothing of FMA is in it.
"""

import argparse
import dataclasses
import functools
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tfds_fma.command_line import exit_status
from tfds_fma.errors import UserError
from tfds_fma.locks import only_one
from tfds_fma.parallel import ordered_map
from tfds_fma.paths import local_path
from tfds_fma.preparation import prepare
from tfds_fma.progress import progress_bar
from tfds_fma.reading import find_prepared
from tfds_fma.representations.feature_vector import FeatureVector
from tfds_fma.representations.registry import demo_representation, get_representation
from tfds_fma.synthesis.catalogue import DEFAULT_CLIPS, SUB_GENRES, DemoTrack, plan, write_metadata

if TYPE_CHECKING:
    from tfds_fma.synthesis.music import Identity

DEMO_SUBSET = "medium"


def ensure_demo(
    data_dir: str | Path,
    representation: str = "mel_256x96",
    *,
    workers: int | None = None,
    log: Callable[[str], None] = print,
) -> Path:
    """Makes and prepares the demo corpus, once; its audio is made once for all representations.

    Args:
      data_dir: data folder; the demo goes to ``data_dir/demo``.
      representation: `representations.registry.demo_representation` says what the demo has instead of it.
      workers: processes; by default one per usable core.
      log: takes the lines for people.

    Returns:
      The folder of the prepared dataset.
    """
    home = local_path(data_dir) / "demo"
    representation = demo_representation(representation)
    prepared = find_prepared(home, DEMO_SUBSET, representation)
    if prepared is not None:
        return prepared
    source = make_demo_tree(home / "source", workers=workers, log=log)
    log(f"preparing the demo corpus as {representation} in {home} (once)")
    if isinstance(get_representation(representation), FeatureVector):
        _ensure_features(source, workers)
    prepared = prepare(source, DEMO_SUBSET, representation, home, workers=workers, log=lambda line: None)
    log(f"the demo corpus is ready; later runs use {prepared}")
    return prepared


def _ensure_features(source: Path, workers: int | None) -> None:
    """Computes the features of the demo tree, once."""
    from tfds_fma.extract_features import extract_tracks

    with only_one(source.parent):
        if not (source / "fma_metadata" / "features.csv").exists():
            extract_tracks(source, DEMO_SUBSET, workers=workers, log=lambda line: None)


def make_demo_tree(
    directory: str | Path,
    *,
    seed: int = 0,
    clips: int = DEFAULT_CLIPS,
    workers: int | None = None,
    progress: bool = True,
    log: Callable[[str], None] = lambda line: None,
) -> Path:
    """Writes the demo corpus as an FMA tree, unless it is there.

    The tree depends on `seed` and `clips` only. It appears under its name when it is complete.

    Args:
      directory: where to put the tree: ``fma_metadata/`` and ``fma_medium/``.
      seed: of all randomness.
      clips: about how many clips; small genres get at least six.
      workers: processes; by default one per usable core.
      progress: whether to show a progress bar.
      log: takes a line for people before the work starts.

    Returns:
      `directory`.

    Raises:
      UserError: if there is something else of that name.
    """
    directory = local_path(directory).absolute()
    stamp = f"seed {seed}, {clips} clips"
    with only_one(directory.parent):
        if directory.exists():
            readme = directory / "README.txt"
            if readme.is_file() and f"({stamp})" in readme.read_text(encoding="utf-8"):
                return directory
            raise UserError(
                f"{directory} exists and is not this demo corpus ({stamp}). Remove it, or choose another folder."
            )
        partial = directory.parent / f".incomplete-{directory.name}"
        shutil.rmtree(partial, ignore_errors=True)
        tracks = plan(seed, clips)
        log(
            f"making the demo corpus in {directory}: {len(tracks):,} clips of synthetic music (once; about a minute "
            "on two CPU cores)"
        )
        write_metadata(partial / "fma_metadata", tracks)
        audio = partial / "fma_medium"
        for folder in {track.track_id // 1000 for track in tracks}:
            (audio / f"{folder:03d}").mkdir(parents=True)
        rendered = ordered_map(functools.partial(_write_clip, audio, seed), tracks, workers)
        with progress_bar("demo corpus", len(tracks), "clips", show=progress) as bar:
            for _ in rendered:
                bar.update()
        (partial / "README.txt").write_text(
            f"Synthetic music in the layout of FMA ({stamp}), made by tfds_fma.demo. Nothing is from FMA.\n",
            encoding="utf-8",
        )
        partial.rename(directory)
    return directory


def make_dummy_data(directory: str | Path) -> Path:
    """Writes the smallest tree from which every representation can be prepared, features included.

    Six clips of 30 s at 12 kHz, two in each split, of two genres of FMA-small and one of FMA-medium: what TFDS calls
    dummy data, for tests without FMA.

    Args:
      directory: where to put the tree.

    Returns:
      `directory`.

    Raises:
      UserError: if there is something of that name.
    """
    from tfds_fma.extract_features import extract_tracks

    directory = local_path(directory).absolute()
    if directory.exists():
        raise UserError(f"{directory} exists. Remove it, or choose another folder.")
    genres = {"training": ("Rock", "Jazz"), "validation": ("Rock", "Electronic"), "test": ("Electronic", "Jazz")}
    wanted = [(genre, split) for split, pair in genres.items() for genre in pair]
    first = {(track.genre, track.split): track for track in reversed(plan(seed=0, clips=0))}
    tracks = [dataclasses.replace(first[key], subset="medium" if key[0] == "Jazz" else "small") for key in wanted]
    write_metadata(directory / "fma_metadata", tracks)
    for track in tracks:
        path = directory / "fma_medium" / f"{track.track_id // 1000:03d}" / f"{track.track_id:06d}.mp3"
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_dummy_clip(path, track)
    extract_tracks(directory, "medium", progress=False, log=lambda line: None)
    return directory


def make_gtzan(
    directory: str | Path, songs: int = 100, *, seed: int = 0, workers: int | None = None, progress: bool = True
) -> Path:
    """Writes synthetic excerpts in the folders and with the names of GTZAN, so that its splits and artists apply.

    They are made so that a leak shows: see `tfds_fma.synthesis.gtzan`.

    Args:
      directory: where to put ``GENRE/GENRE.NNNNN.au``.
      songs: how many of each genre, at equal distances in GTZAN's numbers, so that all splits have some.
      seed: of all randomness.
      workers: processes; by default one per usable core.
      progress: whether to show a progress bar.

    Returns:
      `directory`.

    Raises:
      UserError: there is something of that name, or GTZAN has fewer songs.
    """
    from tfds_fma.collection.gtzan import excerpts
    from tfds_fma.synthesis.gtzan import STYLES

    directory = local_path(directory).absolute()
    if directory.exists():
        raise UserError(f"{directory} exists. Remove it, or choose another folder.")
    known = excerpts()
    of_genre = len(known) // len(STYLES)
    if not 1 <= songs <= of_genre:
        raise UserError(f"GTZAN has {of_genre} songs of each genre: give a number from 1 to {of_genre}, not {songs}.")
    wanted = {of_genre * number // songs for number in range(songs)}
    names = [name for name in known if int(name.partition(".")[2]) in wanted]
    artists = sorted({excerpt.artist for excerpt in known.values()} - {""})
    partial = directory.parent / f".incomplete-{directory.name}"
    shutil.rmtree(partial, ignore_errors=True)
    for genre in STYLES:
        (partial / genre).mkdir(parents=True)
    numbers = {name: number for number, name in enumerate(known)}
    jobs = [
        (name, artists.index(by) if (by := known[name].artist) else len(artists) + numbers[name], numbers[name])
        for name in names
    ]
    with progress_bar("synthetic GTZAN", len(jobs), "excerpts", show=progress) as bar:
        for _ in ordered_map(functools.partial(_write_excerpt, partial, seed), jobs, workers):
            bar.update()
    partial.rename(directory)
    return directory


def _write_excerpt(folder: Path, seed: int, job: tuple[str, int, int]) -> None:
    """Renders one excerpt and writes it (runs in a worker process)."""
    import soundfile

    from tfds_fma.collection.gtzan import genre_of
    from tfds_fma.synthesis.gtzan import render_excerpt
    from tfds_fma.synthesis.music import SAMPLE_RATE

    name, artist, number = job
    genre = genre_of(name)
    audio = render_excerpt(genre, artist, number, seed)
    soundfile.write(folder / genre / f"{name}.au", audio, SAMPLE_RATE, format="AU", subtype="PCM_16")


def _write_dummy_clip(path: Path, track: DemoTrack) -> None:
    """Writes 30 s at 12 kHz: the demo's clip, over and over."""
    import numpy as np
    import soundfile
    import soxr

    from tfds_fma.synthesis.music import SAMPLE_RATE, render

    rendered = render(_identity(0, track))
    samples = np.resize(soxr.resample(rendered, SAMPLE_RATE, 12_000), 30 * 12_000)
    soundfile.write(path, samples, 12_000, format="MP3", subtype="MPEG_LAYER_III", compression_level=0.999)


def _write_clip(audio: Path, seed: int, track: DemoTrack) -> None:
    """Renders one clip and writes it as MP3 (runs in a worker process)."""
    import soundfile

    from tfds_fma.synthesis.music import SAMPLE_RATE, render

    samples = render(_identity(seed, track))
    path = audio / f"{track.track_id // 1000:03d}" / f"{track.track_id:06d}.mp3"
    soundfile.write(path, samples, SAMPLE_RATE, format="MP3", subtype="MPEG_LAYER_III", compression_level=0.95)


def _identity(seed: int, track: DemoTrack) -> "Identity":
    """What the synthesis must know of a track."""
    from tfds_fma.synthesis.music import Identity

    names = ("", *SUB_GENRES[track.genre])
    return Identity(seed, track.genre, track.artist_id, track.album_id, track.track_id, names.index(track.sub_genre))


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tfds_fma.demo", description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, metavar="DIR", help="where to write the tree")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--dummy", action="store_true", help="six clips of 30 s, for tests of the builder")
    instead.add_argument(
        "--gtzan", type=int, metavar="N", help="GTZAN's folders and names with N synthetic excerpts of each genre"
    )
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--workers", type=int, metavar="N", help="processes; default: one per usable core")
    args = parser.parse_args(argv)
    if args.dummy:
        return exit_status(lambda: print(make_dummy_data(args.out)))
    if args.gtzan is not None:
        return exit_status(lambda: print(make_gtzan(args.out, args.gtzan, seed=args.seed, workers=args.workers)))
    log = functools.partial(print, file=sys.stderr)  # standard output has the folder alone
    return exit_status(lambda: print(make_demo_tree(args.out, seed=args.seed, workers=args.workers, log=log)))


if __name__ == "__main__":
    sys.exit(main())
