"""Commands through a cluster's RTL, beside the AXI4 memories of `memory.v`."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from amaranth.hdl import Const, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import NDArray
from ulpsim.compression import engine as compression
from ulpsim.interconnect import collective
from ulpsim.interconnect.topology import Topology

from ..compression.engine_rtl import completion_of
from ..memory import MEMORY_SOURCE, simulated_memory
from ..simulation import SimulationError
from ..streams import StreamModel
from .cluster import Cluster
from .node import NodeCommand, NodeCompletion, NodeUnit

__all__ = ["ClusterRun", "NodeStep", "run_cluster"]

#: Words of a memory that is built; a run uses as many of them as it has.
_WORDS = 1 << 20


@dataclasses.dataclass(frozen=True)
class NodeStep:
    """A command of a node; with `packed` its bytes are those that the COMPRESS before reported."""

    command: compression.Command | collective.Command
    packed: bool = False


class ClusterBench(wiring.Component):
    """A cluster beside a memory for each of its ports.

    `flits_0`, `flits_1`, ... count what the nodes have sent.
    """

    def __init__(self, **options: Any) -> None:
        self.cluster = Cluster(**options)
        members = self.cluster.nodes[0].signature.members
        count = len(self.cluster.nodes)
        super().__init__({
            **{f"commands_{i}": members["commands"] for i in range(count)},
            **{f"completions_{i}": members["completions"] for i in range(count)},
            **{f"flits_{i}": Out(32) for i in range(count)}, "finish": In(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.cluster = cluster = self.cluster
        for i, node in enumerate(cluster.nodes):
            wiring.connect(m, wiring.flipped(getattr(self, f"commands_{i}")), cluster.commands[i])
            wiring.connect(m, cluster.completions[i],
                           wiring.flipped(getattr(self, f"completions_{i}")))
            counter = getattr(self, f"flits_{i}")
            m.d.sync += counter.eq(counter + (node.flits_out.valid & node.flits_out.ready))
        for i in range(1 if cluster.shared else len(cluster.nodes)):
            m.submodules[f"memory_{i}"] = simulated_memory(
                cluster.read[i], cluster.write[i], dump=self.finish, WORDS=_WORDS,
                BUS_BYTES=cluster.bus_bytes, IMAGE=f"memory{i}.hex", FINAL=f"final{i}.hex")
        return m


@dataclasses.dataclass(frozen=True)
class ClusterRun:
    """What came of a run: of each node its reports, the cycles in which it took each command and
    reported it, and the flits that it sent; what the memories hold at the end."""

    completions: list[list[compression.Completion | collective.Completion]]
    begun: list[list[int]]
    ended: list[list[int]]
    flits: list[int]
    memories: list[NDArray[np.uint8]]


@functools.cache
def _model(**options: Any) -> StreamModel:
    return StreamModel(ClusterBench(**options), sources=MEMORY_SOURCE)


def _command_row(step: NodeStep) -> NDArray[np.uint32]:
    shape = NodeCommand.as_shape()
    fields = dataclasses.asdict(step.command)
    if compresses := isinstance(step.command, compression.Command):
        fields["point"] &= 0xFF
    row = {"unit": NodeUnit.COMPRESSION if compresses else NodeUnit.COLLECTIVE,
           "packed": int(step.packed), "compression" if compresses else "collective": fields}
    bits = Const(row, shape).as_value().value
    return np.array([bits >> 32 * i & 0xFFFFFFFF for i in range(-(-shape.size // 32))], np.uint32)


def _completion(row: NDArray[np.uint32]) -> compression.Completion | collective.Completion:
    value = NodeCompletion.from_bits(sum(int(word) << 32 * i for i, word in enumerate(row)))
    if value.unit == NodeUnit.COLLECTIVE:
        report = value.collective
        return collective.Completion(collective.Cause(int(report.cause)), int(report.node))
    bits = value.compression.as_bits()
    return completion_of(np.array([bits >> 32 * i & 0xFFFFFFFF for i in range(8)], np.uint32))


def run_cluster(memories: Sequence[NDArray[np.uint8]], steps: Sequence[Sequence[NodeStep]], *,
                topology: Topology, lanes: int, width: int = 64, largest: int = 1024,
                shared: bool = False, latency: int = 16, stall_seed: int = 0,
                longest: int = 1 << 17, **options: int) -> ClusterRun:
    """Run the commands of every node in Verilator.

    Parameters
    ----------
    memories
        Of each port what it holds from address 0 on: uint8, of one length, a multiple of 64, up to
        4 MB.
    steps
        Of each node its commands.
    latency, stall_seed
        Of the memories, in cycles; every channel stalls at random if the seed is not 0.
    longest
        Cycles that no command takes: a run ends when nothing has been reported for as long.

    Raises ValueError for other memories, SimulationError when the simulation fails or a command has
    no end.
    """
    size = len(memories[0])
    if any(m.dtype != np.uint8 or m.shape != (size,) for m in memories) or size % 64 \
            or size > 4 * _WORDS:
        raise ValueError("memories must be vectors of uint8 of one length, a multiple of 64 up to "
                         f"{4 * _WORDS}, not {[(m.dtype, m.shape) for m in memories]}")
    count = 1 if shared else len(topology.nodes)
    if len(memories) != count or len(steps) != len(topology.nodes):
        raise ValueError(f"there must be {count} memories and commands of {len(topology.nodes)} "
                         f"nodes, not {len(memories)} and {len(steps)}")
    model = _model(topology=topology, lanes=lanes, width=width, largest=largest, shared=shared,
                   **options)
    run = model.run(
        {f"commands_{i}": np.stack([_command_row(step) for step in own])
         for i, own in enumerate(steps) if own},
        quiet=longest,
        plusargs=[f"+words={size // 4}", f"+latency={latency}", f"+stall_seed={stall_seed}"],
        files={f"memory{i}.hex": "\n".join(f"{word:x}" for word in m.view("<u4").tolist()).encode()
               for i, m in enumerate(memories)},
        keep=[f"final{i}.hex" for i in range(count)])
    completions, begun, ended = [], [], []
    for i, own in enumerate(steps):
        rows = run.outputs[f"completions_{i}"]
        if len(rows) != len(own):
            raise SimulationError(f"command {len(rows)} of the {len(own)} of node {i} has no end")
        completions.append([_completion(row) for row in rows])
        begun.append(run.times[f"commands_{i}"].astype(int).tolist())
        ended.append(run.times[f"completions_{i}"].astype(int).tolist())
    final = [np.array([int(word, 16) for word in run.files[f"final{i}.hex"].decode().split()
                       if not word.startswith(("//", "@"))], "<u4").view(np.uint8)
             for i in range(count)]
    return ClusterRun(completions, begun, ended,
                      [run.status[f"flits_{i}"] for i in range(len(steps))], final)
