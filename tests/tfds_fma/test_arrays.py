"""Precomputed arrays and their table become a dataset."""

import csv
import dataclasses
import os
from pathlib import Path

import fma_trees
import numpy as np
import pytest
from helpers import make_corpus, save_arrays

from mgc_jax.config.keys import default
from mgc_jax.data.open import open_corpus
from tfds_fma import UserError, genres_of
from tfds_fma.clips.sources import arrays_source
from tfds_fma.preparation import prepare_arrays
from tfds_fma.prepare import main
from tfds_fma.reading import class_names, find_prepared, read_dataset, resampler_of
from tfds_fma.representations.feature_vector import Precomputed
from tfds_fma.source.arrays import ArrayFiles, read_arrays
from tfds_fma.source.track_table import Columns, number_names
from tfds_fma.storage import layout


def write_table(path: Path, rows: list[dict]) -> str:
    """Writes a CSV file; columns that a row lacks have usual values."""
    usual = {"track_id": 0, "genre_top": "Rock", "split": "training", "artist_id": 7, "album_id": 5}
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, (usual | rows[0]).keys())
        writer.writeheader()
        writer.writerows(usual | row for row in rows)
    return str(path)


def write_files(folder: Path, rows: list[dict], clips: np.ndarray | None = None, **settings) -> ArrayFiles:
    """Writes arrays and a table; the tracks are numbered from 0 in both."""
    if clips is None:
        clips = np.random.default_rng(0).normal(size=(len(rows), 5, 4)).astype(np.float32)
    np.savez(folder / "clips.npz", clips=clips, track_id=np.arange(len(clips)))
    table = write_table(folder / "tracks.csv", [{"track_id": number} | row for number, row in enumerate(rows)])
    return ArrayFiles(table, str(folder / "clips.npz"), **settings)


def prepared(files: ArrayFiles, folder: Path, subset: str = "small", name: str = "mel_5x4", **options) -> Path:
    return prepare_arrays(files, subset, name, folder / "data", progress=False, log=lambda line: None, **options)


def as_opened(settings: dict) -> dict[int, tuple]:
    """Track id -> genre, split and bytes of the clip, of the `arrays` corpus."""
    config = default()
    config.update_from_flattened_dict(settings)
    corpus = open_corpus(config.data)
    return {
        int(corpus.track_id[i]): (corpus.genres[corpus.label[i]], corpus.split[i], corpus.clips[i].tobytes())
        for i in range(len(corpus))
    }


def as_prepared(path: Path) -> dict[int, tuple]:
    """The same of a prepared dataset."""
    columns, clips = read_dataset(path)
    names = class_names(path)
    return {
        int(track_id): (names[genre], split, clip.tobytes())
        for track_id, genre, split, clip in zip(
            columns["track_id"], columns["genre"], columns["split"], clips, strict=True
        )
    }


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
@pytest.mark.parametrize("stored", ["npz", "npy, mel before time", "features"])
def test_what_is_prepared_reads_back_bit_for_bit_and_as_the_corpus_has_it(tmp_path, dtype, stored):
    corpus = make_corpus(clip_shape=(6,) if stored == "features" else (40, 12))
    clips = (100 + 10 * corpus.clips.astype(np.float32)).astype(dtype)
    settings = save_arrays(corpus, tmp_path)
    files = {"clips": str(tmp_path / "clips.npz"), "axes": "clip time mel"}
    if stored == "features":
        files["axes"] = "clip feature"
    if stored.startswith("npy"):
        np.save(tmp_path / "clips.npy", clips.transpose(0, 2, 1))
        np.save(tmp_path / "ids.npy", corpus.track_id)
        files = {"clips": str(tmp_path / "clips.npy"), "ids": str(tmp_path / "ids.npy"), "axes": "clip mel time"}
    else:
        np.savez(tmp_path / "clips.npz", clips=clips, track_id=corpus.track_id)
    path = prepared(ArrayFiles(str(tmp_path / "tracks.csv"), **files), tmp_path, "medium", "mine")
    opened = as_opened(settings | {f"data.arrays.{key}": value for key, value in files.items()})
    assert as_prepared(path) == opened
    columns, read = read_dataset(path)
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, clips[columns["track_id"] - 1000])
    np.testing.assert_array_equal(columns["artist_id"].astype(str), corpus.artist[columns["track_id"] - 1000])
    np.testing.assert_array_equal(columns["album_id"].astype(str), corpus.album[columns["track_id"] - 1000])
    assert class_names(path) == genres_of("medium")  # class ids are those of FMA


