"""Downloads from a server on this machine that misbehaves in every way that it can."""

import contextlib
import hashlib
import http.server
import json
import os
import re
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from tfds_fma.errors import UserError
from tfds_fma.source import download as module
from tfds_fma.source.archives import OFFICIAL, Archive
from tfds_fma.source.download import download

SIZE = 300_000
DATA = np.random.default_rng(0).bytes(SIZE)
OTHER = np.random.default_rng(1).bytes(SIZE)


@dataclass(frozen=True)
class Reply:
    """How the server answers one request; by default well.

    Attributes:
      send: bytes of the body after which it cuts the connection.
      status: an error to answer with.
      longer: by how much the length that it declares is wrong.
      corrupt: whether it changes a byte.
      ranges: whether it minds Range.
      conditions: whether it minds If-Range.
      shift: by how much the range that it sends begins too late.
      headers: further headers, or None to leave one out.
      stall: seconds to wait after the `send` bytes, or before it says anything if `silent`.
      silent: see `stall`.
      page: what it sends instead of the file.
    """

    send: int = 1 << 30
    status: int = 0
    longer: int = 0
    corrupt: bool = False
    ranges: bool = True
    conditions: bool = True
    shift: int = 0
    headers: dict[str, str | None] = field(default_factory=dict)
    stall: float = 0.0
    silent: bool = False
    page: bytes | None = None


GOOD = Reply()


class Site:
    """A web site with fma_small.zip and fma_metadata.zip.

    Attributes:
      replies: how to answer the next requests; well when it is used up, unless `always` is set.
      requests: what was asked for: (file, Range or "").
      conditions: the If-Range of each request, or "".
    """

    def __init__(self) -> None:
        self.files = {"fma_small.zip": DATA, "fma_metadata.zip": OTHER}
        self.replies: list[Reply] = []
        self.always = GOOD
        self.requests: list[tuple[str, str]] = []
        self.conditions: list[str] = []
        self.url = ""

    def ranges(self) -> list[str]:
        return [asked for _, asked in self.requests]


class Handler(http.server.BaseHTTPRequestHandler):
    site: Site

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        with contextlib.suppress(ConnectionError):
            self.answer(self.site.replies.pop(0) if self.site.replies else self.site.always)

    def answer(self, reply: Reply) -> None:
        name = self.path.rpartition("/")[2]
        asked = self.headers.get("Range", "")
        self.site.requests.append((name, asked))
        self.site.conditions.append(self.headers.get("If-Range", ""))
        if reply.silent:
            time.sleep(reply.stall)
            return
        if reply.status or name not in self.site.files:
            self.send_error(reply.status or 404)
            return
        data = self.site.files[name] if reply.page is None else reply.page
        etag = f'"{hashlib.md5(data).hexdigest()}"'
        total = len(data) + reply.longer
        headers: dict[str, str | None] = {"ETag": etag}
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and reply.ranges else 0
        if start and reply.conditions and self.headers.get("If-Range", etag) != etag:
            start = 0
        if start >= total:
            self.send_response(416)
            headers |= {"Content-Range": f"bytes */{total}", "Content-Length": "0"}
            data = b""
        elif start:
            start += reply.shift
            self.send_response(206)
            headers |= {"Content-Range": f"bytes {start}-{total - 1}/{total}", "Content-Length": str(total - start)}
        else:
            self.send_response(200)
            headers |= {"Content-Length": str(total)}
        for key, value in (headers | reply.headers).items():
            if value is not None:
                self.send_header(key, value)
        self.end_headers()
        body = bytearray(data[start : start + reply.send])
        if reply.corrupt:
            body[len(body) // 2] ^= 1
        self.wfile.write(body)
        self.wfile.flush()
        time.sleep(reply.stall)


@pytest.fixture
def site(monkeypatch) -> Iterator[Site]:
    """A server; the sums of its files are the published ones, and nobody waits between attempts."""
    site = Site()
    for name, data in site.files.items():
        monkeypatch.setitem(OFFICIAL, name, Archive(name, len(data), hashlib.sha1(data).hexdigest()))
    monkeypatch.setattr(module, "PAUSES_S", (0.0, 0.0, 0.0))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("SiteHandler", (Handler,), {"site": site}))
    server.daemon_threads = True
    site.url = f"http://127.0.0.1:{server.server_port}/fma/"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield site
    server.shutdown()
    thread.join()
    server.socket.close()


