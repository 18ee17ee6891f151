"""Load and store units beside a memory: a component for cocotb benches, and its driver."""

import dataclasses
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from amaranth.hdl import Cat, Module, ResetInserter, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge
from ulpcore.bus import AXI4Read, AXI4Write
from ulpcore.decoder import unit_layout
from ulpcore.load import Load
from ulpcore.memory import MEMORY_SOURCE, simulated_memory
from ulpcore.simulation import build_cocotb, run_cocotb
from ulpcore.store import Store
from ulpcore.verilog import generate
from ulpsim.config import EDGE, NANO, CoreConfig
from ulpsim.isa import Cause, Instruction, Segment, Unit

CONFIGS = {
    "edge": EDGE,
    "nano": NANO,
    "short": dataclasses.replace(EDGE, name="short", burst_beats=2, outstanding_reads=2),
    "single": dataclasses.replace(EDGE, name="single", burst_beats=256, outstanding_reads=1),
}
MEMORY_WORDS = 1 << 15


def random_source() -> random.Random:
    """Random numbers from the seed in ULPCORE_SEED."""
    return random.Random(int(os.environ.get("ULPCORE_SEED", "1")))


def memory_image() -> np.ndarray:
    """The words that the Verilog memory starts with."""
    return np.random.default_rng(random_source().getrandbits(32)).integers(
        0, 1 << 32, MEMORY_WORDS, dtype=np.uint32)


def bench_config() -> CoreConfig:
    return CONFIGS[os.environ["BENCH_CONFIG"]]


def run_bench(module: str, testcases: Sequence[str], config: str, folder: Path, *,
              memory: bool = True, plusargs: Sequence[str] = ()) -> None:
    """Run cocotb tests of `module` on a `Bench`."""
    text, elements = generate(Bench(config=CONFIGS[config], memory=memory), name="top")
    sources = {"top.v": text}
    if memory:
        sources["memory.v"] = MEMORY_SOURCE
        (folder / "memory.hex").write_text("\n".join(f"{w:08x}" for w in memory_image()) + "\n")
    model = build_cocotb(sources, top="top", elements=elements, public=False)
    ran = run_cocotb(model, top="top", module=module, testcase=list(testcases), plusargs=plusargs,
                     environment={"BENCH_CONFIG": config}, search=[Path(__file__).parent],
                     folder=folder)
    assert ran == len(testcases)


def slot_value(address: np.ndarray) -> np.ndarray:
    """What the bench's scratchpad holds for the store unit."""
    return ((address * 40503 + 12345) & 0xFFFF).astype(np.uint16)


class Bench(wiring.Component):
    """Both units with the phase counter, with the Verilog memory or with the buses as ports.

    `cycle` counts from `clear`; `load_taken`, `load_retired`, ... are the cycles in which that
    last happened. Slot a reads as `slot_value(a)`.
    """

    _HIDDEN = ("bus", "phase", "segments", "activation_data")

    def __init__(self, *, config: CoreConfig, memory: bool) -> None:
        self.units = {"load": Load(config=config), "store": Store(config=config)}
        self.memory = memory
        members = {}
        for name, unit in self.units.items():
            visible = {key: member for key, member in unit.signature.members.items()
                       if key not in self._HIDDEN}
            members[name] = Out(wiring.Signature(visible))
            members[f"{name}_taken"] = Out(32)
            members[f"{name}_retired"] = Out(32)
        for segment in Segment:
            members[f"base_{segment.value}"] = In(32)
            members[f"size_{segment.value}"] = In(32)
        if memory:
            members["dump"] = In(1)
        else:
            members.update(read=Out(AXI4Read()), write=Out(AXI4Write()))
        super().__init__({"clear": In(1), "cycle": Out(32), **members})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        clear = ResetInserter(self.clear)
        m.d.sync += self.cycle.eq(self.cycle + 1)
        with m.If(self.clear):
            m.d.sync += self.cycle.eq(0)
        for name, unit in self.units.items():
            m.submodules[name] = clear(unit)
            outside = getattr(self, name)
            for path, member, value in outside.signature.flatten(outside):
                inside = unit
                for step in path:
                    inside = getattr(inside, step)
                m.d.comb += inside.eq(value) if member.flow == In else value.eq(inside)
            m.d.comb += unit.phase.eq(self.cycle)
            for segment in Segment:
                m.d.comb += [
                    unit.segments[segment.value].base.eq(getattr(self, f"base_{segment.value}")),
                    unit.segments[segment.value].size.eq(getattr(self, f"size_{segment.value}"))]
            with m.If(unit.instructions.valid & unit.instructions.ready):
                m.d.sync += getattr(self, f"{name}_taken").eq(self.cycle)
            with m.If(unit.retired):
                m.d.sync += getattr(self, f"{name}_retired").eq(self.cycle)
        load, store = self.units["load"], self.units["store"]
        slots = len(store.activation_data) // 16
        # Anything but the one cycle in which the data is due is garbage.
        delayed = Cat(((store.activation_address + i) * 40503 + 12345)[:16]
                      for i in range(slots))
        valid = store.activation_enable
        for stage in range(3):
            register = Signal(16 * slots, name=f"slots_{stage}")
            present = Signal(name=f"present_{stage}")
            m.d.sync += [register.eq(delayed), present.eq(valid)]
            delayed, valid = register, present
        with m.If(valid):
            m.d.comb += store.activation_data.eq(delayed)
        with m.Else():
            m.d.comb += store.activation_data.eq(~delayed)
        if self.memory:
            m.submodules.memory = simulated_memory(load.bus, store.bus, dump=self.dump,
                                                   WORDS=MEMORY_WORDS)
        else:
            wiring.connect(m, wiring.flipped(self.read), load.bus)
            wiring.connect(m, wiring.flipped(self.write), store.bus)
        return m


