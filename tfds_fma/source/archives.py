"""What is known of FMA's official zip files, and checks of a zip file before it is read in place.

FMA publishes the SHA-1 sums of its archives (``checksums.sha1``, as ``sha1sum`` writes it) and sizes rounded to two
or three digits. TFDS's own ``checksums.tsv`` wants SHA-256 sums and exact sizes, which FMA does not publish, so there
is none here.
"""

import hashlib
import json
import os
import re
import stat
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tfds_fma.errors import UNREADABLE, UserError, in_words

# Where FMA publishes its archives, each under its own name.
FMA_URL = "https://os.unil.cloud.switch.ch/fma/"


_MIB, _GIB = 1 << 20, 1 << 30


# Sizes in bytes, as exactly as FMA's README gives them.
_PUBLISHED_SIZES = {
    "fma_metadata.zip": 342 * _MIB,
    "fma_small.zip": round(7.2 * _GIB),
    "fma_medium.zip": 22 * _GIB,
    "fma_large.zip": 93 * _GIB,
    "fma_full.zip": 879 * _GIB,
}


_CACHE_FILE = "verified.json"


@dataclass(frozen=True)
class Archive:
    """One of FMA's official zip files.

    Attributes:
      file_name: e.g. ``fma_small.zip``.
      size: published size in bytes, rounded to two or three digits.
      sha1: published SHA-1 sum, 40 hexadecimal digits.
    """

    file_name: str
    size: int
    sha1: str


def _read_table() -> dict[str, Archive]:
    """Reads the published sums; returns the archives by file name."""
    lines = Path(__file__).with_name("checksums.sha1").read_text(encoding="ascii").splitlines()
    sums = {name: sha1 for sha1, name in (line.split() for line in lines)}
    return {name: Archive(name, size, sums[name]) for name, size in _PUBLISHED_SIZES.items()}


OFFICIAL: dict[str, Archive] = _read_table()


@dataclass(frozen=True)
class _Limits:
    """How far the members of an archive may expand.

    Attributes:
      member_bytes: the largest unpacked size.
      harmless_bytes: unpacked size up to which the ratio to the packed size does not matter.
    """

    member_bytes: int
    harmless_bytes: int


# The larger `harmless_bytes` must exceed any silent MP3 file of constant bit rate: the same frame over and over, which
# bzip2 packs 300,000 times smaller. 30 s take 1.2 MB at most, a track of half an hour 64 MiB.
_CLIPS = _Limits(64 * _MIB, 8 * _MIB)


_TRACKS_AND_TABLES = _Limits(2 * _GIB, 64 * _MIB)  # FMA's features.csv has 951 MB


_CLIP_ARCHIVES = ("fma_small.zip", "fma_medium.zip", "fma_large.zip")


_MAX_RATIO = 1000


_SUSPICIOUS = "FMA's own archives hold nothing like it: download it again, or move it away."


