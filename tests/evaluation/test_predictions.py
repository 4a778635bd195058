import dataclasses
import logging

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from helpers import make_corpus
from scipy.special import log_softmax

from mgc_jax.data.bags import bags_of
from mgc_jax.errors import UserError
from mgc_jax.evaluation.metrics import mean_log_scores
from mgc_jax.evaluation.predictions import Predictions, average, concatenate, of_corpus
from mgc_jax.evaluation.predictions_file import load_predictions, save_predictions
from mgc_jax.evaluation.results import level_metrics, summaries

GENRES = ("Old-Time / Historic", "Jazz", "Rock")


def make_predictions(split="validation", clips=30, seed=0, **changes):
    """Bags of three clips, two bags an artist, the last bag of unknown artists."""
    rng = np.random.default_rng(seed)
    number = np.arange(clips)
    scores = np.log(rng.dirichlet(np.ones(3), clips)).astype(np.float32)
    label = np.where(rng.random(clips) < 0.6, scores.argmax(axis=1), rng.integers(0, 3, clips)).astype(np.int32)
    given = {
        "genres": GENRES,
        "track_id": number + 1000 * ("train", "validation", "test").index(split),
        "split": np.full(clips, split),
        "label": label,
        "artist": np.where(number >= clips - 3, "", (number // 6).astype(str)),
        "album": (number // 3).astype(str),
        "bag": number // 3,
        "clip_scores": scores,
        "bag_scores": np.repeat(scores[::3], 3, axis=0),
        "attention": rng.random(clips).astype(np.float32),
        "info": {"corpus": "arrays", "fingerprint": "f"},
    }
    return Predictions(**given | changes)


def assert_same(one, other):
    for field in dataclasses.fields(Predictions):
        mine, theirs = getattr(one, field.name), getattr(other, field.name)
        if isinstance(mine, np.ndarray):
            np.testing.assert_array_equal(mine, theirs, err_msg=field.name)
            assert mine.dtype.kind == theirs.dtype.kind
        elif field.name == "predicted_genres":
            assert mine.keys() == theirs.keys()
            assert all(np.array_equal(mine[level], theirs[level]) for level in mine)
        else:
            assert mine == theirs, field.name


def test_a_file_gives_back_what_was_saved(tmp_path):
    train = make_predictions("train", seed=1)
    both = concatenate([train, make_predictions()]).replace(
        train_clips=np.bincount(train.label, minlength=3).astype(float),
        train_clips_outside_small=np.array([1.0, 2, 3]),
    )
    predicted = {"clip": (both.clip_scores.argmax(axis=1) + (np.arange(60) == 7)) % 3}  # differs in one clip
    both = both.replace(predicted_genres=predicted, fold=np.arange(60, dtype=np.int32) % 5)
    save_predictions(both, tmp_path / "p.parquet")
    assert_same(load_predictions(tmp_path / "p.parquet"), both)
    save_predictions(both, tmp_path / "p.csv")  # which has no room for what is known of the whole
    known = {"info": {}, "train_clips_outside_small": None}
    assert_same(load_predictions(tmp_path / "p.csv"), both.replace(**known))
    assert not list(tmp_path.glob("*.tmp"))


def test_parts_are_joined_whichever_of_them_name_other_genres(tmp_path):
    """A file lists the genres that a model names only where they are not those of the highest scores."""
    alike, other = make_predictions(seed=1), make_predictions("test", seed=2)
    other = other.replace(predicted_genres={"clip": (other.clip_scores.argmax(axis=1) + 1) % 3})
    for parts in ((alike, other), (other, alike)):
        joined = concatenate(parts)
        np.testing.assert_array_equal(joined.predicted("clip"), np.concatenate([p.predicted("clip") for p in parts]))
    partly = concatenate([alike, other.replace(attention=None)])
    assert partly.attention is None


def test_the_average_of_models_is_that_of_their_log_probabilities():
    first = make_predictions()
    scores = {"clip_scores": first.clip_scores * 3, "bag_scores": first.bag_scores[::-1].copy()}
    order = np.arange(len(first)).reshape(-1, 3)[::-1].ravel()  # the bags in another order, numbered anew
    second = first.replace(
        **scores, info={"corpus": "arrays", "fingerprint": "g"}, fold=np.zeros(len(first), np.int32)
    )
    second = second.replace(predicted_genres={"clip": np.zeros(len(first), int)})
    both = average({"one": first, "two": second.take(order).replace(bag=first.bag)})
    for level in ("clip_scores", "bag_scores"):
        expected = [log_softmax(getattr(part, level).astype(np.float64), axis=1) for part in (first, second)]
        np.testing.assert_allclose(getattr(both, level), np.mean(expected, axis=0))
    assert both.info == {"corpus": "arrays"}  # of which fingerprint is unknown
    assert both.predicted_genres == {}
    assert both.attention is None
    assert both.fold is None
    assert average({"one": first, "two": second.replace(bag_scores=None)}).bag_scores is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda p: p.take(np.arange(len(p) - 1)),
            "one and two cannot .*: 1 clips are in the first alone, 0 in the second",
        ),
        (lambda p: p.replace(track_id=p.track_id + 1), "1 clips are in the first alone, 1 in the second"),
        (lambda p: p.replace(label=(p.label + 1) % 3), "they have other labels"),
        (lambda p: p.replace(bag=np.arange(len(p)) // 6), "they have other bags"),
        (lambda p: p.replace(genres=GENRES[::-1]), "they have other genres"),
        (lambda p: p.replace(clip_scores=None), "some have scores of clips alone, others of bags alone"),
    ],
)
def test_what_cannot_be_averaged_is_told(change, message):
    with pytest.raises(UserError, match=message):
        average({"one": make_predictions(bag_scores=None), "two": change(make_predictions())})


def test_every_metric_can_be_computed_from_the_file_alone(tmp_path):
    both = concatenate([make_predictions("train", seed=1), make_predictions()])
    both = both.replace(train_clips=np.array([5.0, 10, 150]), train_clips_outside_small=np.array([5.0, 10, 15]))
    results = summaries(both)
    for name in ("p.parquet", "p.csv"):
        save_predictions(both, tmp_path / name)
    assert summaries(load_predictions(tmp_path / "p.parquet")) == results
    from_csv = summaries(load_predictions(tmp_path / "p.csv"))
    for level in ("clip", "clip_mean", "bag"):
        assert from_csv["validation"][level] == results["validation"][level]
    assert results["validation"]["top_k"]["bag"]["<100"]["genres"] == list(GENRES[:2])
    assert results["validation"]["top_k"]["bag"]["<100 (paper)"]["genres"] == list(GENRES)


def test_scores_of_ours_that_are_no_distribution_stay_as_they_are(tmp_path, caplog):
    """MATT's: each genre's is of its own view."""
    ours = make_predictions()
    ours = ours.replace(bag_scores=ours.bag_scores + 0.1 * np.arange(3), clip_scores=ours.clip_scores - 0.2)
    save_predictions(ours, tmp_path / "p.parquet")
    with caplog.at_level("INFO", "mgc_jax"):
        again = load_predictions(tmp_path / "p.parquet")
    np.testing.assert_array_equal(again.bag_scores, ours.bag_scores)
    np.testing.assert_array_equal(again.clip_scores, ours.clip_scores)
    assert "taken as" not in caplog.text
    assert summaries(again) == summaries(ours)


def test_bag_average_is_the_normalized_geometric_mean():
    probability = np.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [0.2, 0.2, 0.6]])
    mean = np.exp(mean_log_scores(np.log(probability), np.array([0, 1, 3])))
    np.testing.assert_allclose(mean[0], probability[0])
    geometric = np.sqrt(probability[1] * probability[2])
    np.testing.assert_allclose(mean[1], geometric / geometric.sum())


