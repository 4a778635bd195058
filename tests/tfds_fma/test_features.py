import collections
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from fma_trees import corruptions

from tfds_fma import UserError
from tfds_fma.representations.feature_names import COLUMNS, FEATURE_SETS, GROUPS, STATISTICS, columns_of, groups_of
from tfds_fma.source.feature_table import read_features, write_features

IDS = np.array([2, 3, 5, 10, 134])


@pytest.fixture
def values() -> np.ndarray:
    values = np.random.default_rng(0).normal(size=(len(IDS), len(COLUMNS))).astype(np.float32)
    values[2] = np.nan  # a track whose audio could not be analysed
    return values


@pytest.fixture
def source(tmp_path, values):
    """A folder with a table of all features."""
    (tmp_path / "fma_metadata").mkdir()
    write_features(tmp_path / "fma_metadata" / "features.csv", IDS, values)
    return tmp_path


def table_of(source):
    return source / "fma_metadata" / "features.csv"


def cells_of(path) -> list[list[str]]:
    return [line.split(",") for line in path.read_text().splitlines()]


def write_cells(path, rows) -> None:
    path.write_text("".join(",".join(row) + "\n" for row in rows))


def test_the_layout_is_that_of_fma():
    assert len(COLUMNS) == 518
    assert list(COLUMNS) == sorted(COLUMNS)
    assert set(collections.Counter(column[:2] for column in COLUMNS)) == {(g, s) for g in GROUPS for s in STATISTICS}
    first = {group: int(columns_of([group])[0]) for group in GROUPS}
    assert first == {
        "chroma_cens": 0,
        "chroma_cqt": 84,
        "chroma_stft": 168,
        "mfcc": 252,
        "rmse": 392,
        "spectral_bandwidth": 399,
        "spectral_centroid": 406,
        "spectral_contrast": 413,
        "spectral_rolloff": 462,
        "tonnetz": 469,
        "zcr": 511,
    }
    assert COLUMNS[252] == ("mfcc", "kurtosis", "01")
    assert COLUMNS[391] == ("mfcc", "std", "20")


def test_the_feature_sets_are_those_of_matt():
    assert {name: len(columns_of(groups_of(name))) for name in FEATURE_SETS} == {
        "chroma": 84,
        "tonnetz": 42,
        "mfcc": 140,
        "spectral_centroid": 7,
        "spectral_bandwidth": 7,
        "spectral_contrast": 49,
        "spectral_rolloff": 7,
        "rmse": 7,
        "zcr": 7,
        "mfcc+spectral_contrast": 189,
        "mfcc+spectral_contrast+spectral_centroid": 196,
        "all": 518,
    }


def test_names_can_be_joined():
    assert groups_of("chroma") == ("chroma_stft",)
    assert groups_of("zcr+chroma_cens+zcr") == ("chroma_cens", "zcr")
    assert groups_of("tonnetz+all") == tuple(GROUPS)
    assert columns_of(["zcr", "rmse"]).tolist() == [*range(392, 399), *range(511, 518)]


@pytest.mark.parametrize(("name", "part"), [("mfccs", "'mfccs'"), ("mfcc+loudness", "'loudness' in "), ("", "''")])
def test_an_unknown_name_lists_the_choices(name, part):
    with pytest.raises(UserError, match=rf"Unknown features {part}.*all, chroma, chroma_cens, .*mfcc, .*zcr; join"):
        groups_of(name)


def test_what_is_written_is_read(source, values):
    table = read_features(source)
    np.testing.assert_array_equal(table.values, values)
    assert table.values.dtype == np.float32
    assert table.track_id.tolist() == IDS.tolist()
    assert table.track_id.dtype == np.int64
    assert table.columns == COLUMNS
    assert table.incomplete().tolist() == [False, False, True, False, False]


