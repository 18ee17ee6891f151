"""The host's end of the link: a `Bus` over a stream of bytes that may be damaged or lost."""

import dataclasses
import itertools
import secrets
import struct
import time
from collections.abc import Callable
from typing import Protocol

from .device import LINK_IDENTIFIER
from .frames import (
    MOST_WORDS,
    PAGE,
    Answer,
    FrameParser,
    LinkCause,
    Operation,
    Request,
    decode_answer,
    encode,
)

__all__ = ["BoardIdentity", "LinkBus", "LinkError", "Transport"]


class LinkError(OSError):
    """The board cannot be reached, or refuses; the message says what to do."""


class Transport(Protocol):
    """A stream of bytes to the board and back. Both raise LinkError when it is broken."""

    def write(self, data: bytes) -> None:
        """Send all of `data`, or raise."""
        ...

    def read(self, timeout: float) -> bytes:
        """What has come, at least one byte; nothing after `timeout` seconds without any."""
        ...


@dataclasses.dataclass(frozen=True)
class BoardIdentity:
    """What the board said when the link was opened: sizes in bytes, the clock in Hz."""

    configuration: int
    memory_bytes: int
    clock_hz: int


class LinkBus:
    """Registers and memory of a board, for `ulpsim.driver.Driver`.

    One request is under way at a time. It is sent again when the board says that it came damaged,
    and when no answer comes in time; the sequence number keeps the board from doing a write twice,
    and answers to earlier requests from being taken for this one's. What a method returns has
    come in a frame whose CRC is right, for this very request.

    Parameters
    ----------
    transport
        The bytes.
    timeout
        Seconds without a byte after which a request is sent again, at first: it doubles each time,
        up to eight times as long.
    patience
        Seconds after which an unanswered request is given up.
    progress
        Called with the bytes of memory that went across since the last call.

    Attributes
    ----------
    identity
        What the board said of itself.
    repeated
        Requests that were sent again.

    Raises LinkError when the board does not answer, speaks another language or refuses an access.
    """

    def __init__(self, transport: Transport, *, timeout: float = 0.25, patience: float = 10.0,
                 progress: Callable[[int], None] = lambda more: None) -> None:
        self.transport, self.timeout, self.patience = transport, timeout, patience
        self.progress = progress
        self.repeated = 0
        self.parser = FrameParser(1 + MOST_WORDS)
        self._sequences = itertools.cycle(range(256))
        self.identity = self._open()

    def read_register(self, offset: int) -> int:
        data = self._ask(Operation.READ_REGISTER, offset, 1, size=4)
        return int.from_bytes(data, "little")

    def write_register(self, offset: int, value: int) -> None:
        self._ask(Operation.WRITE_REGISTER, offset, 1, value.to_bytes(4, "little"))

    def read_memory(self, address: int, size: int) -> bytes:
        first, last = address & -4, -(-(address + size) // 4) * 4
        parts = []
        for start, end in self._pieces(first, last):
            parts.append(self._ask(Operation.READ_MEMORY, start, (end - start) // 4,
                                   size=end - start))
            self.progress(end - start)
        return b"".join(parts)[address - first:][:size]

    def write_memory(self, address: int, data: bytes) -> None:
        """Write any bytes; of words that are written in part the rest is read first."""
        first, last = address & -4, -(-(address + len(data)) // 4) * 4
        if not data:
            return
        head = self.read_memory(first, address - first) if address > first else b""
        end = address + len(data)
        tail = self.read_memory(end, last - end) if last > end else b""
        words = head + data + tail
        for start, end in self._pieces(first, last):
            self._ask(Operation.WRITE_MEMORY, start, (end - start) // 4,
                      words[start - first:end - first])
            self.progress(end - start)

    @staticmethod
    def _pieces(first: int, last: int):
        """Accesses that neither cross a page nor are longer than a frame."""
        step = min(PAGE, 4 * MOST_WORDS)
        while first < last:
            end = min(last, (first // step + 1) * step)
            yield first, end
            first = end

    def _open(self) -> BoardIdentity:
        nonce = secrets.randbits(32)
        answer = self._exchange(Request(next(self._sequences), Operation.OPEN, nonce),
                                lambda answer: answer.cause == LinkCause.OKAY and
                                len(answer.data) == 20 and
                                answer.data[:4] == struct.pack("<I", nonce))
        identifier, *identity = struct.unpack("<4I", answer.data[4:])
        if identifier != LINK_IDENTIFIER:
            raise LinkError(f"the board must speak the link {LINK_IDENTIFIER:#x}, not "
                            f"{identifier:#x}: build and flash its bitstream anew")
        return BoardIdentity(*identity)

    def _ask(self, operation: Operation, address: int, count: int, data: bytes = b"",
             size: int = 0) -> bytes:
        """The data of the answer, `size` bytes."""
        answer = self._exchange(
            Request(next(self._sequences), operation, address, count, data),
            lambda answer: len(answer.data) == (size if answer.cause == LinkCause.OKAY else 0))
        if answer.cause != LinkCause.OKAY:
            cause = LinkCause(answer.cause).name if answer.cause in set(LinkCause) else answer.cause
            kind = operation.name.lower().replace("_", " ")
            raise LinkError(f"the board answered {kind} at {address:#x}, {count} words, with "
                            f"{cause}: its memory has {self.identity.memory_bytes} bytes")
        return answer.data

    def _exchange(self, request: Request, fits: Callable[[Answer], bool]) -> Answer:
        """The answer to a request, which is sent until it comes."""
        frame = encode(request.content())
        given_up = time.monotonic() + self.patience
        timeout = self.timeout
        while True:
            self.transport.write(frame)
            answer = self._await(request, fits, timeout, given_up)
            if answer is not None:
                return answer
            if time.monotonic() >= given_up:
                raise LinkError(f"the board did not answer for {self.patience:g} s: check that it "
                                "is powered, flashed with `ulpcore flash`, and that the port and "
                                "--baud are its own")
            self.repeated += 1
            timeout = min(2 * timeout, 8 * self.timeout)

    def _await(self, request: Request, fits: Callable[[Answer], bool], timeout: float,
               given_up: float) -> Answer | None:
        """The answer to `request`; None when a frame came damaged at either end, and after
        `timeout` seconds without a byte."""
        ends = time.monotonic() + timeout
        while (left := min(ends, given_up) - time.monotonic()) > 0:
            data = self.transport.read(left)
            if data:
                ends = max(ends, time.monotonic() + self.timeout)
            found, damaged = None, False
            for content in self.parser.feed(data):
                answer = None if content is None else decode_answer(content)
                damaged |= answer is None or answer.cause == LinkCause.CORRUPT
                if answer is not None and fits(answer) and \
                        (answer.sequence, answer.operation) == (request.sequence,
                                                                request.operation):
                    found = answer
            if found is not None or damaged:
                return found
        return None
