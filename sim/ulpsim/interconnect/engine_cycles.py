"""What a collective engine consists of, cycle by cycle: between memory and the flits of packets.

The blocks of `ulpcore.interconnect` (`outbox`, `inbox`, `growing_reader`, the sender and receiver
of `interface`) and of `ulpcore.compression` (`BeatReader`, `BeatWriter`) without data: memory is
counted in beats of the bus, and a packet is what its header says. Everything is as long as nothing
goes wrong. `advance` ends a cycle; what a block shows before is that of its registers.
"""

import collections
import dataclasses
import enum

from .packets import packet_flits
from .port_cycles import OutputQueue, ReadClient, WriteClient

__all__ = ["BeatWriter", "BurstReader", "GrowingReader", "Inbox", "Outbox", "Packet", "Receiver",
           "Sender"]

#: Beats of the longest burst, bursts under way of a reader, and bytes of a page.
_LONGEST, _OUTSTANDING, _PAGE = 16, 8, 4096
#: Cycles from two numbers to their sum.
_ADD_STAGES = 4
#: Headers that wait in a receiver.
_HEADERS = 16


@dataclasses.dataclass(frozen=True)
class Packet:
    """A packet of a collective; one without payload says that its chunk is complete."""

    bytes: int


class GrowingReader(ReadClient):
    """Reads beats of which more and more are there, in bursts that end at multiples of the
    longest."""

    def __init__(self) -> None:
        self.depth = _LONGEST * _OUTSTANDING
        self.waiting = OutputQueue(self.depth)
        self.address = self.asked = self.kept = 0

    def advance(self, *, begin: int | None, available: int, complete: bool, discards: bool,
                takes: bool) -> None:
        rest, whole = available - self.asked, _LONGEST - self.address % _LONGEST
        asks = ((not self.length or self.granted) and not discards
                and self.kept <= self.depth - _LONGEST
                and (rest >= whole or (complete and rest > 0)))
        self.waiting.advance(self.beat, takes)
        self.kept -= takes
        if self.granted:
            self.length = 0
        if asks:
            self.length = min(rest, whole)
            self.kept += self.length
            self.asked += self.length
            self.address += self.length
        if begin is not None:
            self.address, self.asked = begin, 0


class BurstReader(ReadClient):
    """Reads a known number of beats; a burst is cut in one cycle and shown in the next."""

    def __init__(self, bus_bytes: int) -> None:
        self.page = _PAGE // bus_bytes
        self.waiting = OutputQueue(_LONGEST * _OUTSTANDING)
        self.active = self.sized = False
        self.address = self.left = self.beats = self.under_way = 0

    def advance(self, *, begin: tuple[int, int] | None, takes: bool) -> None:
        ends = takes and self.waiting.front
        issues = (self.active and self.sized and self.under_way != _OUTSTANDING
                  and (not self.length or self.granted))
        self.waiting.advance(self.beat, takes)
        self.under_way += issues - bool(ends)
        if self.granted:
            self.length = 0
        if self.active and not self.sized:
            self.beats = min(self.left, self.page - self.address % self.page, _LONGEST)
            self.sized = True
        elif issues:
            self.sized, self.length = False, self.beats
            self.address += self.beats
            self.left -= self.beats
            self.active = self.left > 0
        if begin is not None:
            self.active, self.sized = True, False
            self.address, self.left = begin


class BeatWriter(WriteClient):
    """Writes beats as they come, in bursts that end at multiples of the longest, or at the end."""

    def __init__(self, longest: int = _LONGEST) -> None:
        self.longest = longest
        self.waiting = OutputQueue(2 * longest)
        self.address = self.to_ask = self.left = 0

    @property
    def idle(self) -> bool:
        return not self.left

    @property
    def ready(self) -> bool:
        return self.waiting.ready

    def advance(self, *, begin: int | None, comes: bool, ending: bool) -> None:
        came = comes and self.ready
        whole = self.longest - self.address % self.longest
        asks = (not self.length or self.granted) and (
            self.to_ask >= whole or (ending and self.to_ask > 0))
        length = min(self.to_ask, whole) if asks else 0
        self.waiting.advance(True if came else None, self.sends)
        self.to_ask += came - length
        self.left += came - self.sends
        if self.granted:
            self.length = 0
        if asks:
            self.length = length
            self.address += length
        if begin is not None:
            self.address = begin


