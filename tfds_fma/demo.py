"""The demo corpus: a small synthetic FMA tree, for those who have no FMA at hand.

    python -m tfds_fma.demo --out DIR            # about a thousand clips of 6 s
    python -m tfds_fma.demo --out DIR --dummy    # six clips of 30 s: the folder dummy_data

It is laid out as the real thing (`tracks.csv` with three header rows, `genres.csv`, numbered folders of MP3
files) and meant to go through the same code. Its genres have FMA-medium's long tail, its splits keep artists
apart, and albums hold several clips. The music is procedural (`tfds_fma.synthesis`); nothing of FMA is in it.
"""

import argparse
import csv
import dataclasses
import functools
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tfds_fma.errors import FmaError
from tfds_fma.labels import GENRES
from tfds_fma.locks import only_one
from tfds_fma.metadata import SPLITS
from tfds_fma.parallel import ordered_map
from tfds_fma.prepare import prepare, run_command
from tfds_fma.reading import find_prepared
from tfds_fma.representations import DEMO_REPRESENTATION

DEMO_SUBSET = "medium"

DEFAULT_CLIPS = 1000

# Clips per genre in FMA-medium (train, validation and test together), in the order of GENRES.
_FMA_MEDIUM = (7103, 1018, 1519, 2251, 1350, 1186, 2201, 6314, 154, 74, 510, 384, 178, 619, 118, 21)

# FMA's ids of the same genres, for genres.csv.
_GENRE_IDS = (12, 2, 17, 38, 1235, 10, 21, 15, 14, 3, 8, 4, 9, 5, 20, 13)

# The columns of FMA's tracks.csv after the index: first and second header row.
_FIELDS = {
    "album": """comments date_created date_released engineer favorites id information listens producer tags
        title tracks type""",
    "artist": """active_year_begin active_year_end associated_labels bio comments date_created favorites id
        latitude location longitude members name related_projects tags website wikipedia_page""",
    "set": "split subset",
    "track": """bit_rate comments composer date_created date_recorded duration favorites genre_top genres
        genres_all information interest language_code license listens lyricist number publisher tags title""",
}
_COLUMNS = tuple((group, field) for group, fields in _FIELDS.items() for field in fields.split())

# Names are an adjective and a noun.
_ADJECTIVES = ("Amber", "Broken", "Distant", "Faded", "Golden", "Hollow", "Northern", "Velvet")
_NOUNS = ("Avenue", "Canyon", "Echo", "Garden", "Lantern", "Meadow", "Signal", "Sparrow")


@dataclass(frozen=True)
class DemoTrack:
    """One clip of the demo corpus, as in tracks.csv (`split` in FMA's words: training, validation, test)."""

    track_id: int
    artist_id: int
    album_id: int
    genre: str
    split: str
    subset: str
    number: int


def ensure_demo(data_dir: str | Path, *, workers: int | None = None, log: Callable[[str], None] = print) -> Path:
    """Makes and prepares the demo corpus, once.

    Args:
      data_dir: data folder; the demo goes to ``data_dir/demo``.
      workers: processes; by default one per CPU core.
      log: takes the lines for people.

    Returns:
      The folder of the prepared dataset (`DEMO_SUBSET` in `DEMO_REPRESENTATION`).
    """
    home = Path(data_dir).expanduser() / "demo"
    prepared = find_prepared(home, DEMO_SUBSET, DEMO_REPRESENTATION)
    if prepared is not None:
        return prepared
    log(
        f"demo: making and preparing about {DEFAULT_CLIPS} clips of synthetic music in {home} "
        "(once; under a minute on two CPU cores)"
    )
    source = make_demo_tree(home / "source", workers=workers)
    prepared = prepare(source, DEMO_SUBSET, DEMO_REPRESENTATION, home, workers=workers, log=lambda line: None)
    log(f"demo: done; later runs use {prepared}")
    return prepared


