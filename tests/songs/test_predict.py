"""Songs of one's own: which files, which bags, and what a model makes of them."""

import csv
import dataclasses
import json
import shutil
import types
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

import tfds_fma
from mgc_jax.embed import track_ids, write_embeddings
from mgc_jax.errors import UserError
from mgc_jax.predict import check_place
from mgc_jax.scoring import BagScores
from mgc_jax.songs.audio import decoded, first_task, further_tasks, warn_of_other_resampler
from mgc_jax.songs.files import bag_numbers
from mgc_jax.songs.plot import write_curves
from mgc_jax.songs.predict import EmbeddedSong, Failure, embed_songs, predict_songs
from mgc_jax.songs.representation import song_representation
from mgc_jax.songs.table import as_json, rows, terminal_table, write_predictions
from tfds_fma.clips.windows import Windows, cut_windows
from tfds_fma.collection.songs import Tags, find_songs, read_tags
from tfds_fma.errors import ClipError
from tfds_fma.parallel import WorkerDied
from tfds_fma.representations.registry import get_representation

CLIPS = sorted((Path(tfds_fma.__file__).parent / "dummy_data" / "fma_medium").glob("*/*.mp3"))
SHORT = get_representation("mel_256x96")
GENRES = ("Rock", "Folk", "Jazz")


def meta(**changes):
    """What a model of the demo says of itself, as far as it is needed here."""
    data = {"representation": "mel_256x96", "features": "", "arrays": {"clips": "mine.npz", "table": "t.csv"}}
    config = {"data": data, "model": {"frontend": "", "pooling": {"name": "matt"}}, "eval": {"batch_clips": 4}}
    values = {
        "config": config,
        "corpus": "demo",
        "stored_shape": (256, 96),
        "resampler": "soxr HQ, version unknown",
        "genre_parents": (),
    } | changes
    return types.SimpleNamespace(**values)


class BandMeans:
    """A model whose embeddings are the means of three bands, and whose attention follows the first of them."""

    def __init__(self, pooling="matt"):
        self.meta, self.genres, self.batches = meta(), GENRES, []
        self.meta.config["model"]["pooling"]["name"] = pooling

    def embed(self, clips):
        self.batches.append(len(clips))
        return clips.astype(np.float32)[:, :, [5, 30, 60]].mean(axis=1)

    def score_bags(self, embeddings, bags):
        attention = np.zeros((len(embeddings), 3), np.float32)
        scores = []
        for begin, end in zip(bags.offsets, bags.offsets[1:], strict=False):
            rows = bags.clips[begin:end]
            weights = np.exp(embeddings[rows, 0] - embeddings[rows, 0].max())
            attention[rows] = (weights / weights.sum())[:, None] * [1, 1, 0.5]
            logits = (weights[:, None] * embeddings[rows]).sum(axis=0) / weights.sum() / 10
            scores.append(logits - np.logaddexp.reduce(logits))
        return BagScores(np.array(scores, np.float32), attention)


@pytest.fixture
def in_process(monkeypatch):
    """Decodes in this process: starting others takes seconds."""
    import mgc_jax.songs.audio as audio

    def in_order(function, items, workers, pool):
        yield from map(function, items)

    monkeypatch.setattr(audio, "ordered_map", in_order)


class LogOdds(BandMeans):
    """A multi-label model, whose scores are log odds and fit the tree."""

    def __init__(self):
        super().__init__()
        self.meta.genre_parents = (-1, 0, -1)

    def score_bags(self, embeddings, bags):
        scores, attention = super().score_bags(embeddings, bags)
        scores = 3 * scores + 2
        scores[:, 0] = np.maximum(scores[:, 0], scores[:, 1])
        return BagScores(scores, attention)


def test_several_genres_have_a_probability_each(music, in_process):
    predictions = predict_songs(LogOdds(), [music / "one"], hop=3.0)
    for song in predictions.songs:
        probability = np.exp(song.window_scores)
        mean_log_odds = np.mean(np.log(probability / (1 - probability)), axis=0)
        np.testing.assert_allclose(np.exp(song.scores), 1 / (1 + np.exp(-mean_log_odds)), rtol=1e-9)
        assert song.scores[0] >= song.scores[1]
        expected = [genre for genre, score in zip(GENRES, mean_log_odds, strict=True) if score >= 0]
        assert predictions.genres_of(song.scores) == expected
    row, whole = rows(predictions)[0], as_json(predictions)
    assert row["genres"] == "|".join(whole["songs"][0]["genres"])
    assert row["bag/Jazz"] == pytest.approx(whole["bags"][0]["scores"]["Jazz"])
    assert 0 < row["bag/Jazz"] < 1
    assert "genres" not in rows(predict_songs(BandMeans(), [music / "one"]))[0]