def test_selected_rows_keep_their_bags():
    part = make_predictions().take(np.array([0, 4, 5, 8]))
    np.testing.assert_array_equal(part.bag, [0, 1, 1, 2])
    np.testing.assert_array_equal(part.offsets, [0, 1, 3, 4])
    alone = part.take(np.array([0]))
    np.testing.assert_allclose(alone.levels["clip_mean"], alone.clip_scores, atol=1e-6)
    assert len(make_predictions().of_split("test")) == 0


def test_an_unknown_artist_is_a_cluster_of_its_own():
    assert len(np.unique(make_predictions().artists)) == 5 + 3


CSV = """track_id,split,genre,artist,album,clip/Jazz,clip/Rock
5,validation,Jazz,a,x,0.7,0.3
9,validation,Rock,b,x,0.6,0.4
7,validation,Jazz,a,x,0.2,0.8
8,validation,Rock,,,0,1
"""


def test_predictions_of_other_software(tmp_path):
    path = tmp_path / "theirs.csv"
    path.write_text(CSV)
    predictions = load_predictions(path)
    assert predictions.genres == ("Jazz", "Rock")
    np.testing.assert_array_equal(predictions.track_id, [5, 7, 9, 8])  # clips of one artist and album form a bag
    np.testing.assert_array_equal(predictions.bag_sizes, [2, 1, 1])
    np.testing.assert_allclose(np.exp(predictions.clip_scores[:3]), [[0.7, 0.3], [0.2, 0.8], [0.6, 0.4]])
    assert np.isfinite(predictions.clip_scores).all()
    result = summaries(predictions)["validation"]
    assert result["clip"]["accuracy"] == 0.5
    assert "bag" not in result
    assert result["top_k"] == {}  # nothing is known of the training clips


