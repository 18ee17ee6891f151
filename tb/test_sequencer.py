"""The sequencer beside units of random durations: order, tokens, exact cycles, and every end."""

import dataclasses
import os
import random
from pathlib import Path

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, ReadOnly
from selection import nightly_but
from simulation import run_bench
from ulpcore.decoder import unit_layout
from ulpcore.sequencer import Sequencer
from ulpsim.config import EDGE, NANO, CoreConfig
from ulpsim.isa import (
    HEADER,
    INSTRUCTION_BYTES,
    INSTRUCTIONS,
    MOST_INSTRUCTIONS,
    Cause,
    Instruction,
    Unit,
    encode,
)

CONFIGS = {"edge": EDGE, "shallow": dataclasses.replace(NANO, name="shallow", queue_depth=2,
                                                    instruction_memory=64),
           "exchange": dataclasses.replace(NANO, name="exchange", exchange=1)}
#: Cycles from a fetch to its first word; then comes a quarter of an instruction each cycle.
FETCH_LATENCY = 13


def random_instruction(source: random.Random, config: CoreConfig) -> Instruction:
    row = source.choice([row for row in INSTRUCTIONS if row.unit in config.units])
    values = {}
    for field in row.fields:
        values[field.name] = (source.choice(list(field.choices)) if field.choices
                              else source.randint(field.least, (1 << field.width) - 1))
    return Instruction(row.name, **values)


def random_program(source: random.Random, length: int, config: CoreConfig) -> list[Instruction]:
    """A program that ends: each instruction waits only for tokens of earlier ones."""
    program = []
    tokens = {(giver, taker): 0 for giver in config.units for taker in config.units}
    for _ in range(length - 1):
        instruction = random_instruction(source, config)
        unit = instruction.unit
        header = {}
        for giver in config.units:
            wait = min(source.choice([0, 0, 1, 2, 5]), tokens[giver, unit], 15)
            header[f"wait_{giver.name.lower()}"] = wait
            tokens[giver, unit] -= wait
        for taker in config.units:
            post = int(source.random() < 0.3 and tokens[unit, taker] < 250)
            header[f"post_{taker.name.lower()}"] = post
            tokens[unit, taker] += post
        names = {f.name for f in HEADER}
        fields = {k: v for k, v in instruction.values.items() if k not in names}
        program.append(Instruction(instruction.name, **fields, **header))
    return [*program, Instruction("HALT")]


def post(instruction: Instruction) -> int:
    return sum(instruction[f"post_{u.name.lower()}"] << u.value for u in Unit)


