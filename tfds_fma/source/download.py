"""Gets FMA's official archives: resumable, verified, and by one process at a time.

An archive grows in ``NAME.zip.part`` and gets its name when its SHA-1 sum is right. ``NAME.zip.part.json`` says to
which version of the server's file the part belongs; without it, the sum tells in the end.
"""

import http.client
import json
import os
import re
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeAlias

from tfds_fma.errors import UNREADABLE, UserError, in_words
from tfds_fma.locks import only_one
from tfds_fma.paths import local_path
from tfds_fma.progress import progress_bar
from tfds_fma.source.archives import FMA_URL, OFFICIAL, Archive, readable_size, sha1_of

# Seconds without a byte after which a connection counts as cut.
TIMEOUT_S = 60.0


# Seconds to wait after the first, second, ... failure without progress in between; then it gives up.
PAUSES_S = (1.0, 3.0, 10.0, 30.0, 60.0)


# Most bytes to take from the connection at once.
_BLOCK_BYTES = 1 << 20


# By how much the server's size may differ from the published one, which is rounded. A log-in page in place of the
# file differs by more, and must not replace a part.
_SIZE_TOLERANCE = 0.05


# Answers that may be others a little later.
_PASSING_STATUSES = (408, 425, 429, 500, 502, 503, 504)


# An error such as 416 is a response, too.
_Response: TypeAlias = http.client.HTTPResponse | urllib.error.HTTPError


_BY_HAND = "get it from https://github.com/mdeff/fma by other means and put it there"


class _Interrupted(Exception):
    """A failure that may pass: a cut or refused connection, a timeout, a busy server."""


@dataclass(frozen=True)
class _Version:
    """One version of the server's file.

    Attributes:
      size: in bytes.
      validator: its strong ETag, else its date of change; None if the server names neither.
    """

    size: int
    validator: str | None


@dataclass(frozen=True)
class _Target:
    """An archive, where to get it and where to put it."""

    archive: Archive
    url: str
    directory: Path

    @property
    def path(self) -> Path:
        """The finished file."""
        return self.directory / self.archive.file_name

    @property
    def part(self) -> Path:
        """What has come so far."""
        return self.directory / f"{self.archive.file_name}.part"

    @property
    def version_file(self) -> Path:
        """To which version of the server's file the part belongs."""
        return self.directory / f"{self.archive.file_name}.part.json"

    def received(self) -> int:
        """Returns the size of the part in bytes."""
        return self.part.stat().st_size if self.part.exists() else 0

    def missing(self, size: int) -> int:
        """Returns how many bytes are still to be written if the whole has `size` bytes."""
        return 0 if self.path.exists() else max(0, size - self.received())

    def known_version(self) -> _Version | None:
        """Returns what is remembered of the version of the part; None if nothing usable is."""
        try:
            content = json.loads(self.version_file.read_bytes())
        except UNREADABLE:
            return None
        match content:
            case {"size": int(size), "validator": str() | None as validator}:
                return _Version(size, validator)
        return None


def download(
    names: Iterable[str],
    directory: str | Path,
    *,
    base_url: str = FMA_URL,
    log: Callable[[str], None] = print,
    progress: bool = True,
) -> None:
    """Gets archives of FMA, unless they are there; goes on where an interrupted run stopped.

    Of two processes that download into the same folder, the second waits.

    Args:
      names: archives without their ending, e.g. ``("fma_metadata", "fma_small")``.
      directory: folder for the zip files; made if it is not there.
      base_url: address of the folder on the server.
      log: takes the lines for people: what will be fetched, what goes wrong on the way, what is done.
      progress: whether to show a progress bar.

    Raises:
      UserError: if an archive cannot be had, is not the published one, or does not fit on the disk. What has come
        so far is kept, except where its sum is wrong.
    """
    if not base_url.startswith(("https://", "http://")):
        raise UserError(f"The address {base_url} does not begin with https:// or http://.")
    directory = local_path(directory).absolute()
    targets = [
        _Target(archive, f"{base_url.rstrip('/')}/{archive.file_name}", directory) for archive in _archives(names)
    ]
    if all(target.path.exists() for target in targets):  # then the folder need not be writable
        for target in targets:
            log(f"{target.path}: already there")
        return
    with only_one(directory, log):
        _announce(targets, directory, log)
        for target in targets:
            if not target.path.exists():
                _fetch(target, log, progress)


