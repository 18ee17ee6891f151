"""The registers over AXI4-Lite: the whole map, bad accesses, strobes, pauses, commands."""

import itertools
import os
import random
from pathlib import Path

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, FallingEdge, RisingEdge
from cocotbext.axi import AxiLiteBus, AxiLiteMaster, AxiResp
from simulation import run_bench
from ulpcore.registers import Registers
from ulpsim.config import EDGE, NANO
from ulpsim.isa import Segment
from ulpsim.registers import (
    BY_NAME,
    CORE_IDENTIFIER,
    EXCHANGE_REGISTERS,
    REGISTERS,
    WATCHDOG_RESET,
    Access,
    Control,
    Status,
    constants,
    documentation,
)


class Host:
    def __init__(self, dut) -> None:
        self.dut = dut
        self.source = random.Random(int(os.environ.get("ULPCORE_SEED", "1")))
        self.starts = self.resets = 0

    async def begin(self) -> None:
        dut = self.dut
        for name in ("busy", "done", "fault", "fault_cause", "fault_index", "cycles"):
            getattr(dut, name).value = 0
        dut.rst.value = 1
        Clock(dut.clk, 10, "ns").start()
        self.master = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "bus_"), dut.clk, dut.rst)
        await ClockCycles(dut.clk, 3)
        dut.rst.value = 0
        await ClockCycles(dut.clk, 2)
        cocotb.start_soon(self.count())

    async def count(self) -> None:
        while True:
            await FallingEdge(self.dut.clk)
            self.starts += int(self.dut.start.value)
            self.resets += int(self.dut.reset.value)

    async def write(self, name: str, value: int) -> AxiResp:
        result = await self.master.write(BY_NAME[name].offset, value.to_bytes(4, "little"))
        return result.resp

    async def read(self, name: str) -> int:
        result = await self.master.read(BY_NAME[name].offset, 4)
        assert result.resp is AxiResp.OKAY
        return int.from_bytes(result.data, "little")

    async def pulse(self, name: str) -> None:
        signal = getattr(self.dut, name)
        await RisingEdge(self.dut.clk)
        signal.value = 1
        await RisingEdge(self.dut.clk)
        signal.value = 0
        await RisingEdge(self.dut.clk)


@cocotb.test()
async def bench_map(dut) -> None:
    """Reset values, constants, what can be written and what cannot, at every address."""
    host = Host(dut)
    await host.begin()
    fixed = constants({"edge": EDGE, "nano": NANO}[os.environ["BENCH_CONFIG"]])
    model = {r.name: fixed.get(r.name, r.reset) for r in REGISTERS}
    assert model["IDENTIFIER"] == CORE_IDENTIFIER and model["WATCHDOG"] == WATCHDOG_RESET
    for register in REGISTERS:
        assert await host.read(register.name) == model[register.name], register.name
    known = {r.offset for r in REGISTERS}
    for pause in (False, True):
        if pause:
            interfaces = host.master.write_if, host.master.read_if
            for channel in (interfaces[0].aw_channel, interfaces[0].w_channel,
                            interfaces[0].b_channel, interfaces[1].ar_channel,
                            interfaces[1].r_channel):
                channel.set_pause_generator(host.source.random() < 0.6 for _ in iter(int, 1))
        for offset in range(0, 256, 4):
            if offset not in known:
                assert (await host.master.write(offset, bytes(4))).resp is AxiResp.SLVERR
                assert (await host.master.read(offset, 4)).resp is AxiResp.SLVERR
        for register in REGISTERS:
            value = host.source.getrandbits(32)
            if register.access is Access.COMMAND:
                continue
            expected = AxiResp.SLVERR if register.access is Access.READ else AxiResp.OKAY
            assert await host.write(register.name, value) is expected, register.name
            if register.access is Access.WRITE:
                model[register.name] = value & register.mask
        for register in host.source.sample(REGISTERS, len(REGISTERS)):
            assert await host.read(register.name) == model[register.name], register.name
        # Single bytes.
        for register, lane in itertools.product(REGISTERS, range(4)):
            if register.access is Access.WRITE:
                byte = host.source.getrandbits(8)
                await host.master.write(register.offset + lane, bytes([byte]))
                mask = register.mask & 0xFF << 8 * lane
                model[register.name] = (model[register.name] & ~mask
                                        | byte << 8 * lane & mask)
                assert await host.read(register.name) == model[register.name]
    assert int(dut.program_address.value) == model["PROGRAM_ADDRESS"]
    assert int(dut.program_length.value) == model["PROGRAM_LENGTH"]
    assert int(dut.watchdog.value) == model["WATCHDOG"]
    segments = int(dut.segments.value)
    for segment in Segment:
        base, size = (segments >> 64 * segment.value + 32 * i & 0xFFFFFFFF for i in range(2))
        assert base == model[f"SEGMENT_{segment.value}_BASE"]
        assert size == model[f"SEGMENT_{segment.value}_SIZE"]
    assert host.starts == host.resets == 0


