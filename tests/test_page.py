"""The local page: who may use it, what it takes, what it answers, and that no file is left."""

import asyncio
import concurrent.futures
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from chromium import PROGRAM, Chromium

pytest.importorskip("starlette", reason="pip install '.[page]'")
pytest.importorskip("httpx", reason="pip install '.[test]'")

from starlette.testclient import TestClient

from mgc_jax.config.keys import default, to_json
from mgc_jax.errors import UserError
from mgc_jax.export.folder import write_export
from mgc_jax.inference import CheckpointMeta, ExportedModel, inputs_of, model_of
from mgc_jax.page import __main__ as command
from mgc_jax.page import app as app_of_the_page
from mgc_jax.page import classifier as classifying
from mgc_jax.page.app import make_app
from mgc_jax.page.classifier import Classifier, StoppedError
from mgc_jax.page.pictures import Pictures, thinned
from mgc_jax.page.uploads import MOST_FILES, Drop, Upload
from mgc_jax.scoring import BagScores
from mgc_jax.songs import audio as songs_audio
from mgc_jax.songs.predict import SongPredictions, predict_songs
from tfds_fma.clips.windows import Windows
from tfds_fma.errors import ClipError
from tfds_fma.parallel import ordered_map
from tfds_fma.representations.registry import get_representation

HOST = "127.0.0.1:8600"
RATE = 12_000
WINDOW = 255 * 256 / RATE


class Model:
    """Calls a window "Low" or "High" by where its energy is, and attends to the first clip of a bag three times."""

    genres = ("Low", "High", "<i>Silent</i>")
    mesh = SimpleNamespace(size=1)
    inputs = SimpleNamespace(frontend=None)
    meta = SimpleNamespace(
        corpus="demo", stored_shape=(256, 96), resampler="soxr HQ, version unknown", genre_parents=(),
        config={
            "data": {"representation": "mel_256x96", "features": []},
            "model": {"frontend": "", "pooling": {"name": "matt"}},
            "eval": {"batch_clips": 4},
        },
    )  # fmt: skip

    def embed(self, clips):
        energy = np.asarray(clips, np.float32).mean(axis=1)
        return np.stack([energy[:, :48].max(axis=1), energy[:, 48:].max(axis=1)], axis=1)

    def score_bags(self, embeddings, bags):
        attention, scores = np.empty(len(embeddings), np.float32), []
        for begin, end in zip(bags.offsets[:-1], bags.offsets[1:], strict=True):
            clips = bags.clips[begin:end]
            weights = np.r_[3.0, np.ones(len(clips) - 1)]
            attention[clips] = weights / weights.sum()
            low, high = attention[clips] @ embeddings[clips]
            share = 0.98 / (1 + np.exp((high - low) / 10))
            scores.append(np.log([share, 0.98 - share, 0.02]))
        return BagScores(np.array(scores, np.float32), attention)


@pytest.fixture
def page(tmp_path, monkeypatch):
    """A browser's view of the page, whose decoders are threads; `page.folder` holds the files of requests."""
    monkeypatch.setattr(classifying, "start_pool", lambda _: concurrent.futures.ThreadPoolExecutor(1))
    classifier = Classifier(Model(), workers=1)
    folder = tmp_path / "uploads"
    folder.mkdir()
    app = make_app(classifier, "<b>a model</b>", hosts=(HOST, "localhost:8600"), max_bytes=3_000_000, folder=folder)
    client = TestClient(app, base_url=f"http://{HOST}", headers={"origin": f"http://{HOST}"})
    client.folder, client.classifier, client.asgi = folder, classifier, app
    yield client
    classifier.close()


def tone(folder, *frequencies, seconds=WINDOW, name="tone.wav"):
    """Returns the bytes of a WAV file with one tone after the other."""
    time = np.arange(round(seconds * RATE)) / RATE
    audio = np.concatenate([0.3 * np.sin(2 * np.pi * f * time) for f in frequencies])
    soundfile.write(folder / name, audio, RATE)
    return (folder / name).read_bytes()


def body_of(files, bags="tags"):
    listed = [{"name": name, "size": len(content)} for name, content in files]
    head = json.dumps({"bags": bags, "files": listed}).encode() + b"\n"
    return head + b"".join(content for _, content in files)


