"""One node's collective engine beside a memory, its terminal as streams of flits."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from amaranth.hdl import Const, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In
from ulpcore.interconnect.collective import Collective
from ulpcore.interconnect.collective_command import CollectiveCommand, CollectiveCompletion
from ulpcore.memory import MEMORY_SOURCE, simulated_memory
from ulpcore.streams import StreamModel
from ulpsim.interconnect.collective import Cause, Command, Completion
from ulpsim.interconnect.packets import Flit
from ulpsim.interconnect.topology import Topology

MEMORY = 1 << 16
QUIET = 1 << 14


class Bench(wiring.Component):
    """A collective engine beside a memory."""

    finish: Signal

    def __init__(self, topology: Topology, node: int, width: int, largest: int) -> None:
        self.engine = Collective(topology=topology, node=node, width=width, largest=largest)
        members = self.engine.signature.members
        super().__init__({name: members[name] for name in
                          ("commands", "completions", "flits_in", "flits_out")}
                         | {"finish": In(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.engine = engine = self.engine
        for name in ("commands", "flits_in"):
            wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(engine, name))
        for name in ("completions", "flits_out"):
            wiring.connect(m, getattr(engine, name), wiring.flipped(getattr(self, name)))
        m.submodules.memory = simulated_memory(
            engine.read, engine.write, dump=self.finish, WORDS=MEMORY // 4,
            BUS_BYTES=engine.bus_bytes)
        return m


@functools.cache
def model(topology: Topology, node: int, width: int = 64, largest: int = 1024) -> StreamModel:
    return StreamModel(Bench(topology, node, width, largest), sources=MEMORY_SOURCE)


@dataclasses.dataclass(frozen=True)
class NodeRun:
    """What a node reported, sent, and has in memory; cycles in which it took and ended commands."""

    completions: list[Completion]
    flits: list[Flit]
    memory: np.ndarray
    begun: list[int]
    ended: list[int]


def run_node(model: StreamModel, memory: np.ndarray, commands: Sequence[Command],
             flits: Sequence[Flit], *, width: int = 64, latency: int = 16, stall_seed: int = 0,
             stalls: Mapping[str, float] | None = None, error: tuple[int, int, int] = (0, 0, 2)
             ) -> NodeRun:
    """Give a node its commands and what comes from the left; `error` is first byte, bytes, and the
    bus's response."""
    assert len(memory) == MEMORY
    shape: Any = CollectiveCommand.as_shape()
    rows = [_words(Const(dataclasses.asdict(c), shape).as_value().value, shape.size)
            for c in commands]
    coming = [_words(f.data | f.first << width | f.last << width + 1, width + 2) for f in flits]
    run = model.run(
        {"commands": np.stack(rows), **({"flits_in": np.stack(coming)} if coming else {})},
        stalls=stalls, seed=stall_seed + 1, quiet=QUIET,
        plusargs=[f"+words={MEMORY // 4}", f"+latency={latency}", f"+stall_seed={stall_seed}",
                  f"+error_first={error[0]}", f"+error_bytes={error[1]}",
                  f"+error_response={error[2]}"],
        files={"memory.hex": "\n".join(f"{w:x}" for w in memory.view("<u4")).encode()},
        keep=["final.hex"])
    completions = []
    for row in run.outputs["completions"]:
        value = CollectiveCompletion.from_bits(int(row[0]))
        completions.append(Completion(Cause(int(value.cause)), int(value.node)))
    sent = [sum(int(word) << 32 * i for i, word in enumerate(row))
            for row in run.outputs["flits_out"]]
    final = np.array([int(word, 16) for word in run.files["final.hex"].decode().split()
                      if not word.startswith(("//", "@"))], "<u4")
    return NodeRun(
        completions,
        [Flit(v & (1 << width) - 1, bool(v >> width & 1), bool(v >> width + 1)) for v in sent],
        final.view(np.uint8), *(run.times[name].astype(int).tolist()
                                for name in ("commands", "completions")))


def _words(bits: int, size: int) -> np.ndarray:
    return np.array([bits >> 32 * i & 0xFFFFFFFF for i in range(-(-size // 32))], np.uint32)