def _archives(names: Iterable[str]) -> list[Archive]:
    """Looks archives up, each once."""
    files = [f"{name}.zip" for name in dict.fromkeys(names)]
    for file in files:
        if file not in OFFICIAL:
            known = ", ".join(name.removesuffix(".zip") for name in OFFICIAL)
            raise UserError(f"FMA has no archive {file.removesuffix('.zip')!r}. Choose among {known}.")
    return [OFFICIAL[file] for file in files]


def _announce(targets: list[_Target], directory: Path, log: Callable[[str], None]) -> None:
    """Says what will be fetched; raises UserError if the disk is too small, going by the published sizes."""
    log(f"Archives of FMA for {directory}:")
    for target in targets:
        received = target.received()
        there = f", of which {readable_size(received)} are there" if received else ""
        there = ", already there" if target.path.exists() else there
        log(f"  {target.archive.file_name}: {readable_size(target.archive.size)}{there}")
    to_fetch = sum(target.missing(target.archive.size) for target in targets)
    log(f"  {readable_size(to_fetch)} to fetch, {readable_size(shutil.disk_usage(directory).free)} free")
    _require_space(directory, to_fetch)


def _require_space(directory: Path, needed: int) -> None:
    """Raises UserError if the disk has less than `needed` bytes left."""
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise UserError(
            f"The disk of {directory} has {readable_size(free)} left, too little for the {readable_size(needed)} "
            "still to fetch. Free some space, or choose another folder."
        )


def _fetch(target: _Target, log: Callable[[str], None], progress: bool) -> None:
    """Gets one archive, over as many connections as it takes."""
    furthest, failures = target.received(), 0
    while True:
        try:
            _transfer(target, log, progress)
            break
        except _Interrupted as error:
            received = target.received()
            # Measured from the furthest point ever: a server that makes us start over and fails at the same place
            # each time makes no progress.
            if received > furthest:
                furthest, failures = received, 0
            if failures == len(PAUSES_S):
                kept = f" {readable_size(received)} are kept in {target.part}." if received else ""
                raise UserError(
                    f"Cannot fetch {target.url}: {error} ({failures + 1} times in a row).{kept} Check the connection "
                    "and run the same command again; it goes on from there."
                ) from error
            log(f"{target.archive.file_name}: {error}; trying again in {PAUSES_S[failures]:g} s")
            time.sleep(PAUSES_S[failures])
            failures += 1
    _finish(target, log)


def _transfer(target: _Target, log: Callable[[str], None], progress: bool) -> None:
    """Gets what is missing of an archive over one connection; returns when nothing is.

    Raises:
      _Interrupted: if that failed in a way that may pass.
      UserError: if it makes no sense to try again.
    """
    received, known = target.received(), target.known_version()
    if known and received == known.size:
        return
    answer = _ask(target.url, received, known)
    if answer is None:
        return
    response, version = answer
    with response:
        if abs(version.size - target.archive.size) > _SIZE_TOLERANCE * target.archive.size:
            raise UserError(
                f"{target.url} has {readable_size(version.size)} instead of {readable_size(target.archive.size)}, so "
                f"it is another file or a page of a proxy. Check it in a browser, or {_BY_HAND}."
            )
        # If it starts over, the part makes room first.
        _require_space(target.directory, version.size - received)
        start = received if response.status == http.HTTPStatus.PARTIAL_CONTENT else 0
        if start < received:
            log(f"{target.archive.file_name}: the server has another version or cannot resume; starting over")
        _receive(response, target, version, start, progress)


def _ask(url: str, received: int, known: _Version | None) -> tuple[_Response, _Version] | None:
    """Asks for the rest of a file, and for all of it if the rest cannot be had or would not fit.

    Returns:
      The open response, status 206 for the rest and 200 for all, and the version of the file; None if the server
      says that there is no rest.
    """
    if received:
        condition = {"If-Range": known.validator} if known and known.validator else {}
        response = _request(url, {"Range": f"bytes={received}-"} | condition)
        version = _version_of(response)
        if response.status == http.HTTPStatus.OK and version:
            return response, version
        if response.status == http.HTTPStatus.PARTIAL_CONTENT and version:
            begins = response.headers["Content-Range"].startswith(f"bytes {received}-")
            if begins and (known is None or _agree(known, version)):  # a server may ignore If-Range
                return response, version
        response.close()
        if response.status == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and version and version.size == received:
            return None
    response = _request(url, {})
    version = _version_of(response)
    if response.status != http.HTTPStatus.OK or version is None:
        response.close()
        raise UserError(
            f"{url}: the server answers with status {response.status}, instead of sending the file and saying how "
            f"long it is. A proxy may be the cause; try without it, or {_BY_HAND}."
        )
    return response, version


