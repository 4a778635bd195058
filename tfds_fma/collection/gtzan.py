"""GTZAN (Tzanetakis and Cook 2002): 10 genres of 100 excerpts of 30 s each, and what is known of them.

`gtzan.csv` has a row for each excerpt:

* ``split``: of the fault-filtered partition of Kereliuk, Sturm and Larsen (Deep Learning and Music Adversaries, IEEE
  Transactions on Multimedia 2015): 443 excerpts to train on, 197 to validate, 290 to test; empty for the 70 that it
  leaves out. From the authors' repository (coreyker/dnn-mgr); torchaudio has the same lists.
* ``artist``: from Sturm's index (GTZANindex.txt of An Analysis of the GTZAN Music Genre Dataset, MIRUM 2012, corrected
  until 2014), two names of two spellings each made one; empty for the 81 that it does not name.
* ``repeats``: the excerpt that this one repeats exactly. The same paper counts 50; artists and titles of the index
  agree. Of excerpts that repeat each other the partition uses one at most.

Sturm's lists of mislabellings and of distortions are in print alone, and not here.
"""

import collections
import csv
import gzip
import lzma
import re
import shutil
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tfds_fma.collection.labels import Songs
from tfds_fma.collection.songs import find_songs
from tfds_fma.errors import UserError, in_words
from tfds_fma.locks import only_one
from tfds_fma.paths import local_path
from tfds_fma.source.tracks import STORED_SPLITS, UNUSED

_MEMBER = re.compile(r"(?:^|/)([a-z]+)/(\1\.\d{5})\.(au|wav)$")  # genres/blues/blues.00000.au

# Says which archive a folder is of.
_OF_ARCHIVE = ".archive"

# One of GTZAN's has 1.3 MB.
_MOST_BYTES = 16 << 20

_REMEDY = "Give --gtzan genres.tar.gz, or the folder of genres that is in it, or Kaggle's Data/genres_original."


@dataclass(frozen=True)
class Excerpt:
    """What is known of an excerpt; "" where nothing is.

    Attributes:
      split: ``train``, ``validation`` or ``test``; "" if the fault-filtered partition leaves it out.
      artist: name.
      repeats: the excerpt that it repeats exactly.
    """

    split: str
    artist: str
    repeats: str


def genre_of(name: str) -> str:
    """Returns the genre of an excerpt such as ``blues.00000``."""
    return name.partition(".")[0]


def excerpts() -> dict[str, Excerpt]:
    """Returns all 1,000 excerpts by name, such as ``blues.00000``, in order."""
    with Path(__file__).with_name("gtzan.csv").open(newline="", encoding="utf-8") as file:
        return {row.pop("excerpt"): Excerpt(**row) for row in csv.DictReader(file)}


def read_gtzan(folder: Path, log: Callable[[str], None]) -> Songs:
    """Finds the excerpts in a folder, at any depth, and what is known of them.

    Args:
      folder: with files such as ``blues.00000.au`` or ``blues.00000.wav``; what is called otherwise is left out.
      log: takes the lines for people.

    Raises:
      UserError: there is none, or one is there twice.
    """
    known = excerpts()
    paths: dict[str, Path] = {}
    for path in find_songs([folder]):
        if path.stem in known and (first := paths.setdefault(path.stem, path)) != path:
            raise UserError(f"{path.stem} is there twice: {first} and {path}. Give the folder of one copy to --gtzan.")
    if not paths:
        raise UserError(f"{folder} has no file called as GTZAN's, such as blues.00000.au. {_REMEDY}")
    there = {name: excerpt for name, excerpt in known.items() if name in paths}
    artists = {excerpt.artist for excerpt in there.values()} - {""}
    unknown = sum(not excerpt.artist for excerpt in there.values())
    log(
        f"{folder}: {len(there)} of the {len(known):,} excerpts of GTZAN, of {len(artists)} artists, {unknown} of "
        f"unknown artist; {sum(bool(excerpt.repeats) for excerpt in there.values())} repeat another one exactly"
    )
    sizes = collections.Counter(excerpt.split or UNUSED for excerpt in there.values())
    told = ", ".join(f"{split} {sizes[split]}" for split in STORED_SPLITS)
    log(f"fault-filtered splits (Kereliuk, Sturm and Larsen 2015): {told}")
    return Songs(
        path=tuple(paths[name] for name in there),
        genre=tuple(map(genre_of, there)),
        artist=tuple(excerpt.artist for excerpt in there.values()),
        album=("",) * len(there),
        title=tuple(there),
        split=tuple(excerpt.split or UNUSED for excerpt in there.values()),
    )


def audio_folder(place: str | Path, data_dir: str | Path, log: Callable[[str], None]) -> Path:
    """Returns the folder of the excerpts, absolute; unpacks an archive to ``data_dir/gtzan``, once.

    Args:
      place: the folder, or the archive ``genres.tar.gz``.
      data_dir: data folder.
      log: takes a line before unpacking.

    Raises:
      UserError: there is nothing, or the archive is cut off, damaged, or not GTZAN.
    """
    place, target = local_path(place).absolute(), local_path(data_dir).absolute() / "gtzan"
    if place.is_dir():
        return place
    if not place.is_file():
        raise UserError(f"{place} does not exist. {_REMEDY}")
    with only_one(target, log):
        unpacked, partial = target / "genres", target / ".incomplete"
        status = place.stat()
        archive = f"{place.name}, {status.st_size} bytes, {status.st_mtime_ns}"
        if unpacked.is_dir():
            if (unpacked / _OF_ARCHIVE).is_file() and (unpacked / _OF_ARCHIVE).read_text() == archive:
                log(f"{place}: unpacked before, in {unpacked}")
                return unpacked
            raise UserError(f"{unpacked} is of another archive than {place}. Remove it, or give another --data_dir.")
        log(f"{place}: unpacking to {unpacked}")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            _unpack(place, partial)
            (partial / _OF_ARCHIVE).write_text(archive)
            partial.rename(unpacked)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return unpacked


def _unpack(archive: Path, folder: Path) -> None:
    """Writes the excerpts of a tar archive to ``folder/GENRE/``. Nothing else of it is used, no path and no link."""
    known = excerpts()
    try:
        with tarfile.open(archive) as members:  # not as a stream, which takes an archive that is cut off for whole
            for member in members:
                found = _MEMBER.search(member.name)
                if not (found and found[2] in known and member.isfile()):
                    continue
                if member.size > _MOST_BYTES:
                    raise UserError(f"{archive}: {member.name} is larger than any of GTZAN's. Download it again.")
                audio = members.extractfile(member)
                assert audio is not None  # a file
                path = folder / found[1] / f"{found[2]}.{found[3]}"
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("wb") as file:
                    shutil.copyfileobj(audio, file)
            assert members.fileobj is not None
            while members.fileobj.read(1 << 20):  # to the checksum at the end
                pass
    # bz2 has no error of its own: it raises OSError without a number.
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError) as error:
        raise UserError(f"{archive} is cut off or damaged, or no tar archive: download it again. {_REMEDY}") from error
    except OSError as error:
        if error.errno is None:
            raise UserError(f"{archive} is damaged: download it again. {_REMEDY}") from error
        raise UserError(f"{archive} cannot be unpacked to {folder} ({in_words(error)}).") from error
    if not folder.is_dir():
        raise UserError(f"{archive} holds no file called as GTZAN's, such as blues.00000.au. {_REMEDY}")
