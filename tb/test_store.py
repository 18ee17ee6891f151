"""The store unit: what it writes and when, what it refuses, and how it behaves on the bus."""

import os
from pathlib import Path

import cocotb
import numpy as np
import pytest
from cocotbext.axi import AxiRamWrite, AxiWriteBus
from dma import (
    MEMORY_WORDS,
    Driver,
    bench_config,
    memory_image,
    random_source,
    run_bench,
    slot_value,
)
from ulpsim import cycles_memory
from ulpsim.config import CoreConfig
from ulpsim.isa import Cause, Instruction, Segment, Unit

MEMORY_BYTES = 4 * MEMORY_WORDS
SEGMENT_BYTES = 16384
SEGMENTS = {Segment.OUTPUT: (4096 + 64, SEGMENT_BYTES),
            Segment.WORKSPACE: (32768 + 4, SEGMENT_BYTES)}


def random_store(source, config: CoreConfig) -> Instruction:
    """A legal STORE whose rows do not overlap in memory."""
    rows = source.choice([1, 1, 2, 3, source.randint(4, 12)])
    length = source.choice([2, 4, 6, 8, 10, 14, 16, 18, 34, 2 * source.randint(1, 150)])
    row_bytes = 2 * length
    target_pitch = source.choice([row_bytes, row_bytes + 4, 4 * source.randint(0, 300)])
    target_pitch = max(row_bytes, target_pitch)
    room = SEGMENT_BYTES - row_bytes - (rows - 1) * target_pitch
    if room < 0:
        rows, room = 1, SEGMENT_BYTES - row_bytes
    slots = config.activation_slots
    pitch = source.choice([0, length, length + 1, source.randint(0, 200)])
    pitch = min(pitch, (slots - length) // max(rows - 1, 1))
    return Instruction(
        "STORE", segment=source.choice(list(SEGMENTS)), offset=4 * source.randint(0, room // 4),
        target_pitch=target_pitch, rows=rows, length=length, pitch=pitch,
        address=source.randint(0, slots - length - (rows - 1) * pitch),
        post_load=source.randint(0, 1), post_special=source.randint(0, 1))


def apply(memory: np.ndarray, instruction: Instruction,
          segments: dict[Segment, tuple[int, int]]) -> None:
    """The instruction's meaning, on the memory's 16-bit words."""
    base, _ = segments[Segment(instruction["segment"])]
    for row in range(instruction["rows"]):
        first = (base + instruction["offset"] + row * instruction["target_pitch"]) // 2
        slots = instruction["address"] + row * instruction["pitch"] + np.arange(
            instruction["length"])
        memory[first:first + instruction["length"]] = slot_value(slots)


@cocotb.test()
async def bench_timing(dut) -> None:
    """Random instructions beside the Verilog memory: contents, and (unless the memory stalls)
    cycles as predicted."""
    config, source = bench_config(), random_source()
    latency = int(os.environ["BENCH_LATENCY"])
    driver = Driver(dut, config)
    await driver.begin()
    driver.set_segments(SEGMENTS)
    memory = memory_image().view(np.uint16)

    def watch() -> None:
        if driver.value("store__activation_enable"):
            assert driver.value("cycle") % 4 == 1, "activations must be read in phase 1"
            assert driver.value("store__activation_count") in (2, 4, 6, 8)

    driver.watchers.append(watch)
    await driver.clear()
    stalls = "BENCH_STALLS" in os.environ
    timing = cycles_memory.Store(config, SEGMENTS, latency)
    for number in range(int(os.environ["BENCH_COUNT"])):
        if source.random() < 0.7:
            await driver.cycles(source.randint(0, 7))
        instruction = random_store(source, config)
        apply(memory, instruction, SEGMENTS)
        await driver.offer("store", instruction, number)
        assert driver.value("store__busy")
        assert await driver.finish("store") is Cause.NONE
        assert driver.value("store__retired_post") == sum(
            instruction[f"post_{u.name.lower()}"] << u.value for u in Unit)
        retired, taken = driver.value("cycle"), driver.value("store_taken")
        assert stalls or timing.take(instruction, taken) == (taken, retired), instruction
    for number in range(4):
        instruction = random_store(source, config)
        apply(memory, instruction, SEGMENTS)
        offered = driver.value("cycle")
        await driver.offer("store", instruction, number)
        taken, _ = timing.take(instruction, offered)
        assert stalls or driver.value("store_taken") == taken
    assert await driver.finish("store") is Cause.NONE
    dut.dump.value = 1
    await driver.cycles(3)
    words = [int(word, 16) for line in Path("final.hex").read_text().splitlines()
             if not line.startswith(("//", "@")) for word in line.split()]
    np.testing.assert_array_equal(np.array(words, np.uint32).view(np.uint16), memory)


FAULTS = [
    (dict(offset=2), Cause.MISALIGNED_ADDRESS),
    (dict(target_pitch=1), Cause.MISALIGNED_ADDRESS),
    (dict(length=7), Cause.MISALIGNED_ADDRESS),
    (dict(segment=Segment.PARAMETERS), Cause.SEGMENT_READ_ONLY),
    (dict(segment=Segment.INPUT), Cause.SEGMENT_READ_ONLY),
    (dict(offset=SEGMENT_BYTES - 12), Cause.SEGMENT_RANGE),
    (dict(offset=SEGMENT_BYTES), Cause.SEGMENT_RANGE),
    (dict(offset=0xFFFFFFFC), Cause.SEGMENT_RANGE),
    (dict(offset=SEGMENT_BYTES - 28, rows=2, target_pitch=16), Cause.SEGMENT_RANGE),
    (dict(rows=65535, target_pitch=0xFFFFFFFC), Cause.SEGMENT_RANGE),
    (dict(address="end"), Cause.ACTIVATION_RANGE),
    (dict(rows=65535, pitch=(1 << 20) - 1), Cause.ACTIVATION_RANGE),
    (dict(offset=0xFFFFFFFE, address=(1 << 20) - 1), Cause.MISALIGNED_ADDRESS),
    (dict(segment=Segment.INPUT, offset=0xFFFFFFFC), Cause.SEGMENT_READ_ONLY),
    (dict(offset=0xFFFFFFFC, address=(1 << 20) - 1), Cause.SEGMENT_RANGE),
]


@cocotb.test()
async def bench_checks(dut) -> None:
    """Every rule, just broken and just kept, without a bus access when broken."""
    config = bench_config()
    driver = Driver(dut, config)
    await driver.begin()
    driver.set_segments(SEGMENTS)
    accesses = []
    driver.watchers.append(lambda: accesses.append(
        not driver.value("store__quiet") or driver.value("store__activation_enable")))

    def placed(fields: dict) -> Instruction:
        values = dict(segment=Segment.OUTPUT, length=8) | fields
        if values.get("address") == "end":
            values["address"] = config.activation_slots - 7
        return Instruction("STORE", **values)

    for number, (fields, cause) in enumerate(FAULTS):
        await driver.clear()
        accesses.clear()
        instruction = placed(fields)
        await driver.offer("store", instruction, number)
        assert await driver.finish("store") is cause, instruction
        assert driver.value("store__fault_index") == number
        await driver.cycles(6)
        assert not driver.value("store__fault")
        assert not driver.value("store__instructions__ready"), "a failed unit must rest"
        assert not any(accesses), instruction
    await driver.clear()
    for fields in (dict(offset=SEGMENT_BYTES - 16), dict(address=config.activation_slots - 8),
                   dict(offset=SEGMENT_BYTES - 32, rows=2, target_pitch=16)):
        await driver.offer("store", placed(fields))
        assert await driver.finish("store") is Cause.NONE, fields


@cocotb.test()
async def bench_errors(dut) -> None:
    """A bus error ends the instruction; bursts under way are finished and answered."""
    driver = Driver(dut, bench_config())
    await driver.begin()
    driver.set_segments({Segment.OUTPUT: (0, MEMORY_BYTES)})
    cause = Cause[os.environ["BENCH_CAUSE"]]
    for offset, length, fails in ((4096 + 64, 512, False), (4096, 64, True), (2048, 4096, True),
                                  (4092, 2, False), (4092, 4, True)):
        await driver.clear()
        await driver.offer("store", Instruction("STORE", segment=Segment.OUTPUT, offset=offset,
                                                length=length), 9)
        result = await driver.finish("store")
        assert result is (cause if fails else Cause.NONE), (offset, length)
        if fails:
            assert driver.value("store__fault_index") == 9
            for _ in range(1000):
                await driver.cycles()
                assert not driver.value("store__fault") and not driver.value("store__retired")
            assert driver.value("store__quiet")


@cocotb.test()
async def bench_protocol(dut) -> None:
    """Beside an independent AXI model that stalls at random; and stopped in the middle."""
    config, source = bench_config(), random_source()
    driver = Driver(dut, config)
    ram = AxiRamWrite(AxiWriteBus.from_prefix(dut, "write_"), dut.clk, dut.rst,
                      size=MEMORY_BYTES)
    memory = memory_image().view(np.uint16)
    ram.write(0, memory.tobytes())
    await driver.begin()
    driver.set_segments(SEGMENTS)
    await driver.clear()
    for number in range(40):
        for first, channel in ((10, ram.aw_channel), (20, ram.w_channel), (30, ram.b_channel)):
            if number == first:
                channel.set_pause_generator(source.random() < 0.5 for _ in iter(int, 1))
        instruction = random_store(source, config)
        apply(memory, instruction, SEGMENTS)
        await driver.offer("store", instruction)
        assert await driver.finish("store") is Cause.NONE
    np.testing.assert_array_equal(np.frombuffer(ram.read(0, MEMORY_BYTES), np.uint16), memory)
    for _ in range(4):
        instruction = Instruction("STORE", segment=Segment.OUTPUT, length=4000, address=100)
        await driver.offer("store", instruction)
        await driver.cycles(source.randint(25, 400))
        dut.store__stop.value = 1
        await driver.cycles(2)
        while not driver.value("store__quiet"):
            await driver.cycles()
        await driver.cycles(100)
        assert driver.value("store__quiet") and not driver.value("store__retired")
        dut.store__stop.value = 0
        await driver.clear()
        # Whole bursts have been written, rightly, and nothing behind them.
        after = np.frombuffer(ram.read(0, MEMORY_BYTES), np.uint16)
        first = SEGMENTS[Segment.OUTPUT][0] // 2
        wanted = memory.copy()
        apply(wanted, instruction, SEGMENTS)
        changed = np.flatnonzero(after[first:first + 4000] != memory[first:first + 4000])
        end = int(changed[-1]) + 1 if len(changed) else 0
        np.testing.assert_array_equal(after[first:first + end], wanted[first:first + end])
        np.testing.assert_array_equal(after[:first], memory[:first])
        np.testing.assert_array_equal(after[first + 4000:], memory[first + 4000:])
        memory = after.copy()


THIS = Path(__file__).stem


@pytest.mark.parametrize(("config", "latency", "count", "benches"), [
    ("edge", 16, 60, ("bench_timing", "bench_checks")),
    ("edge", 2, 30, ("bench_timing",)),
    ("nano", 40, 30, ("bench_timing", "bench_checks")),
    ("short", 3, 50, ("bench_timing",)),
])
def test_beside_the_memory(config, latency, count, benches, tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_LATENCY", str(latency))
    monkeypatch.setenv("BENCH_COUNT", str(count))
    run_bench(THIS, benches, config, tmp_path, plusargs=[f"+latency={latency}"])


@pytest.mark.parametrize("cause", [Cause.BUS_SLAVE_ERROR, Cause.BUS_DECODE_ERROR])
def test_errors(cause, tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_CAUSE", cause.name)
    response = 2 if cause is Cause.BUS_SLAVE_ERROR else 3
    run_bench(THIS, ["bench_errors"], "edge", tmp_path, plusargs=[
        "+error_first=4096", "+error_bytes=64", f"+error_response={response}"])


def test_beside_a_stalling_memory(seed, tmp_path, monkeypatch):
    for name, value in (("LATENCY", 6), ("COUNT", 40), ("STALLS", 1)):
        monkeypatch.setenv(f"BENCH_{name}", str(value))
    run_bench(THIS, ["bench_timing"], "edge", tmp_path, plusargs=[
        "+latency=6", f"+stall_seed={seed + 1}"])


def test_protocol(tmp_path):
    run_bench(THIS, ["bench_protocol"], "edge", tmp_path, memory=False)
