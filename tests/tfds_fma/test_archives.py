"""What is known of the official archives, and which zip files are refused."""

import hashlib
import os
import stat
import struct
import zipfile
from pathlib import Path

import pytest

from tfds_fma.errors import UserError
from tfds_fma.source import archives
from tfds_fma.source.archives import OFFICIAL, Archive, check_zip, readable_size, verify_checksum

MIB, GIB = 1 << 20, 1 << 30


def zip_of(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def declare(path: Path, unpacked: int, packed: int) -> None:
    """Changes both sizes of the last member in the list of files."""
    data = bytearray(path.read_bytes())
    struct.pack_into("<II", data, data.rindex(b"PK\1\2") + 20, packed, unpacked)
    path.write_bytes(data)


def test_the_sums_and_sizes_are_those_of_fma_readme():
    assert {archive.file_name: (archive.sha1, readable_size(archive.size)) for archive in OFFICIAL.values()} == {
        "fma_metadata.zip": ("f0df49ffe5f2a6008d7dc83c6915b31835dfe733", "342 MiB"),
        "fma_small.zip": ("ade154f733639d52e35e32f5593efe5be76c6d70", "7.2 GiB"),
        "fma_medium.zip": ("c67b69ea232021025fca9231fc1c7c1a063ab50b", "22 GiB"),
        "fma_large.zip": ("497109f4dd721066b5ce5e5f250ec604dc78939e", "93 GiB"),
        "fma_full.zip": ("0f0ace23fbe9ba30ecb7e95f763e435ea802b8ab", "879 GiB"),
    }
    assert all(name == archive.file_name for name, archive in OFFICIAL.items())


def test_the_file_of_sums_is_one_that_sha1sum_reads():
    lines = Path(archives.__file__).with_name("checksums.sha1").read_text().splitlines()
    assert lines == [f"{archive.sha1}  {archive.file_name}" for archive in OFFICIAL.values()]


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (5, "5 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (10 * MIB - 1, "10 MiB"), (2000 * GIB, "2000 GiB")],
)
def test_sizes_for_people(size, text):
    assert readable_size(size) == text


def test_a_zip_file_like_those_of_fma_is_accepted(tmp_path):
    names = ["fma_small/", "fma_small/README.txt", "fma_small/000/000002.mp3", "fma_small/..odd..name", "a/b:c"]
    check_zip(zip_of(tmp_path / "fma_small.zip", dict.fromkeys(names, b"data")))


def test_silence_is_no_bomb(tmp_path):
    # 30 s of digital silence at 320 kbit/s; a track of 10 min as FMA's archive of whole tracks may hold it.
    frame = b"\xff\xfb\xe0\x64" + bytes(1040)
    for archive, frames in (("fma_small.zip", 1150), ("fma_full.zip", 23_000)):
        with zipfile.ZipFile(tmp_path / archive, "w", zipfile.ZIP_BZIP2) as file:
            file.writestr("silence.mp3", frame * frames)
            (member,) = file.infolist()
            assert member.file_size > 10_000 * member.compress_size
        check_zip(tmp_path / archive)


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../evil",
        "fma_small/../../evil",
        "fma_small/..",
        r"..\evil",
        r"fma_small\..\..\evil",
        r"\evil",
        r"\\server\evil",
        "C:evil",
        r"c:\evil",
        "C:/evil",
        "fma_small/fine\0/../../evil",
    ],
)
def test_a_member_that_would_leave_its_folder_is_refused(tmp_path, name):
    path = tmp_path / "fma_small.zip"
    placeholder = "x" * len(name)  # zipfile itself does not write every such name
    zip_of(path, {"fma_small/000/000002.mp3": b"data", placeholder: b"data"})
    path.write_bytes(path.read_bytes().replace(placeholder.encode(), name.encode()))
    with pytest.raises(UserError) as caught:
        check_zip(path)
    assert str(caught.value) == (
        f"{path}: its member {name!r} would be unpacked outside its folder. FMA's own archives hold nothing like it: "
        "download it again, or move it away."
    )


def test_a_symbolic_link_is_refused(tmp_path):
    link = zipfile.ZipInfo("fma_small/000/000002.mp3")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "fma_small.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(UserError, match=r"fma_small.zip: its member 'fma_small/000/000002.mp3' is a symbolic link"):
        check_zip(tmp_path / "fma_small.zip")


