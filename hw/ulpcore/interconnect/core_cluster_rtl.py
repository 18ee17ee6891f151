"""A cluster of cores in Verilator: a host's accesses to its registers, beside AXI4 memories."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from amaranth.hdl import Module, Signal
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import NDArray
from ulpsim.cluster_registers import BY_NAME as CLUSTER
from ulpsim.cluster_registers import page
from ulpsim.config import CoreConfig
from ulpsim.interconnect.collective import Operation
from ulpsim.interconnect.topology import Topology
from ulpsim.isa import Cause, Segment
from ulpsim.registers import BY_NAME as CORE
from ulpsim.registers import Control

from ..bus import Response
from ..memory import MEMORY_SOURCE, simulated_memory
from ..simulation import SimulationError
from ..streams import StreamModel
from .core_cluster import PATIENCE, CoreCluster

__all__ = ["Access", "Answer", "CoreJob", "CoreRun", "Report", "ends", "read", "reports",
           "run_cores", "start", "wait", "write"]

#: Words of a memory that is built; a run uses as many of them as it has.
_WORDS = 1 << 20
#: Cycles between two looks at a register that is waited for.
_INTERVAL = 512


class Kind(enum.Enum, shape=2):
    """What the host does."""

    READ = 0
    WRITE = 1
    WAIT = 2


class HostAccess(data.Struct):
    """An access: the data to write, or what is waited for under a mask, for so many looks."""

    kind: Kind
    address: 16
    data: 32
    mask: 32
    looks: 32


class HostAnswer(data.Struct):
    """What was read; `pending` goes on waiting, `late` has given up."""

    data: 32
    error: 1
    pending: 1
    late: 1


class Host(wiring.Component):
    """Carries out accesses one after another over AXI4-Lite.

    Members
    -------
    accesses : In(stream(HostAccess)), answers : Out(stream(HostAnswer))
        One for each access, and before it one for each look of a WAIT that goes on.
    bus : Out(AXI4Lite)
    """

    accesses: Any
    answers: Any
    bus: Any

    def __init__(self, *, bus: wiring.Signature) -> None:
        super().__init__({"accesses": In(stream.Signature(HostAccess)),
                          "answers": Out(stream.Signature(HostAnswer)), "bus": Out(bus)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bus, answer, access = self.bus, self.answers.payload, Signal(HostAccess)
        address_left, data_left, looks = Signal(), Signal(), Signal(32)
        pause = Signal(range(_INTERVAL))
        m.d.comb += [
            bus.awaddr.eq(access.address), bus.araddr.eq(access.address),
            bus.wdata.eq(access.data), bus.wstrb.eq(0xF)]
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.accesses.ready.eq(1)
                m.d.sync += [access.eq(self.accesses.payload), looks.eq(0), answer.eq(0),
                             address_left.eq(1), data_left.eq(1)]
                with m.If(self.accesses.valid):
                    m.next = "READ"
                    with m.If(self.accesses.payload.kind == Kind.WRITE):
                        m.next = "WRITE"
            with m.State("READ"):
                m.d.comb += [bus.arvalid.eq(address_left), bus.rready.eq(1)]
                with m.If(bus.arready):
                    m.d.sync += address_left.eq(0)
                with m.If(bus.rvalid):
                    waits = (access.kind == Kind.WAIT) & ((bus.rdata & access.mask) != access.data)
                    m.d.sync += [answer.data.eq(bus.rdata), answer.pending.eq(0),
                                 answer.error.eq(bus.rresp != Response.OKAY), looks.eq(looks + 1)]
                    with m.If(waits & (looks == access.looks)):
                        m.d.sync += answer.late.eq(1)
                    with m.Elif(waits):
                        m.d.sync += answer.pending.eq(1)
                    m.next = "ANSWER"
            with m.State("WRITE"):
                m.d.comb += [bus.awvalid.eq(address_left), bus.wvalid.eq(data_left),
                             bus.bready.eq(1)]
                with m.If(bus.awready):
                    m.d.sync += address_left.eq(0)
                with m.If(bus.wready):
                    m.d.sync += data_left.eq(0)
                with m.If(bus.bvalid):
                    m.d.sync += answer.error.eq(bus.bresp != Response.OKAY)
                    m.next = "ANSWER"
            with m.State("ANSWER"):
                m.d.comb += self.answers.valid.eq(1)
                m.d.sync += [pause.eq(0), address_left.eq(1)]
                with m.If(self.answers.ready):
                    m.next = "IDLE"
                    with m.If(answer.pending):
                        m.next = "PAUSE"
            with m.State("PAUSE"):
                m.d.sync += pause.eq(pause + 1)
                with m.If(pause == _INTERVAL - 1):
                    m.next = "READ"
        return m


class CoreClusterBench(wiring.Component):
    """A cluster beside a memory for each of its ports, and a host.

    `begun_0`, ... and `ended_0`, ... tell of the collective commands of each node, `flits_0`, ...
    count what the nodes have sent, `interrupted` is the cluster's interrupt.
    """

    def __init__(self, **options: Any) -> None:
        self.cluster = CoreCluster(**options)
        self.host = Host(bus=self.cluster.registers.signature.flip())
        members, count = self.host.signature.members, len(self.cluster.nodes)
        super().__init__({
            "accesses": members["accesses"], "answers": members["answers"],
            **{f"begun_{i}": Out(stream.Signature(2)) for i in range(count)},
            **{f"ended_{i}": Out(stream.Signature(4)) for i in range(count)},
            **{f"flits_{i}": Out(32) for i in range(count)}, "interrupted": Out(1),
            "finish": In(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.cluster = cluster = self.cluster
        m.submodules.host = host = self.host
        wiring.connect(m, wiring.flipped(self.accesses), host.accesses)
        wiring.connect(m, host.answers, wiring.flipped(self.answers))
        wiring.connect(m, host.bus, cluster.registers)
        m.d.comb += self.interrupted.eq(cluster.interrupt)
        for i, (node, guard) in enumerate(zip(cluster.nodes, cluster.guards, strict=True)):
            counter = getattr(self, f"flits_{i}")
            m.d.sync += counter.eq(counter + (guard.from_node.valid & guard.from_node.ready))
            for name, side in (("begun", node.core.collective),
                               ("ended", node.core.collective_done)):
                told = getattr(self, f"{name}_{i}")
                m.d.comb += [told.valid.eq(side.valid & side.ready),
                             told.payload.eq(side.payload.operation if name == "begun"
                                             else side.payload.cause)]
        ports = [(cluster.read, cluster.write)] if cluster.shared else list(
            zip(cluster.read, cluster.write, strict=True))
        for i, buses in enumerate(ports):
            m.submodules[f"memory_{i}"] = simulated_memory(
                *buses, dump=self.finish, WORDS=_WORDS, BUS_BYTES=cluster.bus_bytes,
                IMAGE=f"memory{i}.hex", FINAL=f"final{i}.hex")
        return m


@dataclasses.dataclass(frozen=True)
class Access:
    """An access of the host; `looks` is how often a WAIT looks again, every 500 cycles or so."""

    kind: Kind
    address: int
    data: int = 0
    mask: int = 0xFFFFFFFF
    looks: int = 0


@dataclasses.dataclass(frozen=True)
class Answer:
    """What came of it: what was read, whether the bus said SLVERR, whether it has given up."""

    data: int
    error: bool = False
    late: bool = False


def read(address: int) -> Access:
    return Access(Kind.READ, address)


def write(address: int, value: int) -> Access:
    return Access(Kind.WRITE, address, value)


def wait(address: int, value: int, mask: int, cycles: int) -> Access:
    """Until the bits of a mask have a value, for some `cycles` at most."""
    return Access(Kind.WAIT, address, value, mask, cycles // _INTERVAL)


@dataclasses.dataclass(frozen=True)
class CoreJob:
    """A run of a core: its program's address and instructions, its segments, and what steps and
    rounds are counted from."""

    program: int
    instructions: int
    segments: dict[Segment, tuple[int, int]]
    step: int = 0
    round: int = 0
    watchdog: int = 0

    def accesses(self, node: int) -> list[Access]:
        """What tells it to a node's core, but for its start."""
        values = {"PROGRAM_ADDRESS": self.program, "PROGRAM_LENGTH": self.instructions,
                  "STEP": self.step % 1024, "ROUND": self.round % 64, "WATCHDOG": self.watchdog}
        for segment, (base, size) in self.segments.items():
            values[f"SEGMENT_{segment.value}_BASE"] = base
            values[f"SEGMENT_{segment.value}_SIZE"] = size
        return [write(page(node) + CORE[name].offset, value) for name, value in values.items()]