def test_the_file_looks_as_fma_wrote_it(source, values):
    rows = cells_of(table_of(source))
    assert rows[0][:2] == ["feature", "chroma_cens"]
    assert rows[1][:2] == ["statistics", "kurtosis"]
    assert rows[2][:3] == ["number", "01", "02"]
    assert rows[3] == ["track_id"] + 518 * [""]
    assert rows[4][:2] == ["2", f"{values[0, 0]:.10e}"]
    assert rows[6] == ["5"] + 518 * [""]
    assert [path.name for path in table_of(source).parent.iterdir()] == ["features.csv"]


def test_some_features_of_a_zip_file_or_of_a_single_file(source, values, tmp_path):
    wanted = columns_of(["mfcc", "zcr"])
    archive = tmp_path / "zipped" / "fma_metadata.zip"
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.write(table_of(source), "fma_metadata/features.csv")
    for place in (source, archive.parent, table_of(source)):
        table = read_features(place, ("zcr", "mfcc"))
        np.testing.assert_array_equal(table.values, values[:, wanted])
        assert table.columns == tuple(COLUMNS[position] for position in wanted)


def test_the_order_of_columns_in_the_file_does_not_matter(source, values):
    rows = cells_of(table_of(source))
    order = [0, *np.random.default_rng(1).permutation(np.arange(1, 519)).tolist()]
    other = ["loudness", "mean", "01", "", *("loud" for _ in IDS)]  # not one of FMA's: not looked at
    write_cells(table_of(source), [[row[i] for i in order] + [cell] for row, cell in zip(rows, other, strict=True)])
    np.testing.assert_array_equal(read_features(source).values, values)


def test_what_others_write_is_read(source, values):
    """Line ends of Windows, blank lines, other words in the corner, infinity, "nan", quoted cells."""
    rows = cells_of(table_of(source))
    rows[0][0] = "features"
    rows[4][1], rows[4][2], rows[4][3] = "inf", "nan", '"7"'
    table_of(source).write_bytes("\r\n".join(",".join(row) for row in [*rows[:6], [""], *rows[6:], [""]]).encode())
    table = read_features(source)
    assert table.values[0, :3].tolist() == [np.inf, pytest.approx(np.nan, nan_ok=True), 7]
    np.testing.assert_array_equal(table.values[1:], values[1:])
    assert table.incomplete().tolist() == [True, False, True, False, False]


def test_a_table_longer_than_a_chunk(tmp_path, monkeypatch):
    monkeypatch.setattr("tfds_fma.source.feature_table._CHUNK_BYTES", 20_000)
    values = np.arange(40 * 518, dtype=np.float32).reshape(40, 518)
    write_features(tmp_path / "t.csv", np.arange(40), values)
    np.testing.assert_array_equal(read_features(tmp_path / "t.csv").values, values)
    rows = cells_of(tmp_path / "t.csv")
    rows[37][500] = "x"
    write_cells(tmp_path / "t.csv", rows)
    with pytest.raises(UserError, match=r"line 38: .* of track 33 is 'x'"):
        read_features(tmp_path / "t.csv")


def edit(rows, row, cell, text):
    rows[row][cell] = text
    return rows


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:3] + rows[4:], r"does not begin with FMA's four header rows"),
        (lambda rows: [["a"]], r"does not begin with FMA's four header rows"),
        (lambda rows: [], r"does not begin with FMA's four header rows"),
        (lambda rows: edit(rows, 3, 0, "path"), r"was made with --audio"),
        (lambda rows: edit(rows, 2, 5, "04"), r"has the column chroma_cens\.kurtosis\.04 twice"),
        (lambda rows: rows[:4], r"has no tracks"),
        (lambda rows: [row[:1] + row[3:] for row in rows], r"lacks 2 columns \(chroma_cens\.kurtosis\.01, "),
        (lambda rows: edit(rows, 5, 4, "1,5"), r"line 6 has 520 of 519 columns"),
        (lambda rows: [*rows[:7], rows[7][:100]], r"line 8 has 100 of 519 columns, so the file is damaged or cut off"),
        (lambda rows: edit(rows, 5, 4, "loud"), r"line 6: chroma_cens\.kurtosis\.04 of track 3 is 'loud'"),
        (lambda rows: edit(rows, 5, 0, "three"), r"line 6 begins with 'three', which is no track id"),
        (lambda rows: edit(rows, 5, 0, ""), r"line 6 begins with '', which is no track id"),
        (lambda rows: edit(rows, 5, 0, "134"), r"tracks more than once \(134\)"),
    ],
)
def test_a_damaged_table_is_an_error_for_people(source, change, message):
    write_cells(table_of(source), change(cells_of(table_of(source))))
    with pytest.raises(UserError, match=rf"features\.csv.*{message}"):
        read_features(source)