def reference(program: list[Instruction], durations: list[int],
              config: CoreConfig) -> tuple[dict[int, int], int]:
    """Cycles in which instructions are taken and in which the run ends, cycle by cycle."""
    depth, block, memory = config.queue_depth, config.fetch_block, config.instruction_memory
    arrived: list[int] = []
    fetch_free = put = 0
    asking = False
    taken: dict[int, int] = {}
    free = dict.fromkeys(config.units, 0)
    retirements: list[tuple[int, Instruction]] = []
    tokens = {(giver, taker): 0 for giver in config.units for taker in config.units}
    queues: dict[Unit, list[tuple[int, int]]] = {unit: [] for unit in config.units}
    heads: dict[Unit, tuple[int, int] | None] = dict.fromkeys(Unit)
    place, pending, halted = 0, None, None
    for cycle in range(1 << 20):
        unread = [put, *(queue[0][0] for queue in queues.values() if queue)]
        replaced = (len(arrived) // block + 1) * block - memory
        was_asking = asking
        asking = halted is None and len(arrived) < len(program) and min(unread) >= replaced
        if fetch_free <= cycle and was_asking:
            asking = False
            count = min(block, len(program) - len(arrived))
            arrived += [cycle + FETCH_LATENCY + 4 * (i + 1) for i in range(count)]
            fetch_free = arrived[-1]
        for when, instruction in retirements:
            if when == cycle - 1:
                for taker in config.units:
                    tokens[instruction.unit, taker] += instruction[
                        f"post_{taker.name.lower()}"]
        idle = fetch_free <= cycle and all(
            not queues[u] and heads[u] is None and free[u] <= cycle for u in config.units)
        if halted is not None and cycle > halted and idle:
            return taken, cycle
        emptied = set()
        for unit in config.units:
            if heads[unit] is None or heads[unit][1] > cycle or free[unit] > cycle:
                continue
            index = heads[unit][0]
            waits = {giver: program[index][f"wait_{giver.name.lower()}"] for giver in config.units}
            if all(tokens[giver, unit] >= wait for giver, wait in waits.items()):
                for giver, wait in waits.items():
                    tokens[giver, unit] -= wait
                taken[index] = cycle
                free[unit] = cycle + durations[index]
                retirements.append((free[unit], program[index]))
                heads[unit] = None
                emptied.add(unit)
        if cycle % 2:
            unit = config.units[cycle // 2 % len(config.units)]
            if (heads[unit] is None and unit not in emptied and queues[unit]
                    and queues[unit][0][1] < cycle):
                heads[unit] = (queues[unit].pop(0)[0], cycle + 2)
        else:
            if pending is not None and pending[1] <= cycle:
                unit = program[pending[0]].unit
                if unit is None:
                    halted, pending = cycle, None
                elif len(queues[unit]) < depth:
                    queues[unit].append((pending[0], cycle))
                    pending = None
                    put += 1
            if (pending is None and halted is None and place < len(arrived)
                    and arrived[place] <= cycle):
                pending = (place, cycle + 2)
                place += 1
    raise AssertionError("the reference must end")


class Harness:
    """The host, the load unit's fetch, and four units that only take time."""

    def __init__(self, dut) -> None:
        self.dut = dut
        self.config = CONFIGS[os.environ["BENCH_CONFIG"]]
        self.fetch_layout = Sequencer(config=self.config).fetch.payload.shape()
        self.program: list[Instruction] = []
        self.words: list[bytes] = []
        self.durations: list[int] = []
        self.cycle = 0
        self.free: dict[Unit, int | None] = {}
        self.running: dict[Unit, int | None] = {}
        self.taken: dict[int, int] = {}
        self.fetch_works = True
        self.fetch: tuple[int, int, int] | None = None
        self.failing: tuple[Unit, int] | None = None
        self.ended: str | None = None

    def port(self, name: str, unit: Unit | None = None):
        return getattr(self.dut, f"{unit.name.lower()}__{name}" if unit else name)

    def get(self, name: str, unit: Unit | None = None) -> int:
        return int(self.port(name, unit).value)

    async def begin(self) -> None:
        dut = self.dut
        for name in ("start", "reset", "program_address", "program_length", "watchdog", "quiet",
                     "fetch__ready", "fetched", "program_enable", "program_write_address",
                     "data"):
            self.port(name).value = 0
        dut.quiet.value = 1
        for unit in self.config.units:
            for name in ("retired", "retired_post", "fault", "fault_cause", "fault_index",
                         "busy", "instructions__ready"):
                self.port(name, unit).value = 0
        dut.rst.value = 1
        Clock(dut.clk, 10, "ns").start(start_high=False)
        for _ in range(3):
            await FallingEdge(dut.clk)
        dut.rst.value = 0
        await FallingEdge(dut.clk)

    async def start(self, program: list[Instruction | bytes], durations: list[int], *,
                    watchdog: int = 0, length: int | None = None) -> None:
        """Start a run; its cycle 0 is next."""
        dut = self.dut
        self.words = [p if isinstance(p, bytes) else encode(p) for p in program]
        self.program, self.durations = program, durations
        self.free = dict.fromkeys(self.config.units)
        self.running = dict.fromkeys(self.config.units)
        self.taken, self.ended, self.fetch = {}, None, None
        self.fetched = 0
        dut.program_length.value = len(program) if length is None else length
        dut.program_address.value = 0x1234
        dut.watchdog.value = watchdog
        dut.start.value = 1
        await FallingEdge(dut.clk)
        dut.start.value = 0
        assert self.get("busy") and self.get("clear")
        await FallingEdge(dut.clk)
        assert not self.get("clear")
        self.cycle = 0

    def step(self) -> None:
        """Drive one cycle's inputs, and see what its outputs are."""
        cycle = self.cycle
        self.step_fetch()
        for unit in self.config.units:
            done = self.running[unit] is not None and self.free[unit] == cycle
            failed = done and self.failing == (unit, self.running[unit])
            self.port("retired", unit).value = int(done and not failed)
            self.port("fault", unit).value = int(failed)
            if done:
                self.port("fault_cause", unit).value = Cause.SEGMENT_RANGE.value
                self.port("fault_index", unit).value = self.running[unit]
                self.port("retired_post", unit).value = post(self.program[self.running[unit]])
                self.running[unit] = None
            ready = self.running[unit] is None and not self.get("stop", unit)
            fetching = unit is Unit.LOAD and self.fetch is not None
            self.port("busy", unit).value = int(self.running[unit] is not None or fetching)
            self.port("instructions__ready", unit).value = int(ready)
            if ready and self.get("instructions__valid", unit):
                layout = unit_layout(unit, self.config)
                payload = layout.from_bits(self.get("instructions__payload", unit))
                instruction = self.program[payload.index]
                assert instruction.unit is unit
                assert payload.opcode == instruction.type.opcode
                assert payload.post == post(instruction)
                for field in instruction.type.fields:
                    assert payload[field.name] == instruction[field.name], field.name
                for name, _ in layout:
                    known = {f.name for f in instruction.type.fields}
                    assert name in known | {"opcode", "index", "post"} or payload[name] == 0
                assert payload.index not in self.taken
                self.taken[payload.index] = cycle
                self.running[unit] = payload.index
                self.free[unit] = cycle + self.durations[payload.index]

    def step_fetch(self) -> None:
        """The load unit's part of the fetch: blocks in order, a quarter of a word each cycle."""
        dut = self.dut
        dut.program_enable.value = 0
        dut.fetched.value = 0
        if self.fetch is not None and self.fetch_works:
            begun, first, count = self.fetch
            quarter = self.cycle - begun - FETCH_LATENCY
            if quarter == 4 * count:
                dut.fetched.value = 1
                self.fetch = None
            elif quarter >= 0:
                index, part = first + quarter // 4, quarter % 4
                dut.program_enable.value = 1
                dut.program_write_address.value = (4 * index + part) % (
                    4 * self.config.instruction_memory)
                dut.data.value = int.from_bytes(self.words[index][16 * part:16 * part + 16],
                                                "little")
        dut.fetch__ready.value = int(self.fetch is None)
        if self.fetch is None and self.get("fetch__valid"):
            layout = self.fetch_layout
            request = layout.from_bits(self.get("fetch__payload"))
            assert request.index == self.fetched
            assert request.address == 0x1234 + 64 * request.index
            assert request.count == min(self.config.fetch_block,
                                        len(self.words) - request.index)
            self.fetch = self.cycle, request.index, request.count
            self.fetched += request.count

    async def tick(self) -> None:
        """One cycle."""
        self.step()
        await ReadOnly()
        if self.ended is None:
            self.ended = "done" if self.get("done") else "fault" if self.get("fault") else None
        await FallingEdge(self.dut.clk)
        self.cycle += 1

    async def run(self, limit: int = 20_000) -> str:
        """Until the run ends; "done" or "fault"."""
        while self.cycle < limit:
            await self.tick()
            if self.ended:
                self.dut.fetched.value = self.dut.program_enable.value = 0
                for unit in self.config.units:
                    for name in ("retired", "fault", "busy", "instructions__ready"):
                        self.port(name, unit).value = 0
                assert not self.get("busy")
                assert self.get("cycles") == self.cycle
                return self.ended
        raise AssertionError("the run must end")

    async def fails(self, program: list, cause: Cause, index: int, **options) -> None:
        durations = options.pop("durations", [30] * len(program))
        await self.start(program, durations, **options)
        assert await self.run() == "fault"
        assert Cause(self.get("fault_cause")) is cause
        assert self.get("fault_index") == index


@cocotb.test()
async def bench_programs(dut) -> None:
    """Random programs, one after the other: every cycle as the reference has it."""
    harness = Harness(dut)
    await harness.begin()
    source = random.Random(int(os.environ.get("ULPCORE_SEED", "1")))
    for number in range(6):
        length = [1, 2, 40, 2 * harness.config.instruction_memory + 5, 60, 300][number]
        program = random_program(source, length, harness.config)
        if number == 4:
            program += [Instruction("HALT"), program[0]]    # what follows HALT is not looked at
        longest = source.choice([3, 12, 50])
        durations = [source.randint(1, longest) for _ in program]
        for _ in range(source.randint(0, 9)):
            await FallingEdge(dut.clk)
        await harness.start(program, durations)
        assert await harness.run() == "done"
        taken, done = reference(program, durations, harness.config)
        assert harness.taken == taken
        assert harness.cycle == done + 1
        assert harness.get("fault_cause") == 0


@cocotb.test()
async def bench_faults(dut) -> None:
    """Every way to fail, each followed by a run that works."""
    harness = Harness(dut)
    await harness.begin()
    source = random.Random(int(os.environ.get("ULPCORE_SEED", "1")))
    halt = Instruction("HALT")
    fill, store = Instruction("FILL"), Instruction("STORE")
    matmul = Instruction("MATMUL")

    async def works() -> None:
        program = random_program(source, 12, harness.config)
        durations = [source.randint(1, 9) for _ in program]
        await harness.start(program, durations)
        assert await harness.run() == "done"
        assert harness.get("fault_cause") == harness.get("fault_index") == 0
        taken, done = reference(program, durations, harness.config)
        assert harness.taken == taken and harness.cycle == done + 1

    # Tokens of a unit that is not there are reserved bits.
    reserved = b"\x80" if Unit.EXCHANGE in harness.config.units else b"\x01"
    for word in (b"\x06" + bytes(63), b"\x0f" + bytes(63), bytes(63) + b"\x80",
                 encode(fill)[:4] + bytes(60), bytes(3) + reserved + bytes(60)):
        await harness.fails([fill, store, word, halt], Cause.ILLEGAL_INSTRUCTION, 2)
    await works()
    await harness.fails([fill, store, fill], Cause.PROGRAM_LENGTH, 3)
    await harness.fails([fill], Cause.PROGRAM_LENGTH, 0, length=0)
    await harness.fails([fill], Cause.PROGRAM_LENGTH, 0, length=MOST_INSTRUCTIONS + 1)
    await harness.fails([fill], Cause.PROGRAM_LENGTH, 0, length=1 << 31)
    await works()

    # Deadlocks: at HALT, at a full queue, and of two units that wait for each other.
    await harness.fails([fill, Instruction("STORE", wait_load=1), halt], Cause.DEADLOCK, 1)
    stuck = [Instruction("STORE", wait_load=1)] * (harness.config.queue_depth + 2)
    await harness.fails([*stuck, Instruction("FILL", post_store=1), halt], Cause.DEADLOCK, 0)
    await harness.fails([Instruction("STORE", wait_execute=1, post_execute=1), fill,
                         Instruction("MATMUL", wait_store=1, post_store=1), halt],
                        Cause.DEADLOCK, 0)
    await works()

    # 256 tokens that nobody takes.
    program = [Instruction("FILL", post_special=1, post_store=i < 10) for i in range(256)] + [halt]
    await harness.fails(program, Cause.TOKEN_OVERFLOW, 255, durations=[1] * 257)
    program[100] = Instruction("STORE", wait_load=10)
    await harness.start(program, [1] * 257)
    assert await harness.run() == "done"

    # Words that wait in a queue for a token of an instruction that would take their place.
    late = harness.config.instruction_memory + harness.config.fetch_block
    program = [Instruction("STORE", wait_load=1), store, *[fill] * late,
               Instruction("FILL", post_store=1), halt]
    await harness.fails(program, Cause.DEADLOCK, 0, durations=[1] * len(program))

    # The watchdog, and that each retirement puts it off.
    await harness.fails([fill, matmul, halt], Cause.WATCHDOG, 1, durations=[5, 5000, 1],
                        watchdog=200)
    assert harness.cycle < FETCH_LATENCY + 12 + 5 + 200 + 40
    program = [fill] * 10 + [halt]
    await harness.start(program, [90] * 11, watchdog=120)
    assert await harness.run() == "done"
    harness.fetch_works = False
    await harness.fails([fill, halt], Cause.WATCHDOG, 0, watchdog=50)
    assert harness.cycle == 50 + 3
    harness.fetch_works = True
    await works()

    # A unit's fault; it is reported when the bus is quiet, and the first one stands.
    harness.failing = (Unit.EXECUTE, 1)
    await harness.fails([fill, matmul, store, halt], Cause.SEGMENT_RANGE, 1)
    await harness.start([fill, matmul, store, halt], [200, 30, 200, 0])
    dut.quiet.value = 0
    for _ in range(150):
        await harness.tick()
    assert harness.ended is None and harness.get("busy")
    assert all(harness.get("stop", unit) for unit in harness.config.units)
    dut.load__fault.value = 1
    await FallingEdge(dut.clk)
    dut.load__fault.value = 0
    harness.cycle += 1
    dut.quiet.value = 1
    assert await harness.run() == "fault"
    assert Cause(harness.get("fault_cause")) is Cause.SEGMENT_RANGE
    assert harness.get("fault_index") == 1
    harness.failing = None
    await works()

    # Reset: in a run it waits for the bus; at rest it takes a cycle. Neither is done nor a fault.
    await harness.start([fill, halt], [10_000, 0])
    dut.quiet.value = 0
    for _ in range(100):
        await harness.tick()
    dut.reset.value = 1
    await FallingEdge(dut.clk)
    dut.reset.value = 0
    for _ in range(20):
        assert harness.get("busy") and not harness.get("clear")
        assert all(harness.get("stop", unit) for unit in harness.config.units)
        await FallingEdge(dut.clk)
    dut.quiet.value = 1
    clears = 0
    for _ in range(5):
        await FallingEdge(dut.clk)
        clears += harness.get("clear")
        assert not harness.get("done") and not harness.get("fault")
    assert clears == 1 and not harness.get("busy")
    assert not any(harness.get("stop", unit) for unit in harness.config.units)
    for unit in harness.config.units:
        for name in ("retired", "fault", "busy", "instructions__ready"):
            harness.port(name, unit).value = 0
    await works()
    dut.reset.value = 1
    await FallingEdge(dut.clk)
    dut.reset.value = 0
    assert harness.get("clear")
    await FallingEdge(dut.clk)
    assert not harness.get("busy")
    await works()


@pytest.mark.parametrize("config", nightly_but("edge exchange", CONFIGS))
def test_sequencer(config):
    assert INSTRUCTION_BYTES == 64
    ran = run_bench(Sequencer(config=CONFIGS[config]), Path(__file__).stem,
                    environment={"BENCH_CONFIG": config})
    assert ran == 2