def get(site: Site, directory: Path, *names: str) -> list[str]:
    """Downloads fma_small, or what is named; returns what was logged."""
    lines: list[str] = []
    download(names or ("fma_small",), directory, base_url=site.url, log=lines.append, progress=False)
    return lines


def failure(site: Site, directory: Path, *names: str) -> str:
    """Downloads, which must fail; returns the message. Whatever went wrong, no file has the final name."""
    with pytest.raises(UserError) as caught:
        get(site, directory, *names)
    assert not (directory / "fma_small.zip").exists()
    return str(caught.value)


def put_part(directory: Path, data: bytes, version: dict | None = None) -> Path:
    part = directory / "fma_small.zip.part"
    part.write_bytes(data)
    if version is not None:
        (directory / "fma_small.zip.part.json").write_text(json.dumps(version))
    return part


def assert_complete(directory: Path) -> None:
    """The file is there and right, and nothing else is."""
    assert (directory / "fma_small.zip").read_bytes() == DATA
    assert {path.name for path in directory.iterdir()} == {"fma_small.zip", ".lock"}


def test_two_archives_and_what_is_said_about_them(site, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=50 << 30))
    directory = tmp_path / "new" / "folder"
    lines = get(site, directory, "fma_metadata", "fma_small", "fma_metadata")
    assert lines == [
        f"Archives of FMA for {directory}:",
        "  fma_metadata.zip: 293 KiB",
        "  fma_small.zip: 293 KiB",
        "  586 KiB to fetch, 50 GiB free",
        "fma_metadata.zip: verifying 293 KiB",
        f"{directory}/fma_metadata.zip: complete, its SHA-1 is the published one",
        "fma_small.zip: verifying 293 KiB",
        f"{directory}/fma_small.zip: complete, its SHA-1 is the published one",
    ]
    assert site.requests == [("fma_metadata.zip", ""), ("fma_small.zip", "")]
    assert (directory / "fma_metadata.zip").read_bytes() == OTHER
    (directory / "fma_metadata.zip").unlink()
    assert_complete(directory)


def test_the_sizes_announced_are_the_published_ones(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=20 << 30))
    monkeypatch.setattr(urllib.request, "urlopen", None)  # the address is the real one
    (tmp_path / "fma_metadata.zip").write_bytes(b"x")
    with (tmp_path / "fma_small.zip.part").open("wb") as file:
        file.truncate(2 << 30)  # takes no space
    lines: list[str] = []
    with pytest.raises(UserError) as caught:
        download(["fma_metadata", "fma_small", "fma_medium"], tmp_path, log=lines.append)
    assert lines[1:] == [
        "  fma_metadata.zip: 342 MiB, already there",
        "  fma_small.zip: 7.2 GiB, of which 2.0 GiB are there",
        "  fma_medium.zip: 22 GiB",
        "  27 GiB to fetch, 20 GiB free",
    ]
    assert str(caught.value) == (
        f"The disk of {tmp_path} has 20 GiB left, too little for the 27 GiB still to fetch. Free some space, or "
        "choose another folder."
    )


def test_what_is_there_is_not_fetched_again(site, tmp_path):
    get(site, tmp_path)
    requests = len(site.requests)
    assert get(site, tmp_path) == [f"{tmp_path}/fma_small.zip: already there"]
    assert len(site.requests) == requests
    get(site, tmp_path, "fma_small", "fma_metadata")
    assert site.requests[requests:] == [("fma_metadata.zip", "")]


def test_cut_several_times(site, tmp_path):
    site.replies = [Reply(send=100_000), Reply(send=1), Reply(send=0), Reply(send=0), Reply(send=50_000)]
    lines = get(site, tmp_path)
    assert site.ranges() == ["", "bytes=100000-", *["bytes=100001-"] * 3, "bytes=150001-"]
    assert lines.count("fma_small.zip: the connection was cut; trying again in 0 s") == 5
    assert_complete(tmp_path)