def test_the_order_is_that_of_the_table_whatever_that_of_the_arrays(tmp_path):
    rows = [{"split": split} for split in ("validation", "training", "training", "test", "training")]
    files = write_files(tmp_path, rows)
    first = prepared(files, tmp_path, name="first")
    with np.load(files.clips) as loaded:
        np.savez(files.clips, clips=loaded["clips"][::-1], track_id=loaded["track_id"][::-1])
    second = prepared(files, tmp_path, name="second")
    columns, clips = read_dataset(second)
    assert columns["track_id"].tolist() == [1, 2, 4, 0, 3]
    np.testing.assert_array_equal(clips, read_dataset(first)[1])


def test_names_become_numbers_and_stay_readable(tmp_path):
    rows = [
        {"band": "Zoë", "record": "B", "title": "One"},
        {"band": "Abba", "record": ""},
        {"band": "", "record": "A"},
        {"band": "Zoë", "record": "-1"},
    ]
    usual = {"title": "", "record": "", "band": ""}
    columns = Columns(artist="band", album="record", title="title")
    read, _ = read_dataset(prepared(write_files(tmp_path, [usual | row for row in rows], columns=columns), tmp_path))
    assert read["artist_id"].tolist() == [1, 0, -1, 1]
    assert read["album_id"].tolist() == [1, -1, 0, -1]
    assert read["artist"].tolist() == ["Zoë", "Abba", "", "Zoë"]
    assert read["title"].tolist() == ["One", "", "", ""]
    assert np.isnan(read["duration"]).all()


UNKNOWN_WORDS = ("nan", "NaN", "None", "NA", "N/A", "<NA>", "null", "-1", "-1.0")


def test_words_that_say_that_an_artist_is_unknown(tmp_path):
    """They are no artist, they do not turn ids into names, and they are counted."""
    rows = [{"artist_id": word, "album_id": word, "name": word, "part": word} for word in UNKNOWN_WORDS]
    rows += [{"artist_id": "70", "name": "Nana", "part": "small"}, {"artist_id": "8.0", "album_id": "", "part": ""}]
    files = write_files(tmp_path, [{"name": ""} | row for row in rows])
    files = dataclasses.replace(files, columns=Columns(artist_name="name", subset="part"))
    lines: list[str] = []
    path = prepare_arrays(files, "small", "mine", tmp_path / "data", progress=False, log=lines.append)
    read, _ = read_dataset(path)
    unknown = len(UNKNOWN_WORDS)
    assert read["artist_id"].tolist() == [*[-1] * unknown, 70, 8]
    assert read["album_id"].tolist() == [*[-1] * unknown, 5, -1]
    assert read["artist"].tolist() == [*[""] * unknown, "Nana", ""]
    assert read["subset"].tolist() == [*[""] * unknown, "small", ""]
    assert (
        f"{files.table}, column 'artist_id': 9 of 11 are taken as unknown ('-1', '-1.0', '<NA>', 'N/A', " in lines[0]
    )
    assert [line.split("'")[1] for line in lines[:4]] == ["artist_id", "album_id", "name", "part"]


def test_the_name_of_an_artist_beside_the_id(tmp_path):
    rows = [{"artist_id": 3, "name": "Abba"}, {"artist_id": "", "name": "Nobody"}]
    files = write_files(tmp_path, rows, columns=Columns(artist_name="name", album=""))
    read, _ = read_dataset(prepared(files, tmp_path))
    assert read["artist_id"].tolist() == [3, -1]
    assert read["artist"].tolist() == ["Abba", "Nobody"]
    assert read["album_id"].tolist() == [-1, -1]