@pytest.fixture
def music(tmp_path):
    """A folder of two albums, a file without tags, a broken one, a hidden one and a text."""
    folder = tmp_path / "music"
    for place in ("one/a.mp3", "one/b.mp3", "two/c.mp3"):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CLIPS[("one/a.mp3", "one/b.mp3", "two/c.mp3").index(place)], folder / place)
    rate = 22_050
    soundfile.write(folder / "two" / "d.wav", np.random.default_rng(0).normal(0, 0.1, 20 * rate), rate)
    (folder / "two" / "e.mp3").write_text("no audio")
    (folder / "two" / ".hidden.mp3").write_text("no audio")
    (folder / "notes.txt").write_text("no audio")
    return folder


def test_songs_of_folders_come_in_order_and_once(music):
    names = [path.name for path in find_songs([music / "two", music, music / "one" / "b.mp3"])]
    assert names == ["c.mp3", "d.wav", "e.mp3", "a.mp3", "b.mp3"]
    (music.parent / "empty").mkdir()
    with pytest.raises(UserError, match=r"no audio in .*looked for files that end in .aif"):
        find_songs([music.parent / "empty"])


def test_links_that_lead_in_a_circle_are_not_followed(music):
    (music / "one" / "circle").symlink_to(music)
    assert len(find_songs([music])) == 5


def tags(album="", artist=""):
    return Tags(artist=artist, album=album)


def test_bags_are_albums_by_their_tags_and_else_folders():
    paths = [Path(name) for name in ("x/1", "y/2", "x/3", "x/4", "y/5")]
    given = [tags("Blue", "Ann"), tags("blue", "ANN"), tags("Blue", "Bob"), tags(), tags()]
    assert bag_numbers(paths, given, "tags") == [0, 0, 1, 2, 3]
    assert bag_numbers(paths, [tags("Greatest Hits")] * 5, "tags") == [0, 1, 0, 0, 1]  # of whom? by folder
    assert bag_numbers(paths, given, "folder") == [0, 1, 0, 0, 1]
    assert bag_numbers(paths, given, "none") == [0, 1, 2, 3, 4]
    with pytest.raises(UserError, match="bags='album'"):
        bag_numbers(paths, given, "album")


@pytest.mark.parametrize("content", [b"", b"ID3\x04\0\0\x7f\x7f\x7f\x7f", b"RIFF" + b"\xff" * 40, b"fLaC" + bytes(50)])
def test_damaged_tags_are_no_tags(tmp_path, content):
    for name in ("a.mp3", "a.wav", "a.flac", "a.ogg"):
        (tmp_path / name).write_bytes(content)
        found = read_tags(tmp_path / name)
        assert (found.title, found.artist, found.album) == ("", "", "")


def with_id3(data, **frames):
    """An MP3 file with an ID3v2.3 tag in front: a text frame each, in Latin-1."""
    body = b"".join(
        name.encode() + (len(text) + 1).to_bytes(4, "big") + b"\0\0\0" + text.encode() for name, text in frames.items()
    )
    size = bytes(len(body) >> shift & 127 for shift in (21, 14, 7, 0))
    return b"ID3\x03\0\0" + size + body + data


def test_tags_are_read_and_megabytes_of_them_are_cut(tmp_path):
    path = tmp_path / "a.mp3"
    path.write_bytes(with_id3(CLIPS[0].read_bytes(), TIT2=" Song ", TPE1="Ann", TALB="x" * 10**6, TCON="Folk"))
    found = read_tags(path)
    assert (found.title, found.artist, found.genre, len(found.album)) == ("Song", "Ann", "Folk", 500)
    path.write_bytes(with_id3(CLIPS[0].read_bytes(), TPE1="Ann", TPE2="Various"))
    assert read_tags(path).artist == "Various"
    np.testing.assert_array_equal(cut_windows(path, SHORT, 5.44).clips, cut_windows(CLIPS[0], SHORT, 5.44).clips)