def check_zip(path: Path) -> None:
    """Raises UserError unless a zip file is complete and harmless, going by the list of files at its end.

    Whoever reads a member with `zipfile.ZipFile.read` gets at most the declared size, which is checked here, and an
    error if the CRC is wrong. But a list that declares too little is not noticed here, and zipfile (as of Python 3.11)
    unpacks all of such a member into memory before it cuts it to the declared size. `verify_checksum` is the guard
    against that.

    Raises:
      UserError: if the list cannot be read, or a member has a path that leads out of the folder into which the
        archive is unpacked, is a symbolic link, or unpacks to more than any clip or table of FMA's.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except UNREADABLE as error:
        raise UserError(
            f"{path} is not a complete zip file ({in_words(error)}): download it again, or move it away."
        ) from error
    limits = _limits(path.name)
    for member in members:
        fault = _fault(member, limits)
        if fault:
            raise UserError(f"{path}: its member {member.orig_filename!r} {fault}. {_SUSPICIOUS}")


def size_limit(name: str) -> int:
    """Returns the largest size in bytes that a file of an archive may have, e.g. of ``fma_small.zip``."""
    return _limits(name).member_bytes


def _limits(name: str) -> _Limits:
    """Returns the limits for the archive of that name."""
    return _CLIPS if name in _CLIP_ARCHIVES else _TRACKS_AND_TABLES


def _fault(member: zipfile.ZipInfo, limits: _Limits) -> str:
    """Says what is wrong with a member, going by the list of files; "" if nothing is."""
    # zipfile cuts a name at a NUL byte and, since Python 3.12, may take it from an extra field; others may not.
    if _escapes(member.filename) or _escapes(member.orig_filename):
        return "would be unpacked outside its folder"
    if stat.S_ISLNK(member.external_attr >> 16):
        return "is a symbolic link"
    if member.file_size > limits.member_bytes:
        return f"unpacks to {readable_size(member.file_size)}, over the limit of {readable_size(limits.member_bytes)}"
    if member.file_size > max(limits.harmless_bytes, _MAX_RATIO * member.compress_size):
        packed = readable_size(member.compress_size)
        return f"unpacks from {packed} to {readable_size(member.file_size)}, as a zip bomb does"
    return ""


def _escapes(name: str) -> bool:
    """Whether the path of a member leads out of the folder into which it is unpacked, on any system."""
    parts = re.split(r"[/\\]", name)
    return not parts[0] or ".." in parts or re.match("[A-Za-z]:", name) is not None


def verify_checksum(path: Path, cache_dir: Path, log: Callable[[str], None]) -> None:
    """Compares an official archive with its published sum, unless that was done and it has not changed since.

    Args:
      path: a zip file. One whose name is not that of an official archive is not looked at.
      cache_dir: folder in which to remember archives that were found right, by path, size and time of change.
      log: takes a line before an archive is read, which takes a second or two per GiB.

    Raises:
      UserError: if the sum is another one, or the file cannot be read.
    """
    official = OFFICIAL.get(path.name)
    if official is None:
        return
    try:
        entry = _entry(path)  # before reading: if the file changes meanwhile, the entry will not fit it
        if _read_cache(cache_dir / _CACHE_FILE).get(os.path.abspath(path)) == entry:
            return
        log(f"{path}: verifying {readable_size(path.stat().st_size)}")
        found = sha1_of(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({in_words(error)}): download it again, or move it away.") from error
    if found != official.sha1:
        raise UserError(
            f"{path} has the SHA-1 {found}, the published one is {official.sha1}: it is damaged or not the official "
            "file. Delete it and run again with --download, or accept it as it is with --unverified."
        )
    _remember(path, entry, cache_dir, log)


def remember_verified(path: Path, cache_dir: Path, log: Callable[[str], None]) -> None:
    """Spares `verify_checksum` an official archive that has just been compared with its sum, on being downloaded."""
    _remember(path, _entry(path), cache_dir, log)


def _entry(path: Path) -> dict[str, object]:
    """What is remembered of an archive that was found right."""
    status = path.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "sha1": OFFICIAL[path.name].sha1}


def _remember(path: Path, entry: dict[str, object], cache_dir: Path, log: Callable[[str], None]) -> None:
    """Notes an archive that was found right."""
    cache = cache_dir / _CACHE_FILE
    try:
        _write_cache(cache, _read_cache(cache) | {os.path.abspath(path): entry})
    except OSError as error:
        log(f"{path}: is right, but that cannot be remembered ({in_words(error)})")


def sha1_of(path: Path) -> str:
    """Returns the SHA-1 sum of a file as 40 hexadecimal digits.

    Raises:
      OSError: if it cannot be read.
    """
    with path.open("rb") as file:
        # Where SHA-1 is barred from security, it may still compare with a published sum.
        return hashlib.file_digest(file, lambda: hashlib.sha1(usedforsecurity=False)).hexdigest()


def _read_cache(cache: Path) -> dict[str, object]:
    """Returns what is remembered by path; nothing if the file is missing or damaged."""
    try:
        entries = json.loads(cache.read_bytes())
    except UNREADABLE:
        return {}
    return entries if isinstance(entries, dict) else {}


def _write_cache(cache: Path, entries: dict[str, object]) -> None:
    """Replaces the file in one step: another process may be reading it."""
    cache.parent.mkdir(parents=True, exist_ok=True)
    new = cache.with_name(f"{cache.name}.{os.getpid()}")
    new.write_text(json.dumps(entries, indent=1))
    new.replace(cache)


def readable_size(size: int) -> str:
    """Writes a number of bytes as FMA does: ``342 MiB``, ``7.2 GiB``, ``22 GiB``."""
    value, unit = float(size), "B"
    for larger in ("KiB", "MiB", "GiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.1f} {unit}" if value < 9.95 and unit != "B" else f"{value:.0f} {unit}"
