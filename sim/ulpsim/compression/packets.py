"""Packets: the words of a layer with all that a receiver has to know, and the receiver.

A packet is a sequence of 32-bit numbers, least significant byte first:

| number | bits | field |
|---|---|---|
| 0 | 0-9 | learner |
| | 10-21 | layer |
| | 22-31 | step, modulo 1024 |
| 1 | 0-13 | bin size - 1 |
| | 14-26 | count: words in the packet, from 0 to 4096 |
| | 27 | last packet of the layer |
| | 28 | incomplete: gradients of this layer were not taken (in its last packet) |
| | 29 | continued: not the first packet of the layer |
| | 30-31 | part: number of the packet within the layer, modulo 4 |
| 2 | | scale, FP32 |
| 3 | | only if continued: the bin that is current before the first word |
| then | | the words, 8 or 16 bits each by the bin size, padded with zeros |
| then | | CRC-32 (that of Ethernet and zlib) |

The CRC is that of the header and of the words, each padded with zeros to a multiple of 32 bytes:
the padding is not sent, and lets hardware of any width compute the same.

A layer's words are cut into packets of 4096, so that a receiver can hold a packet and check it as a
whole before it changes anything.
"""

import dataclasses
import enum
import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from .. import float32
from .adacomp import LARGEST_BIN, Compressed
from .words import decode_array, encode_array, walk_array, word_bits

__all__ = ["LARGEST_PACKET", "LAYERS", "LEARNERS", "STEPS", "Header", "PacketCause", "Round",
           "checksum", "empty_packet", "packets_of", "parse", "split"]

#: Words in a packet.
LARGEST_PACKET = 4096
LEARNERS, LAYERS, STEPS = 1 << 10, 1 << 12, 1 << 10
_PARTS = 4
_CRC_BLOCK = 32


