"""The check of a prepared dataset, on datasets in which something is wrong."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fma_trees import clip_path, write_table

from tfds_fma import UserError
from tfds_fma.preparation import prepare
from tfds_fma.representations.registry import get_representation
from tfds_fma.validate import Findings, Validation, main, range_problem, render, validate, value_range

MEL = "mel_256x96"
TRAIN, VALIDATION, TEST = (f"fma-{split}.array_record-00000-of-00001" for split in ("train", "validation", "test"))


def rewrite(path: Path, shard: str, change: Callable[[list[dict]], None]) -> None:
    """Changes the examples of a shard; also to what TFDS would not encode: an unknown class id, bytes for a clip."""
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
    from tensorflow_datasets.core import example_serializer

    features = tfds.builder_from_directory(path).info.features
    reader = ArrayRecordReader(str(path / shard))
    examples = [features.deserialize_example_np(record) for record in reader.read_all()]
    reader.close()
    for example in examples:
        example["clip"] = example["clip"].copy()
    change(examples)
    serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
    writer = ArrayRecordWriter(str(path / shard), "group_size:1")
    for example in examples:
        encoded = features.encode_example(example | {"genre": 0, "clip": np.zeros_like(examples[-1]["clip"])})
        encoded |= {"genre": example["genre"], "clip": bytes(example["clip"])}
        writer.write(serializer.serialize_example(encoded))
    writer.close()


def lines_of(findings: Findings) -> list[str]:
    assert findings.number == len(findings.first)
    return findings.first


def test_a_sound_dataset(dataset, capsys):
    found = validate(dataset)
    assert render(found) == ""
    assert found.records == {"train": 32, "validation": 8, "test": 8}
    assert found.shards == 3
    assert found.bytes == sum(file.stat().st_size for file in dataset.glob("*.array_record*"))
    assert main(["--path", str(dataset)]) == 0
    output = capsys.readouterr()
    assert output.out.startswith(f"small-{MEL}: 48 records in 3 shards are sound (train 32, validation 8, test 8; ")
    assert output.out.count("\n") == 1
    assert output.err == ""


def test_an_unlabelled_clip_and_a_missing_split(tmp_path, mp3):
    source = tmp_path / "source"
    write_table(source, [{"track_id": 2}, {"track_id": 3, "genre": "", "subset": "large"}])
    for track_id in (2, 3):
        clip_path(source, track_id, "fma_large").write_bytes(mp3)
    path = prepare(source, "large", MEL, tmp_path / "data", workers=1, progress=False, log=lambda line: None)
    found = validate(path)
    assert not found.errors.number
    assert not found.warnings.number
    assert [line.partition(":")[0] for line in lines_of(found.notes)] == ["validation", "test"]
    assert found.records == {"train": 2, "validation": 0, "test": 0}


def test_a_changed_byte_loses_one_record(own):
    shard = own / TRAIN
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 4
    shard.write_bytes(data)
    found = validate(own)
    (line,) = lines_of(found.errors)
    assert line.startswith(f"{TRAIN}: 1 of 32 records are damaged (the first is ")
    assert found.records == {"train": 31, "validation": 8, "test": 8}


def test_no_changed_byte_passes_for_data(own):
    original = (own / TEST).read_bytes()
    sound = validate(own).records["test"]
    rng = np.random.default_rng(0)
    for _ in range(20):
        data = bytearray(original)
        data[rng.integers(len(data) // 2)] ^= 1 << int(rng.integers(8))
        (own / TEST).write_bytes(data)
        found = validate(own)
        assert (found.records["test"] < sound) == (found.errors.number > 0)
        assert found.records["test"] >= sound - 1
        assert all(TEST in line for line in found.errors.first)


@pytest.mark.parametrize(
    ("how", "what"), [("cut", "cannot be read"), ("empty", "cannot be read"), ("missing", "is not there")]
)
def test_a_lost_shard_leaves_the_others(own, capsys, how, what):
    shard = own / TRAIN
    data = shard.read_bytes()
    shard.write_bytes({"cut": data[: len(data) // 2]}.get(how, b""))
    if how == "missing":
        shard.unlink()
    found = validate(own)
    (line,) = lines_of(found.errors)
    assert line.startswith(TRAIN)
    assert what in line
    assert line.endswith("32 records lost)")
    assert found.records == {"train": 0, "validation": 8, "test": 8}
    assert main(["--path", str(own)]) == 1
    output = capsys.readouterr()
    assert TRAIN in output.out
    assert output.err == (
        f"error: small-{MEL} in {own} is not sound. Prepare it again: python -m tfds_fma.prepare --source DIR "
        f"--subset small --representation {MEL} --data_dir {own.parents[2]} --overwrite.\n"
    )


def test_a_copy_elsewhere(dataset, tmp_path, capsys):
    path = shutil.copytree(dataset, tmp_path / "copy")
    assert main(["--path", str(path)]) == 0
    (path / TEST).unlink()
    assert main(["--path", str(path)]) == 1
    assert capsys.readouterr().err.endswith(f"in {path} is not sound. Copy or prepare it again.\n")


def test_a_shard_of_another_length(own):
    shutil.copy(own / VALIDATION, own / TRAIN)
    found = validate(own)
    assert f"{TRAIN}: has 8 records, and dataset_info.json says 32" in found.errors.first
    assert any("the track is there before, in train" in line for line in found.errors.first)


def test_contents_that_cannot_be(own):
    def spoil(examples: list[dict]) -> None:
        examples[0]["genre"] = 8
        examples[1]["genre"] = -1  # FMA-small has a genre for every track
        examples[2]["track_id"] = examples[3]["track_id"]
        examples[4]["track_id"] = 0
        examples[5]["clip"][100, 50] = np.nan
        examples[6]["clip"][100, 50] = np.inf
        examples[7]["clip"][100, 50] = examples[7]["clip"].min() - 81
        examples[8]["clip"][:] = -100
        examples[9]["clip"] = bytes(100)

    rewrite(own, TRAIN, spoil)
    found = validate(own)
    errors = lines_of(found.errors)
    assert errors.pop(-1).startswith(f"{TRAIN}, record 9: cannot be decoded (cannot reshape array of size 50 ")
    problems = {int(line.split("record ")[1].split()[0]): line.split("): ")[1] for line in errors}
    assert problems.pop(7).startswith("the clip's values span ")
    assert problems == {
        0: "genre 8 is not from 0 to 7",
        1: "genre -1 is not from 0 to 7",
        3: "the track is there before, in train",
        4: "a track id is positive",
        5: "the clip has values that are not finite",
        6: "the clip has values that are not finite",
    }
    unfit, note = lines_of(found.notes)
    assert unfit.startswith("columns.parquet cannot be used")  # the shard has been written again
    assert "record 8 " in note
    assert note.endswith("all values of the clip are -100: silence?")
    assert found.records["train"] == 31
    assert not found.warnings.number


def test_a_track_and_an_artist_in_two_splits(own):
    shared: dict[str, int] = {}

    def take(examples: list[dict]) -> None:
        shared.update(track_id=examples[0]["track_id"], artist_id=examples[0]["artist_id"])

    def put(examples: list[dict]) -> None:
        examples[0].update(shared)

    rewrite(own, TRAIN, take)
    rewrite(own, TEST, put)
    found = validate(own)
    assert lines_of(found.errors) == [
        f"{TEST}, record 0 (track {shared['track_id']}): the track is there before, in train"
    ]
    assert lines_of(found.warnings) == [
        f"artist {shared['artist_id']} has clips in train and test; FMA's splits share no artist"
    ]


def test_a_warning_alone_is_no_failure(own, capsys):
    artists: list[int] = []
    rewrite(own, TRAIN, lambda examples: artists.append(examples[0]["artist_id"]))
    rewrite(own, VALIDATION, lambda examples: examples[0].update(artist_id=artists[0]))
    assert main(["--path", str(own)]) == 0
    assert "1 warning:\n  artist " in capsys.readouterr().out
    # Of unknown artists nothing is known.
    for shard in (TRAIN, VALIDATION):
        rewrite(own, shard, lambda examples: [example.update(artist_id=-1) for example in examples] and None)
    assert not validate(own).warnings.number


def test_rejects_are_not_in_the_data(own):
    ids: list[int] = []
    rewrite(own, TEST, lambda examples: ids.append(examples[0]["track_id"]))
    with (own / "rejects.csv").open("a", newline="") as file:
        csv.writer(file).writerow((ids[0], "x.mp3", "test", "Rock", "missing", ""))
    assert lines_of(validate(own).errors) == [
        f"{TEST}, record 0 (track {ids[0]}): rejects.csv says that the track was left out"
    ]
    (own / "rejects.csv").write_bytes(b"\xff\xfe")
    assert "rejects.csv cannot be read" in lines_of(validate(own).errors)[0]
    (own / "rejects.csv").unlink()
    assert lines_of(validate(own).notes)[0] == "there is no rejects.csv beside the data"


@pytest.mark.parametrize("name", ["features.json", "genre.labels.txt", "dataset_info.json"])
def test_damaged_descriptions_are_an_error_with_the_remedy(own, name):
    data = (own / name).read_bytes()
    (own / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=rf"{own} are? damaged|{own} is damaged") as caught:
        validate(own)
    assert "--overwrite" in str(caught.value)


def test_clips_of_another_shape_than_the_name_says(own):
    info = own / "dataset_info.json"
    info.write_text(info.read_text().replace(f'"small-{MEL}"', '"small-mel_640x128"'))
    errors = lines_of(validate(own).errors)
    assert errors == ["features.json declares clips of float16 [256, 96], and mel_640x128 is float32 [640, 128]"]
    info.write_text(info.read_text().replace("mel_640x128", "mine"))
    found = validate(own)
    assert not found.errors.number
    assert "'mine' is unknown" in lines_of(found.warnings)[0]


@pytest.mark.parametrize(
    ("name", "low", "high", "problem"),
    [
        ("mel_1360x96", -60, 20.05, ""),
        ("mel_1360x96", -60, 20.2, "span 80.2 dB"),
        ("mel_640x128", -18.4207, 0, ""),
        ("mel_640x128", -18.4207, -0.5, ""),  # the loudest frame is beyond those that are kept
        ("mel_640x128", -80, 0, "from -80.000 to 0.000"),  # decibels, not converted
        ("mel_640x128", -10, 0.1, "from -10.000 to 0.100"),
        ("audio_22050", -32767, 32767, ""),
        ("features_518", -1e6, 1e6, ""),
        ("features_518", np.nan, np.nan, "not finite"),
        ("features_518", 0, np.inf, "not finite"),
    ],
)
def test_ranges(name, low, high, problem):
    found = range_problem(low, high, get_representation(name))
    assert problem in found
    assert bool(problem) == bool(found)


@pytest.mark.parametrize("dtype", ["float16", "float32", "int16"])
def test_the_range_of_a_clip(dtype):
    clip = np.array([[3, -7], [5, 0]], dtype)
    assert value_range(clip) == (-7, 5)
    if dtype != "int16":
        clip[1, 0] = np.nan
        assert np.isnan(value_range(clip)).all()


def test_long_lists_are_cut():
    found = Validation("name", Path("path"))
    for number in range(25):
        found.errors.add(f"line {number}")
    found.notes.add("one")
    text = render(found).splitlines()
    assert text[:2] == ["25 errors:", "  line 0"]
    assert text[20:] == ["  line 19", "  and 5 more", "1 note:", "  one"]