@pytest.mark.parametrize("word", ["nan", "None", "NA", "-1", "-1.0"])
def test_words_that_say_that_something_is_unknown(tmp_path, word, caplog):
    path = tmp_path / "theirs.csv"
    lines = [line.replace(",a,x,", f",{word},{word},") for line in CSV.splitlines()]
    path.write_text("\n".join(lines))
    with caplog.at_level(logging.INFO, "mgc_jax"):
        predictions = load_predictions(path)
    assert f"{path}, column 'artist': 2 of 4 are taken as unknown ('{word}')" in caplog.text
    assert predictions.artist.tolist() == ["", "b", "", ""]
    assert predictions.bag_sizes.tolist() == [1, 1, 1, 1]
    path.write_text("\n".join([f"{lines[0]},bag", *(f"{line},{word}" for line in lines[1:])]))
    assert load_predictions(path).bag_sizes.tolist() == [1, 1, 1, 1]


def test_logits_and_bags_by_name(tmp_path):
    path = tmp_path / "theirs.csv"
    path.write_text(
        "track_id,split,genre,bag,bag/Jazz,bag/Rock\n1,val,Jazz,b,3,-2\n2,val,Rock,a,1,4\n3,val,Rock,b,3,-2\n"
    )
    predictions = load_predictions(path)
    np.testing.assert_array_equal(predictions.track_id, [1, 3, 2])
    np.testing.assert_allclose(predictions.bag_scores, log_softmax(np.array([[3.0, -2], [3, -2], [1, 4]]), axis=1))
    assert summaries(predictions)["validation"]["bag"]["paper_accuracy"] == 1.0


def test_how_scores_are_read(tmp_path, caplog):
    caplog.set_level(logging.INFO, "mgc_jax")
    path = tmp_path / "theirs.csv"
    head = "track_id,split,genre,clip/Jazz,clip/Rock\n"

    def scores(*rows):
        lines = [f"{i},validation,Jazz,{row[0]},{row[1]}" for i, row in enumerate(rows)]
        path.write_text(head + "\n".join(lines) + "\n")
        return load_predictions(path).clip_scores

    np.testing.assert_allclose(np.exp(scores((0.25, 0.75), (1.0002, 0))), [[0.25, 0.75], [1, 0]], atol=1e-12)
    assert "the columns clip/<genre> are taken as probabilities" in caplog.text
    log_probabilities = (np.log(0.25), np.log(0.75)), (0, "-inf")
    expected = [log_probabilities[0], (0, np.log(np.finfo(float).tiny))]
    np.testing.assert_array_equal(scores(*log_probabilities), expected)
    assert "the columns clip/<genre> are taken as log probabilities" in caplog.text
    assert "logits" not in caplog.text
    np.testing.assert_allclose(scores((-1, -2), (-3, -9)), log_softmax([[-1.0, -2], [-3, -9]], axis=1))
    assert "the columns clip/<genre> are taken as logits" in caplog.text
    with_offsets = scores((3, 1), (103, 101), (-7, -9))  # a logit says nothing beside those of another clip
    np.testing.assert_allclose(with_offsets, np.tile(log_softmax([3.0, 1.0]), (3, 1)))
    assert np.isfinite(scores((1e308, -1e308))).all()