@pytest.mark.parametrize(
    ("name", "unpacked", "packed", "fault"),
    [
        ("fma_small.zip", 64 * MIB, 60 * MIB, None),
        ("fma_small.zip", 64 * MIB + 1, 60 * MIB, "unpacks to 64 MiB, over the limit of 64 MiB"),
        ("fma_medium.zip", GIB, GIB // 2, "unpacks to 1.0 GiB, over the limit of 64 MiB"),
        ("fma_large.zip", GIB, GIB // 2, "over the limit of 64 MiB"),
        ("fma_metadata.zip", 951_000_000, 300 * MIB, None),
        ("fma_metadata.zip", 3 * GIB, 2 * GIB, "unpacks to 3.0 GiB, over the limit of 2.0 GiB"),
        ("fma_full.zip", 2 * GIB, GIB, None),
        ("fma_small.zip", 8 * MIB, 1, None),
        ("fma_small.zip", 9 * MIB, 9 * 1024, "unpacks from 9.0 KiB to 9.0 MiB, as a zip bomb does"),
        ("fma_small.zip", 9 * MIB, 9 * 1100, None),
        ("fma_metadata.zip", GIB, MIB, "unpacks from 1.0 MiB to 1.0 GiB, as a zip bomb does"),
        ("fma_metadata.zip", GIB, 0, "as a zip bomb does"),
    ],
)
def test_declared_sizes(tmp_path, name, unpacked, packed, fault):
    path = zip_of(tmp_path / name, {"fine": b"data", "suspect": b"data"})
    declare(path, unpacked, packed)
    if fault is None:
        check_zip(path)
    else:
        with pytest.raises(UserError, match=f"{name}: its member 'suspect' .*{fault}"):
            check_zip(path)


@pytest.mark.parametrize("damage", ["cut", "empty", "list", "missing"])
def test_a_zip_file_without_a_readable_list_is_incomplete(tmp_path, damage):
    path = zip_of(tmp_path / "fma_small.zip", {"fma_small/000/000002.mp3": bytes(range(256)) * 20})
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"cut": data[:-100], "empty": b"", "list": data.replace(b"PK\1\2", b"PK\7\7")}[damage])
    with pytest.raises(UserError, match=r"is not a complete zip file \(.+\): download it again, or move it away\.$"):
        check_zip(path)


@pytest.fixture
def official(tmp_path, monkeypatch) -> Path:
    """A right fma_small.zip, in a world in which its sum is the published one."""
    path = tmp_path / "source" / "fma_small.zip"
    path.parent.mkdir()
    zip_of(path, {"fma_small/000/000002.mp3": b"data"})
    sha1 = hashlib.sha1(path.read_bytes()).hexdigest()
    monkeypatch.setitem(OFFICIAL, path.name, Archive(path.name, path.stat().st_size, sha1))
    return path


def verified(path: Path, cache: Path) -> list[str]:
    """Verifies; returns what was logged."""
    lines: list[str] = []
    verify_checksum(path, cache, lines.append)
    return lines


def test_a_right_archive_is_read_once(official, tmp_path, monkeypatch):
    cache = tmp_path / "data" / "cache"
    size = official.stat().st_size
    assert verified(official, cache) == [f"{official}: verifying {size} B"]
    assert verified(official, cache) == []
    monkeypatch.chdir(official.parent)
    assert verified(Path(official.name), cache) == []
    assert [path.name for path in official.parent.iterdir()] == [official.name]  # nothing beside it
    assert [path.name for path in cache.iterdir()] == ["verified.json"]


def test_a_changed_archive_is_read_again(official, tmp_path):
    verified(official, tmp_path)
    os.utime(official, ns=(1, 1))
    assert len(verified(official, tmp_path)) == 1
    data = bytearray(official.read_bytes())
    data[40] ^= 1
    official.write_bytes(data)
    with pytest.raises(UserError, match="has the SHA-1"):
        verified(official, tmp_path)


def test_an_archive_elsewhere_is_read_for_itself(official, tmp_path):
    verified(official, tmp_path)
    copy = tmp_path / official.name
    copy.write_bytes(official.read_bytes())
    assert len(verified(copy, tmp_path)) == 1
    assert verified(official, tmp_path) == verified(copy, tmp_path) == []


def test_a_wrong_archive_is_an_error_each_time(official, tmp_path):
    published = OFFICIAL[official.name].sha1
    official.write_bytes(b"other")
    found = hashlib.sha1(b"other").hexdigest()
    for _ in range(2):
        with pytest.raises(UserError) as caught:
            verified(official, tmp_path)
        assert str(caught.value) == (
            f"{official} has the SHA-1 {found}, the published one is {published}: it is damaged or not the official "
            "file. Delete it and run again with --download, or accept it as it is with --unverified."
        )


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"a": 1}', b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_cache_is_ignored_and_mended(official, tmp_path, content):
    (tmp_path / "verified.json").write_bytes(content)
    assert len(verified(official, tmp_path)) == 1
    assert verified(official, tmp_path) == []


def test_a_cache_that_cannot_be_written_is_no_error(official, tmp_path):
    (tmp_path / "file").write_text("")
    lines = verified(official, tmp_path / "file" / "cache")
    assert len(lines) == 2
    assert "is right, but that cannot be remembered (" in lines[1]


def test_files_of_other_names_have_no_published_sum(tmp_path):
    (tmp_path / "mine.zip").write_bytes(b"anything")
    assert verified(tmp_path / "mine.zip", tmp_path) == []


def test_an_archive_that_cannot_be_read(official, tmp_path):
    official.unlink()
    with pytest.raises(UserError, match=r"fma_small.zip cannot be read \(.*No such file"):
        verified(official, tmp_path)
