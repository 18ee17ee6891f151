"""The sequencer: fetches a program, hands its instructions out, and ends the run."""

from typing import Any

from amaranth.hdl import (
    Array,
    Cat,
    Const,
    Module,
    Mux,
    ResetInserter,
    Signal,
    Value,
    ValueLike,
    unsigned,
)
from amaranth.lib import data, fifo, memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2
from ulpsim.config import SLOT_BITS, CoreConfig
from ulpsim.isa import (
    INDEX_BITS,
    INSTRUCTION_BITS,
    INSTRUCTION_BYTES,
    MOST_INSTRUCTIONS,
    Cause,
    Unit,
)

from .decoder import Decoder, unit_layout
from .load import program_slots
from .unit import UnitPort, causes

__all__ = ["Sequencer"]

_TOKEN_BITS = 8
#: Cycles in which nothing moves before that is called a deadlock; more than a head takes to load.
_STILL_CYCLES = 32


class Sequencer(wiring.Component):
    """Runs a program: fetch, dispatch in order, tokens, end.

    A run begins with one cycle of `clear`; the next cycle is cycle 0 of the run. The program
    passes through the instruction memory, which has one read port: the dispatcher has it in even
    cycles, the queues' heads in turn in odd ones (unit u when the cycle is 2 u + 1 modulo twice the
    number of units). Queues hold places in the program only.

    - Fetch: blocks of `fetch_block` instructions are asked for in order, one after the other,
      as long as HALT has not been reached. A block takes the place of the one that lies the size
      of the memory before it, two cycles after the last of that one has left its queue. The
      load unit is to put its instructions first as long as the execute unit has one in its queue.
    - Dispatch: an instruction is read in an even cycle, from the cycle after its last word was
      written on, checked in the next, and put into its unit's queue in the one after, in which
      the next is read; if the queue is full, in the first even cycle in which it is not. Up to
      `queue_depth` instructions wait there, and one more at the head.
    - Head: when it is empty, the first of the queue (from the cycle after it was put there) is
      read in the unit's turn and stands at the head two cycles later.
    - Start: the head is offered when the counters of tokens to this unit hold what it waits for;
      they are taken in the cycle in which the unit takes the instruction. A token given in cycle
      t (`retired`) counts from cycle t + 1. A counter holds at most 255 (TOKEN_OVERFLOW).
    - HALT: `done` when it has been reached, all queues and heads are empty and no unit is busy.

    Faults are those of the units, and ILLEGAL_INSTRUCTION (with the place of the word),
    PROGRAM_LENGTH (no instructions, too many, or no HALT: with the place after the last),
    TOKEN_OVERFLOW (the poster), DEADLOCK (nothing moves: the earliest of the heads) and WATCHDOG
    (the lowest busy unit's instruction). The first one wins, of several in one cycle the first in
    this order. It stops all units, is latched, and is reported when no burst is under way.
    `reset` stops in the same manner and ends in a cycle of `clear`.

    Members
    -------
    start, reset : In(1)
        Pulses. `start` is ignored while `busy`.
    program_length : In(32)
        Instructions.
    program_address : In(32)
        Byte address of the first, a multiple of the bus width.
    watchdog : In(32)
        Cycles without an instruction retiring (nor the fetch ending) before WATCHDOG; 0 is never.
    busy : Out(1)
        From the cycle after `start` (or `reset`) until the run's end.
    done, fault : Out(1)
        Pulses in the last cycle in which the sequencer is busy.
    fault_cause, fault_index : Out
        Of the last run, from the moment of the fault; zero if there was none.
    cycles : Out(64)
        Cycles of the run, cycle 0 and the last one included; holds until the next.
    clear : Out(1), coming_clear : Out(1)
        Everything in the core but memories and registers is to be reset, phase counter included;
        that this is so in the next cycle, for copies of `clear` near what they reset.
    quiet : In(1)
        No unit has a burst under way, or anything else that has to be finished.
    fetch, fetch_first, fetched, program_enable, program_write_address, data
        To and from the load unit.
    load, execute, special, store, exchange : Out(UnitPort)
        Of the units that the core has.
    """

    start: Signal
    reset: Signal
    program_address: Signal
    program_length: Signal
    watchdog: Signal
    busy: Signal
    done: Signal
    fault: Signal
    fault_cause: Signal
    fault_index: Signal
    cycles: Signal
    clear: Signal
    coming_clear: Signal
    quiet: Signal
    fetch_first: Signal
    fetched: Signal
    program_enable: Signal
    program_write_address: Signal
    data: Signal
    fetch: Any
    load: Any
    execute: Any
    special: Any
    store: Any
    exchange: Any

    def __init__(self, *, config: CoreConfig) -> None:
        self.config = config
        units = config.units
        self.group_bits = program_slots(config) * SLOT_BITS
        self.groups = INSTRUCTION_BITS // self.group_bits
        super().__init__({
            "start": In(1),
            "reset": In(1),
            "program_address": In(32),
            "program_length": In(32),
            "watchdog": In(32),
            "busy": Out(1),
            "done": Out(1),
            "fault": Out(1),
            "fault_cause": Out(8),
            "fault_index": Out(INDEX_BITS + 1),
            "cycles": Out(64),
            "clear": Out(1),
            "coming_clear": Out(1),
            "quiet": In(1),
            "fetch": Out(stream.Signature(data.StructLayout({
                "address": unsigned(32), "count": range(config.fetch_block + 1),
                "index": unsigned(INDEX_BITS)}))),
            "fetch_first": Out(1),
            "fetched": In(1),
            "program_enable": In(1),
            "program_write_address": In(range(self.groups * config.instruction_memory)),
            "data": In(self.group_bits),
            **{unit.name.lower(): Out(UnitPort(unit=unit, config=config)) for unit in units},
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        units = self.config.units
        ports = [getattr(self, unit.name.lower()) for unit in units]
        running = Signal()
        turns = 2 * len(units)
        turn = Signal(range(turns))
        even = Signal()
        index = unsigned(INDEX_BITS)
        place_bits = exact_log2(self.config.instruction_memory)
        stopping = Signal()
        trouble = Signal()
        m.d.comb += even.eq(~turn[0])
        m.d.sync += turn.eq(turn + 1)
        if turns & (turns - 1):
            with m.If(turn == turns - 1):
                m.d.sync += turn.eq(0)
        for port in ports:
            m.d.comb += port.stop.eq(stopping)

        storage = memory.Memory(shape=unsigned(INSTRUCTION_BITS),
                                depth=self.config.instruction_memory, init=[],
                                attrs={"no_rw_check": 1})
        m.submodules.storage = storage
        write = storage.write_port(granularity=self.group_bits)
        read = storage.read_port()
        group = self.program_write_address[:exact_log2(self.groups)]
        m.d.comb += [
            write.addr.eq(self.program_write_address >> len(group)),
            write.data.eq(self.data.replicate(self.groups)),
            write.en.eq(self.program_enable << group),
        ]
        m.submodules.decoder = decoder = Decoder(config=self.config)
        read_index = Signal(index)
        m.d.comb += [read.addr.eq(read_index[:place_bits]), decoder.word.eq(read.data)]
        with m.If(read.en):
            m.d.sync += decoder.index.eq(read_index)

        # Dispatch.
        place = Signal(INDEX_BITS + 1)
        arrived = Signal(INDEX_BITS + 1)
        arrives = self.program_enable & (group.all() if self.groups > 1 else 1)
        with m.If(arrives):
            m.d.sync += arrived.eq(arrived + 1)
        # In even cycles, in which it is looked at: nothing was read in the cycle before.
        absent = Signal()
        m.d.sync += absent.eq((place == arrived) & ~arrives)
        reading = Signal()
        pending = Signal()
        pending_index = Signal(index)
        pending_units = Signal(len(units))
        pending_legal = Signal()
        was_legal = Signal()
        fresh = Signal()
        pending_halt = Signal()
        halted = Signal()
        queues = []
        for unit in units:
            queue = fifo.SyncFIFO(width=INDEX_BITS, depth=self.config.queue_depth)
            m.submodules[f"queue_{unit.name.lower()}"] = ResetInserter(self.clear)(queue)
            queues.append(queue)
        put = Signal()
        # Nothing is put into a queue in the cycle before one in which this is looked at.
        has_room = Signal(len(units))
        m.d.sync += has_room.eq(Cat(q.w_rdy | q.r_en for q in queues))
        room = Signal()
        exhausted = Signal()
        m.d.comb += [
            room.eq((has_room & pending_units).any()),
            put.eq(running & even & pending & pending_legal & room),
            exhausted.eq(place == self.program_length[:len(place)]),
        ]
        dispatcher_reads = Signal()
        # Reading on behind an instruction that is not legal does no harm, nor does it at a stop.
        m.d.comb += dispatcher_reads.eq(even & ~halted & ~absent & (~pending | room))
        m.d.sync += [reading.eq(dispatcher_reads), fresh.eq(reading), was_legal.eq(pending_legal)]
        m.d.comb += pending_legal.eq(Mux(fresh, decoder.legal, was_legal))
        with m.If(dispatcher_reads):
            m.d.comb += [read.en.eq(1), read_index.eq(place)]
            m.d.sync += place.eq(place + 1)
        with m.If(put):
            m.d.sync += pending.eq(0)
        with m.If(reading):
            m.d.sync += [
                pending.eq(1),
                pending_index.eq(decoder.index),
                pending_units.eq(decoder.units),
                pending_halt.eq(decoder.halt),
            ]
        for queue, selected in zip(queues, pending_units, strict=True):
            m.d.comb += [queue.w_data.eq(pending_index), queue.w_en.eq(put & selected)]
        with m.If(running & even & pending & pending_legal & pending_halt):
            m.d.sync += [halted.eq(1), pending.eq(0)]

        self._fetch(m, running & ~halted & ~trouble, put, queues)

        # Heads.
        # A counter loses what was taken a cycle after that: it holds so much more in the meantime.
        tokens = [[Signal(_TOKEN_BITS + 1, name=f"tokens_{giver.name}_{taker.name}".lower())
                   for taker in units] for giver in units]
        overflow = [Signal(len(units), name=f"overflow_{unit.name.lower()}") for unit in units]
        poster = [Signal(index, name=f"poster_{unit.name.lower()}") for unit in units]
        overflowing = []
        fulls = []
        head_valid = Signal(len(units))
        head_loading = Signal(len(units))
        taken_index = Array(Signal(index, name=f"taken_{unit.name.lower()}")
                            for unit in units)
        take = Signal(len(units))
        was_take = Signal(len(units))
        m.d.sync += was_take.eq(take)
        waits = []
        for unit, port, queue in zip(units, ports, queues, strict=True):
            i, name = unit.value, unit.name.lower()
            head = Signal(unit_layout(unit, self.config), name=f"head_{name}", reset_less=True)
            wait = Signal(data.ArrayLayout(4, len(units)), name=f"wait_{name}")
            fetches = Signal(name=f"head_reads_{name}")
            awaited = Signal.like(wait, name=f"awaited_{name}")
            satisfied = Signal(name=f"satisfied_{name}")
            m.d.comb += [
                # Whether a run goes on need not be asked: without one the queues are empty.
                fetches.eq((turn == 2 * i + 1) & ~head_valid[i] & queue.r_rdy),
                queue.r_en.eq(fetches),
                port.instructions.payload.eq(head),
                awaited.eq(Mux(head_loading[i], decoder.wait, wait)),
                port.instructions.valid.eq(head_valid[i] & running & satisfied),
                take[i].eq(port.instructions.valid & port.instructions.ready),
            ]
            with m.If(fetches):
                m.d.comb += [read.en.eq(1), read_index.eq(queue.r_data)]
            # What the head waits for is compared with what the counters will hold but for what
            # it takes itself: when it does, it is gone.
            m.d.sync += [
                head_loading[i].eq(fetches),
                satisfied.eq(Cat(
                    count[i][4:].any() | (count[i][:4] >= awaited[giver])
                    | (_given(ports[giver], i) & (count[i][:4] + 1 == awaited[giver]))
                    for giver, count in enumerate(tokens)).all()),
            ]
            with m.If(head_loading[i]):
                m.d.sync += [head.eq(getattr(decoder, name)), wait.eq(decoder.wait),
                             head_valid[i].eq(1)]
            with m.If(take[i]):
                m.d.sync += [head_valid[i].eq(0), taken_index[i].eq(head.index)]
            waits.append(wait)
        for giver in units:
            port = ports[giver.value]
            overflows = []
            for taker in units:
                count = tokens[giver.value][taker.value]
                name = f"{giver.name}_{taker.name}".lower()
                wait, given = waits[taker.value][giver.value], _given(port, taker.value)
                total, full = Signal.like(count, name=f"total_{name}"), Signal(name=f"full_{name}")
                m.d.comb += total.eq(count + given - Mux(was_take[taker.value], wait, 0))
                m.d.sync += [count.eq(total), full.eq(total[:_TOKEN_BITS].all())]
                fulls.append(full)
                # Full, though one may just have been taken and another given.
                overflowing.append(given & Mux(was_take[taker.value] & wait.any(),
                                               count[-1] & (wait == 1), full))
                overflows.append(overflowing[-1] & ~(take[taker.value] & wait.any()))
            m.d.sync += [overflow[giver.value].eq(Cat(overflows)),
                         poster[giver.value].eq(taken_index[giver.value])]

        # What ends a run.
        busy_units = Cat(port.busy for port in ports)
        retired = Cat(port.retired for port in ports)
        waiting = Cat(queue.r_rdy for queue in queues) | head_loading | head_valid
        still = Signal(range(_STILL_CYCLES + 1))
        deadline = Signal(32)
        guarded = Signal()
        with m.If(busy_units.any() | put | retired.any() | ~running
                  | Cat(port.instructions.valid for port in ports).any()):
            m.d.sync += still.eq(0)
        with m.Else():
            m.d.sync += still.eq(still + 1)
        m.d.sync += deadline.eq(Mux(retired.any() | self.fetched, self.watchdog, deadline - 1))

        lowest_busy = Signal(range(len(units)))
        for unit in reversed(units):
            with m.If(ports[unit.value].busy):
                m.d.comb += lowest_busy.eq(unit.value)
        # The unit that the watchdog names has been busy for long: its index may have a cycle.
        watched = Signal(index)
        m.d.sync += watched.eq(taken_index[lowest_busy])
        # Heads have not moved for long when this is looked at: each comparison has a cycle.
        earliest_head = [Mux(head_valid[unit.value], port.instructions.payload.index,
                             MOST_INSTRUCTIONS) for unit, port in zip(units, ports, strict=True)]
        while len(earliest_head) > 1:
            a, b = earliest_head[:2]
            least = Signal(index, name=f"earliest_head_of_{len(earliest_head)}")
            m.d.sync += least.eq(Mux(a < b, a, b))
            earliest_head = [*earliest_head[2:], least]
        # Whatever goes wrong is seen in one cycle and takes effect in the next: its cause, the
        # first of these, is chosen in the meantime.
        illegal = Signal()
        ended = Signal()
        refused = Signal()
        m.d.comb += [illegal.eq(even & pending & ~pending_legal),
                     ended.eq(even & exhausted & ~pending & ~halted)]
        reports = [
            *((port.fault, port.fault_cause, port.fault_index) for port in ports),
            (illegal, Cause.ILLEGAL_INSTRUCTION, pending_index),
            (ended, Cause.PROGRAM_LENGTH, place),
            *((overflow[unit.value].any(), Cause.TOKEN_OVERFLOW, poster[unit.value])
              for unit in units),
            (still == _STILL_CYCLES, Cause.DEADLOCK, earliest_head[0]),
            (guarded & (deadline == 0), Cause.WATCHDOG, watched),
        ]
        cause = Signal(causes(self.config))
        cause_index = Signal(index)
        given, first_cause, first_index = _first(m, reports)
        m.d.sync += [trouble.eq(refused | running & given), cause.eq(first_cause),
                     cause_index.eq(first_index)]
        with m.If(refused):
            m.d.sync += [cause.eq(Cause.PROGRAM_LENGTH), cause_index.eq(0)]

        aborting = Signal()

        def or_stop() -> None:
            """In a state of a run: what overrides its own transitions."""
            with m.If(trouble):
                m.d.sync += [stopping.eq(1), self.fault_cause.eq(cause),
                             self.fault_index.eq(cause_index)]
                m.next = "STOP"
            with m.If(self.reset):
                m.d.sync += [stopping.eq(1), aborting.eq(1)]
                m.next = "STOP"

        with m.FSM(name="state") as state:
            m.d.comb += [
                self.busy.eq(~state.ongoing("IDLE")),
                running.eq(state.ongoing("RUN")),
            ]
            with m.State("IDLE"):
                m.d.comb += self.coming_clear.eq(self.start | self.reset)
                with m.If(self.reset):
                    m.next = "CLEAR"
                with m.Elif(self.start):
                    m.next = "START"
            with m.State("START"):
                m.d.sync += self.cycles.eq(0)
                m.next = "RUN"
                with m.If((self.program_length == 0) | (self.program_length > MOST_INSTRUCTIONS)):
                    m.d.comb += refused.eq(1)
                or_stop()
            with m.State("RUN"):
                # Nothing waits, so nothing takes a token either: a full counter overflows.
                failing = Cat(overflow, *(port.fault for port in ports), *overflowing,
                              trouble).any()
                with m.If(halted & ~waiting.any() & ~busy_units.any() & ~failing & ~self.reset):
                    m.d.comb += self.done.eq(1)
                    m.next = "IDLE"
                or_stop()
            with m.State("STOP"):
                with m.If(self.reset):
                    m.d.sync += aborting.eq(1)
                with m.Elif(self.quiet):
                    m.d.comb += self.fault.eq(~aborting)
                    m.next = "IDLE"
                    m.d.comb += self.coming_clear.eq(aborting)
                    with m.If(aborting):
                        m.next = "CLEAR"
            with m.State("CLEAR"):
                m.next = "IDLE"
        m.d.sync += self.clear.eq(self.coming_clear)
        with m.If(running | state.ongoing("STOP")):
            m.d.sync += self.cycles.eq(self.cycles + 1)

        with m.If(self.clear):
            m.d.sync += [
                *(count.eq(0) for row in tokens for count in row),
                *(taken.eq(0) for taken in taken_index),
                *(late.eq(0) for late in (*overflow, *fulls)),
                turn.eq(0), place.eq(0), arrived.eq(0), absent.eq(1), reading.eq(0), pending.eq(0),
                halted.eq(0), head_valid.eq(0), head_loading.eq(0), was_take.eq(0), still.eq(0),
                aborting.eq(self.reset), deadline.eq(self.watchdog), guarded.eq(self.watchdog != 0),
            ]
            with m.If(~self.reset):
                m.d.sync += [stopping.eq(0), self.fault_cause.eq(0), self.fault_index.eq(0)]
        return m

    def _fetch(self, m: Module, wanted: Value, put: Value, queues: list[fifo.SyncFIFO]) -> None:
        """Ask for the next block while one is `wanted` and has room; `put` moves to a queue."""
        block_bits = exact_log2(self.config.fetch_block)
        blocks = self.config.instruction_memory >> block_bits
        asked = Signal(INDEX_BITS + 1)
        next_put = Signal.like(asked)
        address = Signal(32)
        left = Signal.like(asked)
        # Of all that is still to be read, nothing may be as old as what the block replaces.
        oldest = [(queue.r_rdy, queue.r_data) for queue in queues] + [(Const(1, 1), next_put)]
        room = Cat(~valid | ((asked[block_bits:] - place[block_bits:])[:exact_log2(blocks) + 1]
                             != blocks) for valid, place in oldest).all()
        m.d.comb += [
            left.eq(self.program_length[:len(left)] - asked),
            self.fetch_first.eq(~queues[Unit.EXECUTE.value].r_rdy),
            self.fetch.payload.address.eq(address),
            self.fetch.payload.index.eq(asked),
            self.fetch.payload.count.eq(
                Mux(left[block_bits:].any(), self.config.fetch_block, left)),
        ]
        with m.If(put):
            m.d.sync += next_put.eq(next_put + 1)
        m.d.sync += self.fetch.valid.eq(wanted & (left != 0) & room)
        with m.If(self.fetch.valid & self.fetch.ready):
            m.d.sync += [
                self.fetch.valid.eq(0),
                asked.eq(asked + self.fetch.payload.count),
                address.eq(address + (self.config.fetch_block * INSTRUCTION_BYTES)),
            ]
        with m.If(self.clear):
            m.d.sync += [self.fetch.valid.eq(0), asked.eq(0), next_put.eq(0),
                         address.eq(self.program_address)]


def _given(giver: Any, taker: int) -> Value:
    """Whether a unit gives a token to another in this cycle."""
    return giver.retired & giver.retired_post[taker]


def _first(m: Module, reports: list[tuple[Value, ValueLike, Value]]) -> tuple[Value, Value, Value]:
    """The first report that is given, in as few steps as there are levels of a tree."""
    if len(reports) == 1:
        given, cause, index = reports[0]
        return given, Value.cast(cause), index
    half = len(reports) // 2
    sides = [_first(m, reports[:half]), _first(m, reports[half:])]
    given = Signal(name=f"given_of_{len(reports)}")
    m.d.comb += given.eq(sides[0][0] | sides[1][0])
    cause, index = (Mux(sides[0][0], *pair) for pair in zip(*(side[1:] for side in sides),
                                                            strict=True))
    return given, cause, index