def start(jobs: dict[int, CoreJob]) -> list[Access]:
    """Tell all jobs, by the numbers of the nodes, and start them one after another; cores that have
    failed are reset before."""
    return [*(write(page(node) + CORE["CONTROL"].offset, Control.RESET | Control.CLEAR)
              for node in jobs),
            *(access for node, job in jobs.items() for access in job.accesses(node)),
            *(write(page(node) + CORE["CONTROL"].offset, Control.START) for node in jobs)]


def ends(nodes: Sequence[int], cycles: int) -> list[Access]:
    """Wait until the runs of these nodes have ended; then their `reports`."""
    mask = sum(1 << node for node in nodes)
    return [wait(CLUSTER["INTERRUPT_STATUS"].offset, mask, mask, cycles),
            *(read(page(node) + CORE[name].offset) for node in nodes
              for name in ("CAUSE", "FAULT_INSTRUCTION", "EXCHANGE_FAULT", "CYCLES_LOW"))]


@dataclasses.dataclass(frozen=True)
class Report:
    """How a core's run ended, by its registers."""

    cause: Cause
    instruction: int
    exchange_fault: int
    cycles: int


def reports(answers: Sequence[Answer]) -> list[Report]:
    """What the accesses of `ends` have told. Raises SimulationError if a run had no end."""
    if answers[0].late:
        raise SimulationError(f"a core's run has no end: INTERRUPT_STATUS is {answers[0].data:#x}")
    values = [answer.data for answer in answers[1:]]
    return [Report(Cause(values[i]), *values[i + 1:i + 4]) for i in range(0, len(values), 4)]


