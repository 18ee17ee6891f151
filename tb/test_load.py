"""The load unit: what it writes and when, what it refuses, and how it behaves on the bus."""

import os
from pathlib import Path

import cocotb
import numpy as np
import pytest
from cocotbext.axi import AxiRamRead, AxiReadBus
from dma import MEMORY_WORDS, Driver, bench_config, memory_image, random_source, run_bench
from ulpcore.load import Load
from ulpsim import cycles_memory
from ulpsim.config import CoreConfig
from ulpsim.isa import INDEX_BITS, Cause, Instruction, Segment, Target, Unit

MEMORY_BYTES = 4 * MEMORY_WORDS


class Memories:
    """What the writes of the unit have made of the core's memories, as slots."""

    def __init__(self, driver: Driver) -> None:
        config = self.config = driver.config
        self.driver = driver
        self.slots = {
            "activation": np.zeros(config.activation_slots, np.uint16),
            "weight": np.zeros(config.weight_slots, np.uint16),
            "parameter": np.zeros(config.parameter_columns * 8, np.uint16),
            "program": np.zeros(config.instruction_memory * 32, np.uint16),
        }
        driver.watchers.append(self.watch)

    def watch(self) -> None:
        value = self.driver.value
        for name, slots in self.slots.items():
            if not value(f"load__{name}_enable"):
                continue
            count, place = 8, "line"
            if name == "activation":
                assert value("cycle") % 4 == 0, "activations must be written in phase 0"
                count, place = value("load__activation_count"), "address"
                first = value("load__activation_address")
                assert 1 <= count <= 8
            elif name == "program":
                first = 8 * value("load__program_address")
            else:
                if name == "parameter":
                    count = 8 * self.config.quarter
                first = count * value(f"load__{name}_{place}")
            data = value("load__parameter_data" if name == "parameter" else "load__data")
            for i in range(count):
                slots[first + i] = data >> 16 * i & 0xFFFF


class Expected:
    """The same, from the meaning of the instructions."""

    def __init__(self, config: CoreConfig, memory: np.ndarray) -> None:
        self.slots = {
            "activation": np.zeros(config.activation_slots, np.uint16),
            "weight": np.zeros(config.weight_slots, np.uint16),
            "parameter": np.zeros(config.parameter_columns * 8, np.uint16),
            "program": np.zeros(config.instruction_memory * 32, np.uint16),
        }
        self.memory = memory.view(np.uint16)

    def apply(self, instruction: Instruction, base: int) -> None:
        target = "activation"
        if instruction.name == "LOAD":
            target = Target(instruction["target"]).name.lower().removesuffix("s")
        for row in range(instruction["rows"]):
            to = instruction["address"] + row * instruction["pitch"]
            length = instruction["length"]
            values: np.ndarray | int = 0
            if instruction.name == "LOAD":
                first = (base + instruction["offset"] + row * instruction["source_pitch"]) // 2
                values = self.memory[first:first + length]
            self.slots[target][to:to + length] = values


