"""Which tracks the demo corpus has, and its tracks.csv and genres.csv, laid out as FMA's."""

import csv
from dataclasses import dataclass
from pathlib import Path

from tfds_fma.labels import GENRE_IDS, GENRES

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
        for split in {split for split, _ in members}
        for genre in small_genres
        for index in members[split, genre][: min(len(members[split, other]) for other in small_genres)]
    }


def write_metadata(directory: Path, tracks: list[DemoTrack]) -> None:
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
