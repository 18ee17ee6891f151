"""Collective engines beside memories: one with its terminal as streams of flits, or all nodes of a
network."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from amaranth.hdl import Const, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In
from ulpcore.interconnect.arbitration import ReadArbiter, WriteArbiter
from ulpcore.interconnect.collective import Collective
from ulpcore.interconnect.collective_command import CollectiveCommand, CollectiveCompletion
from ulpcore.interconnect.network import Network
from ulpcore.memory import MEMORY_SOURCE, simulated_memory
from ulpcore.streams import StreamModel
from ulpsim.interconnect.collective import Cause, Command, Completion, Operation
from ulpsim.interconnect.packets import Flit
from ulpsim.interconnect.router import DEPTH
from ulpsim.interconnect.topology import Topology

MEMORY, CLUSTER_MEMORY = 1 << 16, 1 << 17
VECTOR, BUFFERS, TABLE = 0x100, 0x4008, 0xF000
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
    coming = [_words(f.data | f.first << width | f.last << width + 1, width + 2) for f in flits]
    run = model.run(
        {"commands": _rows(commands), **({"flits_in": np.stack(coming)} if coming else {})},
        stalls=stalls, seed=stall_seed + 1, quiet=QUIET,
        plusargs=[f"+words={MEMORY // 4}", f"+latency={latency}", f"+stall_seed={stall_seed}",
                  f"+error_first={error[0]}", f"+error_bytes={error[1]}",
                  f"+error_response={error[2]}"],
        files={"memory.hex": "\n".join(f"{w:x}" for w in memory.view("<u4")).encode()},
        keep=["final.hex"])
    completions = _completions(run.outputs["completions"])
    sent = [sum(int(word) << 32 * i for i, word in enumerate(row))
            for row in run.outputs["flits_out"]]
    final = np.array([int(word, 16) for word in run.files["final.hex"].decode().split()
                      if not word.startswith(("//", "@"))], "<u4")
    return NodeRun(
        completions,
        [Flit(v & (1 << width) - 1, bool(v >> width & 1), bool(v >> width + 1)) for v in sent],
        final.view(np.uint8), *(run.times[name].astype(int).tolist()
                                for name in ("commands", "completions")))


class NetworkBench(wiring.Component):
    """The collective engines of all nodes, at the ports of clusters' nodes, on their network."""

    finish: Signal

    def __init__(self, topology: Topology, width: int, largest: int, depth: int, shared: bool
                 ) -> None:
        self.count, self.shared = len(topology.nodes), shared
        self.engines = [Collective(topology=topology, node=i, width=width, largest=largest)
                        for i in range(self.count)]
        self.network = Network(topology=topology, width=width, depth=depth)
        members = self.engines[0].signature.members
        super().__init__({f"{name}_{i}": members[name] for name in ("commands", "completions")
                          for i in range(self.count)} | {"finish": In(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.network = network = self.network
        m.d.comb += [dropped.ready.eq(1) for dropped in network.dropped]
        ports = []
        for i, engine in enumerate(self.engines):
            m.submodules[f"engine_{i}"] = engine
            wiring.connect(m, wiring.flipped(getattr(self, f"commands_{i}")), engine.commands)
            wiring.connect(m, engine.completions, wiring.flipped(getattr(self, f"completions_{i}")))
            wiring.connect(m, engine.flits_out, network.terminals_in[i])
            wiring.connect(m, network.terminals_out[i], engine.flits_in)
            ports.append(self._arbiters(m, f"node_{i}", [(engine.read, engine.write)]))
        if self.shared:
            ports = [self._arbiters(m, "memory", ports)]
        for i, (read, write) in enumerate(ports):
            m.submodules[f"memory_{i}"] = simulated_memory(
                read, write, dump=self.finish, WORDS=CLUSTER_MEMORY // 4,
                BUS_BYTES=self.engines[0].bus_bytes, IMAGE="", FINAL=f"final{i}.hex")
        return m

    def _arbiters(self, m: Module, name: str, masters: Sequence[tuple[Any, Any]]
                  ) -> tuple[Any, Any]:
        """A port for several."""
        sizes = {"masters": len(masters), "data_bytes": self.engines[0].bus_bytes}
        m.submodules[f"{name}_reads"] = reads = ReadArbiter(**sizes)
        m.submodules[f"{name}_writes"] = writes = WriteArbiter(**sizes)
        for i, (read, write) in enumerate(masters):
            wiring.connect(m, read, getattr(reads, f"master_{i}"))
            wiring.connect(m, write, getattr(writes, f"master_{i}"))
        return reads.bus, writes.bus


@functools.cache
def network_model(topology: Topology, width: int = 64, largest: int = 1024, depth: int = DEPTH,
                  shared: bool = False) -> StreamModel:
    return StreamModel(NetworkBench(topology, width, largest, depth, shared),
                       sources=MEMORY_SOURCE)


def run_network(model: StreamModel, commands: Sequence[Sequence[Command]], *, latency: int = 16,
                stalls: float = 0.0, seed: int = 1) -> tuple[list[list[int]], list[list[int]]]:
    """Give all nodes their commands, a share `stalls` of the cycles between them pauses; the cycles
    in which each node took them, and in which it reported them without a cause."""
    nodes = range(len(commands))
    run = model.run(
        {f"commands_{i}": _rows(own) for i, own in enumerate(commands)},
        stalls={f"commands_{i}": stalls for i in nodes}, seed=seed, quiet=QUIET,
        plusargs=[f"+latency={latency}"])
    for i, own in enumerate(commands):
        assert _completions(run.outputs[f"completions_{i}"]) == [Completion()] * len(own)
    begun, ended = ([run.times[f"{name}_{i}"].astype(int).tolist() for i in nodes]
                    for name in ("commands", "completions"))
    return begun, ended


def random_rounds(rng: np.random.Generator, count: int, rounds: int, bus: int = 8
                  ) -> list[list[Command]]:
    """Commands of all kinds, whose chunks are empty, of a byte, odd, of packets and a little
    more."""
    result = []
    for round_ in range(rounds):
        operation = Operation(round_ % 4)
        common: dict[str, Any] = {"operation": operation, "round": round_ % 64, "root":
                                  int(rng.integers(count))}
        lengths = rng.choice([0, 1, 3, 8, 12, 1020, 1024, 1028, 2047, 2048, 2049, 3000], count)
        place = bus * int(rng.integers(0, 64))
        if operation is Operation.ALL_REDUCE:
            elements = int(rng.choice([0, 1, 2, 3, 5, 17, 256, 770, 1000, 1537]))
            pitch = bus * -(-4 * elements // (count * bus)) + bus * int(rng.integers(0, 2))
            fields = [{"address": VECTOR + place, "bytes": 4 * elements, "pitch": pitch}] * count
        else:
            fields = [{"address": BUFFERS // bus * bus + bus * int(rng.integers(0, 64)),
                       "bytes": int(length), "pitch": 3072 + bus * int(rng.integers(0, 9)),
                       "table": TABLE + bus * int(rng.integers(0, 9))} for length in lengths]
        result.append([Command(**common, **own) for own in fields])
    return result


def _rows(commands: Sequence[Command]) -> np.ndarray:
    shape: Any = CollectiveCommand.as_shape()
    return np.stack([_words(Const(dataclasses.asdict(c), shape).as_value().value, shape.size)
                     for c in commands])


def _completions(rows: np.ndarray) -> list[Completion]:
    values = [CollectiveCompletion.from_bits(int(row[0])) for row in rows]
    return [Completion(Cause(int(value.cause)), int(value.node)) for value in values]


def _words(bits: int, size: int) -> np.ndarray:
    return np.array([bits >> 32 * i & 0xFFFFFFFF for i in range(-(-size // 32))], np.uint32)
