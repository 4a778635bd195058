"""Where clips come from, and what happens if a copy of one is bad."""

import zipfile
from pathlib import Path

import pytest
from fma_trees import clip_path, corruptions

from tfds_fma.clips.make import Clip, Reject, make_clip
from tfds_fma.errors import ClipError, UserError
from tfds_fma.representations.registry import get_representation
from tfds_fma.source.audio_files import Container, find_containers
from tfds_fma.source.tracks import Track

MEL = get_representation("mel_256x96")
TRACK = Track(2, "train", "Rock", 7, 5, "T", "A", 100.0)
MEMBER = "fma_small/000/000002.mp3"


def zip_with(path: Path, data: bytes, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr(MEMBER, data)
    return path


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_corrupt_member_of_a_zip_file_is_a_reject(tmp_path, method):
    data = b"some bytes that compress, " * 40 + bytes(range(256))
    intact = zip_with(tmp_path / "intact.zip", data, method).read_bytes()
    reasons = []
    for number, damaged in enumerate(corruptions(intact, 60)):
        path = tmp_path / str(number) / "fma_small.zip"
        path.parent.mkdir()
        path.write_bytes(damaged)
        try:
            assert Container(path).read(2) == data  # the changed bytes do not matter, as those of a date
        except ClipError as error:
            reasons.append(error.reason)
    assert set(reasons) <= {"undecodable", "missing"}
    assert len(reasons) > 30


def test_encrypted_and_unknown_compression(tmp_path):
    for name, offset, value in (("encrypted", 6, 1), ("unknown", 8, 99)):
        path = tmp_path / name / "fma_small.zip"
        path.parent.mkdir()
        data = bytearray(zip_with(path, b"data" * 100).read_bytes())
        data[offset] = value  # in the member's own header
        data[data.index(b"PK\1\2") + offset + 2] = value  # in the list at the end
        path.write_bytes(data)
        with pytest.raises(ClipError, match="undecodable"):
            Container(path).read(2)


def test_a_zip_file_without_a_readable_list_is_refused(tmp_path, mp3):
    path = zip_with(tmp_path / "fma_small.zip", mp3)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"PK\1\2", b"PK\7\7"))
    assert zipfile.is_zipfile(path)
    with pytest.raises(
        UserError, match=r"fma_small.zip is not a complete zip file \(Bad magic number.*download it again"
    ):
        find_containers(tmp_path, "small")


@pytest.mark.parametrize("bad", [b"", b"not audio " * 300, None])
def test_a_good_copy_behind_a_bad_one_is_used(tmp_path, mp3, bad):
    first = clip_path(tmp_path, 2, "fma_small")
    if bad is None:
        first.mkdir()  # cannot be read
    else:
        first.write_bytes(bad)
    clip_path(tmp_path, 2, "fma_medium").write_bytes(mp3)
    assert isinstance(make_clip(find_containers(tmp_path, "small"), MEL, TRACK), Clip)


def test_a_reject_names_the_copy_that_is_bad(tmp_path, mp3):
    clip_path(tmp_path, 3, "fma_small").write_bytes(mp3)
    containers = find_containers(tmp_path, "small")
    missing = make_clip(containers, MEL, TRACK)
    assert isinstance(missing, Reject)
    assert (missing.path, missing.reason) == ("fma_small/000/000002.mp3", "missing")

    clip_path(tmp_path, 2, "fma_medium").write_bytes(b"")
    containers = find_containers(tmp_path, "small")
    empty = make_clip(containers, MEL, TRACK)
    assert isinstance(empty, Reject)
    assert (empty.path, empty.reason) == ("fma_medium/000/000002.mp3", "empty")

    clip_path(tmp_path, 2, "fma_small").write_bytes(mp3[: len(mp3) // 4])
    both = make_clip(containers, MEL, TRACK)
    assert isinstance(both, Reject)
    assert (both.path, both.reason) == ("fma_small/000/000002.mp3", "short")