def test_progress_resets_the_count_of_failures_and_the_pauses(site, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PAUSES_S", (1.0, 2.0))
    pauses: list[float] = []
    monkeypatch.setattr(module.time, "sleep", pauses.append)
    site.replies = [Reply(send=0), Reply(send=0), *[Reply(send=1000)] * 20, Reply(send=0)]
    get(site, tmp_path)
    assert [pause for pause in pauses if pause] == [1, 2, *[1] * 20, 2]
    assert_complete(tmp_path)


def test_cut_without_end(site, tmp_path):
    site.replies = [Reply(send=100_000)]
    site.always = Reply(send=0)
    assert failure(site, tmp_path) == (
        f"Cannot fetch {site.url}fma_small.zip: the connection was cut (4 times in a row). 98 KiB are kept in "
        f"{tmp_path}/fma_small.zip.part. Check the connection and run the same command again; it goes on from there."
    )
    site.always = GOOD
    get(site, tmp_path)
    assert site.ranges()[-1] == "bytes=100000-"
    assert_complete(tmp_path)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_then_run_again(site, tmp_path, how):
    site.replies = [Reply(send=200_000, stall=20.0)]
    sha1 = hashlib.sha1(DATA).hexdigest()
    program = f"""if True:
        import signal, tfds_fma.source.archives as a, tfds_fma.source.download as d
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
        a.OFFICIAL["fma_small.zip"] = a.Archive("fma_small.zip", {SIZE}, "{sha1}")
        d.download(["fma_small"], {str(tmp_path)!r}, base_url={site.url!r})
    """
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    part = tmp_path / "fma_small.zip.part"
    deadline = time.time() + 20
    while not (part.exists() and part.stat().st_size > 100_000):
        assert process.poll() is None
        assert time.time() < deadline
        time.sleep(0.01)
    process.send_signal(how)
    _, errors = process.communicate()
    assert process.returncode == -how
    assert (b"KeyboardInterrupt" in errors) == (how == signal.SIGINT)
    kept = part.stat().st_size
    assert 100_000 < kept <= 200_000
    get(site, tmp_path)
    assert site.ranges() == ["", f"bytes={kept}-"]
    assert_complete(tmp_path)


def test_a_part_of_unknown_origin_is_continued(site, tmp_path):
    put_part(tmp_path, DATA[:1234])
    get(site, tmp_path)
    assert site.ranges() == ["bytes=1234-"]
    assert_complete(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"size": "x", "validator": null}', '{"size": 3}', "[" * 100_000])
def test_a_damaged_note_of_the_version_is_ignored(site, tmp_path, content):
    put_part(tmp_path, DATA[:1234])
    (tmp_path / "fma_small.zip.part.json").write_text(content)
    get(site, tmp_path)
    assert site.ranges() == ["bytes=1234-"]
    assert_complete(tmp_path)


@pytest.mark.parametrize("noted", [True, False])
def test_a_part_that_is_complete_is_only_verified(site, tmp_path, noted):
    put_part(tmp_path, DATA, {"size": SIZE, "validator": None} if noted else None)
    get(site, tmp_path)
    assert site.ranges() == ([] if noted else [f"bytes={SIZE}-"])
    assert_complete(tmp_path)


def test_a_part_that_is_too_long_is_replaced(site, tmp_path):
    put_part(tmp_path, DATA + b"more")
    get(site, tmp_path)
    assert site.ranges() == [f"bytes={SIZE + 4}-", ""]
    assert_complete(tmp_path)


def test_a_server_that_ignores_ranges(site, tmp_path):
    site.replies = [Reply(send=100_000), Reply(ranges=False)]
    lines = get(site, tmp_path)
    assert "fma_small.zip: the server has another version or cannot resume; starting over" in lines
    assert_complete(tmp_path)


def test_a_server_that_ignores_ranges_and_cuts_has_an_end(site, tmp_path):
    site.always = Reply(send=100_000, ranges=False)
    assert "the connection was cut (4 times in a row)" in failure(site, tmp_path)
    assert len(site.requests) == 4


@pytest.mark.parametrize(
    "reply",
    [
        Reply(shift=1),
        Reply(headers={"Content-Range": None}),
        Reply(headers={"Content-Range": f"bytes 100000-{SIZE}/*"}),
        Reply(headers={"Content-Range": f"bytes 100000-{SIZE}/{SIZE + 1}"}),
        Reply(headers={"Content-Range": "nonsense"}),
        Reply(headers={"ETag": '"other"'}),
    ],
)
def test_an_unusable_range_is_not_used(site, tmp_path, reply):
    site.replies = [Reply(send=100_000), reply]
    get(site, tmp_path)
    assert site.ranges() == ["", "bytes=100000-", ""]
    assert_complete(tmp_path)


@pytest.mark.parametrize("conditions", [True, False])
def test_the_file_changes_between_two_requests(site, tmp_path, conditions):
    site.files["fma_small.zip"] = OTHER
    site.replies = [Reply(send=100_000)]
    site.always = Reply(send=0)
    failure(site, tmp_path)
    site.files["fma_small.zip"] = DATA
    site.always = Reply(conditions=conditions)
    site.requests.clear()
    lines = get(site, tmp_path)
    assert site.ranges() == (["bytes=100000-"] if conditions else ["bytes=100000-", ""])
    assert "fma_small.zip: the server has another version or cannot resume; starting over" in lines
    assert_complete(tmp_path)


@pytest.mark.parametrize(
    ("etag", "date", "condition"),
    [('"1"', "Mon, 01 May 2017", '"1"'), ('W/"1"', "Mon, 01 May 2017", "Mon, 01 May 2017"), ('W/"1"', None, "")],
)
def test_the_rest_is_asked_for_on_condition_that_the_file_is_the_same(site, tmp_path, etag, date, condition):
    site.always = Reply(send=200_000, conditions=False, headers={"ETag": etag, "Last-Modified": date})
    get(site, tmp_path)
    assert site.requests == [("fma_small.zip", ""), ("fma_small.zip", "bytes=200000-")]
    assert site.conditions == ["", condition]
    assert_complete(tmp_path)


def test_a_declared_length_that_is_too_long(site, tmp_path):
    site.replies = [Reply(longer=1000)]  # the next answer says that there is no more
    get(site, tmp_path)
    assert site.ranges() == ["", f"bytes={SIZE}-"]
    assert_complete(tmp_path)


def test_a_declared_length_that_is_too_long_for_ever(site, tmp_path):
    site.always = Reply(longer=1000)
    assert "the connection was cut (4 times in a row). 293 KiB are kept" in failure(site, tmp_path)


def test_a_declared_length_that_is_too_short(site, tmp_path):
    site.always = Reply(longer=-1000)
    found = hashlib.sha1(DATA[:-1000]).hexdigest()
    assert failure(site, tmp_path).startswith(f"fma_small.zip from {site.url}fma_small.zip has the SHA-1 {found}")
    site.always = GOOD
    get(site, tmp_path)
    assert_complete(tmp_path)


def test_a_corrupted_byte(site, tmp_path):
    site.replies = [Reply(corrupt=True)]
    message = failure(site, tmp_path)
    assert message.endswith(
        f"the published one is {hashlib.sha1(DATA).hexdigest()}: it was damaged on the way, or the server has another "
        "file. Nothing of it was kept. Run the same command again; if that ends the same, get it from "
        "https://github.com/mdeff/fma by other means and put it there."
    )
    assert {path.name for path in tmp_path.iterdir()} == {".lock"}
    get(site, tmp_path)
    assert_complete(tmp_path)


def test_a_page_in_place_of_the_file_does_not_replace_a_part(site, tmp_path):
    part = put_part(tmp_path, DATA[:1234])
    site.always = Reply(page=b"<html>Please log in</html>", ranges=False)
    assert failure(site, tmp_path) == (
        f"{site.url}fma_small.zip has 26 B instead of 293 KiB, so it is another file or a page of a proxy. Check it "
        "in a browser, or get it from https://github.com/mdeff/fma by other means and put it there."
    )
    assert part.read_bytes() == DATA[:1234]


@pytest.mark.parametrize("status", [200, 206])
def test_an_unknown_length(site, tmp_path, status):
    part = put_part(tmp_path, DATA[:1234])
    missing = "Content-Length" if status == 200 else "Content-Range"
    site.always = Reply(ranges=status == 206, headers={missing: None})
    if status == 206:  # the whole has a length
        get(site, tmp_path)
        assert_complete(tmp_path)
    else:
        assert "the server answers with status 200, instead of sending the file and saying" in failure(site, tmp_path)
        assert part.read_bytes() == DATA[:1234]


@pytest.mark.parametrize("status", [403, 404, 416])
def test_an_answer_that_will_not_change(site, tmp_path, status):
    site.always = Reply(status=status)
    reason = http.HTTPStatus(status).phrase
    message = failure(site, tmp_path)
    assert message.startswith(f"Cannot fetch {site.url}fma_small.zip: the server answers {status} ({reason}). Try")
    assert len(site.requests) == 1


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_busy_server(site, tmp_path, status):
    site.replies = [Reply(status=status)]
    lines = get(site, tmp_path)
    reason = http.HTTPStatus(status).phrase
    assert f"fma_small.zip: the server answers {status} ({reason}); trying again in 0 s" in lines
    assert_complete(tmp_path)


def test_a_server_that_stays_busy(site, tmp_path):
    site.always = Reply(status=500)
    assert "the server answers 500 (Internal Server Error) (4 times in a row). Check" in failure(site, tmp_path)
    assert len(site.requests) == 4


@pytest.mark.parametrize("silent", [True, False])
def test_a_server_that_hangs(site, tmp_path, monkeypatch, silent):
    monkeypatch.setattr(module, "TIMEOUT_S", 0.1)
    site.replies = [Reply(send=100_000, stall=0.5, silent=silent)]
    lines = get(site, tmp_path)
    assert any("(nothing came for 0.1 s); trying again" in line for line in lines)
    assert site.ranges() == ["", "" if silent else "bytes=100000-"]
    assert_complete(tmp_path)


def test_no_server(site, tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    site.url = f"http://127.0.0.1:{port}"
    assert "no answer ([Errno 111] Connection refused) (4 times in a row). Check the conn" in failure(site, tmp_path)

    def unknown(*args: object, **kwargs: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    site.url = "http://fma.invalid/"
    assert "no answer ([Errno -2] Name or service not known) (4 times" in failure(site, tmp_path)


def test_an_unknown_certificate(site, tmp_path, monkeypatch):
    error = ssl.SSLCertVerificationError(1, "x")
    error.verify_message = "certificate has expired"

    def refuse(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError(error)

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    assert "certificate has expired. Check the clock and the certificates" in failure(site, tmp_path)


def test_the_disk_is_too_small_for_the_exact_size(site, tmp_path, monkeypatch):
    put_part(tmp_path, DATA[:100_000])
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=200_000))
    name = "fma_small.zip"
    monkeypatch.setitem(OFFICIAL, name, Archive(name, SIZE - 100, OFFICIAL[name].sha1))
    site.files[name] = DATA + bytes(100)
    message = failure(site, tmp_path)
    assert "has 195 KiB left, too little for the 195 KiB still to fetch" in message
    assert site.ranges() == ["bytes=100000-"]
    assert (tmp_path / "fma_small.zip.part").stat().st_size == 100_000


def test_the_disk_is_full(site, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (102_400, hard))  # no file may grow beyond
    try:
        message = failure(site, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert message == (
        f"Cannot write to {tmp_path}/fma_small.zip.part (File too large); 193 KiB of 293 KiB are still "
        "missing. Make room for them and run the same command again; it goes on from there."
    )
    get(site, tmp_path)
    assert site.ranges() == ["", "bytes=102400-"]
    assert_complete(tmp_path)


def test_a_folder_that_cannot_be_written_to(site, tmp_path):
    (tmp_path / "file").write_text("")
    message = failure(site, tmp_path / "file" / "folder")
    assert message == f"Cannot write to {tmp_path}/file/folder (Not a directory). Choose another folder."
    assert site.requests == []


def test_the_last_step_fails(site, tmp_path, monkeypatch):
    def refuse(*args: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", refuse)
        assert "Cannot turn" in failure(site, tmp_path)
    get(site, tmp_path)
    assert site.ranges() == ["", f"bytes={SIZE}-"]
    assert_complete(tmp_path)


def test_two_at_once_fetch_once(site, tmp_path):
    site.always = Reply(send=SIZE, stall=0.2)
    lines: dict[int, list[str]] = {}
    threads = [
        threading.Thread(target=lambda number=number: lines.update({number: get(site, tmp_path)}))
        for number in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(site.requests) == 1
    assert f"waiting for another process that works in {tmp_path}" in lines[0] + lines[1]
    assert_complete(tmp_path)


def test_unknown_names_and_addresses(site, tmp_path):
    known = "fma_metadata, fma_small, fma_medium, fma_large, fma_full"
    message = f"FMA has no archive 'fma_tiny'. Choose among {known}."
    assert failure(site, tmp_path, "fma_tiny") == message
    site.url = "ftp://127.0.0.1/"
    assert "does not begin with https:// or http://" in failure(site, tmp_path)
    assert list(tmp_path.iterdir()) == []