class Driver:
    """Drives a `Bench` in cocotb. Inputs change, and outputs are looked at, at falling edges."""

    def __init__(self, dut, config: CoreConfig) -> None:
        self.dut = dut
        self.config = config
        self.watchers: list[Callable[[], None]] = []
        self.segments: dict[Segment, tuple[int, int]] = {}

    async def begin(self) -> None:
        dut = self.dut
        for name in ("clear", "load__stop", "store__stop", "load__instructions__valid",
                     "store__instructions__valid", "load__fetch__valid"):
            getattr(dut, name).value = 0
        if hasattr(dut, "dump"):
            dut.dump.value = 0
        dut.rst.value = 1
        Clock(dut.clk, 10, "ns").start(start_high=False)
        await self.cycles(3)
        dut.rst.value = 0
        await self.cycles(1)

    async def cycles(self, count: int = 1) -> None:
        for _ in range(count):
            await FallingEdge(self.dut.clk)
            for watcher in self.watchers:
                watcher()

    async def clear(self) -> None:
        self.dut.clear.value = 1
        await self.cycles()
        self.dut.clear.value = 0

    def set_segments(self, segments: dict[Segment, tuple[int, int]]) -> None:
        self.segments = segments
        for segment in Segment:
            base, size = segments.get(segment, (0, 0))
            getattr(self.dut, f"base_{segment.value}").value = base
            getattr(self.dut, f"size_{segment.value}").value = size

    def value(self, name: str) -> int:
        return int(getattr(self.dut, name).value)

    async def offer(self, unit: str, instruction: Instruction, index: int = 0) -> None:
        """Wait until the unit takes the instruction."""
        prefix = f"{unit}__instructions__"
        fields = dict(instruction.values, opcode=instruction.type.opcode, index=index,
                      post=sum(instruction[f"post_{u.name.lower()}"] << u.value for u in Unit))
        layout = unit_layout(Unit[unit.upper()], self.config)
        word = layout.const({name: fields.get(name, 0) for name, _ in layout})
        getattr(self.dut, f"{prefix}payload").value = word.as_bits()
        getattr(self.dut, f"{prefix}valid").value = 1
        while not self.value(f"{prefix}ready"):
            await self.cycles()
        await self.cycles()
        getattr(self.dut, f"{prefix}valid").value = 0

    async def finish(self, unit: str, limit: int = 100_000) -> Cause:
        """Wait until the instruction has retired or failed; the cause."""
        for _ in range(limit):
            if self.value(f"{unit}__fault"):
                return Cause(self.value(f"{unit}__fault_cause"))
            if self.value(f"{unit}__retired"):
                return Cause.NONE
            await self.cycles()
        raise AssertionError("the unit must retire or fail")