def make_demo_tree(
    directory: str | Path,
    *,
    seed: int = 0,
    clips: int = DEFAULT_CLIPS,
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Writes the demo corpus as an FMA tree, unless it is there.

    The tree depends on `seed` and `clips` only. It appears under its name when it is complete.

    Args:
      directory: where to put the tree: ``fma_metadata/`` and ``fma_medium/``.
      seed: of all randomness.
      clips: about how many clips; small genres get at least six.
      workers: processes; by default one per CPU core.
      progress: whether to show a progress bar.

    Returns:
      `directory`.

    Raises:
      FmaError: if there is something else of that name.
    """
    from tqdm import tqdm

    directory = Path(directory).expanduser().absolute()
    stamp = f"seed {seed}, {clips} clips"
    with only_one(directory.parent):
        if directory.exists():
            readme = directory / "README.txt"
            if readme.is_file() and f"({stamp})" in readme.read_text(encoding="utf-8"):
                return directory
            raise FmaError(
                f"{directory} exists and is not this demo corpus ({stamp}). Remove it, or choose another folder."
            )
        partial = directory.parent / f".incomplete-{directory.name}"
        shutil.rmtree(partial, ignore_errors=True)
        tracks = plan(seed, clips)
        _write_metadata(partial / "fma_metadata", tracks)
        audio = partial / "fma_medium"
        for folder in {track.track_id // 1000 for track in tracks}:
            (audio / f"{folder:03d}").mkdir(parents=True)
        rendered = ordered_map(functools.partial(_write_clip, audio, seed), tracks, workers)
        for _ in tqdm(rendered, "demo corpus", len(tracks), unit=" clips", disable=None if progress else True):
            pass
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
      FmaError: if there is something of that name.
    """
    from tfds_fma.extract_features import extract_tracks

    directory = Path(directory).expanduser().absolute()
    if directory.exists():
        raise FmaError(f"{directory} exists. Remove it, or choose another folder.")
    genres = {"training": ("Rock", "Jazz"), "validation": ("Rock", "Electronic"), "test": ("Electronic", "Jazz")}
    wanted = [(genre, split) for split, pair in genres.items() for genre in pair]
    first = {(track.genre, track.split): track for track in reversed(plan(seed=0, clips=0))}
    tracks = [dataclasses.replace(first[key], subset="medium" if key[0] == "Jazz" else "small") for key in wanted]
    _write_metadata(directory / "fma_metadata", tracks)
    for track in tracks:
        path = directory / "fma_medium" / f"{track.track_id // 1000:03d}" / f"{track.track_id:06d}.mp3"
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_dummy_clip(path, track)
    extract_tracks(directory, "medium", progress=False, log=lambda line: None)
    return directory


def _write_dummy_clip(path: Path, track: DemoTrack) -> None:
    """Writes 30 s at 12 kHz: the demo's clip, over and over."""
    import numpy as np
    import soundfile
    import soxr

    from tfds_fma.synthesis import SAMPLE_RATE, Identity, render

    rendered = render(Identity(0, track.genre, track.artist_id, track.album_id, track.track_id))
    samples = np.resize(soxr.resample(rendered, SAMPLE_RATE, 12_000), 30 * 12_000)
    soundfile.write(path, samples, 12_000, format="MP3", subtype="MPEG_LAYER_III", compression_level=0.999)


def plan(seed: int, clips: int = DEFAULT_CLIPS) -> list[DemoTrack]:
    """Decides which clips there are: genres, artists, albums, splits. In the order of their track ids."""
    import numpy as np

    rng = np.random.default_rng((seed, 0))
    drafts: list[tuple[int, int, str, str, int]] = []  # artist, album, genre, split, number
    artist, album = 0, 0
    for genre, size in zip(GENRES, _FMA_MEDIUM, strict=True):
        wanted = max(6, round(clips * size / sum(_FMA_MEDIUM)))
        held_out = max(1, round(wanted / 10))
        quotas = {"training": wanted - 2 * held_out, "validation": held_out, "test": held_out}
        for split, quota in quotas.items():
            left = quota
            while left:
                # A new artist, with one or two albums; three clips per album on average, as in FMA-medium.
                artist += 1
                for _ in range(int(rng.choice((1, 1, 2)))):
                    count = min(left, int(rng.geometric(0.3)))
                    if count:
                        album += 1
                        drafts += [(artist, album, genre, split, number + 1) for number in range(count)]
                        left -= count
    # FMA numbers tracks in the order of their upload: genres mixed, the tracks of one album in a row.
    rank = dict(zip(range(1, album + 1), rng.permutation(album), strict=True))
    drafts.sort(key=lambda draft: (rank[draft[1]], draft[4]))
    track_ids = 2 + np.cumsum(rng.integers(1, 12, len(drafts)))
    small = _small_part(drafts)
    return [
        DemoTrack(int(track_id), artist, album, genre, split, "small" if index in small else "medium", number)
        for index, (track_id, (artist, album, genre, split, number)) in enumerate(zip(track_ids, drafts, strict=True))
    ]


def _small_part(drafts: list[tuple[int, int, str, str, int]]) -> set[int]:
    """Positions of the clips labelled small: equally many of each of FMA-small's genres, in every split."""
    members: dict[tuple[str, str], list[int]] = {}
    for index, (_, _, genre, split, _) in enumerate(drafts):
        members.setdefault((split, genre), []).append(index)
    small_genres = GENRES[:8]
    return {
        index
        for split in SPLITS
        for genre in small_genres
        for index in members[split, genre][: min(len(members[split, other]) for other in small_genres)]
    }


def _write_clip(audio: Path, seed: int, track: DemoTrack) -> None:
    """Renders one clip and writes it as MP3 (runs in a worker process)."""
    import soundfile

    from tfds_fma.synthesis import SAMPLE_RATE, Identity, render

    samples = render(Identity(seed, track.genre, track.artist_id, track.album_id, track.track_id))
    path = audio / f"{track.track_id // 1000:03d}" / f"{track.track_id:06d}.mp3"
    soundfile.write(path, samples, SAMPLE_RATE, format="MP3", subtype="MPEG_LAYER_III", compression_level=0.95)


def _write_metadata(directory: Path, tracks: list[DemoTrack]) -> None:
    """Writes tracks.csv and genres.csv."""
    directory.mkdir(parents=True)
    genre_ids = dict(zip(GENRES, _GENRE_IDS, strict=True))
    with (directory / "tracks.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["", *(group for group, _ in _COLUMNS)])
        writer.writerow(["", *(field for _, field in _COLUMNS)])
        writer.writerow(["track_id", *("" for _ in _COLUMNS)])
        for track in tracks:
            values = _row(track, genre_ids[track.genre])
            writer.writerow([track.track_id, *(values.get(column, "") for column in _COLUMNS)])
    with (directory / "genres.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["genre_id", "#tracks", "parent", "title", "top_level"])
        for genre, genre_id in sorted(genre_ids.items(), key=lambda pair: pair[1]):
            count = sum(track.genre == genre for track in tracks)
            writer.writerow([genre_id, count, 0, genre, genre_id])


def _row(track: DemoTrack, genre_id: int) -> dict[tuple[str, str], object]:
    """The columns of tracks.csv that the demo fills, for one track."""
    artist, album, title = (
        f"{_ADJECTIVES[number % 8]} {_NOUNS[number // 8 % 8]}"
        for number in (track.artist_id * 37, track.album_id * 53, track.track_id * 71)
    )
    return {
        ("album", "id"): track.album_id,
        ("album", "title"): album,
        ("album", "type"): "Album",
        ("artist", "id"): track.artist_id,
        ("artist", "name"): f"{artist} {track.artist_id}",
        # Real biographies hold commas, quotes and line breaks.
        ("artist", "bio"): f'<p>A synthetic artist, known as "{artist}".</p>\n<p>Plays {track.genre}.</p>',
        ("set", "split"): track.split,
        ("set", "subset"): track.subset,
        ("track", "bit_rate"): 64000,
        ("track", "duration"): 6,
        ("track", "genre_top"): track.genre,
        ("track", "genres"): [genre_id],
        ("track", "genres_all"): [genre_id],
        ("track", "license"): "Synthetic",
        ("track", "number"): track.number,
        ("track", "tags"): [],
        ("track", "title"): title,
    }


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tfds_fma.demo", description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, metavar="DIR", help="where to write the tree")
    parser.add_argument("--dummy", action="store_true", help="six clips of 30 s, for tests of the builder")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--workers", type=int, metavar="N", help="processes; default: one per CPU core")
    args = parser.parse_args(argv)
    if args.dummy:
        return run_command(lambda: print(make_dummy_data(args.out)))
    return run_command(lambda: print(make_demo_tree(args.out, seed=args.seed, workers=args.workers)))


if __name__ == "__main__":
    sys.exit(main())
