import math
import zipfile

import pytest
from fma_trees import corruptions, write_table

from tfds_fma import UserError
from tfds_fma.source.tracks import read_tracks


def test_small_comes_before_the_rest_of_medium(tmp_path):
    rows = [(4, "medium"), (2, "small"), (9, "large"), (3, "small"), (1, "medium")]
    write_table(tmp_path, [{"track_id": number, "subset": subset} for number, subset in rows])
    assert [track.track_id for track in read_tracks(tmp_path, "medium")] == [2, 3, 4, 1]
    assert [track.track_id for track in read_tracks(tmp_path, "small")] == [2, 3]


def test_awkward_values(tmp_path):
    write_table(
        tmp_path,
        [
            {"track_id": 2, "title": 'Line,\nbreak "quoted"', "artist_id": "12.0", "split": "validation"},
            {"track_id": 3, "album_id": -1, "artist_id": "", "duration": "", "genre": ""},
            {"track_id": 5, "artist": "Ünïcode", "split": "test"},
        ],
    )
    first, second, third = read_tracks(tmp_path, "small")
    assert (first.title, first.artist_id, first.split) == ('Line,\nbreak "quoted"', 12, "validation")
    assert (second.album_id, second.artist_id, second.genre, second.split) == (-1, -1, "", "train")
    assert math.isnan(second.duration)
    assert third.artist == "Ünïcode"


def test_zip_reads_as_the_folder_does(demo_tree, tmp_path):
    with zipfile.ZipFile(tmp_path / "fma_metadata.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(demo_tree / "fma_metadata" / "tracks.csv", "fma_metadata/tracks.csv")
    assert read_tracks(tmp_path, "medium") == read_tracks(demo_tree, "medium")


@pytest.mark.parametrize("column", ["genre", "split", "artist_id", "album_id"])
def test_missing_column_is_named(tmp_path, column):
    write_table(tmp_path, [{"track_id": 2}], without=column)
    named = {
        "genre": "track.genre_top",
        "split": "set.split",
        "artist_id": "artist.id",
        "album_id": "album.id",
    }
    with pytest.raises(UserError, match=rf"tracks.csv lacks the column {named[column]}\. Get "):
        read_tracks(tmp_path, "small")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"genre": "Polka"}, r"line 4: genre 'Polka' is not among the 8 genres"),
        ({"genre": "Jazz"}, r"genre 'Jazz' is not among the 8 genres of subset 'small'"),
        ({"split": "holdout"}, r"split 'holdout' is none of training, validation, test"),
        ({"artist_id": "somebody"}, r"could not convert string to float: 'somebody'"),
        ({"subset": "large"}, r"no track of the subset 'small'"),
    ],
)
def test_values_that_make_no_sense_are_named(tmp_path, row, message):
    write_table(tmp_path, [{"track_id": 2} | row])
    with pytest.raises(UserError, match=message):
        read_tracks(tmp_path, "small")


def test_what_is_not_a_track_table(tmp_path):
    with pytest.raises(UserError, match=r"source folder .* does not exist"):
        read_tracks(tmp_path / "nowhere", "small")
    with pytest.raises(UserError, match=r"neither .*tracks.csv nor .*fma_metadata.zip exists. Get fma_metadata.zip"):
        read_tracks(tmp_path, "small")
    (tmp_path / "fma_metadata.zip").write_bytes(b"half a download")
    with pytest.raises(UserError, match=r"fma_metadata.zip:.* cannot be read \(File is not a zip file\). Get "):
        read_tracks(tmp_path, "small")
    write_table(tmp_path, [{"track_id": 2}, {"track_id": 3}])
    path = tmp_path / "fma_metadata" / "tracks.csv"
    text = path.read_text()
    path.write_text(text[:-20])
    with pytest.raises(UserError, match=r"line 5: 6 of at least 10 columns.*cut off"):
        read_tracks(tmp_path, "small")
    path.write_text("track_id,genre\n2,Rock\n")
    with pytest.raises(UserError, match="three header rows"):
        read_tracks(tmp_path, "small")
    path.write_bytes(text.replace("100,Rock", "100,R\xf6ck").encode("latin-1"))
    with pytest.raises(UserError, match="line 4: genre 'R\N{REPLACEMENT CHARACTER}ck' is not among"):
        read_tracks(tmp_path, "small")