def random_load(source, config: CoreConfig, size: int) -> Instruction:
    """A legal LOAD or FILL, and small enough for a test."""
    target = source.choice(list(Target))
    granule, slots = {
        Target.ACTIVATIONS: (1, config.activation_slots),
        Target.WEIGHTS: (8, config.weight_slots),
        Target.PARAMETERS: (16, config.parameter_columns * 8),
    }[target]
    rows = source.choice([1, 1, 2, 3, source.randint(4, 12)])
    lengths = {1: [1, 2, 3, 7, 8, 9, 10, 15, 16, 17, 33, source.randint(1, 300)]}
    length = source.choice(lengths.get(granule, [granule, 2 * granule, 3 * granule,
                                                 granule * source.randint(1, 8)]))
    length = min(length, slots)
    row_bytes = 4 * -(-length // 2)
    source_pitch = source.choice([0, row_bytes, row_bytes + 4, 4 * source.randint(0, 1100)])
    source_pitch = min(source_pitch, (size - row_bytes) // max(rows - 1, 1) // 4 * 4)
    offset = 4 * source.randint(0, (size - row_bytes - (rows - 1) * source_pitch) // 4)
    if source.random() < 0.3 and size - row_bytes - (rows - 1) * source_pitch >= 4096:
        offset = 4096 - 4 * source.randint(0, min(1023, row_bytes // 4))
    pitch = source.choice([0, length, length + granule, granule * source.randint(0, 60)])
    pitch = min(pitch, (slots - length) // max(rows - 1, 1) // granule * granule)
    address = granule * source.randint(0, (slots - length - (rows - 1) * pitch) // granule)
    shape = dict(rows=rows, length=length, address=address, pitch=pitch,
                 post_execute=source.randint(0, 1), post_store=source.randint(0, 1))
    if target is Target.ACTIVATIONS and source.random() < 0.25:
        return Instruction("FILL", **shape)
    return Instruction("LOAD", target=target, segment=source.choice(list(Segment)), offset=offset,
                       source_pitch=source_pitch, **shape)


def random_segments(source) -> dict[Segment, tuple[int, int]]:
    size = 16384
    return {segment: (4 * source.randint(0, (MEMORY_BYTES - size) // 4), size)
            for segment in Segment}


@cocotb.test()
async def bench_timing(dut) -> None:
    """Random instructions beside the Verilog memory: contents, and (unless the memory stalls)
    cycles as predicted."""
    config, source = bench_config(), random_source()
    latency = int(os.environ["BENCH_LATENCY"])
    driver = Driver(dut, config)
    await driver.begin()
    segments = random_segments(source)
    driver.set_segments(segments)
    memories, expected = Memories(driver), Expected(config, memory_image())
    await driver.clear()
    stalls = "BENCH_STALLS" in os.environ
    timing = cycles_memory.Load(config, segments, latency)
    for number in range(int(os.environ["BENCH_COUNT"])):
        if source.random() < 0.7:
            await driver.cycles(source.randint(0, 7))
        instruction = random_load(source, config, 16384)
        expected.apply(instruction, segments[Segment(instruction.values.get("segment", 0))][0])
        await driver.offer("load", instruction, number)
        assert driver.value("load__busy")
        assert await driver.finish("load") is Cause.NONE
        assert driver.value("load__retired_post") == sum(
            instruction[f"post_{u.name.lower()}"] << u.value for u in Unit)
        retired, taken = driver.value("cycle"), driver.value("load_taken")
        assert stalls or timing.take(instruction, taken) == (taken, retired), instruction
    # The next instruction may be taken in the cycle in which one retires.
    for number in range(4):
        instruction = random_load(source, config, 16384)
        expected.apply(instruction, segments[Segment(instruction.values.get("segment", 0))][0])
        offered = driver.value("cycle")
        await driver.offer("load", instruction, number)
        taken, _ = timing.take(instruction, offered)
        assert stalls or driver.value("load_taken") == taken
    assert await driver.finish("load") is Cause.NONE
    await driver.cycles(4)
    for name, slots in expected.slots.items():
        np.testing.assert_array_equal(memories.slots[name], slots, name)


@cocotb.test()
async def bench_fetch(dut) -> None:
    """The fetch of a program, from places in and across pages."""
    config, source = bench_config(), random_source()
    latency = int(os.environ["BENCH_LATENCY"])
    driver = Driver(dut, config)
    await driver.begin()
    memories, words = Memories(driver), memory_image()
    layout = Load(config=config).fetch.payload.shape()
    for count in (1, 2, 5, config.fetch_block):
        address = 4 * source.randint(0, (MEMORY_BYTES - 64 * count) // 4)
        index = source.randrange(0, 1 << INDEX_BITS, config.fetch_block)
        await driver.clear()
        dut.load__fetch__payload.value = layout.const(
            {"address": address, "count": count, "index": index}).as_bits()
        dut.load__fetch__valid.value = 1
        assert driver.value("load__fetch__ready")
        start = driver.value("cycle")
        assert start == 0
        await driver.cycles()
        dut.load__fetch__valid.value = 0
        while not driver.value("load__fetched"):
            assert not driver.value("load__retired")
            await driver.cycles()
        model = cycles_memory.Load(config, {}, latency)
        arrived = model.fetch(address, count, 0)
        assert len(arrived) == count
        assert driver.value("cycle") == arrived[-1] == model.free
        first = 32 * (index % config.instruction_memory)
        np.testing.assert_array_equal(memories.slots["program"][first:][:32 * count],
                                      words[address // 4:][:16 * count].view(np.uint16))


FAULTS = [
    (dict(offset=2), Cause.MISALIGNED_ADDRESS),
    (dict(source_pitch=2), Cause.MISALIGNED_ADDRESS),
    (dict(target=Target.WEIGHTS, address=4), Cause.MISALIGNED_ADDRESS),
    (dict(target=Target.WEIGHTS, length=12), Cause.MISALIGNED_ADDRESS),
    (dict(target=Target.WEIGHTS, pitch=1), Cause.MISALIGNED_ADDRESS),
    (dict(target=Target.PARAMETERS, address=8, length=16, pitch=16), Cause.MISALIGNED_ADDRESS),
    (dict(target=Target.PARAMETERS, length=8, pitch=16), Cause.MISALIGNED_ADDRESS),
    (dict(offset=1000, length=13), Cause.SEGMENT_RANGE),
    (dict(offset=1004, length=8, rows=2, source_pitch=8), Cause.SEGMENT_RANGE),
    (dict(offset=1028), Cause.SEGMENT_RANGE),
    (dict(offset=0xFFFFFFFC), Cause.SEGMENT_RANGE),
    (dict(rows=65535, source_pitch=0xFFFFFFFC), Cause.SEGMENT_RANGE),
    (dict(rows=1 + (1 << 15), source_pitch=1 << 17), Cause.SEGMENT_RANGE),
    (dict(segment=Segment.WORKSPACE), Cause.SEGMENT_RANGE),
    (dict(address="end", length=8), Cause.ACTIVATION_RANGE),
    (dict(rows=65535, pitch=(1 << 20) - 1), Cause.ACTIVATION_RANGE),
    (dict(rows=17, pitch=1 << 16), Cause.ACTIVATION_RANGE),
    (dict(address=(1 << 20) - 1, length=1), Cause.ACTIVATION_RANGE),
    (dict(target=Target.WEIGHTS, address="weights", length=16), Cause.WEIGHT_RANGE),
    (dict(target=Target.PARAMETERS, address="parameters", length=32, pitch=16),
     Cause.PARAMETER_RANGE),
    # Of several, the first in the order of the checks.
    (dict(offset=0xFFFFFFFE, address=(1 << 20) - 1), Cause.MISALIGNED_ADDRESS),
    (dict(offset=0xFFFFFFFC, address=(1 << 20) - 1), Cause.SEGMENT_RANGE),
]
LIMITS = [
    dict(offset=996, length=14),
    dict(offset=996, length=13),
    dict(offset=1000, length=8, rows=2, source_pitch=8),
    dict(rows=65535, source_pitch=0, length=1, stop=True),
    dict(address="end", length=7),
    dict(target=Target.WEIGHTS, address="weights", length=8),
    dict(target=Target.PARAMETERS, address="parameters", length=16, pitch=16),
]


def placed(config: CoreConfig, fields: dict) -> Instruction:
    places = {"end": config.activation_slots - 7, "weights": config.weight_slots - 8,
              "parameters": config.parameter_columns * 8 - 16}
    values = dict(length=8, **{"rows": 1}) | fields
    values["address"] = places.get(values.get("address", 0), values.get("address", 0))
    values.pop("stop", None)
    return Instruction("LOAD", **values)


@cocotb.test()
async def bench_checks(dut) -> None:
    """Every rule, just broken and just kept, without a bus access when broken."""
    config = bench_config()
    driver = Driver(dut, config)
    await driver.begin()
    driver.set_segments({Segment.PARAMETERS: (512, 1024)})
    writes = []
    driver.watchers.append(lambda: writes.append(
        not driver.value("load__quiet") or driver.value("load__activation_enable")))
    for number, (fields, cause) in enumerate(FAULTS):
        await driver.clear()
        writes.clear()
        instruction = placed(config, fields)
        await driver.offer("load", instruction, number)
        assert await driver.finish("load") is cause, instruction
        assert driver.value("load__fault_index") == number
        assert driver.value("cycle") == driver.value("load_taken") + 21
        await driver.cycles()
        assert not driver.value("load__fault")
        assert not driver.value("load__instructions__ready"), "a failed unit must rest"
        await driver.cycles(4)
        assert not any(writes), instruction
    for fields in (dict(address=config.activation_slots - 8, length=9),
                   dict(rows=65535, pitch=65535)):
        await driver.clear()
        await driver.offer("load", Instruction("FILL", **fields))
        assert await driver.finish("load") is Cause.ACTIVATION_RANGE
    for fields in LIMITS:
        await driver.clear()
        await driver.offer("load", placed(config, fields))
        if "stop" not in fields:
            assert await driver.finish("load") is Cause.NONE, fields
        else:
            await driver.cycles(60)
            assert driver.value("load__busy") and not driver.value("load__fault")
            dut.load__stop.value = 1
            await driver.cycles(60)
            assert driver.value("load__quiet")
            dut.load__stop.value = 0


@cocotb.test()
async def bench_errors(dut) -> None:
    """A bus error ends the instruction, and what is under way is drained."""
    config = bench_config()
    cause = Cause[os.environ["BENCH_CAUSE"]]
    driver = Driver(dut, config)
    await driver.begin()
    driver.set_segments({Segment.INPUT: (0, MEMORY_BYTES)})
    for offset, length, fails in ((0, 3072, True), (4096, 64, True), (4092, 2, False),
                                  (4092, 4, True), (4096 + 64, 1024, False)):
        await driver.clear()
        await driver.offer("load", Instruction("LOAD", segment=Segment.INPUT, offset=offset,
                                               length=length), 7)
        result = await driver.finish("load")
        assert result is (cause if fails else Cause.NONE)
        if fails:
            assert driver.value("load__fault_index") == 7
            for _ in range(2000):
                await driver.cycles()
                assert not driver.value("load__fault") and not driver.value("load__retired")
                assert not driver.value("load__activation_enable")
            assert driver.value("load__quiet")


@cocotb.test()
async def bench_protocol(dut) -> None:
    """Beside an independent AXI model that stalls at random."""
    config, source = bench_config(), random_source()
    driver = Driver(dut, config)
    ram = AxiRamRead(AxiReadBus.from_prefix(dut, "read_"), dut.clk, dut.rst, size=MEMORY_BYTES)
    words = memory_image()
    ram.write(0, words.tobytes())
    await driver.begin()
    memories, expected = Memories(driver), Expected(config, words)
    segments = random_segments(source)
    driver.set_segments(segments)
    await driver.clear()
    for number in range(30):
        if number == 10:
            ram.ar_channel.set_pause_generator(source.random() < 0.5 for _ in iter(int, 1))
        if number == 20:
            ram.r_channel.set_pause_generator(source.random() < 0.5 for _ in iter(int, 1))
        instruction = random_load(source, config, 16384)
        expected.apply(instruction, segments[Segment(instruction.values.get("segment", 0))][0])
        await driver.offer("load", instruction)
        assert await driver.finish("load") is Cause.NONE
    # Stopped in the middle: what is under way ends, nothing else begins.
    await driver.offer("load", Instruction("LOAD", length=4000))
    await driver.cycles(source.randint(30, 60))
    dut.load__stop.value = 1
    while not driver.value("load__quiet"):
        await driver.cycles()
    await driver.cycles(100)
    assert driver.value("load__quiet") and not driver.value("load__retired")
    for name in ("weight", "parameter"):
        np.testing.assert_array_equal(memories.slots[name], expected.slots[name], name)


@cocotb.test()
async def bench_outside(dut) -> None:
    """The memory answers beyond its end with DECERR."""
    driver = Driver(dut, bench_config())
    await driver.begin()
    driver.set_segments({Segment.INPUT: (0, MEMORY_BYTES)})
    await driver.clear()
    await driver.offer("load", Instruction("LOAD", segment=Segment.INPUT, offset=32752,
                                           length=8))
    assert await driver.finish("load") is Cause.NONE
    await driver.offer("load", Instruction("LOAD", segment=Segment.INPUT, offset=32752, length=9))
    assert await driver.finish("load") is Cause.BUS_DECODE_ERROR


THIS = Path(__file__).stem


@pytest.mark.parametrize(("config", "latency", "count", "benches"), [
    ("edge", 16, 60, ("bench_timing", "bench_fetch", "bench_checks")),
    ("edge", 2, 30, ("bench_timing",)),
    ("nano", 40, 30, ("bench_timing", "bench_fetch", "bench_checks")),
    ("short", 3, 50, ("bench_timing", "bench_fetch")),
])
def test_beside_the_memory(config, latency, count, benches, tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_LATENCY", str(latency))
    monkeypatch.setenv("BENCH_COUNT", str(count))
    run_bench(THIS, benches, config, tmp_path, plusargs=[f"+latency={latency}"])


def test_slave_errors(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_CAUSE", Cause.BUS_SLAVE_ERROR.name)
    run_bench(THIS, ["bench_errors"], "edge", tmp_path, plusargs=[
        "+error_first=4096", "+error_bytes=64", "+error_response=2"])


def test_decode_errors(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_CAUSE", Cause.BUS_DECODE_ERROR.name)
    run_bench(THIS, ["bench_errors", "bench_outside"], "edge", tmp_path, plusargs=[
        "+words=8192", "+error_first=4096", "+error_bytes=64", "+error_response=3"])


def test_beside_a_stalling_memory(seed, tmp_path, monkeypatch):
    for name, value in (("LATENCY", 6), ("COUNT", 40), ("STALLS", 1)):
        monkeypatch.setenv(f"BENCH_{name}", str(value))
    run_bench(THIS, ["bench_timing"], "edge", tmp_path, plusargs=[
        "+latency=6", f"+stall_seed={seed + 1}"])


def test_protocol(tmp_path):
    run_bench(THIS, ["bench_protocol"], "edge", tmp_path, memory=False)
