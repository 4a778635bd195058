"""Serves a web page on this computer that classifies songs and albums: `mgc-jax page MODEL`."""

import argparse
import contextlib
import errno
import signal
import socket
import sys
import tempfile
import threading
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mgc_jax.errors import UserError
from mgc_jax.runtime.process_setup import prepare_process
from mgc_jax.runtime.terminal import run_command, say

_HOST = "127.0.0.1"
_PATIENCE = 10  # seconds that the end waits for a song that is being decoded


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command until Ctrl-C; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="mgc-jax page",
        description="Serves a web page on this computer, and to it alone, that takes songs and albums and shows their "
        "genres over time. Files are deleted as soon as they are classified; nothing leaves the computer.",
        epilog="Exit status: 0 after Ctrl-C, 1 if the page could not be served.",
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="workdir of a run, or an export")
    parser.add_argument("--port", type=int, default=8600, help="of 127.0.0.1 (default 8600); 0: any that is free")
    parser.add_argument(
        "--max_mb", type=float, default=200, metavar="MB", help="size of the files of an album together (default 200)"
    )
    parser.add_argument(
        "--hop", type=float, metavar="SECONDS", help="distance of windows; by default their length: no overlap"
    )
    parser.add_argument("--workers", type=int, help="processes that decode; by default one per core")
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    given = parser.parse_args(arguments)
    prepare_process()
    with contextlib.ExitStack() as stack:
        ready: list[Any] = []
        status = run_command(lambda: _prepare(given, stack, ready))
        if ready:  # not inside of `run_command`, where a second Ctrl-C would leave files behind
            _serve(*ready)
        return status


def _prepare(given: argparse.Namespace, stack: contextlib.ExitStack, ready: list[Any]) -> int:
    """Puts the server and its socket into `ready`; what they need is closed by `stack`."""
    try:
        import starlette  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise UserError(f"mgc-jax page needs {error.name}: pip install '.[page]'") from error
    if not given.max_mb > 0:
        raise UserError(f"--max_mb {given.max_mb:g}: give the size in MB, more than 0")
    listener = stack.enter_context(_listener(given.port))

    from mgc_jax.loading import load_model
    from mgc_jax.page.app import make_app
    from mgc_jax.page.classifier import Classifier

    say(f"loading {given.model} ...\n", sys.stderr)
    classifier = Classifier(load_model(given.model), hop=given.hop, workers=given.workers)
    stack.callback(classifier.close)
    say("compiling ...\n", sys.stderr)
    classifier.warm_up()
    port = listener.getsockname()[1]
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="mgc-jax-page-"))
    server: Any = None
    app = make_app(
        classifier,
        given.model.absolute().name,
        hosts=_hosts(port),
        max_bytes=round(given.max_mb * 1e6),
        folder=Path(folder),
        ending=lambda: server.should_exit,
    )
    config = uvicorn.Config(app, loop="asyncio", http="h11", ws="none", lifespan="off", log_config=None)
    config.access_log, config.server_header, config.timeout_graceful_shutdown = False, False, _PATIENCE
    server = uvicorn.Server(config)
    address = f"http://{_HOST}:{port}"
    say(f"{address}  (Ctrl-C ends it)\n", sys.stdout)
    if given.open:
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
    ready += [server, listener]
    return 0


def _hosts(port: int) -> tuple[str, ...]:
    """Returns what browsers send as Host; they leave out port 80."""
    names = (_HOST, "localhost")
    return (*(f"{name}:{port}" for name in names), *(names if port == 80 else ()))


def _listener(port: int) -> socket.socket:
    """Returns a socket that listens on this computer alone.

    Raises:
        UserError: the port is in use, or may not be used.
    """
    if not 0 <= port < 1 << 16:
        raise UserError(f"--port {port}: give a number from 0 to 65535")
    try:
        return socket.create_server((_HOST, port))
    except OSError as error:
        why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
        raise UserError(f"port {port} of {_HOST} {why}: choose another one with --port, or 0 for any") from error


def _serve(server: Any, listener: socket.socket) -> None:
    """Serves until Ctrl-C or SIGTERM, or until the terminal is closed."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what uvicorn raises again at the end
    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
        signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listener])


if __name__ == "__main__":
    sys.exit(main())