@pytest.mark.parametrize(
    ("row", "total"), [("0.9,0.8", "1.7"), ("0.3,0.1", "0.4"), ("0,0", "0"), ("0.5,0.53", "1.03")]
)
def test_probabilities_that_do_not_sum_to_one_are_an_error(tmp_path, row, total):
    path = tmp_path / "theirs.csv"
    path.write_text(CSV.replace("0.6,0.4", "0.61,0.4").replace("0.2,0.8", row))
    message = (
        rf"clip/<genre> are all between 0 and 1, but those of track 7 sum to {total}, .*\(1 of 4 rows.* by its sum"
    )
    with pytest.raises(UserError, match=message):
        load_predictions(path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["70,30", "20,80", "60.5,39.6"], "are percent; divide by 100"),
        (["70,31", "0,100", "61,40"], "are percent; divide by 100"),  # rounded
        (["0.35667,1.20397", "0.69315,0.69315", "4.60517,0.01005"], "are negative log probabilities; change the sign"),
    ],
)
def test_scores_in_a_form_that_is_no_logit_are_an_error(tmp_path, rows, message):
    path = tmp_path / "theirs.csv"
    head = "track_id,split,genre,clip/Jazz,clip/Rock\n"
    path.write_text(head + "".join(f"{i},validation,Jazz,{row}\n" for i, row in enumerate(rows)))
    with pytest.raises(UserError, match=f"the columns clip/<genre> {message}"):
        load_predictions(path)
    path.write_text(head + "".join(f"{i},validation,Jazz,{row}\n" for i, row in enumerate([*rows, "3,7"])))
    assert len(load_predictions(path)) == 4  # one of them is not: logits


def file_of_corpus(path, corpus, rows, **columns):
    """A file with scores of some clips of a corpus, and columns that may contradict it."""
    given = {"track_id": corpus.track_id[rows]} | columns
    given |= {f"clip/{genre}": np.full(rows.size, 2.0) for genre in corpus.genres}
    pyarrow.csv.write_csv(pa.table({name: pa.array(values) for name, values in given.items()}), path)
    return path


def test_what_a_file_says_beside_the_corpus(tmp_path, caplog):
    corpus = make_corpus()
    rows, path = np.flatnonzero(corpus.split != "train")[::2], tmp_path / "theirs.csv"
    own, genre, artist = corpus.split[rows], np.array(corpus.genres)[corpus.label[rows]], corpus.artist[rows]
    renamed = np.char.add("Band ", artist)
    read = load_predictions(file_of_corpus(path, corpus, rows, split=own, genre=genre, artist=renamed), corpus)
    assert "another" not in caplog.text  # names for the numbers of artists are no contradiction
    for name in ("validation", "test"):
        clips, there = (corpus.split == name).sum(), (own == name).sum()
        assert f"{clips - there} of {clips} {name} clips of the corpus are not in the file" in caplog.text
    assert "train clips" not in caplog.text

    one_artist = np.where(np.arange(rows.size) < 5, "x", artist)
    all_validation = np.full(rows.size, "val")
    read = load_predictions(file_of_corpus(path, corpus, rows, split=all_validation, artist=one_artist), corpus)
    assert f"5 of {rows.size} clips have another artist than in corpus arrays" in caplog.text
    assert (read.artist == "x").sum() == 5
    assert f"{(own == 'test').sum()} of {rows.size} clips are of another split" in caplog.text
    assert set(read.track_id[read.split == "test"]) == set(corpus.track_id[rows][own == "test"])  # needs --test

    all_train = np.full(rows.size, "train")
    read = load_predictions(file_of_corpus(path, corpus, rows, split=all_train), corpus)
    assert read.splits == ["train", "test"]
    wrong = np.where(np.arange(rows.size) < 3, np.roll(corpus.genres, 1)[corpus.label[rows]], genre)
    with pytest.raises(UserError, match=rf"3 of {rows.size} clips have another genre than in corpus arrays, for inst"):
        load_predictions(file_of_corpus(path, corpus, rows, genre=wrong), corpus)