def test_what_a_model_takes_of_a_song():
    assert song_representation(meta()) is SHORT
    mfcc = meta(stored_shape=(189,))
    mfcc.config["data"].update(representation="features_518", features="mfcc+spectral_contrast")
    assert song_representation(mfcc).groups == ("mfcc", "spectral_contrast")
    audio = meta(corpus="arrays", stored_shape=(70_000,))
    audio.config["model"]["frontend"] = "mel_256x96"
    assert (song_representation(audio).sample_rate, song_representation(audio).samples) == (12_000, 70_000)
    with pytest.raises(UserError, match=r"trained on arrays \(mine.npz\).*cannot take audio"):
        song_representation(meta(corpus="arrays", stored_shape=(128,)))
    packaged = meta(corpus="fma_small", stored_shape=(100, 250))
    packaged.config["data"]["representation"] = "mel_100x250"
    with pytest.raises(UserError, match=r"trained on arrays \(mine.npz\)"):
        song_representation(packaged)
    with pytest.raises(UserError, match="takes clips of 1360 x 96, but mel_256x96 has 256 x 96"):
        song_representation(meta(stored_shape=(1360, 96)))
    with pytest.raises(UserError, match="no resampler was recorded"):  # arrays packaged under the name of a mel
        song_representation(meta(corpus="fma_small", resampler=""))


def test_a_model_of_the_first_frames_gets_these(music, in_process):
    model = BandMeans()
    model.meta.stored_shape = (100, 96)
    model.meta.config["data"]["frames"] = 100
    song, *_ = embed_songs(model, [music / "one" / "a.mp3"])
    expected = BandMeans().embed(cut_windows(music / "one" / "a.mp3", SHORT, 5.44).clips[:, :100])
    np.testing.assert_array_equal(song.embeddings, expected)


def test_another_resampler_is_warned_of(caplog):
    for recorded, warned in (("soxr HQ, version unknown", False), ("soxr HQ, soxr 0.3 with libsoxr 0.1", True)):
        warn_of_other_resampler(meta(resampler=recorded), SHORT)
        assert ("may differ by some dB" in caplog.text) == warned


def test_long_songs_are_several_tasks_without_gaps():
    first = first_task(3, Path("x"), 29.0)
    assert (first.first, first.most) == (0, 20)
    windows = Windows(np.zeros((20, 1)), np.arange(20) * 29.0, 600.0, told=7200.0)
    tasks = [first, *further_tasks(first, windows, 29.0)]
    assert [task.first for task in tasks] == list(range(0, 20 * len(tasks), 20))
    assert 20 * 29 * len(tasks) >= 7200
    assert {task.most for task in tasks[:-1]} == {20}
    assert tasks[-1].most is None
    wrong = dataclasses.replace(windows, told=1.0)  # the header tells too little
    assert [task.most for task in further_tasks(first, wrong, 29.0)] == [None]
    ended = dataclasses.replace(windows, start=windows.start[:19])
    assert further_tasks(first, ended, 29.0) == []
    assert first_task(0, Path("x"), 0.1).most == 32


def test_every_song_has_its_windows_whatever_the_batches(music, in_process):
    model = BandMeans()
    found = list(embed_songs(model, [music], hop=3.0))
    assert sum(model.batches) == sum(len(song.start) for song in found if isinstance(song, EmbeddedSong))
    assert set(model.batches[:-1]) == {4}
    for song in found:
        if isinstance(song, Failure):
            assert song.path.name == "e.mp3"
            assert "undecodable" in song.reason
            continue
        expected = BandMeans().embed(cut_windows(song.path, SHORT, 3.0).clips)
        np.testing.assert_array_equal(song.embeddings, expected)


def test_long_songs_in_several_tasks_are_one_song(tmp_path, in_process, monkeypatch):
    soundfile.write(tmp_path / "long.wav", np.random.default_rng(0).normal(0, 0.1, 12_000 * 60), 12_000)
    whole, *_ = embed_songs(BandMeans(), [tmp_path], hop=2.0)
    monkeypatch.setattr("mgc_jax.songs.audio._TASK_WINDOWS", 3)
    parts, *_ = embed_songs(BandMeans(), [tmp_path], hop=2.0)
    np.testing.assert_array_equal(parts.embeddings, whole.embeddings)
    np.testing.assert_array_equal(parts.start, whole.start)
    assert parts.seconds == whole.seconds == 60


