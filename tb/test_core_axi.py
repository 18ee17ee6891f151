"""The whole core beside an independent AXI model: cocotbext-axi's memory and register master.

Each schedule is a way in which a memory may behave that is legal and inconvenient. Whatever it
does, the words written are the golden model's, the core keeps to the rules of a master, and errors
are reported and survived.
"""

import dataclasses
import functools
import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import cocotb
import numpy as np
import pytest
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, FallingEdge, RisingEdge
from cocotbext.axi import (
    AxiBus,
    AxiLiteBus,
    AxiLiteMaster,
    AxiRam,
    AxiReadBus,
    AxiResp,
    AxiWriteBus,
)
from ulpcore.core import Core
from ulpcore.rtl import Job
from ulpcore.simulation import build_cocotb, run_cocotb
from ulpcore.store import OUTSTANDING_WRITES
from ulpcore.verilog import generate
from ulpsim.config import EDGE, NANO, CoreConfig
from ulpsim.cycles import predict
from ulpsim.interpreter import Machine
from ulpsim.isa import Cause, Segment
from ulpsim.programs import random_program
from ulpsim.registers import BY_NAME, Control, Status
from wide import WIDE

CONFIGS = {config.name: config for config in (EDGE, NANO, WIDE)}
#: More cycles than any program here takes under any schedule.
LIMIT = 400_000


# --- in the simulator

class Bench:
    """The core, its memory and its host."""

    def __init__(self, dut, memory: bytes, source: random.Random) -> None:
        self.dut, self.source = dut, source
        self.config = CONFIGS[os.environ["BENCH_CONFIG"]]
        bus = AxiBus(AxiWriteBus.from_prefix(dut, "write_"), AxiReadBus.from_prefix(dut, "read_"))
        self.ram = AxiRam(bus, dut.clk, dut.rst, size=len(memory))
        self.ram.write(0, memory)
        self.registers = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "registers_"), dut.clk, dut.rst)

    async def begin(self) -> None:
        self.dut.rst.value = 1
        Clock(self.dut.clk, 10, "ns").start()
        await ClockCycles(self.dut.clk, 4)
        self.dut.rst.value = 0
        await ClockCycles(self.dut.clk, 2)
        cocotb.start_soon(Rules(self).watch())

    async def write(self, name: str, value: int) -> None:
        result = await self.registers.write(BY_NAME[name].offset, value.to_bytes(4, "little"))
        assert result.resp is AxiResp.OKAY

    async def read(self, name: str) -> int:
        result = await self.registers.read(BY_NAME[name].offset, 4)
        return int.from_bytes(result.data, "little")

    async def run(self, job: dict) -> tuple[int, int]:
        """Cause and instruction of a run."""
        await self.write("PROGRAM_ADDRESS", job["program"])
        await self.write("PROGRAM_LENGTH", job["instructions"])
        for segment in Segment:
            base, size = job["segments"][segment.name]
            await self.write(f"SEGMENT_{segment.value}_BASE", base)
            await self.write(f"SEGMENT_{segment.value}_SIZE", size)
        await self.write("INTERRUPT_ENABLE", 1)
        await self.write("CONTROL", Control.START)
        for _ in range(LIMIT):
            if int(self.dut.interrupt.value):
                break
            await RisingEdge(self.dut.clk)
        else:
            raise AssertionError("the core hangs")
        status, cause = await self.read("STATUS"), await self.read("CAUSE")
        assert status == (Status.FAULT if cause else Status.DONE)
        instruction = await self.read("FAULT_INSTRUCTION")
        await self.write("CONTROL", Control.CLEAR | Control.RESET)
        return cause, instruction


class Rules:
    """What AXI asks of a master: once valid, a channel waits unchanged until it is taken."""

    CHANNELS = {"read__ar": ("addr", "len", "size", "burst"),
                "write__aw": ("addr", "len", "size", "burst"),
                "write__w": ("data", "strb", "last")}

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.held: dict[str, tuple[int, ...] | None] = dict.fromkeys(self.CHANNELS)

    async def watch(self) -> None:
        dut, config = self.bench.dut, self.bench.config
        reads = writes = 0
        while True:
            # The values that the coming rising edge takes.
            await FallingEdge(dut.clk)
            for name, fields in self.CHANNELS.items():
                valid = int(getattr(dut, f"{name}valid").value)
                payload = tuple(int(getattr(dut, f"{name}{f}").value) for f in fields) \
                    if valid else None
                if self.held[name] is not None:
                    assert payload == self.held[name], f"{name} must not change before it is taken"
                taken = valid and int(getattr(dut, f"{name}ready").value)
                self.held[name] = None if taken else payload
                reads += taken and name == "read__ar"
                writes += taken and name == "write__aw"
            reads -= int(dut.read__rvalid.value) and int(dut.read__rready.value) \
                and int(dut.read__rlast.value)
            writes -= int(dut.write__bvalid.value) and int(dut.write__bready.value)
            assert reads <= config.outstanding_reads and writes <= OUTSTANDING_WRITES


