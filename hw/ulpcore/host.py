"""The cocotb side of `ulpcore.rtl`: plays the host of a core that runs a list of jobs."""

import json
import os
from pathlib import Path

import cocotb
from cocotb.handle import SimHandleBase
from cocotb.triggers import ClockCycles, First, ReadOnly, RisingEdge
from ulpsim.isa import Segment
from ulpsim.registers import REGISTERS, Control, Status

_OFFSETS = {register.name: register.offset for register in REGISTERS}


class Host:
    """Reads and writes the registers of the harness's core over AXI4-Lite."""

    def __init__(self, dut: SimHandleBase) -> None:
        self.dut = dut

    async def _until(self, signal: SimHandleBase) -> None:
        """Pass clock edges until one at which `signal` is high."""
        while True:
            await ReadOnly()
            high = int(signal.value)
            await RisingEdge(self.dut.clk)
            if high:
                return

    async def write(self, name: str, value: int) -> None:
        dut = self.dut
        dut.awaddr.value = _OFFSETS[name]
        dut.wdata.value = value
        dut.awvalid.value = dut.wvalid.value = dut.bready.value = 1
        address, data = dut.awready, dut.wready
        waiting = {"awvalid": address, "wvalid": data}
        while waiting:
            await ReadOnly()
            taken = [valid for valid, ready in waiting.items() if int(ready.value)]
            await RisingEdge(dut.clk)
            for valid in taken:
                getattr(dut, valid).value = 0
                del waiting[valid]
        await self._until(dut.bvalid)
        dut.bready.value = 0

    async def read(self, name: str) -> int:
        dut = self.dut
        dut.araddr.value = _OFFSETS[name]
        dut.arvalid.value = 1
        await self._until(dut.arready)
        dut.arvalid.value = 0
        dut.rready.value = 1
        while True:
            await ReadOnly()
            valid, value = int(dut.rvalid.value), int(dut.rdata.value)
            await RisingEdge(dut.clk)
            if valid:
                dut.rready.value = 0
                return value

    async def begin(self) -> None:
        """Reset core and memory."""
        dut = self.dut
        for signal in ("awvalid", "wvalid", "bready", "arvalid", "rready", "dump", "set_error"):
            getattr(dut, signal).value = 0
        dut.rst.value = 1
        await ClockCycles(dut.clk, 4)
        dut.rst.value = 0
        await ClockCycles(dut.clk, 2)

    async def set_error(self, first: int, size: int, response: int) -> None:
        dut = self.dut
        dut.error_first.value, dut.error_bytes.value = first, size
        dut.error_response.value = response
        dut.set_error.value = 1
        await ClockCycles(dut.clk, 2)
        dut.set_error.value = 0

    async def run(self, job: dict) -> tuple[int, int, int]:
        """Run one job; (cause, instruction, cycles)."""
        await self.set_error(*job["error"], job["error_response"])
        await self.write("PROGRAM_ADDRESS", job["program"])
        await self.write("PROGRAM_LENGTH", job["instructions"])
        await self.write("WATCHDOG", job["watchdog"])
        await self.write("FORWARD_BIAS", job["forward_bias"])
        for segment in Segment:
            base, size = job["segments"][segment.name]
            await self.write(f"SEGMENT_{segment.value}_BASE", base)
            await self.write(f"SEGMENT_{segment.value}_SIZE", size)
        await self.write("INTERRUPT_ENABLE", 1)
        await self.write("CONTROL", 1)
        if job["reset_after"] is not None:
            await ClockCycles(self.dut.clk, job["reset_after"])
            await self.reset(job)
        elif not int(self.dut.interrupt.value):
            await First(RisingEdge(self.dut.interrupt), ClockCycles(self.dut.clk, job["limit"]))
        cause = await self.read("CAUSE")
        if job["reset_after"] is None:
            status, expected = await self.read("STATUS"), Status.FAULT if cause else Status.DONE
            assert status == expected, f"STATUS must be {expected!r} beside cause {cause}, " \
                f"not {Status(status)!r}: {job}"
        instruction = await self.read("FAULT_INSTRUCTION")
        cycles = await self.read("CYCLES_LOW") | await self.read("CYCLES_HIGH") << 32
        # Clears the interrupt; after a fault the core must also be reset before it works again.
        await self.write("CONTROL", Control.CLEAR if cause == 0 else Control.CLEAR | Control.RESET)
        await ClockCycles(self.dut.clk, 4)
        return cause, instruction, cycles

    async def reset(self, job: dict) -> None:
        """Reset the core, and wait until it is still."""
        if job["reset_pin"]:
            await self.begin()
            return
        await self.write("CONTROL", Control.RESET)
        reads = 0
        while await self.read("STATUS") & Status.BUSY:
            reads += 1
            assert reads < job["limit"], f"the core must come to rest after a reset: {job}"


@cocotb.test()
async def run_jobs(dut: SimHandleBase) -> None:
    folder = Path(os.environ["ULPCORE_JOBS"])
    host = Host(dut)
    await host.begin()
    results = []
    with open(folder / "progress", "wb") as progress:
        for job in json.loads((folder / "jobs.json").read_text()):
            results.append(await host.run(job))
            progress.write(b".")
            progress.flush()
    dut.dump.value = 1
    await ClockCycles(dut.clk, 2)
    (folder / "results.json").write_text(json.dumps(results))