def test_scores_of_windows_songs_and_albums(music, in_process):
    found = predict_songs(BandMeans(), [music], hop=3.0, bags="folder")
    assert [song.path.name for song in found.songs] == ["a.mp3", "b.mp3", "c.mp3", "d.wav"]
    assert [album.songs for album in found.albums] == [(0, 1), (2, 3)]
    for song in found.songs:
        mean = song.window_scores.mean(axis=0)
        np.testing.assert_allclose(song.scores, mean - np.logaddexp.reduce(mean), atol=1e-6)
    for album in found.albums:
        windows = np.concatenate([cut_windows(found.songs[i].path, SHORT, 3.0).clips for i in album.songs])
        bag = types.SimpleNamespace(offsets=[0, len(windows)], clips=np.arange(len(windows)))
        scores = BandMeans().score_bags(BandMeans().embed(windows), bag).scores[0]
        np.testing.assert_allclose(album.scores, scores, atol=1e-6)
        shares = sum(found.songs[i].attention for i in album.songs)
        assert shares == pytest.approx(0.5 if found.genre(album.scores) == "Jazz" else 1, abs=1e-5)


def test_without_pooling_an_album_is_the_mean_of_its_songs(music, in_process):
    found = predict_songs(BandMeans("none"), [music], bags="folder")
    for album in found.albums:
        mean = np.mean([found.songs[i].scores for i in album.songs], axis=0)
        np.testing.assert_allclose(album.scores, mean - np.logaddexp.reduce(mean))
    assert {song.attention for song in found.songs} == {None}
    assert "attention" not in terminal_table(found)


def test_only_bad_files_leave_a_table_without_songs(tmp_path, in_process):
    found = predict_songs(BandMeans(), [tmp_path / "gone.mp3"])
    assert (found.songs, found.albums) == ((), ())
    assert terminal_table(found) == f"not used: {tmp_path}/gone.mp3: missing: there is no such file"
    for kind in ("json", "csv", "parquet"):
        write_predictions(tmp_path / f"out.{kind}", found)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hop": 0}, "hop=0: give the distance of windows"), ({"hop": float("nan")}, "hop=nan"),
        ({"workers": 0}, "workers is 0"), ({"bags": "x"}, "bags='x'"),
    ],
)  # fmt: skip
def test_options_that_make_no_sense(music, in_process, options, words):
    with pytest.raises(UserError, match=words):
        predict_songs(BandMeans(), [music], **options)


def test_the_table_as_json_csv_and_parquet(music, in_process, tmp_path):
    (music / "one" / "b.mp3").rename(music / "one" / 'b "\n,.mp3')
    found = predict_songs(BandMeans(), [music], bags="folder")
    for kind in ("json", "csv", "parquet"):
        write_predictions(tmp_path / f"out.{kind}", found)
    expected = rows(found)
    with (tmp_path / "out.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert [row["path"] for row in read] == [str(song.path) for song in found.songs]
    assert pq.read_table(tmp_path / "out.parquet").to_pylist() == expected
    both = json.loads((tmp_path / "out.json").read_text())
    assert both["songs"][0]["scores"] == {genre: expected[0][f"song/{genre}"] for genre in GENRES}
    assert sum(both["bags"][0]["scores"].values()) == pytest.approx(1)
    assert [failure["path"] for failure in both["failed"]] == [str(music / "two" / "e.mp3")]
    for line in terminal_table(found).splitlines():
        assert line.isprintable()
    with pytest.raises(UserError, match=r"ends in \.json"):
        write_predictions(tmp_path / "out.txt", found)
    with pytest.raises(UserError, match=r"cannot be written.*choose another place"):
        write_predictions(tmp_path / "gone" / "out.json", found)


def test_curves_are_pictures(music, in_process, tmp_path):
    files = write_curves(tmp_path / "plots", predict_songs(BandMeans(), [music], hop=2.0))
    assert [path.name for path in files] == ["0000-a.png", "0001-b.png", "0002-c.png", "0003-d.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in files)


def test_embeddings_become_a_corpus(tmp_path):
    from mgc_jax.config.keys import default
    from mgc_jax.data.open import open_corpus

    songs = [
        EmbeddedSong(
            n, Path(f"{n}.mp3"), Tags(f"t{n}", "Ann", "Blue", "Rock"), 30.0, np.arange(2.0), np.full((2, 5), n, "f")
        )
        for n in range(3)
    ]
    write_embeddings(tmp_path / "x.npz", songs)
    data = default().data
    data.corpus = "arrays"
    data.arrays.update(clips=str(tmp_path / "x.npz"), table=str(tmp_path / "x.csv"), axes="clip feature")
    corpus = open_corpus(data)
    np.testing.assert_array_equal(corpus.clips[:, 0], [0, 1, 2])
    assert (corpus.track_id.tolist(), corpus.genres, set(corpus.album)) == ([0, 1, 2], ("Rock",), {"Blue"})


def test_track_ids_are_fma_s_where_files_are_named_so():
    assert track_ids([Path("a/000123.mp3"), Path("b/7.flac")]) == [123, 7]
    assert track_ids([Path("a/1.mp3"), Path("b/1.mp3")]) == [1, 2]
    assert track_ids([Path("a/1.mp3"), Path("b/x.mp3")]) == [1, 2]


def test_parts_behind_the_end_of_a_cut_file_say_nothing(tmp_path, in_process, monkeypatch):
    path = tmp_path / "cut.mp3"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, (60 * 22_050, 1)), 22_050)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    monkeypatch.setattr("mgc_jax.songs.audio._TASK_WINDOWS", 2)
    (song,) = embed_songs(BandMeans(), [path])
    assert song.seconds < 40
    assert song.damage == f"it ends after {song.seconds:.1f} of the 60.0 s that it tells"


