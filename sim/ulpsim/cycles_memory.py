"""How long LOAD, FILL, STORE and the fetch of the program take beside a memory of fixed latency.

The memory is that of `memory.v` without stalls: the first beat of a read burst comes `latency`
cycles after its address was accepted, or right behind the burst before it, then a beat a cycle;
a write burst is answered `latency` cycles after its last beat. All cycles are absolute; the
scratchpad's shared port is in phase t mod 4 in cycle t.

What follows is `ulpcore.load`, `ulpcore.store` and `ulpcore.bursts` written as recurrences over
bursts and groups of slots (as many as the scratchpad has banks) instead of cycles.
"""

from collections.abc import Iterable, Iterator, Mapping

from .config import CoreConfig
from .isa import INSTRUCTION_BYTES, Instruction, Segment, Target

__all__ = ["Load", "Store"]

#: Cycles from taking an instruction until it has been checked and begins.
CHECK_CYCLES = 20
#: Store bursts under way at once.
OUTSTANDING_WRITES = 4
_LEAST_LATENCY = 2
_PAGE = 4096
_PHASES = CoreConfig.phases
_LOAD_PHASE = 0
_STORE_PHASE = 1
_READ_LATENCY = 3
#: Cycles from the last beat of a group until what it holds can be read.
_WRITE_LATENCY = 3


def _turn(cycle: int, phase: int) -> int:
    """The first cycle from `cycle` on that has the phase."""
    return cycle + (phase - cycle) % _PHASES


