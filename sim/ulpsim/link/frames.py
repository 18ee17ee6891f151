"""Frames on the wire, the scalar reference: what a request and an answer look like as bytes.

A frame is a content of whole 32-bit words, lowest byte first, and the CRC-32 (zlib's) of it,
between two FLAG bytes. A FLAG or ESCAPE within is sent as ESCAPE and the byte with bit 5 inverted,
so that a FLAG always is the border of a frame: whatever was lost or changed, the next is found.
"""

import dataclasses
import enum
import struct
import zlib
from collections.abc import Iterator

__all__ = ["ANSWER", "ESCAPE", "FLAG", "MOST_WORDS", "PAGE", "Answer", "FrameParser", "LinkCause",
           "Operation", "Request", "decode_answer", "decode_request", "encode"]

FLAG = 0x7E
ESCAPE = 0x7D
_INVERTED = 0x20

#: Words of data in one frame, at most.
MOST_WORDS = 256
#: No access to memory crosses a border between blocks of so many bytes.
PAGE = 4096
#: Set in the operation of an answer.
ANSWER = 0x80


class Operation(enum.IntEnum):
    """What a request asks for."""

    OPEN = 0
    READ_MEMORY = 1
    WRITE_MEMORY = 2
    READ_REGISTER = 3
    WRITE_REGISTER = 4


class LinkCause(enum.IntEnum):
    """How a request ended. SLAVE_ERROR and DECODE_ERROR are the bus's own answers."""

    OKAY = 0
    CORRUPT = 1
    SLAVE_ERROR = 2
    DECODE_ERROR = 3
    OPERATION = 4
    LENGTH = 5
    ADDRESS = 6


@dataclasses.dataclass(frozen=True)
class Request:
    """`count` words from `address` on, both for reads and writes; `data` is there for writes.

    `sequence` is 0 to 255. The address of OPEN is a number that the answer repeats.
    """

    sequence: int
    operation: int
    address: int
    count: int = 1
    data: bytes = b""

    def content(self) -> bytes:
        return struct.pack("<BBBBI", self.sequence, self.operation, self.count - 1, 0,
                           self.address) + self.data


@dataclasses.dataclass(frozen=True)
class Answer:
    """How the request of the same `sequence` ended, and what was read, if it ended well.

    A frame that arrived damaged is answered with CORRUPT, sequence and operation 0.
    """

    sequence: int
    operation: int
    cause: int
    data: bytes = b""

    def content(self) -> bytes:
        return struct.pack("<BBBB", self.sequence, self.operation | ANSWER, self.cause,
                           0) + self.data


def encode(content: bytes) -> bytes:
    """A frame. ValueError if the content is not made of whole words, at least one."""
    if not content or len(content) % 4:
        raise ValueError(f"content must be whole words, at least one, not {len(content)} bytes")
    stuffed = bytearray([FLAG])
    for byte in content + zlib.crc32(content).to_bytes(4, "little"):
        stuffed += bytes([ESCAPE, byte ^ _INVERTED]) if byte in (FLAG, ESCAPE) else bytes([byte])
    stuffed.append(FLAG)
    return bytes(stuffed)


class FrameParser:
    """Finds frames in a stream of bytes, however it is cut into pieces, from the first FLAG on.

    A content longer than `most_words` words counts as damaged.
    """

    def __init__(self, most_words: int) -> None:
        self.most_bytes = 4 * (most_words + 1)
        self.hunting = True
        self._clear()

    def _clear(self) -> None:
        self.content = bytearray()
        self.escaped = False
        self.overflow = False

    def feed(self, data: bytes) -> Iterator[bytes | None]:
        """The contents of the frames that end in `data`; None for one that is damaged.

        Nothing between two FLAGs is no frame.
        """
        for byte in data:
            if byte == FLAG:
                if self.content or self.escaped or self.overflow:
                    yield self._finished()
                self.hunting = False
                self._clear()
            elif self.hunting:
                continue
            elif byte == ESCAPE and not self.escaped:
                self.escaped = True
            else:
                self.content.append(byte ^ _INVERTED if self.escaped else byte)
                self.escaped = False
                if len(self.content) > self.most_bytes:
                    self.overflow = True
                    self.content.clear()

    def _finished(self) -> bytes | None:
        content, check = bytes(self.content[:-4]), bytes(self.content[-4:])
        if (self.overflow or self.escaped or not content or len(content) % 4
                or zlib.crc32(content).to_bytes(4, "little") != check):
            return None
        return content


def decode_request(content: bytes) -> Request | None:
    """The request in the content of a frame; None if it is shorter than a request."""
    if len(content) < 8:
        return None
    sequence, operation, count, _, address = struct.unpack_from("<BBBBI", content)
    return Request(sequence, operation, address, count + 1, content[8:])


def decode_answer(content: bytes) -> Answer | None:
    """The answer in the content of a frame; None if it is none."""
    sequence, operation, cause, _ = struct.unpack_from("<BBBB", content)
    if not operation & ANSWER:
        return None
    return Answer(sequence, operation & ~ANSWER, cause, content[4:])
