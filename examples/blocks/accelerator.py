"""A whole core in a design of one's own: a state machine is its host, memory stays outside.

    python examples/blocks/accelerator.py

compiles a small network, builds the design with Verilator beside cocotbext-axi's memory, runs it
on a few images, and compares all of the memory with the golden model.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from amaranth.hdl import Array, Const, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from ulpcore import NANO, AXI4Read, AXI4Write, Core, CoreConfig, generate
from ulpcore.simulation import build_cocotb, run_cocotb
from ulpsim.compiler import Compiled, compile_network
from ulpsim.driver import Driver, ModelBus, Placement, place
from ulpsim.network import Network
from ulpsim.registers import BY_NAME, Control

MEMORY_BYTES = 1 << 16


class Accelerator(wiring.Component):
    """Runs one program, at a fixed place in memory, whenever it is told to.

    Parameters
    ----------
    config
        The core.
    placement, instructions
        Where program and segments lie, and how long the program is.

    Members
    -------
    start : In(1), done : Out(1)
        A pulse begins a run, if none is under way; a pulse tells that it is over.
    cause : Out(8)
        Why the last run stopped, `ulpsim.isa.Cause`; 0 if it came to its end. Valid with `done`.
    read : Out(AXI4Read), write : Out(AXI4Write)
        External memory.
    """

    start: Signal
    done: Signal
    cause: Signal
    read: Any
    write: Any

    def __init__(self, *, config: CoreConfig, placement: Placement, instructions: int) -> None:
        self.core = Core(config=config)
        values = {"PROGRAM_ADDRESS": placement.program, "PROGRAM_LENGTH": instructions,
                  "INTERRUPT_ENABLE": 1}
        for segment, (address, size) in placement.segments.items():
            values[f"SEGMENT_{segment.value}_BASE"] = address
            values[f"SEGMENT_{segment.value}_SIZE"] = size
        values["CONTROL"] = Control.START
        #: What is written to the core's registers for a run, the start at last.
        self.writes = [(BY_NAME[name].offset, value) for name, value in values.items()]
        super().__init__({
            "start": In(1),
            "done": Out(1),
            "cause": Out(8),
            "read": Out(AXI4Read(data_bytes=config.bus_bytes)),
            "write": Out(AXI4Write(data_bytes=config.bus_bytes)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.core = core = self.core
        wiring.connect(m, wiring.flipped(self.read), core.read)
        wiring.connect(m, wiring.flipped(self.write), core.write)
        registers = core.registers
        number = Signal(range(len(self.writes)))
        offset, value = Signal(8), Signal(32)
        offsets = Array(Const(offset, 8) for offset, _ in self.writes)
        values = Array(Const(value, 32) for _, value in self.writes)
        m.d.comb += [
            registers.awaddr.eq(offset),
            registers.wdata.eq(value),
            registers.wstrb.eq(-1),
            registers.bready.eq(1),
            registers.araddr.eq(BY_NAME["CAUSE"].offset),
            registers.rready.eq(1),
        ]
        with m.If(registers.awready):
            m.d.sync += registers.awvalid.eq(0)
        with m.If(registers.wready):
            m.d.sync += registers.wvalid.eq(0)
        with m.If(registers.arready):
            m.d.sync += registers.arvalid.eq(0)

        def begin_write(register: Any, data: Any) -> list:
            return [offset.eq(register), value.eq(data), registers.awvalid.eq(1),
                    registers.wvalid.eq(1)]

        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += number.eq(0)
                with m.If(self.start):
                    m.next = "WRITE"
            with m.State("WRITE"):
                m.d.sync += begin_write(offsets[number], values[number])
                m.next = "WRITTEN"
            with m.State("WRITTEN"), m.If(registers.bvalid):
                m.d.sync += number.eq(number + 1)
                m.next = "WRITE"
                with m.If(number == len(self.writes) - 1):
                    m.next = "RUN"
            with m.State("RUN"), m.If(core.interrupt):
                m.d.sync += registers.arvalid.eq(1)
                m.next = "CAUSE"
            with m.State("CAUSE"), m.If(registers.rvalid):
                m.d.sync += self.cause.eq(registers.rdata)
                # After a fault the core is to be reset before it runs again.
                m.d.sync += begin_write(BY_NAME["CONTROL"].offset, Control.CLEAR | Control.RESET)
                m.next = "CLEARED"
            with m.State("CLEARED"), m.If(registers.bvalid):
                m.d.comb += self.done.eq(1)
                m.next = "IDLE"
        return m


def small_network(rng: np.random.Generator) -> Network:
    """A convolution with ReLU and a maximum over windows, in 8- and 4-bit integers."""
    return Network.from_description({
        "name": "small",
        "input": {"name": "image", "height": 8, "width": 8, "channels": 3, "format": "INT8",
                  "step": 1.0},
        "layers": [
            {"name": "convolution", "op": "convolution", "input": "image", "padding": 1,
             "weights": rng.integers(-128, 128, (12, 3, 3, 3)), "weight_format": "INT8"},
            {"name": "relu", "op": "relu", "input": "convolution"},
            {"name": "pool", "op": "max_pool", "input": "relu", "size": 2,
             "output": {"format": "UINT4", "step": 4000.0}}]})


def golden(compiled: Compiled, images: np.ndarray) -> np.ndarray:
    """What memory holds after the golden model ran the network."""
    bus = ModelBus(compiled.config, MEMORY_BYTES)
    Driver(bus, compiled).run(images)
    return bus.memory


def simulate(compiled: Compiled, memory: np.ndarray) -> tuple[np.ndarray, int]:
    """Memory after one run of the design that finds `memory`, and the cause of the run's end."""
    design = Accelerator(config=compiled.config, placement=place(compiled),
                         instructions=len(compiled.program))
    text, elements = generate(design, name="accelerator")
    model = build_cocotb({"accelerator.v": text}, top="accelerator", elements=elements,
                         public=False)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        memory.tofile(folder / "before.bin")
        run_cocotb(model, top="accelerator", module="accelerator_bench",
                   search=[Path(__file__).parent], environment={"FOLDER": name})
        after = np.fromfile(folder / "after.bin", np.uint8)
        return after, json.loads((folder / "cause.json").read_text())


def main() -> int:
    rng = np.random.default_rng(1)
    network = small_network(rng)
    compiled = compile_network(network, NANO, 2)
    images = rng.integers(-128, 128, (2, *network.input_shape))
    expected = golden(compiled, images)
    # What the design finds is what the host of the golden model has put there: all but the output.
    before = expected.copy()
    first, size = next((a, s) for segment, (a, s) in place(compiled).segments.items()
                       if segment.name == "OUTPUT")
    before[first:first + size] = 0xA5
    memory, cause = simulate(compiled, before)
    differing = int(np.count_nonzero(memory != expected))
    print(f"{len(images)} images, cause {cause}, {differing} of {len(memory)} bytes differ from "
          f"the golden model, {size} of them outputs")
    return 1 if differing or cause else 0


if __name__ == "__main__":
    sys.exit(main())
