"""Everything that may lie under the name of an MP3 file, in one tree: what is used, what is rejected and why."""

import csv
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fma_trees import clip_path, write_table

import tfds_fma
from tfds_fma.preparation import prepare
from tfds_fma.reading import read_dataset

NOISE = np.random.default_rng(0).normal(0, 0.1, (30 * 48_000, 2)).clip(-1, 1)
USED, PADDED = "used", "used, padded"


def encoded(samples: np.ndarray, rate: int, kind: str = "MP3", **options) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, **options)
    return file.getvalue()


def good() -> bytes:
    return sorted((Path(tfds_fma.__file__).parent / "dummy_data").glob("fma_medium/*/*.mp3"))[0].read_bytes()


def with_damage(size: int) -> bytes:
    data = bytearray(good())
    middle = len(data) // 2
    data[middle : middle + size] = bytes(size)
    return bytes(data)


def with_nan() -> bytes:
    samples = NOISE[: 30 * 8000, 0].astype(np.float32)
    samples[1000] = np.nan
    return encoded(samples, 8000, "WAV", subtype="FLOAT")


def tagged_only() -> bytes:
    """An ID3 tag of 2 KB with a title, and no audio behind it."""
    frame = b"TIT2" + (6).to_bytes(4, "big") + b"\0\0" + b"\3Title"
    size = 2000
    digits = bytes((size >> shift) & 127 for shift in (21, 14, 7, 0))
    return b"ID3\4\0\0" + digits + frame + bytes(size - len(frame))


# Name -> what lies there: bytes, or a function that makes it at a path; and what becomes of it.
CASES: dict[str, tuple[bytes | Callable[[Path], object], str]] = {
    "good": (good(), USED),
    "cut off after 70 %": (good()[: int(0.7 * len(good()))], PADDED),
    "cut off after 30 %": (good()[: int(0.3 * len(good()))], "short"),
    "empty": (b"", "empty"),
    "a text file, renamed": (b"Lorem ipsum dolor sit amet.\n" * 500, "undecodable"),
    "a page that says 404": (b"<html><body>404 Not Found</body></html>" * 50, "undecodable"),
    "zeros": (bytes(200_000), "undecodable"),
    "random bytes": (np.random.default_rng(1).bytes(200_000), "undecodable"),
    "one sample": (encoded(NOISE[:1, 0], 44_100), "short"),
    "mono": (encoded(NOISE[: 30 * 44_100, 0], 44_100), USED),
    "8 kHz": (encoded(NOISE[: 30 * 8000], 8000), USED),
    "48 kHz": (encoded(NOISE, 48_000), USED),
    "variable bit rate": (encoded(NOISE[: 30 * 44_100], 44_100, bitrate_mode="VARIABLE", compression_level=0.9), USED),
    "an ID3 tag without audio": (tagged_only(), "undecodable"),
    "an ID3 tag before audio": (tagged_only() + good(), USED),
    "ten minutes": (encoded(np.tile(NOISE[: 30 * 8000, 0], 20), 8000), USED),
    "silence": (encoded(np.zeros(30 * 22_050), 22_050), USED),
    "clipped to a square wave": (encoded(np.sign(NOISE[: 30 * 22_050, 0]), 22_050), USED),
    "NaN in a WAV file, renamed": (with_nan(), "undecodable"),
    "a WAV file, renamed": (encoded(NOISE[: 30 * 8000, 0], 8000, "WAV"), USED),
    "a FLAC file, renamed": (encoded(NOISE[: 30 * 8000, 0], 8000, "FLAC"), USED),
    "ten bytes zeroed in the middle": (with_damage(10), USED),
    "3000 bytes zeroed in the middle": (with_damage(3000), "undecodable"),
    "a folder": (lambda path: path.mkdir(), "undecodable"),
    "a pipe": (os.mkfifo, "undecodable"),
    "a link to nothing": (lambda path: path.symlink_to("nowhere"), "missing"),
    "a link to itself": (lambda path: path.symlink_to(path.name), "undecodable"),
    "missing": (lambda path: None, "missing"),
    "5 GB": (lambda path: path.touch() or os.truncate(path, 5 << 30), "undecodable"),
}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory) -> tuple[dict[str, str], list[str]]:
    """What became of each case, and the lines for people."""
    source = tmp_path_factory.mktemp("broken")
    write_table(source, [{"track_id": number, "title": name} for number, name in enumerate(CASES)])
    for number, (content, _) in enumerate(CASES.values()):
        path = clip_path(source, number)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            content(path)
    lines: list[str] = []
    path = prepare(source, "small", "mel_1360x96", source / "data", workers=2, progress=False, log=lines.append)
    columns, clips = read_dataset(path)
    assert np.isfinite(clips).all()
    found = {title: USED for title in columns["title"]}
    with (path / "rejects.csv").open(newline="") as file:
        names = list(CASES)
        found |= {names[int(row["track_id"])]: f"{row['reason']}: {row['detail']}" for row in csv.DictReader(file)}
    shutil.rmtree(source / "data")
    return found, lines


@pytest.mark.parametrize("name", CASES)
def test_what_becomes_of(name, outcome):
    found = outcome[0][name]
    print(f"{name}: {found}")
    assert found.partition(":")[0] == CASES[name][1].partition(",")[0]
    assert "\n" not in found
    assert len(found) < 160


def test_the_sum(outcome):
    used = sum(expected.startswith(USED) for _, expected in CASES.values())
    assert f"{used} clips written" in outcome[1][-2]
    assert outcome[1][-2].endswith("; 1 padded")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path):
    write_table(tmp_path, [{"track_id": 2}, {"track_id": 3}])
    for track_id in (2, 3):
        clip_path(tmp_path, track_id).write_bytes(good())
    clip_path(tmp_path, 3).chmod(0)
    path = prepare(tmp_path, "small", "mel_1360x96", tmp_path / "data", progress=False)
    assert "undecodable,cannot be read: [Errno 13] Permission denied" in (path / "rejects.csv").read_text()
