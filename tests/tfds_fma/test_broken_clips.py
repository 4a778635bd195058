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
from tfds_fma.clips.decode import decode
from tfds_fma.clips.mp3_frames import _frames, with_all_frames
from tfds_fma.extract_features import _load_mono
from tfds_fma.preparation import prepare
from tfds_fma.reading import read_dataset

NOISE = np.random.default_rng(0).normal(0, 0.1, (30 * 48_000, 2)).clip(-1, 1)
USED, PADDED, DAMAGED = "used", "used, padded", "used, damaged"


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


def with_frame_count(share: float) -> bytes:
    """The tag in the first frame tells only a share of the frames."""
    data = good()
    place = data.index(b"Xing") + 8
    told = int.from_bytes(data[place : place + 4], "big")
    return data[:place] + int(share * told).to_bytes(4, "big") + data[place + 4 :]


def without_tag() -> bytes:
    """At a variable bit rate, without the first frame: what follows looks shorter than it is."""
    return b"".join(list(_frames(good()))[1:])


def without_a_header() -> bytes:
    frames = list(_frames(good()))
    frames[300] = bytes(4) + frames[300][4:]
    return b"".join(frames)


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
    "the first frame tells a quarter of the frames": (with_frame_count(0.25), USED),
    "the first frame tells three quarters of the frames": (with_frame_count(0.75), USED),
    "the first frame tells twice the frames": (with_frame_count(2), USED),
    "no first frame that tells the frames": (without_tag(), USED),
    "an ID3 tag without audio": (tagged_only(), "undecodable"),
    "an ID3 tag before audio": (tagged_only() + good(), USED),
    "ten minutes": (encoded(np.tile(NOISE[: 30 * 8000, 0], 20), 8000), USED),
    "silence": (encoded(np.zeros(30 * 22_050), 22_050), USED),
    "clipped to a square wave": (encoded(np.sign(NOISE[: 30 * 22_050, 0]), 22_050), USED),
    "NaN in a WAV file, renamed": (with_nan(), "undecodable"),
    "a WAV file, renamed": (encoded(NOISE[: 30 * 8000, 0], 8000, "WAV"), USED),
    "a FLAC file, renamed": (encoded(NOISE[: 30 * 8000, 0], 8000, "FLAC"), USED),
    "ten bytes zeroed in the middle": (with_damage(10), USED),
    "the header of a frame zeroed": (without_a_header(), DAMAGED),
    "3000 bytes zeroed in the middle": (with_damage(3000), "undecodable"),
    "a folder": (lambda path: path.mkdir(), "undecodable"),
    "a pipe": (os.mkfifo, "undecodable"),
    "a link to nothing": (lambda path: path.symlink_to("nowhere"), "missing"),
    "a link to itself": (lambda path: path.symlink_to(path.name), "undecodable"),
    "missing": (lambda path: None, "missing"),
    "5 GB": (lambda path: path.touch() or os.truncate(path, 5 << 30), "undecodable"),
}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """What became of each case, the damage of those that are used, and the lines for people."""
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
    names = list(CASES)
    with (path / "rejects.csv").open(newline="") as file:
        found |= {names[int(row["track_id"])]: f"{row['reason']}: {row['detail']}" for row in csv.DictReader(file)}
    with (path / "damaged.csv").open(newline="") as file:
        damaged = {names[int(row["track_id"])]: row["detail"] for row in csv.DictReader(file)}
    shutil.rmtree(source / "data")
    return found, damaged, lines


@pytest.mark.parametrize("name", CASES)
def test_what_becomes_of(name, outcome):
    found = outcome[0][name]
    print(f"{name}: {found}")
    assert found.partition(":")[0] == CASES[name][1].partition(",")[0]
    assert "\n" not in found
    assert len(found) < 160


def test_the_sum(outcome):
    used = sum(expected.startswith(USED) for _, expected in CASES.values())
    line = outcome[2][-2]
    assert f"{used} clips written" in line
    assert line.endswith("; 1 padded; 1 with decoding errors (damaged.csv)")


def test_used_clips_in_which_the_decoder_found_errors_are_listed(outcome):
    print(outcome[1])
    assert list(outcome[1]) == [name for name, (_, expected) in CASES.items() if expected == DAMAGED]
    assert all("decoding error" in detail for detail in outcome[1].values())


@pytest.mark.parametrize("share", [0.25, 0.75])
def test_a_first_frame_that_tells_too_few_frames_costs_no_sample(share):
    whole, told_less = (decode(data, 12_000, 29 * 12_000) for data in (good(), with_frame_count(share)))
    np.testing.assert_array_equal(told_less.samples, whole.samples)
    assert not told_less.padded
    samples, rate = _load_mono(good())  # for the 518 features
    again, _ = _load_mono(with_frame_count(share))
    np.testing.assert_array_equal(again, samples)
    assert len(samples) == 30 * rate


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [44_100, 16_000, 8_000])
def test_frames_are_found_among_other_bytes(rate, channels):
    data = encoded(NOISE[: 5 * rate, :channels], rate, bitrate_mode="VARIABLE", compression_level=0.9)
    tag, *frames = _frames(data)
    assert b"".join((tag, *frames)) == data
    among = b"".join((*frames[:20], b"\xff" * 100, *frames[20:], b"TAG" + bytes(125)))
    whole = with_all_frames(among, 0)
    assert list(_frames(whole))[1:] == frames
    samples = 1152 if rate > 24_000 else 576
    assert soundfile.info(io.BytesIO(whole)).frames == len(frames) * samples - 529  # the delay of the decoder
    assert with_all_frames(among, len(frames) * samples) is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path):
    write_table(tmp_path, [{"track_id": 2}, {"track_id": 3}])
    for track_id in (2, 3):
        clip_path(tmp_path, track_id).write_bytes(good())
    clip_path(tmp_path, 3).chmod(0)
    path = prepare(tmp_path, "small", "mel_1360x96", tmp_path / "data", progress=False)
    assert "undecodable,cannot be read: [Errno 13] Permission denied" in (path / "rejects.csv").read_text()