@cocotb.test()
async def bench_commands(dut) -> None:
    """Start, reset, clear; status and interrupt."""
    host = Host(dut)
    await host.begin()
    assert await host.write("CONTROL", Control.START) is AxiResp.OKAY
    assert (host.starts, host.resets) == (1, 0)
    dut.busy.value = 1
    assert await host.read("STATUS") == Status.BUSY
    assert await host.write("CONTROL", Control.START) is AxiResp.SLVERR
    assert await host.write("CONTROL", Control.CLEAR) is AxiResp.OKAY
    assert host.starts == 1
    await host.pulse("done")
    dut.busy.value = 0
    assert await host.read("STATUS") == Status.DONE
    assert not int(dut.interrupt.value)
    await host.write("INTERRUPT_ENABLE", 1)
    assert int(dut.interrupt.value)
    await host.write("CONTROL", Control.CLEAR)
    assert not int(dut.interrupt.value)
    assert await host.read("STATUS") == 0
    await host.write("CONTROL", Control.START)
    assert host.starts == 2
    dut.fault_cause.value, dut.fault_index.value = 8, 1000
    dut.cycles.value = 0x123456789ABCDEF0
    await host.pulse("fault")
    assert int(dut.interrupt.value)
    assert await host.read("STATUS") == Status.FAULT
    assert await host.read("CAUSE") == 8
    assert await host.read("FAULT_INSTRUCTION") == 1000
    assert await host.read("CYCLES_LOW") == 0x9ABCDEF0
    assert await host.read("CYCLES_HIGH") == 0x12345678
    await host.write("CONTROL", Control.START)
    assert await host.read("STATUS") == 0
    dut.busy.value = 1
    assert await host.write("CONTROL", Control.RESET) is AxiResp.OKAY
    assert (host.starts, host.resets) == (3, 1)
    # A strobe that leaves the byte out, and no bit set, are no commands.
    dut.busy.value = 0
    await host.master.write(BY_NAME["CONTROL"].offset + 1, b"\xff")
    await host.write("CONTROL", 0)
    assert (host.starts, host.resets) == (3, 1)
    assert await host.read("CONTROL") == 0


@pytest.mark.parametrize("config", [EDGE, NANO], ids=lambda config: config.name)
def test_registers(config):
    assert run_bench(Registers(config=config), Path(__file__).stem,
                     environment={"BENCH_CONFIG": config.name}) == 2


def test_the_document_is_printed_from_the_table():
    path = Path(__file__).parents[1] / "docs" / "registers.md"
    assert path.read_text(encoding="utf-8") == documentation()


def test_the_table_is_sound():
    offsets = [r.offset for r in (*REGISTERS, *EXCHANGE_REGISTERS)]
    assert len(set(offsets)) == len(offsets) == len(BY_NAME)
    assert all(o % 4 == 0 and o < 256 for o in offsets)
    for register in (*REGISTERS, *EXCHANGE_REGISTERS):
        assert register.reset & ~register.mask == 0 or register.access is Access.READ
        assert f"| {register.offset:#04x} | {register.name} |" in documentation()