def at_random(bench: Bench) -> None:
    """Every channel pauses half of the time."""
    read, write = bench.ram.read_if, bench.ram.write_if
    for channel in (read.ar_channel, read.r_channel, write.aw_channel, write.w_channel,
                    write.b_channel):
        channel.set_pause_generator(bench.source.random() < 0.5 for _ in iter(int, 1))


def in_gaps(bench: Bench) -> None:
    """A beat of a burst, then nothing for long; the host's channels pause as well."""
    def spans() -> Iterator[bool]:
        while True:
            yield from [True] * bench.source.choice([0, 1, 30, 90]) + [False]

    read, write = bench.ram.read_if, bench.ram.write_if
    for channel in (read.r_channel, write.w_channel, bench.registers.write_if.aw_channel,
                    bench.registers.write_if.w_channel, bench.registers.read_if.r_channel):
        channel.set_pause_generator(spans())


def address_after_data(bench: Bench) -> None:
    """A write address is taken only when all of the burst's data has been."""
    dut, write = bench.dut, bench.ram.write_if
    write.w_channel.queue_occupancy_limit = -1
    write.aw_channel.pause = True

    async def control() -> None:
        while True:
            await FallingEdge(dut.clk)
            if int(dut.write__wvalid.value) and int(dut.write__wready.value) \
                    and int(dut.write__wlast.value):
                await ClockCycles(dut.clk, bench.source.choice([1, 2, 40]))
                write.aw_channel.pause = False
                await FallingEdge(dut.clk)
                while not (int(dut.write__awvalid.value) and int(dut.write__awready.value)):
                    await FallingEdge(dut.clk)
                write.aw_channel.pause = True

    cocotb.start_soon(control())


def _in_heaps(bench: Bench, channel, ready: Callable[[], bool]) -> None:
    """Let a channel's responses wait until `ready`, or until nothing has moved for long."""
    dut = bench.dut
    channel.queue_occupancy_limit = -1
    channel.pause = True

    async def control() -> None:
        while True:
            for _ in range(300):
                await RisingEdge(dut.clk)
                if ready():
                    break
            channel.pause = False
            while not channel.empty():
                await RisingEdge(dut.clk)
            channel.pause = True

    cocotb.start_soon(control())


def responses_in_heaps(bench: Bench) -> None:
    """No write is answered before as many as the core has under way wait for it."""
    channel = bench.ram.write_if.b_channel
    _in_heaps(bench, channel, lambda: channel.count() >= OUTSTANDING_WRITES)


def data_in_heaps(bench: Bench) -> None:
    """No beat is read before as many bursts are asked for as the core has under way."""
    channel = bench.ram.read_if.r_channel
    beats = bench.config.outstanding_reads * bench.config.burst_beats
    _in_heaps(bench, channel, lambda: channel.count() >= beats)


def ready_after_valid(bench: Bench) -> None:
    """Addresses and data are taken only when they have been there for some cycles."""
    dut, read, write = bench.dut, bench.ram.read_if, bench.ram.write_if

    async def control(channel, valid, ready) -> None:
        channel.pause = True
        while True:
            await FallingEdge(dut.clk)
            if int(valid.value):
                await ClockCycles(dut.clk, bench.source.choice([1, 3, 17]))
                channel.pause = False
                await FallingEdge(dut.clk)
                while not (int(valid.value) and int(ready.value)):
                    await FallingEdge(dut.clk)
                channel.pause = True

    for channel, name in ((read.ar_channel, "read__ar"), (write.aw_channel, "write__aw"),
                          (write.w_channel, "write__w")):
        cocotb.start_soon(control(channel, getattr(dut, f"{name}valid"),
                                  getattr(dut, f"{name}ready")))


def at_once(bench: Bench) -> None:
    """Nothing ever waits."""


SCHEDULES = {f.__name__: f for f in (
    at_once, at_random, in_gaps, address_after_data, responses_in_heaps, data_in_heaps,
    ready_after_valid)}


def fail(bench: Bench, address: int, response: AxiResp) -> None:
    """From now on an access to the beat at `address` is answered so, and writes nothing."""
    read, write = bench.ram.read_if, bench.ram.write_if
    width = bench.config.bus_bytes

    async def failing_read(first: int, length: int) -> bytes:
        if first <= address < first + width:
            raise ValueError("a bad address")
        return bench.ram.read(first, length)

    async def failing_write(first: int, data: bytes) -> None:
        if first <= address < first + width:
            raise ValueError("a bad address")
        bench.ram.write(first, data)

    read._read, write._write = failing_read, failing_write
    # The model knows SLVERR alone.
    for channel, name in ((read.r_channel, "rresp"), (write.b_channel, "bresp")):
        send = type(channel).send

        async def answer(item, channel=channel, name=name, send=send) -> None:
            if getattr(item, name) == AxiResp.SLVERR:
                setattr(item, name, response)
            await send(channel, item)

        channel.send = answer