class Outbox:
    """Sends a chunk, which may still be growing, as packets."""

    class State(enum.Enum):
        IDLE, PACKET, OFFER, FEED = range(4)

    def __init__(self, bus_bytes: int, largest: int) -> None:
        self.bus_bytes, self.largest = bus_bytes, largest
        self.reader = GrowingReader()
        self.state = self.State.IDLE
        self.bytes = self.written = self.sent = self.size = self.beats = 0
        self.complete = False

    @property
    def idle(self) -> bool:
        return self.state is self.State.IDLE

    @property
    def packet(self) -> Packet | None:
        """That it offers."""
        return Packet(self.size) if self.state is self.State.OFFER else None

    @property
    def beat(self) -> bool:
        """Whether it offers one."""
        return self.state is self.State.FEED and self.reader.waiting.valid

    def done(self, packet_taken: bool) -> bool:
        """Whether the last packet of the chunk is begun in this cycle."""
        return packet_taken and not self.size

    def advance(self, *, begin: int | None, bytes: int, written: int, complete: bool,
                packet_taken: bool, beat_taken: bool) -> None:
        """`begin` is the chunk's first beat; `bytes` of it are known, `written` in memory."""
        state, left = self.state, self.bytes - self.sent
        self.reader.advance(
            begin=begin, complete=self.complete, discards=state is self.State.IDLE,
            available=(self.written + (self.bus_bytes - 1) * self.complete) // self.bus_bytes,
            takes=beat_taken)
        if state is self.State.PACKET and (self.complete or left >= self.largest):
            self.state = self.State.OFFER
        elif packet_taken:
            self.state = self.State.FEED if self.size else self.State.IDLE
            self.sent += self.size
            self.beats = -(-self.size // self.bus_bytes)
        elif beat_taken:
            self.beats -= 1
            if not self.beats:
                self.state = self.State.PACKET
        if state is self.State.PACKET:
            self.size = min(left, self.largest)
        self.bytes, self.written, self.complete = bytes, written, complete
        if state is self.State.IDLE:
            self.bytes = self.written = self.sent = 0
            self.complete = False
            if begin is not None:
                self.state = self.State.PACKET


class Sender:
    """Sends the header of a packet that is offered to it, its payload as it comes, and the CRC."""

    def __init__(self, bus_bytes: int) -> None:
        self.bus_bytes = bus_bytes
        self.packet: Packet | None = None
        self.left = 0

    def first(self, packet: Packet | None) -> bool:
        """Whether it offers the header of a packet."""
        return self.packet is None and packet is not None

    @property
    def last(self) -> bool:
        """Whether it offers a CRC."""
        return self.packet is not None and not self.left

    def body(self, beat: bool) -> bool:
        """Whether it offers a flit of payload."""
        return self.packet is not None and self.left > 0 and beat

    def advance(self, packet: Packet | None, beat: bool, accepted: bool) -> None:
        if not accepted:
            return
        if self.last:
            self.packet = None
        elif self.body(beat):
            self.left -= 1
        elif packet is not None:
            self.packet, self.left = packet, -(-packet.bytes // self.bus_bytes)


class Receiver:
    """Stores a packet as a whole; then its header and its payload come out."""

    def __init__(self, bus_bytes: int, largest: int) -> None:
        most = packet_flits(largest, 8 * bus_bytes) - 2
        self.depth = 1 << (max(2 * most, 2) - 1).bit_length()
        self.headers: collections.deque[Packet] = collections.deque()
        self.arriving: Packet | None = None
        self.settled = self.fetched = False
        #: Flits that have been stored, are of whole packets, have been fetched, have been taken.
        self.stored = self.whole = self.read = self.taken = 0

    @property
    def ready(self) -> bool:
        return not self.settled and self.stored - self.taken != self.depth

    def advance(self, *, first: Packet | None, body: bool, last: bool, header_taken: bool,
                flit_taken: bool) -> None:
        """A packet's first flit, one of payload or its last one comes, or none."""
        whole, settles = self.whole, self.settled and len(self.headers) < _HEADERS
        if header_taken:
            self.headers.popleft()
        if settles:
            assert self.arriving is not None
            self.headers.append(self.arriving)
            self.settled, self.whole = False, self.stored
        if first is not None:
            self.arriving = first
        self.stored += body
        if last:
            self.settled = True
        if flit_taken:
            self.taken += 1
        if not self.fetched or flit_taken:
            self.fetched = self.read != whole
            self.read += self.fetched


class Inbox:
    """Takes the packets of a chunk, and writes them, or adds them to what is in memory."""

    class State(enum.Enum):
        IDLE, WAIT, TAKE, FLUSH = range(4)

    def __init__(self, bus_bytes: int) -> None:
        self.bus_bytes = bus_bytes
        self.reader = BurstReader(bus_bytes)
        self.state = self.State.IDLE
        self.adds = False
        self.limit = self.left = self.bytes = 0
        self.sums = [False] * _ADD_STAGES

    @property
    def idle(self) -> bool:
        return self.state is self.State.IDLE

    def ending(self, header: bool) -> bool:
        """No beat comes for the moment."""
        return (self.state is self.State.FLUSH
                or (self.state is self.State.WAIT and not header and not any(self.sums)))

    def done(self, flushed: bool) -> bool:
        """The chunk is complete and in memory."""
        return self.state is self.State.FLUSH and flushed and not any(self.sums)

    def takes_header(self, header: bool) -> bool:
        return self.state is self.State.WAIT and header

    def takes_flit(self, flit: bool, ready: bool) -> bool:
        """Whether a flit of payload is taken, if one is there and the writer is ready."""
        if self.state is not self.State.TAKE or not flit:
            return False
        if self.adds:
            return self.reader.waiting.valid and (ready or not self.sums[-1])
        return ready

    def beat(self, flit: bool) -> bool:
        """Whether it offers a beat to the writer."""
        return self.sums[-1] if self.adds else flit and self.state is self.State.TAKE

    def advance(self, *, begin: tuple[int, int, bool] | None, header: Packet | None,
                flit_taken: bool, ready: bool, flushed: bool) -> None:
        """`begin` is the chunk's first beat, the most bytes of it, and whether to add."""
        state, done = self.state, self.done(flushed)
        beats = None
        if state is self.State.IDLE:
            if begin is not None:
                address, self.limit, self.adds = begin
                self.state = self.State.WAIT
                if self.adds and self.limit:
                    beats = address, -(-self.limit // self.bus_bytes)
        elif state is self.State.WAIT:
            if header is not None:
                self.bytes += header.bytes
                if self.bytes > self.limit:
                    raise ValueError(f"chunk must fit the {self.limit} bytes that there are for "
                                     f"it, not {self.bytes}")
                self.left = -(-header.bytes // self.bus_bytes)
                self.state = self.State.TAKE if header.bytes else self.State.FLUSH
        elif state is self.State.TAKE:
            self.left -= flit_taken
            if not self.left:
                self.state = self.State.WAIT
        elif done:
            self.bytes, self.state = 0, self.State.IDLE
        self.reader.advance(begin=beats, takes=flit_taken and self.adds)
        if ready or not self.sums[-1]:
            self.sums = [flit_taken and self.adds, *self.sums[:-1]]
