"""The page as an ASGI application: who may use it, and one request that takes files and answers with genres."""

import asyncio
import concurrent.futures
import contextlib
import json
import logging
import tempfile
import threading
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mgc_jax.errors import UserError
from mgc_jax.page.classifier import Classifier, StoppedError
from mgc_jax.page.uploads import MOST_FILES, NO_ROOM, Drop, RefusedError, receive_files, too_large
from mgc_jax.report.charts import COLOURS
from mgc_jax.runtime.files import writing
from tfds_fma.source.audio_files import AUDIO_SUFFIXES

log = logging.getLogger(__name__)

_MOST_REQUESTS = 4  # that hold files at once; one is classified, others wait
_TICK = 0.2  # seconds between two lines about the progress
_HEADERS = {
    # Nothing from elsewhere, no script or style in the page itself; the player takes the user's file, a blob.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; "
    "media-src blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}


def make_app(
    classifier: Classifier,
    name: str,
    *,
    hosts: tuple[str, ...],
    max_bytes: int,
    folder: Path | None = None,
    ending: Callable[[], bool] = lambda: False,
) -> ASGIApp:
    """Returns the application.

    Args:
        classifier: does the work, in one thread.
        name: of the model, to be shown.
        hosts: `HOST:PORT` under which browsers reach it; requests with another Host, as after DNS rebinding, and
            requests that pages of other addresses send are refused.
        max_bytes: of the files of a request.
        folder: where folders for the files of requests are made; None: where the system keeps temporary files.
        ending: whether the server is about to end; work then ends early.
    """
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(_read("page.html"))
    settings = {"suffixes": AUDIO_SUFFIXES, "mostFiles": MOST_FILES, "mostBytes": max_bytes, "colours": COLOURS}
    page = template.render(
        name=name,
        genres=classifier.model.genres,
        window=classifier.window,
        synthetic=classifier.model.meta.corpus == "demo",
        suffixes=AUDIO_SUFFIXES,
        settings=json.dumps(settings),
        most_files=MOST_FILES,
        most_bytes=max_bytes,
    )
    files = {"/": (page, "text/html"), "/page.js": (_read("page.js"), "text/javascript")}
    files["/page.css"] = (_read("page.css"), "text/css")

    async def file(request: Request) -> Response:
        text, kind = files[request.url.path]
        return Response(text, media_type=kind)

    routes = [Route(path, file) for path in files]
    routes.append(Route("/classify", _Classify(classifier, max_bytes, folder, ending), methods=["POST"]))
    return _Guard(Starlette(routes=routes), hosts)


def _read(name: str) -> str:
    return (resources.files("mgc_jax.page") / "templates" / name).read_text(encoding="utf-8")


class _Guard:
    """Serves only pages that this server sent, and gives every answer the headers that keep browsers strict."""

    def __init__(self, app: ASGIApp, hosts: tuple[str, ...]):
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)

        async def strict(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        headers = Headers(scope=scope)
        host, origin = headers.getlist("host"), headers.getlist("origin")
        allowed = len(host) == 1 and host[0] in self._hosts
        if scope["method"] not in ("GET", "HEAD"):
            allowed = allowed and origin == [f"http://{host[0]}"]
        if allowed:
            return await self._app(scope, receive, strict)
        error = f"open the page as http://{self._hosts[0]}: requests under other names or from other pages are refused"
        await JSONResponse({"error": error}, status_code=403)(scope, receive, strict)


class _Classify:
    """Takes the files of a request and answers with lines of JSON: progress, and at last a result or an error.

    A request's files are in a folder of its own, which is deleted before the request ends. When the browser goes away
    the work ends early.
    """

    def __init__(self, classifier: Classifier, max_bytes: int, folder: Path | None, ending: Callable[[], bool]):
        self._classifier, self._max_bytes, self._folder, self._ending = classifier, max_bytes, folder, ending
        self._requests = 0
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "classify")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with self._counted(), self._empty_folder() as folder:
                drop = await self._received(Request(scope, receive), Path(folder))
                await self._answer(drop, receive, send)
        except ClientDisconnect:
            pass
        except RefusedError as refused:
            await JSONResponse({"error": refused.sentence}, status_code=refused.status)(scope, receive, send)
        except UserError as error:
            await JSONResponse({"error": str(error)}, status_code=507)(scope, receive, send)

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        if self._requests >= _MOST_REQUESTS:
            raise RefusedError(503, f"{_MOST_REQUESTS} other requests are at work: try again when one is done")
        self._requests += 1
        try:
            yield
        finally:
            self._requests -= 1

    def _empty_folder(self) -> tempfile.TemporaryDirectory[str]:
        """Makes a folder for the files of a request, and the folder that it is in, if that was cleaned away."""
        where = self._folder or Path(tempfile.gettempdir())
        with writing(where, NO_ROOM):
            where.mkdir(mode=0o700, parents=True, exist_ok=True)
            return tempfile.TemporaryDirectory(prefix="mgc-jax-page-", dir=where)

    async def _received(self, request: Request, folder: Path) -> Drop:
        length = request.headers.get("content-length", "")
        if length.isdigit() and int(length) > self._max_bytes + (1 << 20):
            raise too_large(self._max_bytes)
        return await receive_files(request.stream(), folder, self._max_bytes)

    async def _answer(self, drop: Drop, receive: Receive, send: Send) -> None:
        """Classifies and sends lines; returns when the work has ended, which uses the files."""
        stop, told = threading.Event(), _Told()

        def work() -> bytes:
            try:
                return _line({"result": self._classifier.classify(drop, report=told.update, stop=stop)})
            except StoppedError:
                return _line({"error": "stopped"})
            except UserError as error:
                return _line({"error": str(error)})
            except Exception:
                log.exception("a drop could not be classified")
                return _line({"error": "this failed unexpectedly; the terminal of the page says more"})

        queued = self._thread.submit(work)
        done = asyncio.wrap_future(queued)
        gone = asyncio.ensure_future(_gone(receive))
        either: set[asyncio.Future[Any]] = {done, gone}
        try:
            headers = [(b"content-type", b"application/x-ndjson")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            while not done.done() and not gone.done() and not self._ending():
                await send({"type": "http.response.body", "body": _line(told.progress), "more_body": True})
                await asyncio.wait(either, timeout=_TICK, return_when=asyncio.FIRST_COMPLETED)
            stop.set()
            if not gone.done():
                await send({"type": "http.response.body", "body": await done})
        finally:
            stop.set()
            gone.cancel()
            queued.cancel()  # if it has not begun
            while not done.done():  # the thread uses the files, also when this request was cancelled
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait({done})


class _Told:
    """What the thread that classifies said last."""

    def __init__(self) -> None:
        self.progress: dict[str, int] = {}

    def update(self, progress: dict[str, int]) -> None:
        self.progress = progress


async def _gone(receive: Receive) -> None:
    """Returns when the browser has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _line(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False).encode() + b"\n"