def classify(page, files, bags="tags", **options):
    """Sends files; returns the last line of the answer."""
    response = page.post("/classify", content=body_of(files, bags), **options)
    assert response.status_code == 200, response.text
    return json.loads(response.text.splitlines()[-1])


def nothing_left(page):
    return not list(page.folder.iterdir())


# ---- Who may use it


def test_the_page_loads_nothing_from_elsewhere_and_escapes_what_it_shows(page):
    response = page.get("/")
    assert response.status_code == 200
    assert "&lt;b&gt;a model&lt;/b&gt;" in response.text
    assert "<b>a model" not in response.text
    assert "&lt;i&gt;Silent" in response.text
    assert "http" not in response.text.replace("http://www.w3.org", "")
    assert "<style" not in response.text
    assert " style=" not in response.text
    assert "trained on the demo corpus" in response.text
    script = page.get("/page.js").text
    assert "innerHTML" not in script
    assert "insertAdjacentHTML" not in script
    for path in ("/", "/page.js", "/page.css", "/nothing"):
        headers = page.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("host", ["evil.example:8600", "127.0.0.1", "127.0.0.1:80", "localhost:8600.evil.example", ""])
def test_other_hosts_are_refused_as_after_dns_rebinding(page, host):
    for path in ("/", "/page.js"):
        response = page.get(path, headers={"host": host})
        assert response.status_code == 403
        assert f"open the page as http://{HOST}" in response.json()["error"]


@pytest.mark.parametrize("origin", ["http://evil.example", "null", f"https://{HOST}", "http://localhost:8600", ""])
def test_other_pages_cannot_send_files(page, tmp_path, origin):
    response = page.post("/classify", content=body_of([("a.wav", tone(tmp_path, 200))]), headers={"origin": origin})
    assert response.status_code == 403
    del page.headers["origin"]
    assert page.post("/classify", content=b"").status_code == 403


def test_the_page_can_be_opened_as_localhost(page):
    names = {"host": "localhost:8600", "origin": "http://localhost:8600"}
    assert page.get("/", headers=names).status_code == 200
    assert page.post("/classify", content=b"", headers=names).status_code == 400  # an empty body, but it was read


# ---- What it answers


def test_a_song_has_a_genre_over_time_and_a_spectrogram(page, tmp_path):
    name = "<img src=x onerror=alert(1)>.WAV"
    result = classify(page, [(name, tone(tmp_path, 100, 5000, 100))])["result"]
    (song,) = result["songs"]
    assert result["genres"] == list(Model.genres)
    assert result["failed"] == []
    assert [np.argmax(p) for p in song["windows"]] == [0, 1, 0]
    np.testing.assert_allclose(song["start"], WINDOW * np.arange(3), atol=1e-3)
    assert np.argmax(song["probabilities"]) == 0
    assert song["picture"].startswith("data:image/png;base64,")
    assert (song["file"], song["seconds"]) == (0, pytest.approx(3 * WINDOW, abs=0.01))
    assert nothing_left(page)


def test_an_album_is_scored_as_by_predict_songs(page, tmp_path):
    folder = tmp_path / "album"
    folder.mkdir()
    files = [
        (f"album/{i}.wav", tone(folder, *f, name=f"{i}.wav")) for i, f in enumerate([(100, 100), (5000,), (100,)])
    ]
    expected = predict_songs(Model(), [folder], pool=page.classifier._pool)
    result = classify(page, files)["result"]
    (album,) = result["albums"]
    assert album["songs"] == [0, 1, 2]
    np.testing.assert_allclose(album["probabilities"], np.exp(expected.albums[0].scores), atol=1e-4)
    for song, other in zip(result["songs"], expected.songs, strict=True):
        np.testing.assert_allclose(song["probabilities"], np.exp(other.scores), atol=1e-4)
        assert song["attention"] == pytest.approx(other.attention)
    assert [song["attention"] for song in result["songs"]] == pytest.approx([4 / 6, 1 / 6, 1 / 6])