async def _begin(dut) -> tuple[Bench, list[dict], Path]:
    folder = Path(os.environ["BENCH_FOLDER"])
    seed = int(os.environ.get("ULPCORE_SEED", "1"))
    bench = Bench(dut, (folder / "before.bin").read_bytes(), random.Random(seed))
    await bench.begin()
    return bench, json.loads((folder / "jobs.json").read_text()), folder


@cocotb.test()
async def bench_schedule(dut) -> None:
    bench, jobs, folder = await _begin(dut)
    SCHEDULES[os.environ["BENCH_SCHEDULE"]](bench)
    results = [await bench.run(job) for job in jobs]
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "after.bin").write_bytes(bench.ram.read(0, bench.ram.size))


@cocotb.test()
async def bench_errors(dut) -> None:
    """Each job fails, and works when the memory does."""
    bench, jobs, folder = await _begin(dut)
    at_random(bench)
    results = []
    for job in jobs:
        fail(bench, job["error"][0], AxiResp(job["error_response"]))
        results.append(await bench.run(job))
        fail(bench, -1, AxiResp.OKAY)
        results.append(await bench.run(job))
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "after.bin").write_bytes(bench.ram.read(0, bench.ram.size))


# --- in pytest

@functools.lru_cache
def build(config: CoreConfig) -> Path:
    text, elements = generate(Core(config=config), name="core")
    return build_cocotb({"core.v": text}, top="core", elements=elements, public=False)


def run(config: CoreConfig, test: str, schedule: str, jobs: list[Job], memory: np.ndarray,
        folder: Path) -> tuple[list[list[int]], np.ndarray]:
    """[cause, instruction] of every run, and what memory holds at the end."""
    memory.tofile(folder / "before.bin")
    (folder / "jobs.json").write_text(json.dumps([
        {**dataclasses.asdict(job),
         "segments": {s.name: job.segments.get(s, (0, 0)) for s in Segment}} for job in jobs]))
    assert run_cocotb(build(config), top="core", module="test_core_axi", testcase=test,
                      folder=folder, search=[Path(__file__).parent], environment={
                          "BENCH_CONFIG": config.name, "BENCH_SCHEDULE": schedule,
                          "BENCH_FOLDER": str(folder)}) == 1
    return (json.loads((folder / "results.json").read_text()),
            np.fromfile(folder / "after.bin", np.uint8))


def short_programs(config: CoreConfig, seed: int) -> tuple[list, np.ndarray]:
    """A network and single instructions, such that take few cycles, one behind the other."""
    programs, base, number = [], 0, 10_000 * seed
    for network in (True, False):
        while True:
            number += 1
            program = random_program(number, config, base)
            if (program.network is not None) == network and predict(
                    program.program, config, program_address=base, segments=program.segments,
                    latency=16).cycles < 2000:
                break
        programs.append(program)
        base += len(program.memory)
    return programs, np.concatenate([program.memory for program in programs])


CORES = pytest.mark.parametrize("name", [
    "nano", *(pytest.param(name, marks=pytest.mark.nightly) for name in ("edge", "wide"))])


@CORES
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_words_under_every_schedule(name, schedule, seed, tmp_path):
    config = CONFIGS[name]
    programs, memory = short_programs(config, seed)
    results, after = run(config, "bench_schedule", schedule, [
        Job(program.base, len(program.program), program.segments) for program in programs],
        memory, tmp_path)
    machine = Machine(config, memory.copy())
    for program in programs:
        machine.segments = dict(program.segments)
        assert machine.run(program.program).cause is Cause.NONE
    assert results == [[0, 0]] * len(programs)
    assert np.count_nonzero(after != machine.memory) == 0
    assert np.count_nonzero(after != memory) > 0


@CORES
def test_errors_are_reported_and_survived(name, tmp_path):
    """Errors in the first, a middle and the last beat of the fetch, of LOAD and of STORE."""
    from test_fuzz import BUS_ERRORS, short_program

    config = CONFIGS[name]
    program, job, memory = short_program(0)
    regions = [((0, 64 * len(program)), 0), (job.segments[Segment.INPUT], 0),
               (job.segments[Segment.OUTPUT], 2)]
    jobs, expected = [], []
    for (first, size), instruction in regions:
        for offset in (0, size // 2 // config.bus_bytes * config.bus_bytes,
                       size - config.bus_bytes):
            for response, cause in BUS_ERRORS.items():
                jobs.append(dataclasses.replace(job, error=(first + offset, config.bus_bytes),
                                                error_response=response))
                expected += [[cause.value, instruction], [0, 0]]
    results, after = run(config, "bench_errors", "", jobs, memory, tmp_path)
    assert results == expected
    machine = Machine(config, memory.copy())
    machine.segments = dict(job.segments)
    assert machine.run(program).cause is Cause.NONE
    assert np.count_nonzero(after != machine.memory) == 0
