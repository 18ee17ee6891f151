"""The cocotb side of `accelerator.py`: clock, memory, start."""

import json
import os
from pathlib import Path

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge
from cocotbext.axi import AxiBus, AxiRam, AxiReadBus, AxiWriteBus


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def run_once(dut) -> None:
    folder = Path(os.environ["FOLDER"])
    before = (folder / "before.bin").read_bytes()
    bus = AxiBus(AxiWriteBus.from_prefix(dut, "write_"), AxiReadBus.from_prefix(dut, "read_"))
    ram = AxiRam(bus, dut.clk, dut.rst, size=len(before))
    ram.write(0, before)
    dut.start.value = 0
    dut.rst.value = 1
    Clock(dut.clk, 10, "ns").start()
    await ClockCycles(dut.clk, 4)
    dut.rst.value = 0
    await ClockCycles(dut.clk, 2)
    dut.start.value = 1
    await RisingEdge(dut.clk)
    dut.start.value = 0
    await RisingEdge(dut.done)
    (folder / "cause.json").write_text(json.dumps(int(dut.cause.value)))
    (folder / "after.bin").write_bytes(ram.read(0, len(before)))