def test_progress_counts_the_songs_that_are_done(page, monkeypatch):
    """The windows of long songs come in several parts, after all others."""
    drop = Drop("none", tuple(Upload(name, Path(name)) for name in ("long.wav", "bad.wav", "short.wav")))
    clips = np.zeros((32, 256, 96))  # as many as a part has
    long = Windows(clips, WINDOW * np.arange(32), end=32 * WINDOW, told=80 * WINDOW)
    rest = Windows(clips[:16], WINDOW * np.arange(64, 80), end=80 * WINDOW, told=80 * WINDOW)
    short = Windows(clips[:2], np.arange(2) * WINDOW, end=2 * WINDOW, told=2 * WINDOW)
    lines = []

    def predict(paths, bags, on_windows):
        for part in ((0, long), (1, ClipError("empty", "")), (2, short), (0, long), (0, rest)):
            on_windows(*part)
        return SongPredictions(Model.genres, (), (), (), WINDOW, WINDOW)

    monkeypatch.setattr(page.classifier, "_predict", predict)
    page.classifier.classify(drop, report=lines.append, stop=threading.Event())
    assert [(line["done"], line["of"]) for line in lines] == [(0, 3), (1, 3), (2, 3), (2, 3), (3, 3)]
    assert lines[-1]["windows"] == 32 + 2 + 32 + 16


def test_folders_of_the_user_are_albums_and_each_song_can_be_alone(page, tmp_path):
    song = tone(tmp_path, 100)
    files = [("a/1.wav", song), ("b/1.wav", song), ("a/2.wav", song), ("loose.wav", song)]
    albums = classify(page, files, "folder")["result"]["albums"]
    assert [album["songs"] for album in albums] == [[0, 2], [1], [3]]
    assert len(classify(page, files, "none")["result"]["albums"]) == 4


def test_every_file_that_cannot_be_used_gets_a_sentence(page, tmp_path):
    good = tone(tmp_path, 5000)
    files = [
        ("noise.mp3", np.random.default_rng(0).bytes(20_000)),
        ("good.wav", good),
        ("empty.flac", b""),
        ("short.wav", tone(tmp_path, 100, seconds=0.5)),
        ("song.wav.exe", good),
        ("cut.wav", good[:30]),
    ]
    result = classify(page, files)["result"]
    assert [song["file"] for song in result["songs"]] == [1]
    assert [one["name"] for one in result["failed"]] == [name for name, _ in files if name != "good.wav"]
    noise, empty, short, other, cut = (one["reason"] for one in result["failed"])
    assert noise.startswith("it cannot be decoded as audio (")
    assert cut.startswith("it cannot be decoded as audio (")
    assert empty.startswith("it is empty")
    assert short.startswith("it is too short (0.50 s of the 5.44 s needed)")
    assert other.startswith("its name does not end as that of an audio file does: .aif, ")
    only_bad = classify(page, files[:1])["result"]
    assert (only_bad["songs"], len(only_bad["failed"])) == ([], 1)
    assert classify(page, [("cover.jpg", b"x")])["result"]["failed"][0]["name"] == "cover.jpg"
    assert nothing_left(page)


def test_names_become_no_paths(page, tmp_path, monkeypatch):
    seen = []
    work = page.classifier.classify

    def watched(drop, **options):
        seen.extend(file.path.relative_to(page.folder) for file in drop.files)
        assert all(file.path.is_file() for file in drop.files)
        return work(drop, **options)

    monkeypatch.setattr(page.classifier, "classify", watched)
    names = ["../../up.wav", "/etc/passwd.wav", "a\0b.wav", "x" * 4000 + ".Wav", "C:\\x\\y.wav", "ü/\udcff/./z.wav"]
    result = classify(page, [(name, tone(tmp_path, 100)) for name in names])["result"]
    assert len(result["songs"]) == len(names)
    assert [path.name for path in seen] == [f"{i:04}.wav" for i in range(len(names))]
    assert all(path.parent.name.isdigit() for path in seen)
    assert not (tmp_path / "up.wav").exists()
    assert nothing_left(page)


# ---- Limits


