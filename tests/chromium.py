"""A headless Chromium, driven by its DevTools protocol over a pipe: no driver and no WebSocket is needed."""

import fcntl
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any, Self

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Chromium:
    """One page; a context manager that ends the browser."""

    def __init__(self, folder: Path):
        """Starts the browser with its profile in a folder."""
        assert PROGRAM is not None
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        theirs = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 50) for end in (commands, answers)]  # away from 3 and 4
        for end in (commands, answers):
            os.close(end)
        options = [
            "--headless",
            "--disable-gpu",
            "--mute-audio",
            "--remote-debugging-pipe",
            f"--user-data-dir={folder}",
        ]
        options += ["--no-sandbox"] if os.geteuid() == 0 else []
        log = (os.POSIX_SPAWN_OPEN, 2, str(folder / "log.txt"), os.O_WRONLY | os.O_CREAT, 0o600)
        self._process = os.posix_spawn(
            PROGRAM, [PROGRAM, *options, "about:blank"], dict(os.environ),
            file_actions=[(os.POSIX_SPAWN_DUP2, theirs[0], 3), (os.POSIX_SPAWN_DUP2, theirs[1], 4), log],
        )  # fmt: skip
        for end in theirs:
            os.close(end)
        self._held, self._number = b"", 0
        self._session: dict[str, str] = {}
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = {"sessionId": self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        for domain in ("Runtime", "Log", "Page", "DOM"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._session = {}
        self.call("Browser.close")
        os.waitpid(self._process, 0)
        os.close(self._commands)
        os.close(self._answers)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Calls a method of the protocol and returns its result; what else arrives goes to `events`."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters} | self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._held:
                piece = os.read(self._answers, 1 << 20)
                assert piece, "the browser has ended"
                self._held += piece
            line, self._held = self._held.split(b"\0", 1)
            answer = json.loads(line)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def run(self, script: str) -> Any:
        """Returns the value of an expression in the page, as after a gesture of the user."""
        done = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True, userGesture=True
        )  # fmt: skip
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def wait_for(self, condition: str, seconds: float = 60) -> None:
        """Waits until an expression is true."""
        end = time.monotonic() + seconds
        while not self.run(condition):
            assert time.monotonic() < end, f"not true after {seconds} s: {condition}"
            time.sleep(0.1)

    def choose(self, selector: str, paths: list[Path]) -> None:
        """Chooses files in an <input>."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path) for path in paths])

    def errors(self) -> list[str]:
        """Returns exceptions, refused contents and other errors of the page so far."""
        return [
            json.dumps(event["params"])
            for event in self.events
            if event.get("method") == "Runtime.exceptionThrown"
            or (event.get("method") == "Log.entryAdded" and event["params"]["entry"]["level"] == "error")
        ]
