"""The frames of an MP3 file, for files that a decoder leaves before their end.

libsndfile stops after the number of frames that the file's first one tells (its Xing or Info tag), or, without that,
after as many as the first bit rate leads to expect, or where it loses its place among wrong bytes.
"""

import functools
from collections.abc import Iterator
from typing import IO

_KBITS = {  # by the version in the header (MPEG 2.5, 2, 1), then by index; 0: not for us
    0: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),
    3: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),
}


_RATES = {0: (11_025, 12_000, 8_000, 0), 2: (22_050, 24_000, 16_000, 0), 3: (44_100, 48_000, 32_000, 0)}


# Sync word, version and layer, and the sample rate: what all frames of a file share.
_SHARED = 0xFF_FE_0C


# Delay and padding of the encoder, which a decoder cuts off where the tag tells them: twelve bits each.
_CUT_OFF = 2 * 4095


def with_all_frames(data: bytes, decoded: int) -> bytes | None:
    """Returns an MP3 file of all frames of another one, the first of which tells their number.

    Args:
      data: the file.
      decoded: samples per channel, counted from the start, after which a decoder found no more.

    Returns:
      None if the frames end there, too.
    """
    frames = list(_frames(data))
    if not frames:
        return None
    tag = next((place for name in (b"Xing", b"Info") if (place := frames[0].find(name, 0, 44)) >= 0), None)
    count = len(frames) - (tag is not None)
    samples = 1152 if _is_mpeg_1(frames[0]) else 576
    if count * samples <= decoded + _CUT_OFF:
        return None
    if tag is None:
        frames.insert(0, b"")
    if tag is None or not frames[0][tag + 7] & 1:
        frames[0], tag = _empty_tag(frames[1])
    frames[0] = frames[0][: tag + 8] + count.to_bytes(4, "big") + frames[0][tag + 12 :]
    return b"".join(frames)


def tells_length(file: IO[bytes]) -> bool:
    """Whether the first frame of an MP3 file tells how many frames there are, so that its length is no estimate."""
    file.seek(0)
    head = file.read(10)
    file.seek(_tag_bytes(head))
    first = file.read(64)
    return b"Xing" in first or b"Info" in first


def _tag_bytes(head: bytes) -> int:
    """Returns the length of the ID3 tag that a file begins with."""
    if not head.startswith(b"ID3") or len(head) < 10:
        return 0
    return 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9])


def _frames(data: bytes) -> Iterator[bytes]:
    """Yields the frames of Layer III. After other bytes, what looks like one is one if another follows."""
    place = _tag_bytes(data[:10])
    kind, lost = None, True
    while 0 <= place < len(data):
        header = _header(data, place)
        end = place + _length(header)
        follows = not lost or end == len(data) or _header(data, end) & _SHARED == header & _SHARED
        if place < end <= len(data) and kind in (None, header & _SHARED) and follows:
            yield data[place:end]
            kind, lost, place = header & _SHARED, False, end
        else:
            lost, place = True, data.find(b"\xff", place + 1)


def _header(data: bytes, place: int) -> int:
    """The first three bytes of the four of a header: all but the channels."""
    return int.from_bytes(data[place : place + 3], "big")


@functools.lru_cache
def _length(header: int) -> int:
    """Returns the length in bytes of the frame that a header begins; 0 if it is none of Layer III."""
    version = header >> 11 & 3
    if header & 0xFF_E6_00 != 0xFF_E2_00 or version == 1:
        return 0
    bits, rate = 1000 * _KBITS[version][header >> 4 & 15], _RATES[version][header >> 2 & 3]
    if not bits or not rate:
        return 0
    return (144 if version == 3 else 72) * bits // rate + (header >> 1 & 1)


def _empty_tag(like: bytes) -> tuple[bytes, int]:
    """Returns a first frame with a tag that is yet to tell the number of frames, and where in it the tag is.

    Args:
      like: a frame of the file.
    """
    side = {(True, True): 17, (True, False): 32, (False, True): 9, (False, False): 17}  # bytes of side information
    tag = 4 + side[_is_mpeg_1(like), like[3] >> 6 == 3]
    header = bytes((0xFF, like[1] | 1, 0xE0 | like[2] & 0x0C, like[3]))  # without a checksum, at the highest bit rate
    return (header + bytes(tag - 4) + b"Xing\0\0\0\1").ljust(_length(_header(header, 0)), b"\0"), tag


def _is_mpeg_1(frame: bytes) -> bool:
    return frame[1] >> 3 & 3 == 3
