"""Packets on the network: a header flit, flits of payload, and a flit with their CRC.

The header, in the lowest 64 bits of its flit:

| bits | field |
|---|---|
| 0-15 | destination (`topology.Address`; of a multicast packet zero) |
| 16-31 | source |
| 32-47 | bytes of payload |
| 48 | multicast: to every terminal but the source |
| 49-63 | tag, for those at both ends |

Payload stands in flits from the lowest byte on, the last one padded with zeros. The last flit holds
the CRC-32 (that of Ethernet and zlib) of all bytes of the flits before it, in its lowest 32 bits.
"""

import dataclasses
import enum
import zlib
from collections.abc import Sequence

from .topology import Address

__all__ = ["LARGEST_PAYLOAD", "TAGS", "WIDTHS", "Flit", "Header", "NetworkCause", "packet_flits",
           "packetise", "receive"]

#: Bits of a flit.
WIDTHS = (64, 128, 256)
LARGEST_PAYLOAD = (1 << 16) - 1
TAGS = 1 << 15


@dataclasses.dataclass(frozen=True)
class Flit:
    """What a link carries in one cycle."""

    data: int
    first: bool
    last: bool


@dataclasses.dataclass(frozen=True)
class Header:
    """What a packet says of itself."""

    destination: Address
    source: Address
    bytes: int
    multicast: bool = False
    tag: int = 0

    def encode(self) -> int:
        """As the first flit's data. Raises ValueError for a field that is out of its range."""
        for name, limit in (("bytes", LARGEST_PAYLOAD + 1), ("tag", TAGS)):
            value = getattr(self, name)
            if not 0 <= value < limit:
                raise ValueError(f"{name} must be from 0 to {limit - 1}, not {value!r}")
        return (self.destination.encode() | self.source.encode() << 16 | self.bytes << 32
                | self.multicast << 48 | self.tag << 49)

    @classmethod
    def decode(cls, data: int) -> "Header":
        """Of the first flit's data."""
        return cls(Address.decode(data & 0xFFFF), Address.decode(data >> 16 & 0xFFFF),
                   data >> 32 & 0xFFFF, bool(data >> 48 & 1), data >> 49 & TAGS - 1)


class NetworkCause(enum.IntEnum):
    """What was wrong with a packet, or with a terminal."""

    NONE = 0
    DESTINATION = 1     #: there is no such terminal; dropped by the first router
    LENGTH = 2          #: more or fewer flits than the header says, or more than can be received
    CRC = 3             #: its bytes are not those that were sent
    STALLED = 4         #: the terminal has not taken a flit for too long; it is cut off
    RESET = 5           #: the terminal is in reset; it is cut off
    SILENT = 6          #: the terminal has not ended a packet for too long; it is ended, as damaged
    TIMEOUT = 7         #: a collective operation still waits for this node


def packet_flits(bytes: int, width: int) -> int:
    """Flits of a packet with so many bytes of payload."""
    return 2 + -(-8 * bytes // width)


def packetise(header: Header, payload: bytes, width: int = 64) -> list[Flit]:
    """The flits of a packet. Raises ValueError for a payload that is not as long as its header
    says, or an unknown width."""
    if width not in WIDTHS:
        raise ValueError(f"width must be one of {', '.join(map(str, WIDTHS))}, not {width!r}")
    if len(payload) != header.bytes:
        raise ValueError(f"payload must have the {header.bytes} bytes of its header, not "
                         f"{len(payload)}")
    size = width // 8
    body = header.encode().to_bytes(size, "little") + payload + bytes(-len(payload) % size)
    words = [int.from_bytes(body[i:i + size], "little") for i in range(0, len(body), size)]
    words.append(zlib.crc32(body))
    return [Flit(word, i == 0, i == len(words) - 1) for i, word in enumerate(words)]


def receive(flits: Sequence[Flit], width: int = 64, largest: int = LARGEST_PAYLOAD
            ) -> tuple[NetworkCause, Header, bytes]:
    """What a terminal makes of a packet: a cause or NONE, its header, and its payload.

    `largest` is the most payload, in bytes, that can be received.
    """
    header = Header.decode(flits[0].data)
    if header.bytes > largest or len(flits) != packet_flits(header.bytes, width):
        return NetworkCause.LENGTH, header, b""
    body = b"".join(f.data.to_bytes(width // 8, "little") for f in flits[:-1])
    if zlib.crc32(body) != flits[-1].data:
        return NetworkCause.CRC, header, b""
    return NetworkCause.NONE, header, body[width // 8:][:header.bytes]