def test_a_bag_without_a_name_is_a_clip_alone(tmp_path):
    path = tmp_path / "theirs.csv"
    path.write_text(
        "track_id,split,genre,bag,clip/Jazz,clip/Rock\n1,val,Jazz,,1,0\n2,val,Rock,,1,0\n3,val,Rock,7,1,0\n"
    )
    assert load_predictions(path).bag_sizes.tolist() == [1, 1, 1]
    path.write_text("track_id,split,genre,bag,bag/Jazz,bag/Rock\n1,val,Jazz,7,0.6,0.4\n2,val,Rock,7,0.5,0.5\n")
    with pytest.raises(UserError, match=r"tracks 1 and 2 are in one bag, but their columns bag/<genre> differ"):
        load_predictions(path)


def category_of_pandas(values: pa.Array) -> pa.Array:
    """Its categories are sorted, not all of them need occur, and what is missing has no index."""
    known = sorted({value for value in values.to_pylist() if value is not None})
    index = pa.array([None if v is None else known.index(v) for v in values.to_pylist()], pa.int8())
    return pa.DictionaryArray.from_arrays(index, pa.array([*known, known[-1]], values.type))


@pytest.mark.parametrize("encode", [category_of_pandas, pa.Array.dictionary_encode])
def test_categorical_columns_with_gaps_are_as_those_of_text(tmp_path, encode):
    """What is missing in a dictionary is not its last category."""
    table = pa.table({
        "track_id": [1, 2, 3, 4, 5, 6],
        "split": ["validation"] * 6,
        "genre": ["Jazz", "Rock"] * 3,
        "artist": ["a", None, "b", None, "b", "a"],
        "album": ["x", "x", None, None, "y", "x"],
        "predicted_clip": ["Rock"] * 6,
        "clip/Jazz": [0.25, 0.25, 0.75, 0.5, 0.25, 0.25],
        "clip/Rock": [0.75, 0.75, 0.25, 0.5, 0.75, 0.75],
    })  # fmt: skip
    bags = pa.array([2**60, None, 2**60 + 1, None, 2**60, 2**60 + 1])  # which are one number in floating point
    path = tmp_path / "p.parquet"

    def loaded(table: pa.Table, encoded: bool) -> Predictions:
        parts = [table[:4].combine_chunks(), table[4:].combine_chunks()]  # row groups, whose dictionaries differ
        if encoded:
            parts = [pa.table({n: encode(part[n].combine_chunks()) for n in part.column_names}) for part in parts]
        with pyarrow.parquet.ParquetWriter(path, parts[0].schema) as writer:
            for part in parts:
                writer.write_table(part)
        return load_predictions(path)

    for given in (table, table.append_column("bag", bags)):
        assert_same(loaded(given, encoded=True), loaded(given, encoded=False))
    assert loaded(table, encoded=True).bag_sizes.tolist() == [2, 1, 1, 1, 1]
    with_bags = loaded(table.append_column("bag", bags), encoded=True)
    assert with_bags.bag_sizes.tolist() == [2, 1, 2, 1]
    assert with_bags.artist.tolist() == ["a", "b", "", "b", "a", ""]
    for name in ("split", "genre", "predicted_clip", "clip/Jazz", "track_id"):
        values = [None, *table[name].to_pylist()[1:]]
        given = table.set_column(table.column_names.index(name), name, pa.array(values, table[name].type))
        with pytest.raises(UserError, match=rf"the column {name}"):
            loaded(given, encoded=True)


def test_the_bags_and_counts_of_the_corpus(tmp_path):
    corpus = dataclasses.replace(make_corpus(), album=np.full(120, ""))  # pseudo-albums
    bags = bags_of(corpus, "validation", "pair", 5)
    scores = np.log(np.random.default_rng(0).dirichlet(np.ones(3), len(bags.clips)))
    whole = of_corpus(corpus, "validation", bags, scores)
    path = tmp_path / "p.csv"
    lines = [f"{t},{','.join(map(str, row))}" for t, row in zip(whole.track_id, scores[:, ::-1].tolist(), strict=True)]
    path.write_text("\n".join(["track_id," + ",".join(f"clip/{g}" for g in corpus.genres[::-1]), *lines]))
    read = load_predictions(path, corpus, bag_key="pair", pseudo_album_gap=5)
    np.testing.assert_array_equal(np.sort(read.bag_sizes), np.sort(whole.bag_sizes))
    assert level_metrics(read)["clip_mean"] == pytest.approx(level_metrics(whole)["clip_mean"])
    turned = whole.replace(genres=corpus.genres[::-1], label=2 - whole.label, clip_scores=whole.clip_scores[:, ::-1])
    save_predictions(turned, tmp_path / "p.parquet")  # its genres stand in another order
    other = load_predictions(tmp_path / "p.parquet", corpus)
    assert dict(zip(other.genres, other.train_clips, strict=True)) == dict(
        zip(corpus.genres, whole.train_clips, strict=True)
    )