@dataclasses.dataclass(frozen=True)
class CoreRun:
    """What came of a run: the answers, one an access; of each node its collective commands with the
    cycles in which they were begun, and those in which they ended; the flits that it has sent; what
    the memories hold at the end; and whether the interrupt was high then."""

    answers: list[Answer]
    operations: list[list[Operation]]
    begun: list[list[int]]
    ended: list[list[int]]
    flits: list[int]
    memories: list[NDArray[np.uint8]]
    interrupt: bool


@functools.cache
def _model(**options: Any) -> StreamModel:
    return StreamModel(CoreClusterBench(**options), sources=MEMORY_SOURCE)


def run_cores(memories: Sequence[NDArray[np.uint8]], accesses: Sequence[Access], *,
              config: CoreConfig, topology: Topology, largest: int = 1024,
              patience: int = PATIENCE, shared: bool = True, latency: int = 16,
              stall_seed: int = 0) -> CoreRun:
    """Carry out accesses on a cluster in Verilator.

    Parameters
    ----------
    memories
        Of each port what it holds from address 0 on: uint8, of one length, a multiple of 64, up to
        4 MB.
    accesses
        Of the host, one after another.
    latency, stall_seed
        Of the memories, in cycles; every channel stalls at random if the seed is not 0.

    Raises ValueError for other memories, SimulationError when the simulation fails or an access has
    no answer.
    """
    size, count = len(memories[0]), 1 if shared else len(topology.nodes)
    if len(memories) != count or size % 64 or size > 4 * _WORDS or any(
            m.dtype != np.uint8 or m.shape != (size,) for m in memories):
        raise ValueError(f"memories must be {count} vectors of uint8 of one length, a multiple of "
                         f"64 up to {4 * _WORDS}, not {[(m.dtype, m.shape) for m in memories]}")
    model = _model(config=config, topology=topology, largest=largest, patience=patience,
                   shared=shared)
    run = model.run(
        {"accesses": np.stack([_row(access) for access in accesses])},
        plusargs=[f"+words={size // 4}", f"+latency={latency}", f"+stall_seed={stall_seed}"],
        files={f"memory{i}.hex": "\n".join(f"{word:x}" for word in m.view("<u4").tolist()).encode()
               for i, m in enumerate(memories)},
        keep=[f"final{i}.hex" for i in range(count)])
    answers = [answer for row in run.outputs["answers"]
               if not (answer := HostAnswer.from_bits(int(row[0]) | int(row[1]) << 32)).pending]
    if len(answers) != len(accesses):
        raise SimulationError(f"access {len(answers)} has no answer: {accesses[len(answers)]}")
    nodes = range(len(topology.nodes))
    return CoreRun(
        [Answer(answer.data, bool(answer.error), bool(answer.late)) for answer in answers],
        [[Operation(int(row[0])) for row in run.outputs[f"begun_{i}"]] for i in nodes],
        [run.times[f"begun_{i}"].astype(int).tolist() for i in nodes],
        [run.times[f"ended_{i}"].astype(int).tolist() for i in nodes],
        [run.status[f"flits_{i}"] for i in nodes],
        [np.array([int(word, 16) for word in run.files[f"final{i}.hex"].decode().split()
                   if not word.startswith(("//", "@"))], "<u4").view(np.uint8)
         for i in range(count)], bool(run.status["interrupted"]))


def _row(access: Access) -> NDArray[np.uint32]:
    fields = dataclasses.asdict(access)
    bits = HostAccess.const(fields).as_value().value
    return np.array([bits >> 32 * i & 0xFFFFFFFF
                     for i in range(-(-HostAccess.as_shape().size // 32))], np.uint32)