def test_fmas_own_table_with_its_three_header_rows(tmp_path):
    subsets, genres = ("small", "medium", "large"), ("Rock", "Folk", "")
    rows = [{"subset": s, "genre": g, "split": "test"} for s, g in zip(subsets, genres, strict=True)]
    fma_trees.write_table(tmp_path, [{"track_id": number} | row for number, row in enumerate(rows)])
    clips = np.ones((2, 5, 4), np.float32)
    files = dataclasses.replace(
        write_files(tmp_path, rows, clips), table=str(tmp_path / "fma_metadata" / "tracks.csv")
    )
    arrays = read_arrays(files)
    assert arrays.row.tolist() == [0, 1]
    assert arrays.tracks.genre.tolist() == ["Rock", "Folk"]
    assert arrays.tracks.split.tolist() == ["test", "test"]
    assert (arrays.tracks.artist.tolist(), arrays.tracks.album.tolist()) == (["7", "7"], ["5", "5"])
    named = dataclasses.replace(
        files, columns=Columns(title="track_title", artist_name="artist_name", subset="subset")
    )
    read, _ = read_dataset(prepared(named, tmp_path))
    assert (read["title"].tolist(), read["artist"].tolist(), read["subset"].tolist()) == (
        ["T", "T"], ["A", "A"], ["small", "medium"],
    )  # fmt: skip
    with pytest.raises(
        UserError, match=r"no column 'id'; it has .*album_id, artist_id"
    ):  # of the artist, or the album?
        read_arrays(dataclasses.replace(files, columns=Columns(artist="id")))


def test_the_subset_of_a_clip(tmp_path):
    rows = [{"part": "small"}, {"part": "medium", "split": "test"}, {"part": ""}]
    files = write_files(tmp_path, rows, columns=Columns(subset="part"))
    read, _ = read_dataset(prepared(files, tmp_path))
    assert dict(zip(read["track_id"].tolist(), read["subset"].tolist(), strict=True)) == {
        0: "small",
        1: "medium",
        2: "",
    }
    read, _ = read_dataset(prepared(dataclasses.replace(files, columns=Columns()), tmp_path, name="without"))
    assert read["subset"].tolist() == ["", "", ""]
    files = write_files(tmp_path, [{"part": "fma_small"}], columns=Columns(subset="part"))
    with pytest.raises(UserError, match="'fma_small' in column 'part' is not one of small, medium, large, full"):
        read_arrays(files)


@pytest.mark.parametrize(
    ("names", "numbers", "are_names"),
    [
        (["12", "", "7"], [12, -1, 7], False),
        (["12.0", "", "7.0"], [12, -1, 7], False),
        (["12", "b", "a", "b"], [0, 2, 1, 2], True),
        (["-5", "3"], [0, 1], True),  # a negative id would count as unknown
        (["9" * 30, "3"], [1, 0], True),
        (["", ""], [-1, -1], False),
    ],
)
def test_numbers_of_names(names, numbers, are_names):
    found, were_names = number_names(np.array(names))
    assert found.tolist() == numbers
    assert were_names == are_names


def test_rows_without_a_clip_and_clips_that_are_not_finite_are_rejected(tmp_path):
    clips = np.zeros((4, 5, 4), np.float16)
    clips[1, 2, 3], clips[2, 0, :2] = np.inf, np.nan
    rows = [{}, {}, {"split": "validation"}, {"split": "test"}, {}, {"split": "val", "genre_top": ""}]
    lines: list[str] = []
    files = write_files(tmp_path, rows, clips)
    path = prepare_arrays(files, "small", "mine", tmp_path / "data", progress=False, log=lines.append)
    assert not any("warning" in line for line in lines)
    assert lines[-2] == (
        "small-mine: 2 clips written (train 1, test 1); 4 rejected: 2 not-finite, 2 missing; 0 padded"
    )
    with (path / "rejects.csv").open(newline="") as file:
        rejects = {int(row["track_id"]): row for row in csv.DictReader(file)}
    assert {number: row["reason"] for number, row in rejects.items()} == {
        1: "not-finite", 2: "not-finite", 4: "missing", 5: "missing",
    }  # fmt: skip
    assert rejects[2]["detail"] == "2 of 20 values are not finite"
    assert rejects[5]["split"] == "validation"
    assert resampler_of(path) == ""