def test_harmless_oddities_are_told_and_survived(tmp_path):
    rows = [{"track_id": 2, "title": "Caf@"}, {"track_id": 3, "subset": "tiny"}, {"track_id": 4, "subset": ""}]
    write_table(tmp_path, [*rows, {"track_id": 2, "title": "Caf@"}, {"track_id": 5, "subset": "large"}])
    path = tmp_path / "fma_metadata" / "tracks.csv"
    path.write_bytes(path.read_bytes().replace(b"@", b"\xe9"))  # Latin-1
    lines: list[str] = []
    (track,) = read_tracks(tmp_path, "small", lines.append)
    assert track.title == "Caf\N{REPLACEMENT CHARACTER}"
    assert [line.removeprefix(f"{path}: ") for line in lines] == [
        "2 rows left out, of subsets that FMA does not have ('tiny', '')",
        "1 rows left out that repeat another one",
        "1 titles or artist names hold bytes that are not UTF-8, now \N{REPLACEMENT CHARACTER}",
    ]


def test_two_rows_for_one_track_are_an_error(tmp_path):
    write_table(tmp_path, [{"track_id": 2}, {"track_id": 2, "split": "test"}])
    with pytest.raises(UserError, match=r"line 5: track 2 occurs a second time, with other contents. Keep one"):
        read_tracks(tmp_path, "small")


def test_large_and_full_hold_every_track_and_all_genre_ids(tmp_path):
    rows = [(4, "large", ""), (2, "small", "Rock"), (9, "medium", "Jazz")]
    write_table(
        tmp_path,
        [{"track_id": i, "subset": s, "genre": g, "genres_all": f"[{i}, 12]" if g else "[]"} for i, s, g in rows],
    )
    for subset in ("large", "full"):
        tracks = read_tracks(tmp_path, subset)
        assert [(track.track_id, track.genre, track.genres_all) for track in tracks] == [
            (2, "Rock", (2, 12)), (9, "Jazz", (9, 12)), (4, "", ()),
        ]  # fmt: skip


def test_blank_lines_are_skipped(tmp_path):
    write_table(tmp_path, [{"track_id": 2}, {"track_id": 3}])
    path = tmp_path / "fma_metadata" / "tracks.csv"
    *head, last = path.read_text().splitlines()
    path.write_text("\n".join([*head, "", last, "", ""]))
    assert [track.track_id for track in read_tracks(tmp_path, "small")] == [2, 3]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_corrupt_zip_file_is_an_error_for_people(tmp_path, method):
    source = tmp_path / "source"
    write_table(source, [{"track_id": number, "title": f"T{number * number}"} for number in range(100)])
    archive = tmp_path / "fma_metadata.zip"
    with zipfile.ZipFile(archive, "w", method) as opened:
        opened.write(source / "fma_metadata" / "tracks.csv", "fma_metadata/tracks.csv")
    tracks = read_tracks(tmp_path, "small")
    refused = 0
    for data in corruptions(archive.read_bytes(), 60):
        archive.write_bytes(data)
        try:
            assert read_tracks(tmp_path, "small") == tracks  # the changed bytes do not matter, as those of a date
        except UserError:
            refused += 1
    assert refused > 30


def test_a_table_that_may_not_be_read_is_an_error_for_people(tmp_path, monkeypatch):
    write_table(tmp_path, [{"track_id": 2}])

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(UserError, match=r"tracks.csv cannot be read \(.*Permission denied\)"):
        read_tracks(tmp_path, "small")
