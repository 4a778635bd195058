"""The demo corpus: a small synthetic FMA tree, for those who have no FMA at hand.

    python -m tfds_fma.demo --out DIR            # about a thousand clips of 6 s
    python -m tfds_fma.demo --out DIR --dummy    # six clips of 30 s: the folder dummy_data

It is laid out as the real thing (`tracks.csv` with three header rows, `genres.csv`, numbered folders of MP3
files) and meant to go through the same code. Its genres have FMA-medium's long tail, its splits keep artists
apart, and albums hold several clips. The music is procedural (`tfds_fma.synthesis.music`); nothing of FMA is in it.
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
from typing import TYPE_CHECKING

from tfds_fma.command_line import run_command
from tfds_fma.errors import UserError
from tfds_fma.labels import GENRE_IDS, GENRES
from tfds_fma.locks import only_one
from tfds_fma.parallel import ordered_map
from tfds_fma.preparation import prepare
from tfds_fma.reading import find_prepared
from tfds_fma.representations.feature_vector import FeatureVector
from tfds_fma.representations.registry import demo_representation, get_representation
from tfds_fma.source.tracks import SPLITS

if TYPE_CHECKING:
    from tfds_fma.synthesis.music import Identity

DEMO_SUBSET = "medium"

DEFAULT_CLIPS = 1000

# Clips per genre in FMA-medium (train, validation and test together), in the order of GENRES.
_FMA_MEDIUM = (7103, 1018, 1519, 2251, 1350, 1186, 2201, 6314, 154, 74, 510, 384, 178, 619, 118, 21)


# Up to two of FMA's sub-genres of each genre, with FMA's ids: the first sounds faster and brighter than the genre, the
# second slower and darker (`tfds_fma.synthesis.music`). FMA has one under Blues and none under Old-Time / Historic.
SUB_GENRES: dict[str, dict[str, int]] = {
    "Rock": {"Punk": 25, "Psych-Rock": 58},
    "International": {"Balkan": 118, "Reggae - Dub": 79},
    "Folk": {"Singer-Songwriter": 103, "Psych-Folk": 33},
    "Experimental": {"Noise": 32, "Drone": 47},
    "Instrumental": {"Soundtrack": 18, "Ambient": 107},
    "Pop": {"Synth Pop": 362, "Experimental Pop": 76},
    "Hip-Hop": {"Rap": 539, "Hip-Hop Beats": 811},
    "Electronic": {"Techno": 181, "House": 182},
    "Soul-RnB": {"Disco": 11, "Funk": 19},
    "Blues": {"Gospel": 567},
    "Old-Time / Historic": {},
    "Jazz": {"Big Band/Swing": 179, "Free-Jazz": 74},
    "Country": {"Rockabilly": 169, "Bluegrass": 63},
    "Classical": {"Symphony": 444, "Chamber Music": 442},
    "Spoken": {"Radio": 65, "Poetry": 188},
    "Easy Listening": {"Nu-Jazz": 810, "Lounge": 311},
}
_ALBUM_HAS_SUB_GENRE = 0.8

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
    """One clip of the demo corpus, as in tracks.csv.

    Attributes:
      track_id, artist_id, album_id, number: as in FMA.
      genre: top genre.
      sub_genre: one of `SUB_GENRES` of the genre, the same on the whole album; empty: none.
      split: training, validation or test (FMA's words).
      subset: small or medium.
    """

    track_id: int
    artist_id: int
    album_id: int
    genre: str
    sub_genre: str
    split: str
    subset: str
    number: int


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
      workers: processes; by default one per CPU core.
      log: takes the lines for people.

    Returns:
      The folder of the prepared dataset.
    """
    home = Path(data_dir).expanduser() / "demo"
    representation = demo_representation(representation)
    prepared = find_prepared(home, DEMO_SUBSET, representation)
    if prepared is not None:
        return prepared
    log(
        f"demo: making about {DEFAULT_CLIPS} clips of synthetic music in {home}, and {representation} of them "
        "(once; about a minute on two CPU cores)"
    )
    source = make_demo_tree(home / "source", workers=workers)
    if isinstance(get_representation(representation), FeatureVector):
        _ensure_features(source, workers)
    prepared = prepare(source, DEMO_SUBSET, representation, home, workers=workers, log=lambda line: None)
    log(f"demo: done; later runs use {prepared}")
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
      UserError: if there is something else of that name.
    """
    from tqdm import tqdm

    directory = Path(directory).expanduser().absolute()
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
      UserError: if there is something of that name.
    """
    from tfds_fma.extract_features import extract_tracks

    directory = Path(directory).expanduser().absolute()
    if directory.exists():
        raise UserError(f"{directory} exists. Remove it, or choose another folder.")
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

    from tfds_fma.synthesis.music import SAMPLE_RATE, render

    rendered = render(_identity(0, track))
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
    sub_genres = _sub_genres(seed, {album: genre for _, album, genre, _, _ in drafts})
    return [
        DemoTrack(
            track_id=int(track_id),
            artist_id=artist,
            album_id=album,
            genre=genre,
            sub_genre=sub_genres[album],
            split=split,
            subset="small" if index in small else "medium",
            number=number,
        )
        for index, (track_id, (artist, album, genre, split, number)) in enumerate(zip(track_ids, drafts, strict=True))
    ]


def _sub_genres(seed: int, genre_of_album: dict[int, str]) -> dict[int, str]:
    """Draws the sub-genre of each album; empty: none."""
    import numpy as np

    chosen = {}
    for album, genre in genre_of_album.items():
        rng = np.random.default_rng((seed, 5, album))
        names = tuple(SUB_GENRES[genre])
        has_one = names and rng.random() < _ALBUM_HAS_SUB_GENRE
        chosen[album] = names[rng.integers(len(names))] if has_one else ""
    return chosen


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

    from tfds_fma.synthesis.music import SAMPLE_RATE, render

    samples = render(_identity(seed, track))
    path = audio / f"{track.track_id // 1000:03d}" / f"{track.track_id:06d}.mp3"
    soundfile.write(path, samples, SAMPLE_RATE, format="MP3", subtype="MPEG_LAYER_III", compression_level=0.95)


def _identity(seed: int, track: DemoTrack) -> "Identity":
    """What the synthesis must know of a track."""
    from tfds_fma.synthesis.music import Identity

    names = ("", *SUB_GENRES[track.genre])
    return Identity(seed, track.genre, track.artist_id, track.album_id, track.track_id, names.index(track.sub_genre))


def _write_metadata(directory: Path, tracks: list[DemoTrack]) -> None:
    """Writes tracks.csv and genres.csv."""
    directory.mkdir(parents=True)
    with (directory / "tracks.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["", *(group for group, _ in _COLUMNS)])
        writer.writerow(["", *(field for _, field in _COLUMNS)])
        writer.writerow(["track_id", *("" for _ in _COLUMNS)])
        for track in tracks:
            values = _row(track, GENRE_IDS[track.genre])
            writer.writerow([track.track_id, *(values.get(column, "") for column in _COLUMNS)])
    with (directory / "genres.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["genre_id", "#tracks", "parent", "title", "top_level"])
        rows = [(genre_id, 0, genre, genre_id) for genre, genre_id in GENRE_IDS.items()]
        for genre, names in SUB_GENRES.items():
            rows += [(number, GENRE_IDS[genre], name, GENRE_IDS[genre]) for name, number in names.items()]
        for genre_id, parent, title, top_level in sorted(rows):
            count = sum(title in (track.genre, track.sub_genre) for track in tracks)
            writer.writerow([genre_id, count, parent, title, top_level])


def _row(track: DemoTrack, genre_id: int) -> dict[tuple[str, str], object]:
    """The columns of tracks.csv that the demo fills, for one track."""
    artist, album, title = (
        f"{_ADJECTIVES[number % 8]} {_NOUNS[number // 8 % 8]}"
        for number in (track.artist_id * 37, track.album_id * 53, track.track_id * 71)
    )
    sub_genre_id = [SUB_GENRES[track.genre][track.sub_genre]] if track.sub_genre else []
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
        ("track", "genres"): sub_genre_id or [genre_id],
        ("track", "genres_all"): sorted([genre_id, *sub_genre_id]),
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