def test_missing_features_are_named_with_those_that_are_there(source):
    keep = [0, *(columns_of(["mfcc", "rmse"]) + 1)]
    write_cells(table_of(source), [[row[i] for i in keep] for row in cells_of(table_of(source))])
    assert read_features(source).values.shape == (5, 147)
    with pytest.raises(UserError, match=r"has no columns of spectral_contrast, tonnetz; it has mfcc, rmse\. Get "):
        read_features(source, ["mfcc", "tonnetz", "spectral_contrast"])
    write_cells(table_of(source), [[row[0], "x"] for row in cells_of(table_of(source))[:3]] + [["track_id", ""]])
    with pytest.raises(UserError, match="it has none of FMA's features"):
        read_features(source)


def test_a_file_that_is_cut_off_or_no_text(source):
    whole = table_of(source).read_bytes()
    table_of(source).write_bytes(whole[:-4])  # a number less its last digits is still a number
    with pytest.raises(UserError, match="ends in the middle of a line"):
        read_features(source)
    table_of(source).write_bytes(whole.replace(b"\n2,", b"\n2,\xff", 1))
    with pytest.raises(UserError, match="line 5 is not UTF-8"):
        read_features(source)
    table_of(source).write_bytes(b"\xff" + whole)
    with pytest.raises(UserError, match="cannot be read"):
        read_features(source)


def test_no_table(tmp_path):
    with pytest.raises(
        UserError, match=r"neither .*features\.csv nor .*fma_metadata\.zip exists\. Get .*extract_features"
    ):
        read_features(tmp_path)
    with pytest.raises(UserError, match=r"source folder .*nowhere does not exist"):
        read_features(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"There is no feature table .*t\.csv"):
        read_features(tmp_path / "t.csv")
    with zipfile.ZipFile(tmp_path / "fma_metadata.zip", "w") as archive:
        archive.writestr("fma_metadata/tracks.csv", "")
    with pytest.raises(UserError, match=r"has no fma_metadata/features\.csv"):
        read_features(tmp_path)


def test_a_corrupt_zip_file_is_an_error_for_people(source, tmp_path, values):
    archive = tmp_path / "fma_metadata.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.write(table_of(source), "fma_metadata/features.csv")
    table_of(source).unlink()
    refused = 0
    for data in corruptions(archive.read_bytes(), 60):
        archive.write_bytes(data)
        try:
            np.testing.assert_array_equal(read_features(tmp_path).values, values)
        except UserError:
            refused += 1
    assert refused > 30


def test_writing_to_no_folder_is_an_error_for_people(tmp_path, values):
    with pytest.raises(UserError, match=r"cannot be written \(No such file"):
        write_features(tmp_path / "nowhere" / "t.csv", IDS, values)
    with pytest.raises(ValueError, match="7 values for 518 columns"):
        write_features(tmp_path / "t.csv", IDS, values[:, :7])
    assert not list(tmp_path.iterdir())


def test_importing_it_is_light():
    heavy = ("numpy", "tensorflow_datasets", "librosa", "numba", "scipy", "pyarrow", "jax")
    loaded = f"[name for name in {heavy} if name in sys.modules]"
    check = f"import tfds_fma.representations.feature_names, sys; print('loaded', {loaded})"
    assert "loaded []" in subprocess.run([sys.executable, "-c", check], capture_output=True, text=True).stdout