def test_an_album_too_large_for_the_pooling_has_the_mean_of_its_songs(music, in_process, monkeypatch):
    expected = predict_songs(BandMeans(), [music], bags="folder")
    score_bags = BandMeans.score_bags

    def small_bags_only(self, embeddings, bags):
        if max(bags.sizes) > 11:
            raise UserError("a bag has more clips than can be pooled at once")
        return score_bags(self, embeddings, bags)

    monkeypatch.setattr(BandMeans, "score_bags", small_bags_only)
    found = predict_songs(BandMeans(), [music], bags="folder")
    sizes = [sum(len(found.songs[i].start) for i in album.songs) for album in found.albums]
    assert min(sizes) <= 11 < max(sizes)
    for album, usual, size in zip(found.albums, expected.albums, sizes, strict=True):
        if size <= 11:
            np.testing.assert_allclose(album.scores, usual.scores, atol=1e-6)
            continue
        mean = np.mean([found.songs[i].scores for i in album.songs], axis=0)
        np.testing.assert_allclose(album.scores, mean - np.logaddexp.reduce(mean))
        assert {found.songs[i].attention for i in album.songs} == {None}


def test_a_file_that_kills_its_decoder_is_one_line(music, monkeypatch):
    import mgc_jax.songs.audio as audio

    def dies(function, items, workers, pool=None):
        for task in items:
            if task.path.name == "c.mp3":
                raise WorkerDied("a worker process died")
            yield function(task)

    monkeypatch.setattr(audio, "ordered_map", dies)
    tasks = [first_task(number, path, 5.44) for number, path in enumerate(find_songs([music]))]
    found = list(decoded(tasks, SHORT, 5.44, None))
    assert [task.song for task, _ in found] == list(range(len(tasks)))
    failed = {task.path.name: error.detail for task, error in found if isinstance(error, ClipError)}
    assert failed.keys() == {"c.mp3", "e.mp3"}
    assert "crashed" in failed["c.mp3"]


@pytest.mark.parametrize("flag", ["--json", "--csv", "--parquet"])
def test_places_that_cannot_be_written_are_refused_before_the_work(flag, tmp_path):
    place = tmp_path / "gone" / f"x.{flag[2:]}"
    with pytest.raises(UserError, match="there is no folder"):
        check_place(flag, place, f".{flag[2:]}")
    with pytest.raises(UserError, match="ends in"):
        check_place(flag, tmp_path / "x.txt", f".{flag[2:]}")


def test_the_protocol_is_what_an_export_has():
    from mgc_jax.inference import ExportedModel

    for name in ("genres", "embed", "score_bags"):
        assert hasattr(ExportedModel, name)
    assert "meta" in {field.name for field in dataclasses.fields(ExportedModel)}