def _bursts(rows: Iterable[tuple[int, int]], config: CoreConfig) -> Iterator[int]:
    """Beats of each burst, for rows of (address, beats)."""
    for address, beats in rows:
        while beats:
            burst = min(beats, config.burst_beats, (_PAGE - address % _PAGE) // config.bus_bytes)
            yield burst
            address += burst * config.bus_bytes
            beats -= burst


def _groups(rows: int, beats: int, config: CoreConfig) -> Iterator[int]:
    """Beats of each group, for rows of so many beats."""
    most = config.banks // config.bus_slots
    for _ in range(rows):
        for first in range(0, beats, most):
            yield min(most, beats - first)


class _Issue:
    """When bursts are issued: two cycles apart, and only so many under way."""

    def __init__(self, begin: int, outstanding: int) -> None:
        self.last = begin
        self.outstanding = outstanding
        self.ends: list[int] = []

    def next(self) -> int:
        self.last += 2
        if len(self.ends) >= self.outstanding:
            self.last = max(self.last, self.ends[-self.outstanding] + 1)
        return self.last

    def ended(self, cycle: int) -> None:
        self.ends.append(cycle)


def _require(config: CoreConfig, latency: int) -> None:
    if not isinstance(config, CoreConfig):
        raise TypeError(f"config must be a CoreConfig, not {config!r}")
    if latency < _LEAST_LATENCY:
        raise ValueError(f"latency must be at least {_LEAST_LATENCY}, not {latency!r}")


def _beats(config: CoreConfig, begin: int, latency: int,
           bursts: Iterable[int]) -> Iterator[tuple[int, int]]:
    """(cycle of the first beat, beats) of each burst of reads that are never held up."""
    issue = _Issue(begin, config.outstanding_reads)
    end = begin
    for beats in bursts:
        first = max(issue.next() + 1 + latency, end + 1)
        end = first + beats - 1
        issue.ended(end)
        yield first, beats


def _last_beat(config: CoreConfig, begin: int, latency: int, bursts: Iterable[int]) -> int:
    """The cycle of the last beat of reads that are never held up."""
    *_, (first, beats) = _beats(config, begin, latency, bursts)
    return first + beats - 1


class _Unit:
    def __init__(self, config: CoreConfig, segments: Mapping[Segment, tuple[int, int]],
                 latency: int) -> None:
        _require(config, latency)
        self.config = config
        self.segments = segments
        self.latency = latency
        self.free = 0

    def take(self, instruction: Instruction, offered: int) -> tuple[int, int]:
        """Cycles in which an instruction is taken and retires, when offered in `offered`.

        Instructions must be given in the order of the queue, and must break no rule.
        """
        taken = max(offered, self.free)
        self.free = self._retired(instruction, taken + CHECK_CYCLES)
        return taken, self.free

    def _retired(self, instruction: Instruction, begin: int) -> int:
        raise NotImplementedError

    def _rows(self, instruction: Instruction, pitch: str) -> Iterator[tuple[int, int]]:
        base, _ = self.segments[Segment(instruction["segment"])]
        beats = -(-instruction["length"] // self.config.bus_slots)
        for i in range(instruction["rows"]):
            yield base + instruction["offset"] + i * instruction[pitch], beats


class Load(_Unit):
    """The load unit.

    Parameters
    ----------
    config
        The core.
    segments
        Base and size of each segment, in bytes.
    latency
        Of the memory, at least 2.
    """

    def fetch(self, address: int, count: int, taken: int) -> list[int]:
        """From which cycles on instructions are there, if their fetch is taken in cycle `taken`.

        The last one says when the unit is free again.
        """
        rows = [(address, count * INSTRUCTION_BYTES // self.config.bus_bytes)]
        arrived: list[int] = []
        left = instruction_beats = INSTRUCTION_BYTES // self.config.bus_bytes
        for first, beats in _beats(self.config, taken + 1, self.latency,
                                   _bursts(rows, self.config)):
            last = first + left - 1
            while last < first + beats:
                arrived.append(last + _WRITE_LATENCY)
                last += instruction_beats
            left = last - (first + beats) + 1
        self.free = arrived[-1]
        return arrived

    def _retired(self, instruction: Instruction, begin: int) -> int:
        if instruction.name == "FILL":
            groups = instruction["rows"] * -(-instruction["length"] // self.config.banks)
            return _turn(begin + 2, _LOAD_PHASE) + _PHASES * (groups - 1) + 1
        bursts = _bursts(self._rows(instruction, "source_pitch"), self.config)
        if Target(instruction["target"]) is not Target.ACTIVATIONS:
            return _last_beat(self.config, begin, self.latency, bursts) + _WRITE_LATENCY
        return self._activations(instruction, begin, bursts)

    def _activations(self, instruction: Instruction, begin: int, bursts: Iterator[int]) -> int:
        groups = _groups(instruction["rows"], -(-instruction["length"] // self.config.bus_slots),
                         self.config)
        issue = _Issue(begin, self.config.outstanding_reads)
        cycle = begin           # in which the next beat could be taken, were it there
        moved = written = begin
        left = 0                # beats that the group lacks
        for beats in bursts:
            cycle = max(cycle, issue.next() + 1 + self.latency)
            while beats:
                if not left:
                    left = next(groups)
                    cycle = max(cycle, moved)
                part = min(beats, left)
                cycle += part
                beats -= part
                left -= part
                if not left:
                    # The group moves to the second buffer when the one before it is written.
                    moved = max(cycle, written)
                    written = _turn(moved + 1, _LOAD_PHASE)
            issue.ended(cycle - 1)
        return written + 1


class Store(_Unit):
    """The store unit.

    Parameters
    ----------
    config
        The core.
    segments
        Base and size of each segment, in bytes.
    latency
        Of the memory, at least 2.
    """

    def _retired(self, instruction: Instruction, begin: int) -> int:
        groups = _groups(instruction["rows"], instruction["length"] // self.config.bus_slots,
                         self.config)
        issue = _Issue(begin, OUTSTANDING_WRITES)
        request = _turn(begin + 1, _STORE_PHASE)
        cycle = begin           # in which the last beat went to the write channel's register
        sent = answer = begin
        left = 0                # beats of the group that are still to go
        for beats in _bursts(self._rows(instruction, "target_pitch"), self.config):
            cycle = max(cycle, issue.next())
            while beats:
                if not left:
                    left = next(groups)
                    # The group arrives in the second buffer and moves when the first is empty.
                    moved = max(request + _READ_LATENCY + 1, sent)
                    request = _turn(moved, _STORE_PHASE)
                    cycle = max(cycle, moved)
                part = min(beats, left)
                cycle += part
                beats -= part
                left -= part
                sent = cycle
            answer = max(cycle + 1 + self.latency, answer + 1)
            issue.ended(answer)
        return answer + 2