def test_columns_of_the_table_as_clips(tmp_path, capsys):
    write_table(tmp_path / "t.csv", [{"track_id": i, "tempo": 100 + i / 3, "energy": -i} for i in range(3)])
    arguments = ["--table", str(tmp_path / "t.csv"), "--features", "tempo", "energy", "--subset", "small"]
    assert main([*arguments, "--representation", "echonest_2", "--data_dir", str(tmp_path)]) == 0
    path = find_prepared(tmp_path, "small", "echonest_2")
    _, clips = read_dataset(path)
    np.testing.assert_array_equal(clips, np.array([[100 + i / 3, -i] for i in range(3)], np.float32))
    captured = capsys.readouterr()
    assert "3 clips written" in captured.out
    assert "WARNING" not in captured.err  # TFDS has something to say about configs that it does not know


def test_genres(tmp_path):
    rows = [{"genre_top": genre} for genre in ("samba", "jazz", "samba")]
    files = write_files(tmp_path, rows)
    path = prepared(files, tmp_path, name="foreign")
    assert class_names(path) == ("jazz", "samba")
    assert read_dataset(path)[0]["genre"].tolist() == [1, 0, 1]
    given = write_files(tmp_path, rows, genres=("samba", "polka", "jazz"))
    path = prepared(given, tmp_path, name="given")
    assert class_names(path) == ("samba", "polka", "jazz")
    assert read_dataset(path)[0]["genre"].tolist() == [0, 2, 0]
    of_medium = write_files(tmp_path, [{"genre_top": "Rock"}, {"genre_top": "Jazz"}])
    with pytest.raises(UserError, match=r"'Jazz' is not among the genres of subset 'small'.* Choose --subset medium"):
        prepared(of_medium, tmp_path, "small", "jazz")
    assert read_dataset(prepared(of_medium, tmp_path, "medium", "jazz"))[0]["genre"].tolist() == [0, 11]
    mistyped = write_files(tmp_path, [{"genre_top": "Rock"}, {"genre_top": "Rokc"}])
    with pytest.raises(UserError, match=r"'Rokc' in column 'genre_top' is not one of Rock.* or set --genres NAME"):
        prepared(mistyped, tmp_path, name="mistyped")


def test_the_name_of_a_registered_representation_is_for_arrays_like_it(tmp_path):
    files = write_files(tmp_path, [{}], np.ones((1, 120, 128), np.float32))
    assert read_dataset(prepared(files, tmp_path, name="mel_120x128"))[1].shape == (1, 120, 128)
    for other in ("mel_640x128", "audio_12000", "audio_8000", "features_518"):
        with pytest.raises(UserError, match=rf"{other} is .* but the clips in .* are float32 \[120, 128\]"):
            prepared(files, tmp_path, name=other)
    assert isinstance(arrays_source(files, "small", "mel_1.5+x").representation, Precomputed)
    prepared(files, tmp_path, name="mel_1.5+x")  # a name that TFDS takes
    for name in ("", "Mel", "mel-96", "mel/96", "../mel", "mel 96"):
        with pytest.raises(UserError, match="cannot be the name of a representation"):
            prepared(files, tmp_path, name=name)


@pytest.mark.parametrize("axes", ["clip time mel", "clip mel time"])
def test_an_npy_stays_on_disk(tmp_path, axes):
    table = write_files(tmp_path, [{}] * 3).table
    np.save(tmp_path / "clips.npy", np.ones((3, 5, 4), np.float32))
    arrays = read_arrays(ArrayFiles(table, str(tmp_path / "clips.npy"), axes=axes))
    assert isinstance(arrays.clips, np.memmap)
    assert arrays.clips.shape[1:] == ((5, 4) if axes == "clip time mel" else (4, 5))