def test_clips_in_none_of_the_splits_of_the_corpus_are_left_out(tmp_path, caplog):
    corpus = make_corpus()
    unused = corpus.split == "test"
    corpus = dataclasses.replace(corpus, split=np.where(unused, "unused", corpus.split))
    path, everything = tmp_path / "theirs.csv", np.arange(len(corpus))
    with caplog.at_level(logging.INFO):
        read = load_predictions(file_of_corpus(path, corpus, everything), corpus)
    assert f"{unused.sum()} clips are in none of the splits of corpus arrays: left out" in caplog.text
    assert set(read.track_id) == set(corpus.track_id[~unused])
    given = np.where(unused, "test", corpus.split)  # the file counts
    assert (load_predictions(file_of_corpus(path, corpus, everything, split=given), corpus).split == "test").any()
    with pytest.raises(UserError, match="none of its clips is in a split of corpus arrays"):
        load_predictions(file_of_corpus(path, corpus, np.flatnonzero(unused)), corpus)


def test_the_corpus_gives_what_the_file_lacks(tmp_path):
    corpus = make_corpus()
    bags = bags_of(corpus, "validation", "pair")
    scores = np.log(np.random.default_rng(0).dirichlet(np.ones(3), len(bags.clips)))
    whole = of_corpus(corpus, "validation", bags, scores)
    lines = [f"{track},{','.join(map(str, row))}" for track, row in zip(whole.track_id, scores.tolist(), strict=True)]
    path = tmp_path / "theirs.csv"
    path.write_text("\n".join(["track_id," + ",".join(f"clip/{g}" for g in corpus.genres), *lines]))
    predictions = load_predictions(path, corpus)
    assert predictions.genres == corpus.genres
    assert summaries(predictions) == summaries(whole)
    with pytest.raises(UserError, match=r"no column split\. Add it, or name the corpus"):
        load_predictions(path)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("track_id", "track", "no column track_id; it has track, split"),
        ("clip/", "", "no scores: a column clip/<genre>"),
        ("validation", "dev", "'dev' in the column split is none of train, validation, test"),
        ("0.7", "loud", "the column clip/Jazz is not of numbers"),
        ("0.7", "", "the column clip/Jazz is not of numbers"),
        ("9,", "5,", "several rows of a track, for instance of 5"),
        ("5,validation,Jazz", "5,validation,Polka", "'Polka' in the column genre is no genre that has scores"),
        ("clip/Rock", "clip/Jazz", "several columns"),
        (CSV[CSV.index("5,") :], "", "has no rows"),
        ("0.7", "inf", "the column clip/Jazz is not of numbers"),
        ("5,validation", "5.5,validation", "a value is no whole number"),
    ],
)
def test_bad_files_are_explained(tmp_path, before, after, message):
    path = tmp_path / "theirs.csv"
    path.write_text(CSV.replace(before, after))
    with pytest.raises(UserError, match=message):
        load_predictions(path)


def test_missing_damaged_and_foreign_files(tmp_path):
    with pytest.raises(UserError, match="there is no predictions file"):
        load_predictions(tmp_path / "gone.parquet")
    path = tmp_path / "p.parquet"
    save_predictions(make_predictions(), path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        load_predictions(path)
    save_predictions(make_predictions(), path)
    with pytest.raises(UserError, match="track 1000 and 29 others are not in corpus arrays"):
        load_predictions(path, dataclasses.replace(make_corpus(), track_id=np.arange(120)))
    table = pyarrow.parquet.read_table(path)
    pyarrow.parquet.write_table(table.drop_columns(["clip/Rock"]), path)
    with pytest.raises(UserError, match="'clip/Rock' is missing; the genres are Old-Time"):
        load_predictions(path)