def test_limits_hold_before_the_files_are_read(page):
    large = {"bags": "tags", "files": [{"name": "a.wav", "size": 2_000_000}, {"name": "b.wav", "size": 1_000_001}]}
    many = {"bags": "tags", "files": [{"name": "a.wav", "size": 1}] * (MOST_FILES + 1)}

    def listed(value):
        yield json.dumps(value).encode() + b"\n"
        yield b"0" * 1000
        raise AssertionError("read on")

    for value, words in [(large, "more than 3 MB together"), (many, f"at most {MOST_FILES} can be taken")]:
        refused = asyncio.run(answered(page, listed(value)))
        assert refused[0] == 413
        assert words in refused[1]["error"]
    response = page.post("/classify", content=b"0" * 5_000_000)
    assert response.status_code == 413
    assert nothing_left(page)


async def answered(page, pieces):
    """Sends a body piece by piece, of which no length is known; returns status and JSON."""
    sent = []

    async def receive():
        return {"type": "http.request", "body": next(pieces), "more_body": True}

    async def send(message):
        sent.append(message)

    await page.asgi(scope(), receive, send)
    return sent[0]["status"], json.loads(b"".join(message["body"] for message in sent[1:]))


def scope():
    headers = [(b"host", HOST.encode()), (b"origin", f"http://{HOST}".encode())]
    return {"type": "http", "method": "POST", "path": "/classify", "query_string": b"", "headers": headers}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "does not begin with a list"),
        (b"0" * 2_000_000, "does not begin with a list"),
        (b"[" * 100_000 + b"\n", "does not begin with a list"),
        (b"\xff\n", "does not begin with a list"),
        (b'{"bags": "tags", "files": []}\n', "does not begin with a list"),
        (b'{"bags": "all", "files": [{"name": "a.wav", "size": 0}]}\n', "does not begin with a list"),
        (b'{"bags": [], "files": [{"name": "a.wav", "size": 0}]}\n', "does not begin with a list"),
        (b'{"bags": "tags", "files": [{"name": "a.wav", "size": -5}]}\n', "does not begin with a list"),
        (b'{"bags": "tags", "files": [{"name": "a.wav", "size": true}]}\n', "does not begin with a list"),
        (b'{"bags": "tags", "files": [{"name": 7, "size": 0}]}\n', "does not begin with a list"),
        (b'{"bags": "tags", "files": [{"name": "a.wav", "size": 9}]}\n12345678', "ended before its last file"),
        (b'{"bags": "tags", "files": [{"name": "a.jpg", "size": 9}]}\n12345678', "ended before its last file"),
        (b'{"bags": "tags", "files": [{"name": "a.wav", "size": 9}]}\n1234567890', "longer than its list"),
    ],
)
def test_a_body_that_is_not_as_it_must_be_is_refused(page, body, words):
    response = page.post("/classify", content=body)
    assert response.status_code == 400
    assert words in response.json()["error"]
    assert nothing_left(page)


def test_no_room_for_the_files_is_a_sentence(page, tmp_path, monkeypatch):
    def full(**_):
        raise OSError(28, "No space left on device")

    song = tone(tmp_path, 100)
    with monkeypatch.context() as patch:
        patch.setattr(app_of_the_page.tempfile, "TemporaryDirectory", full)
        response = page.post("/classify", content=body_of([("a.wav", song)]))
    assert response.status_code == 507
    assert "cannot be written: No space left on device" in response.json()["error"]
    assert "set TMPDIR to another place" in response.json()["error"]
    page.folder.rmdir()  # as what cleans /tmp does after some days
    assert len(classify(page, [("a.wav", song)])["result"]["songs"]) == 1
    assert nothing_left(page)


# ---- Nothing is left