@dataclasses.dataclass(frozen=True)
class Header:
    """What a packet says of itself; the attributes are those of the table above.

    `scale` is FP32 bits; `first_bin` is 0 unless `continued`.
    """

    learner: int
    layer: int
    step: int
    bin_size: int
    count: int
    last: bool
    incomplete: bool
    continued: bool
    part: int
    scale: int
    first_bin: int = 0

    @property
    def numbers(self) -> int:
        """32-bit numbers of the header."""
        return 4 if self.continued else 3

    @property
    def payload_bytes(self) -> int:
        """Bytes of the words, with their padding."""
        return -(-self.count * word_bits(self.bin_size) // 32) * 4

    @property
    def size(self) -> int:
        """Bytes of the whole packet."""
        return 4 * self.numbers + self.payload_bytes + 4

    def encode(self) -> bytes:
        """The header's bytes. Raises ValueError for a field that is out of its range."""
        for name, limit in (("learner", LEARNERS), ("layer", LAYERS), ("step", STEPS),
                            ("count", LARGEST_PACKET + 1), ("part", _PARTS),
                            ("scale", 1 << 32), ("first_bin", 1 << 32)):
            value = getattr(self, name)
            if not 0 <= value < limit:
                raise ValueError(f"{name} must be from 0 to {limit - 1}, not {value!r}")
        if not 1 <= self.bin_size <= LARGEST_BIN:
            raise ValueError(f"bin_size must be from 1 to {LARGEST_BIN}, not {self.bin_size!r}")
        numbers = [self.learner | self.layer << 10 | self.step << 22,
                   self.bin_size - 1 | self.count << 14 | self.last << 27 | self.incomplete << 28
                   | self.continued << 29 | self.part << 30,
                   self.scale, self.first_bin]
        return b"".join(n.to_bytes(4, "little") for n in numbers[:self.numbers])

    @classmethod
    def decode(cls, data: bytes) -> "Header":
        """The header at the beginning of some bytes. Raises ValueError if they are too few."""
        numbers = [int.from_bytes(data[i:i + 4], "little") for i in range(0, 16, 4)]
        continued = bool(numbers[1] >> 29 & 1)
        if len(data) < (16 if continued else 12):
            raise ValueError(f"packet must have {16 if continued else 12} bytes of header, not "
                             f"{len(data)}")
        return cls(numbers[0] & 0x3FF, numbers[0] >> 10 & 0xFFF, numbers[0] >> 22,
                   (numbers[1] & 0x3FFF) + 1, numbers[1] >> 14 & 0x1FFF,
                   bool(numbers[1] >> 27 & 1), bool(numbers[1] >> 28 & 1), continued,
                   numbers[1] >> 30, numbers[2], numbers[3] if continued else 0)


def checksum(header: bytes, payload: bytes) -> int:
    """The CRC-32 of a packet."""
    return zlib.crc32(payload + bytes(-len(payload) % _CRC_BLOCK),
                      zlib.crc32(header + bytes(-len(header) % _CRC_BLOCK)))


def packets_of(compressed: Compressed, bin_size: int, *, layer: int, learner: int,
               step: int) -> list[bytes]:
    """The packets of one step of one layer: at least one, that the layer is known to be done.

    `step` counts modulo 1024.
    """
    words, current = encode_array(compressed.positions, compressed.negative, bin_size,
                                  len(compressed.residue))
    kind = np.dtype("u1" if word_bits(bin_size) == 8 else "<u2")
    packets = []
    for part in range(max(-(-len(words) // LARGEST_PACKET), 1)):
        first = part * LARGEST_PACKET
        some = words[first:first + LARGEST_PACKET]
        last = first + LARGEST_PACKET >= len(words)
        header = Header(learner, layer, step % STEPS, bin_size, len(some), last,
                        last and compressed.refused > 0, part > 0, part % _PARTS,
                        compressed.scale, int(current[first]) if part else 0)
        payload = some.astype(kind).tobytes()
        payload += bytes(-len(payload) % 4)
        head = header.encode()
        packets.append(head + payload + checksum(head, payload).to_bytes(4, "little"))
    return packets


def empty_packet(bin_size: int, *, layer: int, learner: int, step: int) -> bytes:
    """The packet of a learner that sends nothing of a layer."""
    head = Header(learner, layer, step % STEPS, bin_size, 0, True, False, False, 0, 0).encode()
    return head + checksum(head, b"").to_bytes(4, "little")


class PacketCause(enum.IntEnum):
    """Why a packet was refused; of several causes the first one in this order counts."""

    NONE = 0
    LENGTH = 1          #: truncated, longer than its header says, or of more than 4096 words
    CHECKSUM = 2        #: the CRC differs
    LAYER = 3           #: of another layer than the one that is being added
    REPLAYED = 4        #: of an earlier step, learner or part: it has been added already
    ORDER = 5           #: of a later step, learner or part: one before it is missing
    SCALE = 6           #: the scale is negative or NaN-Inf
    WORD = 7            #: a reserved word
    RANGE = 8           #: an index beyond the bin, or a bin or element beyond the layer


def parse(packet: bytes) -> tuple[Header, NDArray[np.uint16]]:
    """The header and the words of a packet.

    Raises ValueError for a wrong length or CRC.
    """
    header, cause = _check(packet)
    if header is None or cause is not PacketCause.NONE:
        raise ValueError(f"packet of {len(packet)} bytes is corrupt: its {cause.name.lower()} is "
                         "wrong")
    return header, _words(header, packet)


def _words(header: Header, packet: bytes) -> NDArray[np.uint16]:
    kind = np.dtype("u1" if word_bits(header.bin_size) == 8 else "<u2")
    return np.frombuffer(packet, kind, header.count, 4 * header.numbers).astype(np.uint16)


def _check(packet: bytes) -> tuple[Header | None, PacketCause]:
    try:
        header = Header.decode(packet)
    except ValueError:
        return None, PacketCause.LENGTH
    if len(packet) != header.size or header.count > LARGEST_PACKET:
        return header, PacketCause.LENGTH
    head = packet[:4 * header.numbers]
    payload = packet[len(head):-4]
    if checksum(head, payload) != int.from_bytes(packet[-4:], "little"):
        return header, PacketCause.CHECKSUM
    return header, PacketCause.NONE


def split(stream: bytes) -> Iterator[bytes]:
    """The packets of a file in which they stand one after another.

    Raises ValueError at a packet that ends beyond the file.
    """
    at = 0
    while at < len(stream):
        header = Header.decode(stream[at:at + 16])
        if at + header.size > len(stream):
            raise ValueError(f"packet at byte {at} must have {header.size} bytes, not the "
                             f"{len(stream) - at} that are left")
        yield stream[at:at + header.size]
        at += header.size


class Round:
    """The receiver: adds one step of one layer, of every learner in turn, to a dense gradient.

    The packets must come in the order of learners and parts; any other is refused and leaves the
    gradient as it was, and so can be sent again. Sums are FP32 additions of scale * sign in the
    order of the packets, so every receiver comes to the same bits.

    Parameters
    ----------
    gradient
        The dense gradient, FP32 bits (uint32) or float32; it is changed in place.
    """

    def __init__(self, gradient: NDArray[np.uint32], *, layer: int, step: int,
                 learners: int) -> None:
        if not 1 <= learners <= LEARNERS:
            raise ValueError(f"learners must be from 1 to {LEARNERS}, not {learners!r}")
        self.gradient = gradient
        self.layer, self.step, self.learners = layer, step % STEPS, learners
        self.learner = self.part = 0

    @property
    def done(self) -> bool:
        """Every learner's packets have been added."""
        return self.learner == self.learners

    def add(self, packet: bytes) -> PacketCause:
        """Add one packet, or refuse it; why."""
        header, cause = _check(packet)
        if header is None or cause is not PacketCause.NONE:
            return cause
        cause = self._order(header)
        if cause is not PacketCause.NONE:
            return cause
        if header.scale > float32.LARGEST:
            return PacketCause.SCALE
        words = _words(header, packet)
        if ((words & 3) == 0b10).any():
            return PacketCause.WORD
        bins, _ = walk_array(words, header.first_bin)
        if header.count and bins[-1] * header.bin_size >= len(self.gradient):
            return PacketCause.RANGE
        try:
            positions, negative = decode_array(words, header.bin_size, header.first_bin)
        except ValueError:
            return PacketCause.RANGE
        if len(positions) and positions[-1] >= len(self.gradient):
            return PacketCause.RANGE
        self._take(positions, negative, header.scale)
        self.learner, self.part = ((self.learner + 1, 0) if header.last
                                   else (self.learner, self.part + 1))
        return PacketCause.NONE

    def _take(self, positions: NDArray[np.int64], negative: NDArray[np.bool_], scale: int) -> None:
        self.gradient[positions] = float32.add_array(
            self.gradient[positions],
            np.where(negative, np.uint32(scale ^ 1 << 31), np.uint32(scale)))

    def _order(self, header: Header) -> PacketCause:
        if header.layer != self.layer:
            return PacketCause.LAYER
        if header.step != self.step:
            behind = (self.step - header.step) % STEPS
            return PacketCause.REPLAYED if behind < STEPS // 2 else PacketCause.ORDER
        if header.learner != self.learner:
            return (PacketCause.REPLAYED if header.learner < self.learner else PacketCause.ORDER)
        if header.continued == (self.part > 0) and header.part == self.part % _PARTS:
            return PacketCause.NONE
        if not header.continued:
            return PacketCause.REPLAYED
        behind = (self.part - header.part) % _PARTS
        return PacketCause.REPLAYED if self.part > 0 and behind in (1, 2) else PacketCause.ORDER