def test_shards_of_other_arrays_are_not_used(tmp_path, monkeypatch):
    """A run is interrupted; the arrays change, in place and without growing."""
    files = write_files(tmp_path, [{}] * 6)
    monkeypatch.setattr("tfds_fma.fma_dataset_builder.Builder._collect", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prepared(files, tmp_path)
    monkeypatch.undo()
    before = os.stat(files.clips).st_mtime_ns
    new = np.full((6, 5, 4), 3, np.float32)
    np.savez(files.clips, clips=new, track_id=np.arange(6))
    os.utime(files.clips, ns=(before + 1, before + 1))
    np.testing.assert_array_equal(read_dataset(prepared(files, tmp_path))[1], new)


def interrupt(*_):
    raise KeyboardInterrupt


def test_what_is_there_is_kept_unless_it_shall_be_overwritten(tmp_path):
    files = write_files(tmp_path, [{}] * 2)
    path = prepared(files, tmp_path)
    write_files(tmp_path, [{}] * 3)
    assert len(read_dataset(prepared(files, tmp_path))[1]) == 2
    assert len(read_dataset(prepared(files, tmp_path, overwrite=True))[1]) == 3
    assert path == layout.version_dir(tmp_path / "data", "small", "mel_5x4")


def test_the_command_line(tmp_path, capsys):
    clips = np.arange(2 * 4 * 5, dtype=np.uint8).reshape(2, 4, 5)
    np.savez(tmp_path / "mels.npz", mel=clips, more=clips, number=[8, 9])
    rows = [{"track_id": 9, "artist_id": "B"}, {"track_id": 8, "artist_id": "A"}]
    table = write_table(tmp_path / "t.csv", rows)
    arguments = ["--from_arrays", str(tmp_path / "mels.npz"), "--table", table, "--subset", "small",
                 "--clips_key", "mel", "--ids_key", "number", "--axes", "clip mel time",
                 "--columns", "artist=artist_id", "album=", "--genres", "Folk", "Rock",
                 "--representation", "mel_5x4", "--data_dir", str(tmp_path)]  # fmt: skip
    assert main(arguments) == 0
    path = find_prepared(tmp_path, "small", "mel_5x4")
    columns, read = read_dataset(path)
    np.testing.assert_array_equal(read, clips[::-1].transpose(0, 2, 1))
    assert columns["artist"].tolist() == ["B", "A"]
    assert columns["album_id"].tolist() == [-1, -1]
    assert class_names(path) == ("Folk", "Rock")
    assert main(arguments) == 0
    assert "already prepared" in capsys.readouterr().out


def test_mistakes_on_the_command_line_are_named(tmp_path, capsys):
    files = write_files(tmp_path, [{}] * 2)
    ours = ["--from_arrays", files.clips, "--table", files.table]

    def error(*arguments: str) -> str:
        assert main(["--subset", "small", "--data_dir", str(tmp_path / "data"), *arguments]) == 1
        return capsys.readouterr().err

    assert "--source DIR for an FMA tree, --audio FOLDER for your own music, --gtzan PATH for GTZAN, or" in error()
    assert "--source is for an FMA tree, --from_arrays for precomputed arrays" in error("--source", "fma", *ours)
    assert "--download is for an FMA tree" in error("--download", *ours)
    assert "--workers is for an FMA tree" in error("--workers", "2", *ours)
    assert "a name of its own: --representation NAME" in error(*ours)
    name = ("--representation", "mel_1360x96")
    assert "need a track table: set --table FILE.csv" in error("--from_arrays", files.clips, *name)
    assert "need clips: set --from_arrays FILE.npz, or --features COLUMN ..." in error("--table", files.table, *name)
    ours += name
    assert "mel_1360x96 is float16 [1360, 96]" in error(*ours)
    assert "one of track_id, genre, split, artist" in error(*ours, "--columns", "singer=artist_id")
    assert "no column 'singer'" in error(*ours, "--columns", "artist=singer")
    assert "--columns <what>=NAME" in error(*ours, "--columns", "artist=singer")
    assert "axes 'time clip' is none of 'clip time mel'" in error(*ours, "--axes", "time clip")
    assert "say which one is the clips with --clips_key NAME" in error(*ours, "--clips_key", "mel")
    assert "gone.npy does not exist" in error(*ours, "--ids", "gone.npy")
    assert "clips.npz holds clips, track_id; give the track ids alone with --ids" in error(*ours, "--ids", files.clips)
    assert not (tmp_path / "data" / "fma" / "small-mel_1360x96" / layout.VERSION).exists()


def write_shuffled(files: ArrayFiles, **beside: np.ndarray) -> np.ndarray:
    """Writes the clips in another order than the table's; returns it."""
    order = np.array([2, 0, 1])
    with np.load(files.clips) as loaded:
        np.savez(files.clips, clips=loaded["clips"][order], **{name: ids[order] for name, ids in beside.items()})
    return order


@pytest.mark.parametrize(("name", "kind"), [("ids", "int32"), ("tid", "float64"), ("0", "str")])
def test_ids_beside_the_clips_are_never_passed_over(tmp_path, name, kind):
    files = dataclasses.replace(write_files(tmp_path, [{}] * 3), clips_key="clips")
    order = write_shuffled(files, **{name: np.arange(3).astype(kind)})
    message = rf"clips.npz has no 'track_id', but a whole number for each clip in '{name}'.* set --ids_key NAME"
    with pytest.raises(UserError, match=message):
        read_arrays(files)
    with pytest.raises(UserError, match=r"the clips with --clips_key NAME, and which the track ids with --ids_key"):
        read_arrays(dataclasses.replace(files, clips_key=""))
    named = dataclasses.replace(files, ids_key=name)
    assert read_arrays(named).row.tolist() == order.tolist()
    assert read_arrays(dataclasses.replace(named, clips_key="")).row.tolist() == order.tolist()
    # They are labels: so says the user.
    assert read_arrays(dataclasses.replace(files, ids_key="")).row.tolist() == [0, 1, 2]


@pytest.mark.parametrize("stored", ["npz", "npz without ids", "npy"])
def test_a_mistyped_name_of_the_ids(tmp_path, stored):
    files = dataclasses.replace(write_files(tmp_path, [{}] * 3), ids_key="trackid")
    if stored != "npz":
        write_shuffled(files)
    if stored == "npy":
        np.save(tmp_path / "clips.npy", np.ones((3, 5, 4), np.float32))
        files = dataclasses.replace(files, clips=str(tmp_path / "clips.npy"))
    with pytest.raises(UserError, match=r"has no 'trackid'; it holds .+\. Correct --ids_key NAME"):
        read_arrays(files)
    if stored != "npz":
        assert read_arrays(dataclasses.replace(files, ids_key="")).row.tolist() == [0, 1, 2]


def test_a_file_of_ids_and_others_beside_the_clips(tmp_path):
    files = write_files(tmp_path, [{}] * 3)
    np.save(tmp_path / "ids.npy", np.arange(3))
    files = dataclasses.replace(files, ids=str(tmp_path / "ids.npy"))
    assert read_arrays(files).row.tolist() == [0, 1, 2]
    order = write_shuffled(files, track_id=np.arange(3))
    with pytest.raises(UserError, match=r"ids.npy and 'track_id' in .*clips.npz are different track ids"):
        read_arrays(files)
    np.save(files.ids, order[::-1])
    ignoring = dataclasses.replace(files, ids_key="", clips_key="clips")
    assert read_arrays(ignoring).row.tolist() == order[::-1].tolist()


def test_a_split_that_is_none_is_an_error_also_where_there_is_no_clip(tmp_path):
    files = write_files(tmp_path, [{}, {"split": "holdout"}], np.ones((1, 5, 4), np.float32))
    assert len(read_arrays(files).clips) == 1  # that clip has a split
    with pytest.raises(UserError, match="'holdout' in column 'split' is not one of train, validation, test"):
        prepared(files, tmp_path)


def test_axes_that_look_exchanged_are_told(tmp_path):
    lines: list[str] = []
    files = write_files(tmp_path, [{}], np.ones((1, 4, 5), np.float32))
    prepare_arrays(files, "small", "mine", tmp_path / "data", progress=False, log=lines.append)
    assert any("warning: " in line and "only 4 frames of 5 mel bands" in line for line in lines)


def test_a_clip_that_the_table_does_not_have_is_an_error(tmp_path):
    files = write_files(tmp_path, [{}], np.ones((2, 5, 4), np.float32))
    with pytest.raises(UserError, match=r"clips.npz has track 1, which .*tracks.csv does not have"):
        prepared(files, tmp_path)
