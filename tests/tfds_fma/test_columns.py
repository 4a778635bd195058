"""The columns file beside the shards: it is used if it fits, and says the same as the records."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import tensorflow_datasets as tfds
from array_record.python import array_record_module

from tfds_fma import prepare, reading
from tfds_fma.describe import describe
from tfds_fma.errors import UserError
from tfds_fma.fma_dataset_builder import Builder
from tfds_fma.preparation import prepare_arrays
from tfds_fma.source.arrays import ArrayFiles
from tfds_fma.source.track_table import parse_columns
from tfds_fma.storage import columns as stored
from tfds_fma.storage import layout
from tfds_fma.storage.columns import COLUMNS_FILE
from tfds_fma.validate import validate

TABLE = """track_id,genre_top,split,artist_id,album_id,title
7,Rock,training,1,10,Übung
3,Folk,training,2,11,
9,Rock,validation,3,,"a, b"
2,Folk,test,4,13,c
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Four clips of arrays, prepared."""
    folder = tmp_path_factory.mktemp("made")
    return make(folder, np.arange(4 * 6, dtype=np.float32).reshape(4, 3, 2))


@pytest.fixture
def path(made, tmp_path) -> Path:
    """A copy, to spoil."""
    return shutil.copytree(made, layout.version_dir(tmp_path, "small", "mel_3x2"))


def make(folder: Path, clips: np.ndarray, **options) -> Path:
    np.savez(folder / "clips.npz", clips=clips, track_id=[7, 3, 9, 2])
    (folder / "tracks.csv").write_text(TABLE, encoding="utf-8")
    files = ArrayFiles(str(folder / "tracks.csv"), str(folder / "clips.npz"), columns=parse_columns(["title=title"]))
    return prepare_arrays(files, "small", "mel_3x2", folder / "data", progress=False, log=lambda line: None, **options)


def no_reader(*_, **__):
    raise AssertionError("a record is read")


def assert_same(first: dict, second: dict) -> None:
    assert first.keys() == second.keys()
    for name, column in first.items():
        assert column.dtype == second[name].dtype
        np.testing.assert_array_equal(column, second[name])  # NaN, a duration that is unknown, is equal to NaN


def opened_with(path: Path) -> list[str]:
    """Opens a dataset, checks that its columns are those of the records, and returns the lines for people."""
    lines: list[str] = []
    prepared = reading.open_prepared(path, lines.append)
    columns = prepared.columns()
    read, clips = prepared.read()
    assert_same(columns, read)
    assert columns["track_id"].tolist() == [7, 3, 9, 2]
    assert columns["title"].tolist() == ["Übung", "", "a, b", "c"]
    np.testing.assert_array_equal(clips.ravel(), np.arange(24))
    return lines


def test_the_file_says_what_the_records_say(dataset, tmp_path):
    copy = shutil.copytree(dataset, tmp_path / "copy")
    (copy / COLUMNS_FILE).unlink()
    lines: list[str] = []
    columns, clips = reading.open_dataset(copy, lines.append)
    assert len(lines) == 1
    assert "it is not there. Copy it again" in lines[0]
    assert_same(reading.open_dataset(dataset)[0], columns)
    assert reading.open_dataset(dataset)[1].shape == clips.shape
    of_file, of_records = reading.read_dataset(dataset), reading.read_dataset(copy)
    assert_same(of_file[0], of_records[0])
    np.testing.assert_array_equal(of_file[1], of_records[1])
    assert of_file[1].dtype == of_records[1].dtype
    assert any(columns["genres_all"])


def test_no_record_is_read_at_opening(path, monkeypatch):
    monkeypatch.setattr(array_record_module, "ArrayRecordReader", no_reader)
    monkeypatch.setattr(tfds, "builder_from_directory", no_reader)
    prepared = reading.open_prepared(path, pytest.fail)
    assert prepared.columns()["track_id"].tolist() == [7, 3, 9, 2]
    assert prepared.nbytes == 4 * 6 * 4
    assert len(prepared.fingerprints) == 1
    (path / COLUMNS_FILE).unlink()
    with pytest.raises(UserError, match="a record is read"):
        reading.open_prepared(path).columns()


@pytest.mark.parametrize("with_file", [True, False])
def test_reading_everything_reads_each_record_once(path, monkeypatch, with_file):
    if not with_file:
        (path / COLUMNS_FILE).unlink()
    rows: list[int] = []
    reader = array_record_module.ArrayRecordReader

    class Counting(reader):
        def read(self, positions, *others):
            rows.extend(positions)
            return super().read(positions, *others)

    monkeypatch.setattr(array_record_module, "ArrayRecordReader", Counting)
    reading.read_dataset(path)
    assert len(rows) == 4


def change_metadata(path: Path, **changes) -> None:
    """Writes the file again, as another version of this program might."""
    table = pyarrow.parquet.read_table(path / COLUMNS_FILE)
    about = json.loads(json.loads(table.schema.metadata[b"tfds_fma"])["content"]) | changes
    content = json.dumps(about)
    words = json.dumps({"hash": stored._hash(content.encode()), "content": content})
    pyarrow.parquet.write_table(table.replace_schema_metadata({b"tfds_fma": words}), path / COLUMNS_FILE)


def test_a_file_that_cannot_be_used_is_told_and_mended(path, capsys):
    file = path / COLUMNS_FILE
    whole = file.read_bytes()
    table = pyarrow.parquet.read_table(file)

    def spoil_and_open(words: str) -> None:
        (line,) = opened_with(path)
        assert words in line
        assert f"--subset small --representation mel_3x2 --data_dir {layout.data_dir_of(path)}" in line
        file.write_bytes(whole)
        assert opened_with(path) == []

    file.unlink()
    spoil_and_open("it is not there")
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        spoil_and_open("it is damaged")
    change_metadata(path, version=2)
    spoil_and_open("it is of version 2, and this program reads 1")
    pyarrow.parquet.write_table(table.replace_schema_metadata({}), file)
    spoil_and_open("it is not one of tfds_fma")
    pyarrow.parquet.write_table(table.drop_columns(["genre"]), file)
    spoil_and_open("it has other columns")
    pyarrow.parquet.write_table(table.slice(1), file)
    spoil_and_open("its rows are not those of the splits")

    file.unlink()
    data_dir = layout.data_dir_of(path)
    flags = ["--subset", "small", "--representation", "mel_3x2", "--data_dir", str(data_dir)]
    shards = {shard: shard.stat().st_mtime_ns for shard in path.glob("*.array_record*")}
    assert prepare.main(flags) == 0  # no source is needed
    assert f"{COLUMNS_FILE} has been written" in capsys.readouterr().out
    assert file.read_bytes() == whole
    assert {shard: shard.stat().st_mtime_ns for shard in shards} == shards
    assert prepare.main(flags) == 0
    assert "has been written" not in capsys.readouterr().out
    assert not list(path.glob(f".{COLUMNS_FILE}*"))


def test_a_changed_byte_is_found_or_changes_nothing(path):
    whole = (path / COLUMNS_FILE).read_bytes()
    expected = reading.open_dataset(path)[0]
    rng = np.random.default_rng(0)
    for at in rng.integers(0, len(whole), 200):
        data = bytearray(whole)
        data[at] ^= 1 << int(rng.integers(8))
        (path / COLUMNS_FILE).write_bytes(data)
        try:
            found = stored.load_columns(path)
        except stored.Unfit:
            continue
        assert_same(found.columns, expected)
        assert found.clips.shape == (4, 3, 2)


def test_the_file_of_other_clips_does_not_fit(path, tmp_path):
    (tmp_path / "other").mkdir()
    other = make(tmp_path / "other", np.ones((4, 3, 2), np.float32))  # the same sizes and numbers of records
    shutil.copy(other / COLUMNS_FILE, path / COLUMNS_FILE)
    (line,) = opened_with(path)
    assert "it does not belong to this fma-train" in line


def test_overwriting_writes_the_file_anew(tmp_path):
    make(tmp_path, np.ones((4, 3, 2), np.float32))
    path = make(tmp_path, np.arange(24, dtype=np.float32).reshape(4, 3, 2), overwrite=True)
    assert opened_with(path) == []


def test_a_prepared_dataset_of_before_gets_the_file_from_the_same_command(path, tmp_path):
    (path / COLUMNS_FILE).unlink()
    data = tmp_path / "again"
    shutil.copytree(layout.data_dir_of(path), data / "data", ignore=shutil.ignore_patterns("again"))
    make(data, np.zeros((4, 3, 2), np.float32))  # not prepared again: the clips are those of before
    assert opened_with(layout.version_dir(data / "data", "small", "mel_3x2")) == []


def test_tfds_prepares_with_the_file_and_reads_beside_it(tmp_path, path):
    dummy = Path(prepare.__file__).parent / "dummy_data"
    builder = Builder(config="medium-features_518", data_dir=tmp_path / "tfds", progress=False)
    config = tfds.download.DownloadConfig(manual_dir=dummy)
    builder.download_and_prepare(download_dir=tmp_path / "downloads", download_config=config)
    assert len(stored.load_columns(builder.data_dir).columns["split"]) == 6
    assert len(tfds.data_source("fma/medium-features_518", split="train", data_dir=tmp_path / "tfds")) == 2
    assert len(reading.load(path)["train"]) == 2
    assert describe(path) is not None


def test_validate_compares_the_file_with_the_records(path):
    assert not validate(path, progress=False).errors.number
    table = pyarrow.parquet.read_table(path / COLUMNS_FILE)
    titles = table.column("title").to_pylist()
    changed = table.set_column(table.schema.get_field_index("title"), "title", [["another", *titles[1:]]])
    pyarrow.parquet.write_table(changed.replace_schema_metadata(table.schema.metadata), path / COLUMNS_FILE)
    (line,) = validate(path, progress=False).errors.first
    assert line.endswith(f"record 0 (track 7): {COLUMNS_FILE} has another title: delete that file")
    (path / COLUMNS_FILE).unlink()
    found = validate(path, progress=False)
    assert not found.errors.number
    assert (
        "columns.parquet cannot be used, so that opening reads every record: it is not there" in found.notes.first[0]
    )


def test_a_damaged_clip_is_found_when_it_is_read(path):
    shard = next(path.glob("fma-train*"))
    data = bytearray(shard.read_bytes())
    at = data.index(np.arange(6, 12, dtype=np.float32).tobytes())  # the clip of the second record
    data[at] ^= 1
    shard.write_bytes(data)
    prepared = reading.open_prepared(path)
    with pytest.raises(UserError, match=r"fma-train.* is damaged\. Prepare it again"):
        prepared.read()
    assert validate(path, progress=False).errors.number


def test_a_folder_that_cannot_be_written_to(path, monkeypatch):
    (path / COLUMNS_FILE).unlink()

    def fail(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(pyarrow.parquet, "write_table", fail)
    with pytest.raises(UserError, match=r"Cannot write columns.parquet to .* \(Permission denied\)"):
        reading.add_columns(path)
