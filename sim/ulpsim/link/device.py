"""The board's end of the link, the scalar reference: bytes in, bytes out, a core behind it."""

import struct
from typing import Protocol

from ..driver import Bus
from .frames import (
    MOST_WORDS,
    PAGE,
    Answer,
    FrameParser,
    LinkCause,
    Operation,
    Request,
    decode_request,
    encode,
)

__all__ = ["LINK_IDENTIFIER", "Identity", "LinkDevice", "identity_words"]

#: "ulk" and the version of the link.
LINK_IDENTIFIER = 0x756C6B01


class Identity(Protocol):
    """What a board says of itself when the link is opened: sizes in bytes, the clock in Hz."""

    configuration: int
    memory_bytes: int
    clock_hz: int


def identity_words(identity: Identity) -> tuple[int, ...]:
    """The words of the answer to OPEN, after the number that it repeats."""
    return (LINK_IDENTIFIER, identity.configuration, identity.memory_bytes, identity.clock_hz)


class LinkDevice:
    """Answers requests as a board does.

    A write whose sequence number is that of the request before it is not done again: it is answered
    as that was. Reads have no effects, so they are done again. OPEN forgets the number.

    Parameters
    ----------
    bus
        What registers and memory are read from and written to. ValueError from it is answered with
        SLAVE_ERROR for a register and with DECODE_ERROR for memory.
    identity
        What OPEN is answered with.
    """

    def __init__(self, bus: Bus, identity: Identity) -> None:
        self.bus, self.identity = bus, identity
        self.parser = FrameParser(2 + MOST_WORDS)
        self.last: tuple[int, int] | None = None

    def receive(self, data: bytes) -> bytes:
        """The bytes that the board sends because of `data`."""
        return b"".join(encode(self._answer(content).content())
                        for content in self.parser.feed(data))

    def _answer(self, content: bytes | None) -> Answer:
        request = None if content is None else decode_request(content)
        if request is None:
            return Answer(0, 0, LinkCause.CORRUPT)
        writes = request.operation in (Operation.WRITE_MEMORY, Operation.WRITE_REGISTER)
        if writes and self.last is not None and self.last[0] == request.sequence:
            return Answer(request.sequence, request.operation, self.last[1])
        cause, data = self._checked(request)
        self.last = None if request.operation == Operation.OPEN else (request.sequence, cause)
        return Answer(request.sequence, request.operation, cause, data)

    def _checked(self, request: Request) -> tuple[LinkCause, bytes]:
        operation, count, address = request.operation, request.count, request.address
        if operation not in set(Operation):
            return LinkCause.OPERATION, b""
        writes = operation in (Operation.WRITE_MEMORY, Operation.WRITE_REGISTER)
        memory = operation in (Operation.READ_MEMORY, Operation.WRITE_MEMORY)
        if len(request.data) != 4 * count * writes or (count > 1 and not memory):
            return LinkCause.LENGTH, b""
        if operation == Operation.OPEN:
            return LinkCause.OKAY, struct.pack("<5I", address, *identity_words(self.identity))
        if address % 4 or (memory and address % PAGE + 4 * count > PAGE):
            return LinkCause.ADDRESS, b""
        try:
            return LinkCause.OKAY, self._access(request)
        except ValueError:
            return LinkCause.DECODE_ERROR if memory else LinkCause.SLAVE_ERROR, b""

    def _access(self, request: Request) -> bytes:
        bus, address = self.bus, request.address
        if request.operation == Operation.READ_MEMORY:
            return bus.read_memory(address, 4 * request.count)
        if request.operation == Operation.WRITE_MEMORY:
            bus.write_memory(address, request.data)
        elif request.operation == Operation.READ_REGISTER:
            return bus.read_register(address).to_bytes(4, "little")
        else:
            bus.write_register(address, int.from_bytes(request.data, "little"))
        return b""