def _agree(known: _Version, other: _Version) -> bool:
    """Whether two descriptions may be of the same version; servers do not always send the validator."""
    return known.size == other.size and (
        None in (known.validator, other.validator) or known.validator == other.validator
    )


def _request(url: str, headers: dict[str, str]) -> _Response:
    """Sends a request.

    Returns:
      The open response; its status is 2xx, or 416 if a range was asked for.

    Raises:
      _Interrupted: on failures that may pass.
      UserError: on others.
    """
    request = urllib.request.Request(url, headers=headers | {"User-Agent": "tfds_fma"})
    try:
        return urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and "Range" in headers:
            return error
        error.close()
        answer = f"the server answers {error.code} ({error.reason})"
        if error.code in _PASSING_STATUSES:
            raise _Interrupted(answer) from error
        raise UserError(f"Cannot fetch {url}: {answer}. Try again later, or {_BY_HAND}.") from error
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise UserError(
                f"Cannot fetch {url}: {reason.verify_message}. Check the clock and the certificates of this computer."
            ) from error
        raise _Interrupted(f"no answer ({_in_words(reason)})") from error


def _version_of(response: _Response) -> _Version | None:
    """Returns which version of the file a response tells of; None if it does not tell the size."""
    if response.status == http.HTTPStatus.OK:
        size = response.headers.get("Content-Length", "")
    else:  # "bytes 100-199/200", "bytes */200"
        size = response.headers.get("Content-Range", "").rpartition("/")[2]
    if not re.fullmatch("[0-9]+", size):
        return None
    etag = response.headers.get("ETag", "")
    # A weak ETag (W/"...") does not promise the same bytes.
    validator = etag if etag.startswith('"') else response.headers.get("Last-Modified")
    return _Version(int(size), validator)


def _receive(response: _Response, target: _Target, version: _Version, start: int, progress: bool) -> None:
    """Writes the body of a response to the part, from byte `start` on."""
    try:
        with (
            target.part.open("ab" if start else "wb") as file,
            progress_bar(target.archive.file_name, version.size, "B", initial=start, show=progress) as bar,
        ):
            if not start:  # after the old part is gone, before the first byte of the new one
                target.version_file.write_text(json.dumps(asdict(version)))
            for block in _blocks(response, version.size - start):
                file.write(block)
                bar.update(len(block))
    except OSError as error:  # of the disk; those of the connection are _Interrupted
        missing = readable_size(target.missing(version.size))
        raise UserError(
            f"Cannot write to {target.part} ({in_words(error)}); {missing} of {readable_size(version.size)} are still "
            "missing. Make room for them and run the same command again; it goes on from there."
        ) from error


def _blocks(response: _Response, size: int) -> Iterator[bytes]:
    """Yields the body of a response as it comes, `size` bytes and not one more.

    Raises:
      _Interrupted: if fewer come.
    """
    while size:
        try:
            block = response.read1(min(size, _BLOCK_BYTES))
        except (OSError, http.client.HTTPException) as error:
            raise _Interrupted(f"the connection was cut ({_in_words(error)})") from error
        if not block:
            raise _Interrupted("the connection was cut")
        size -= len(block)
        yield block


def _in_words(error: BaseException | str) -> str:
    """Returns the message of an error of the connection; that of a timeout alone does not say of what."""
    if isinstance(error, TimeoutError):
        return f"nothing came for {TIMEOUT_S:g} s"
    return str(error) or type(error).__name__


def _finish(target: _Target, log: Callable[[str], None]) -> None:
    """Gives the part its final name if its sum is right, else deletes it."""
    try:
        log(f"{target.archive.file_name}: verifying {readable_size(target.received())}")
        found = sha1_of(target.part)
        target.version_file.unlink(missing_ok=True)  # the part is complete; its size tells
        if found != target.archive.sha1:
            target.part.unlink()
            raise UserError(
                f"{target.archive.file_name} from {target.url} has the SHA-1 {found}, the published one is "
                f"{target.archive.sha1}: it was damaged on the way, or the server has another file. Nothing of it was "
                f"kept. Run the same command again; if that ends the same, {_BY_HAND}."
            )
        _to_disk(target.part)
        os.replace(target.part, target.path)
        _to_disk(target.directory)
    except OSError as error:
        raise UserError(
            f"Cannot turn {target.part} into {target.path} ({in_words(error)}). Put that right and run the same "
            "command again; nothing is fetched twice."
        ) from error
    log(f"{target.path}: complete, its SHA-1 is the published one")


def _to_disk(path: Path) -> None:
    """Waits until a file or the list of files of a folder is on the disk, as far as the file system can tell."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