def test_nothing_is_left_when_the_work_fails(page, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(page.classifier, "classify", broken)
    assert "the terminal of the page says more" in classify(page, [("a.wav", tone(tmp_path, 100))])["error"]
    assert nothing_left(page)


def test_nothing_is_left_when_the_browser_goes_while_it_sends(page):
    list_ = json.dumps({"bags": "tags", "files": [{"name": "a.wav", "size": 100}]}).encode() + b"\n"
    messages = iter(
        [{"type": "http.request", "body": list_ + b"0" * 50, "more_body": True}, {"type": "http.disconnect"}]
    )
    held = []

    async def receive():
        held.append(len(list(page.folder.glob("*/*/*.wav"))))
        return next(messages)

    async def send(message):
        raise AssertionError("nobody is there")

    asyncio.run(page.asgi(scope(), receive, send))
    assert held == [0, 1]
    assert nothing_left(page)


@pytest.mark.parametrize("how", ["leaves", "cancelled"])
def test_work_stops_when_nobody_waits_for_it_and_the_files_are_deleted_after_it(page, tmp_path, monkeypatch, how):
    began, ended, sent = threading.Event(), [], []

    def slow(drop, *, report, stop):
        began.set()
        assert stop.wait(20)
        ended.append(drop.files[0].path.is_file())  # still there
        raise StoppedError

    monkeypatch.setattr(page.classifier, "classify", slow)
    body = body_of([("a.wav", tone(tmp_path, 100))])

    async def receive():
        if receive.first:
            receive.first = False
            return {"type": "http.request", "body": body, "more_body": False}
        while how == "cancelled" or not began.is_set():
            await asyncio.sleep(0.01)
        return {"type": "http.disconnect"}

    receive.first = True

    async def send(message):
        sent.append(message)

    async def request():
        task = asyncio.ensure_future(page.asgi(scope(), receive, send))
        while how == "cancelled" and not began.is_set():
            await asyncio.sleep(0.01)
        if how == "cancelled":
            task.cancel()
        await asyncio.wait({task}, timeout=30)
        assert task.done()

    asyncio.run(request())
    assert ended == [True]
    assert nothing_left(page)


def test_one_drop_is_classified_at_a_time_and_a_fifth_is_refused(page, tmp_path, monkeypatch):
    together, most, release = [], [], threading.Event()

    def slow(drop, *, report, stop):
        together.append(1)
        most.append(len(together))
        assert release.wait(20)
        together.pop()
        return {"songs": []}

    monkeypatch.setattr(page.classifier, "classify", slow)
    song = tone(tmp_path, 100)
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        waiting = [threads.submit(classify, page, [("a.wav", song)]) for _ in range(4)]
        while len(list(page.folder.glob("*/*/*.wav"))) < 4:
            pass
        refused = page.post("/classify", content=body_of([("a.wav", song)]))
        release.set()
        assert [one.result() for one in waiting] == [{"result": {"songs": []}}] * 4
    assert refused.status_code == 503
    assert most == [1, 1, 1, 1]
    assert nothing_left(page)


def test_decoders_that_died_are_replaced(tmp_path, monkeypatch):
    started = []

    def start(_):
        started.append(concurrent.futures.ThreadPoolExecutor(1))
        if len(started) == 1:
            monkeypatch.setattr(started[0], "submit", died)
        return started[-1]

    def died(*_):
        raise concurrent.futures.process.BrokenProcessPool

    def in_order(function, items, workers, pool=None):  # what has no pool is done here: processes take seconds
        if pool is not None:
            yield from ordered_map(function, items, workers, pool=pool)
        yield from map(function, items)

    monkeypatch.setattr(classifying, "start_pool", start)
    classifier = Classifier(Model(), workers=1)
    monkeypatch.setattr(songs_audio, "ordered_map", in_order)
    classifier.warm_up()
    assert len(started) == 2
    classifier.warm_up()
    classifier.close()
    assert len(started) == 2


@pytest.mark.parametrize("representation", ["features_tonnetz", "mel_256x96"])
def test_every_model_is_warm_before_the_first_song(monkeypatch, representation):
    monkeypatch.setattr("tfds_fma.clips.windows._FEATURE_SECONDS", 2.0)  # for the time of this test
    made = get_representation(representation)
    meta = SimpleNamespace(**vars(Model.meta))
    meta.stored_shape = made.shape
    meta.config = Model.meta.config | {"data": {"representation": representation, "features": ""}}
    monkeypatch.setattr(Model, "meta", meta)
    monkeypatch.setattr(Model, "embed", lambda self, clips: np.zeros((len(clips), 2), np.float32))
    monkeypatch.setattr(classifying, "start_pool", lambda _: concurrent.futures.ThreadPoolExecutor(1))
    classifier = Classifier(Model(), workers=1)
    classifier.warm_up()  # raises if a song failed
    monkeypatch.setattr(classifying.soundfile, "write", lambda path, *_: path.write_bytes(b"no audio"))
    with pytest.raises(UserError, match="cannot classify a song of noise: it cannot be decoded as audio"):
        classifier.warm_up()
    classifier.close()


# ---- Parts


def test_a_picture_is_where_the_windows_are(monkeypatch):
    drawn = []
    monkeypatch.setattr("mgc_jax.page.pictures.spectrogram_picture", drawn.append)
    pictures = Pictures(2.0, lambda clips: clips)
    clips = np.ones((2, 200, 3)) * np.array([5.0, 7.0])[:, None, None]
    pictures.add(4, Windows(clips, np.array([0.0, 3.0]), 4.5, 4.5))
    pictures.picture(4, 4.5)
    (picture,) = drawn
    assert picture.shape == (45, 3)
    np.testing.assert_array_equal(picture[:, 0], [5] * 30 + [7] * 15)  # silence, here 5, from 2 to 3 s
    assert pictures.picture(5, 4.5) is None
    assert Pictures(2.0, lambda _: None).picture(0, 1.0) is None
    np.testing.assert_allclose(thinned(np.arange(10.0)[:, None], 4)[:, 0], [0.5, 3, 5.5, 8])
    assert len(thinned(np.ones((3, 2)), 10)) == 3


def test_what_is_kept_of_a_song_does_not_grow_with_its_length(monkeypatch):
    drawn = []
    monkeypatch.setattr("mgc_jax.page.pictures.spectrogram_picture", drawn.append)
    pictures, hour = Pictures(30.0, lambda clips: clips), 3600
    for start in range(0, 14 * hour, 20):  # they overlap
        clips = np.full((1, 300, 4), 3.0 if start < 7 * hour else 8.0)
        pictures.add(0, Windows(clips, np.array([float(start)]), 0.0, 0.0))
        assert pictures._songs[0].columns.nbytes <= 2 * 1200 * 4 * 2
    pictures.picture(0, 14 * hour)
    (picture,) = drawn
    assert 600 <= len(picture) <= 1200
    np.testing.assert_array_equal(picture[: len(picture) // 2 - 1], 3)
    np.testing.assert_array_equal(picture[len(picture) // 2 + 1 :], 8)


@pytest.mark.parametrize(("start", "expected"), [(290.0, 29), (3590.0, 359)])
def test_a_window_far_behind_the_others_is_where_it_was(monkeypatch, start, expected):
    drawn = []
    monkeypatch.setattr("mgc_jax.page.pictures.spectrogram_picture", drawn.append)
    pictures = Pictures(10.0, lambda clips: clips)
    clips = np.ones((2, 100, 2)) * np.array([5.0, 7.0])[:, None, None]
    pictures.add(0, Windows(clips, np.array([0.0, start]), start + 10, start + 10))
    pictures.picture(0, start + 10)
    (picture,) = drawn
    bright = np.flatnonzero(picture[:, 0] > 5) / len(picture)
    assert bright.min() == pytest.approx(expected / (expected + 1), abs=0.002)
    assert bright.max() > 0.998


def test_a_port_in_use_is_one_sentence():
    with command._listener(0) as taken:
        assert taken.getsockname()[0] == "127.0.0.1"
        with pytest.raises(UserError, match=r"port \d+ of 127.0.0.1 is in use: choose another one with --port"):
            command._listener(taken.getsockname()[1])
    with pytest.raises(UserError, match="from 0 to 65535"):
        command._listener(70_000)


def test_browsers_leave_out_port_80():
    assert command._hosts(8600) == ("127.0.0.1:8600", "localhost:8600")
    assert set(command._hosts(80)) == {"127.0.0.1:80", "localhost:80", "127.0.0.1", "localhost"}
    client = TestClient(make_app(Classifier(Model()), "a model", hosts=command._hosts(80), max_bytes=1))
    assert client.get("/", headers={"host": "localhost"}).status_code == 200
    names = {"host": "127.0.0.1", "origin": "http://127.0.0.1"}
    assert client.post("/classify", content=b"", headers=names).status_code == 400
    assert client.get("/", headers={"host": "evil.example"}).status_code == 403


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(UserError, match=r"needs uvicorn: pip install '\.\[page\]'"):
        command._prepare(None, None, [])


# ---- In a browser


@pytest.fixture
def export(tmp_path):
    """The export of a small model that was not trained, for windows of 5.4 s."""
    config = default()
    config.data.representation = "mel_256x96"
    config.model.encoder.update(name="crnn_tf", filters=(4, 4), pools=((4, 4), (4, 4)), gru_units=4, features=8)
    config.eval.batch_clips = 8
    meta = CheckpointMeta(
        config=to_json(config), corpus="fma_small", fingerprint="", genres=("Rock", "Folk", "Jazz"),
        subgenres=("Rock", "Folk", "Jazz"), subgenre_parents=(0, 1, 2), stored_shape=(256, 96), clip_shape=(256, 96),
        adjustment=(0.0, 0.0, 0.0), standardization={"mean": [-40.0] * 96, "std": [20.0] * 96},
        resampler="soxr HQ, version unknown",
    )  # fmt: skip
    folder = tmp_path / "export"
    write_export(folder, ExportedModel(model_of(meta), inputs_of(meta), meta))
    return folder


@pytest.mark.slow
@pytest.mark.skipif(PROGRAM is None, reason="Chromium is not installed")
def test_in_a_browser_an_album_is_shown_and_a_click_seeks(export, tmp_path, real_data):
    songs = sorted((real_data / "fma_sample" / "fma_small" / "000").glob("*.mp3"))[:3]
    hostile = tmp_path / "<img src=x onerror=document.title=1>.mp3"
    hostile.write_bytes(b"no audio")
    uploads = tmp_path / "temporary"
    uploads.mkdir()
    server = subprocess.Popen(
        [sys.executable, "-m", "mgc_jax", "page", str(export), "--port", "0", "--workers", "1"],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "TMPDIR": str(uploads)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        address = server.stdout.readline().split()[0]
        profile = tmp_path / "profile"
        profile.mkdir()
        with Chromium(profile) as browser:
            browser.call("Page.navigate", url=address)
            browser.wait_for("document.readyState === 'complete' && typeof settings === 'object'")
            title = browser.run("document.title")
            browser.run("document.getElementById('bags').value = 'folder'")
            browser.choose("#songs", [*songs, hostile])
            browser.wait_for("document.querySelectorAll('.songs tbody tr').length === 3")
            assert browser.run("document.getElementById('problem').innerText").startswith(
                f"Not used: {hostile.name}: it cannot be decoded as audio"
            )
            assert browser.run("document.title") == title
            shares = browser.run(
                "[...document.querySelectorAll('.songs td.number')].map((e) => parseFloat(e.innerText))"
            )
            assert sum(shares) == pytest.approx(100, abs=1.5)
            browser.run("document.querySelectorAll('.songs button')[1].click()")
            assert browser.run("document.querySelector('#song h2').innerText") == browser.run(
                "document.querySelectorAll('.songs button')[1].innerText"
            )
            browser.wait_for("document.querySelector('#timeline img').naturalWidth > 200")
            browser.wait_for("document.querySelector('audio').duration > 29")
            browser.run(
                "(({ left, width, top }) => document.getElementById('timeline').dispatchEvent(new MouseEvent('click', "
                "{ clientX: left + width / 2, clientY: top + 5 })))(document.getElementById('timeline')"
                ".getBoundingClientRect())"
            )
            browser.wait_for("Math.abs(document.querySelector('audio').currentTime - 15) < 0.3")
            assert browser.run("document.getElementById('now').innerText").startswith("At 0:1")
            browser.run("document.querySelector('audio').play()")
            browser.wait_for("parseFloat(document.getElementById('playhead').style.left) > 52")
            for width in (390, 1250):
                browser.call(
                    "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
                )
                assert browser.run("document.documentElement.scrollWidth <= innerWidth")
            assert browser.errors() == []
            assert [list(folder.iterdir()) for folder in uploads.glob("mgc-jax-page-*")] == [[]]
        server.send_signal(signal.SIGINT)
        _, said = server.communicate(timeout=60)
    finally:
        server.kill()
    assert server.returncode == 0, said
    assert "Traceback" not in said
    assert not list(uploads.glob("mgc-jax-page-*"))
