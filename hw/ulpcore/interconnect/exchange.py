"""Learners that train one network and exchange their gradients through a cluster's RTL.

Every step is carried out twice, by the RTL and by the golden models, and all that is in any memory
afterwards is compared.
"""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ulpsim.compression import engine as compression
from ulpsim.compression.learner import CONVOLUTION_BIN, DENSE_BIN, Learner
from ulpsim.compression.packets import STEPS
from ulpsim.compression.words import BYTE_BIN
from ulpsim.config import CoreConfig
from ulpsim.interconnect import collective
from ulpsim.interconnect.collective import ROUNDS, Collectives
from ulpsim.interconnect.packets import packet_flits
from ulpsim.interconnect.topology import Topology
from ulpsim.isa import INSTRUCTION_BYTES, Cause, Segment, encode_program
from ulpsim.small_network import SmallNetwork

from .cluster_rtl import ClusterRun, NodeStep, run_cluster
from .core_cluster_rtl import CoreJob, CoreRun, ends, reports, run_cores, start
from .programs import program_of

__all__ = ["Learners", "StepFigures"]

#: Regions begin at multiples of so many bytes.
_ALIGNMENT = 128
#: Cycles that a node may be behind the others.
_PATIENCE = 1 << 24
_RATE = 0.1


@dataclasses.dataclass(frozen=True)
class StepFigures:
    """What came of a step.

    Attributes
    ----------
    loss
        Mean over the learners.
    bytes
        Of each learner's packets.
    cycles
        Of each phase (`compress`, `gather`, `decode`, `dense`), from the first node's begin to the
        last one's end. `dense` is the all-reduce of the gradients as they are.
    link_bytes
        On the busiest link, of `gather` and of `dense`; `gather_mean` on the average of the links
        that are used.
    differing
        `reports`, `bytes` of memory and `flits` that differ between RTL and golden model,
        `elements` of the sum that differ between nodes.
    """

    loss: float
    bytes: list[int]
    cycles: dict[str, int]
    link_bytes: dict[str, float]
    differing: dict[str, int]


class Learners:
    """Learners at the nodes of a network, each with its share of the images.

    Parameters
    ----------
    topology
        A learner at each terminal.
    images, labels
        uint8, (count, 28, 28) or alike; the class of each. Learner i has every n-th of them.
    batch
        Images of a learner in a step.
    hidden
        Of `SmallNetwork`.
    factor
        AdaComp's soft threshold.
    seed
        Of the first weights and of the batches.
    cores
        The core at each node, whose program starts all this. Without one the commands come from
        the bench, to nodes of engines alone.
    options
        Of `run_cluster`: `lanes`, `width`, `largest`, `shared`, `latency`, `stall_seed`. With cores
        `lanes` and `width` are theirs.

    Attributes
    ----------
    networks
        Of each learner its replica, all equal.
    """

    def __init__(self, topology: Topology, images: NDArray[np.uint8], labels: NDArray, *,
                 batch: int = 32, hidden: int = 64, factor: float = 2, seed: int = 1,
                 cores: CoreConfig | None = None, **options: Any) -> None:
        self.count = len(topology.nodes)
        if not isinstance(batch, int) or not 1 <= batch <= len(images) // self.count:
            raise ValueError(f"batch must be from 1 to the {len(images) // self.count} images of "
                             f"a learner, not {batch!r}")
        self.cores = cores
        if cores is not None:
            options |= {"lanes": cores.exchange, "width": 8 * cores.bus_bytes}
        self.topology, self.options, self.batch = topology, options, batch
        self.images, self.labels = images, labels
        self.rng = np.random.default_rng(seed)
        self.networks = [SmallNetwork(np.random.default_rng(seed), hidden)
                         for _ in range(self.count)]
        #: They know the settings of the layers; gradients are compressed by engines.
        self.learners = [Learner(i, factor=factor) for i in range(self.count)]
        weights, biases = self.networks[0].weights, self.networks[0].biases
        self.elements = {name: weights[name].size + biases[name].size for name in weights}
        self.step_number = self.round = 0
        self.shared, self.width = options.get("shared", False), options.get("width", 64)
        self._lay_out()

    def _lay_out(self) -> None:
        """Where everything is in a node's memory, and the memories."""
        at = 0

        def region(size: int) -> int:
            nonlocal at
            begin, at = at, at + -(-size // _ALIGNMENT) * _ALIGNMENT
            return begin

        sizes = self.elements.items()
        self.gradients, self.residues, self.sums = (
            {name: region(4 * size) for name, size in sizes} for _ in range(3))
        self.vector = region(4 * sum(self.elements.values()))
        self.capacity = sum(-(-(size * (1 if self._bin(name) <= BYTE_BIN else 2)
                               + 20 * (1 + size // 4096)) // _ALIGNMENT) * _ALIGNMENT
                            for name, size in sizes)
        self.buffers, self.table = region(self.count * self.capacity), region(4 * self.count)
        self.program = region((2 * len(self.elements) + 7) * INSTRUCTION_BYTES)
        self.size = at
        self.bases = [at * i if self.shared else 0 for i in range(self.count)]
        memories = [np.zeros(at * self.count if self.shared else at, np.uint8)
                    for _ in range(1 if self.shared else self.count)]
        self.memories = memories

    def _bin(self, name: str) -> int:
        return CONVOLUTION_BIN if name.startswith("conv") else DENSE_BIN

    def _view(self, memories: list[NDArray[np.uint8]], node: int, at: int, size: int
              ) -> NDArray[np.uint8]:
        begin = self.bases[node] + at
        return memories[0 if self.shared else node][begin:begin + size]

    def step(self) -> StepFigures:
        """All learners' gradients, through RTL and golden models, to all replicas."""
        losses, settings = self._learn()
        plan = [self._compress(node, settings[node]) for node in range(self.count)]
        begin, self.round = self.round, self.round + 6
        before = [m.copy() for m in self.memories]
        reports, flits, steps, bytes_, links = self._golden(plan, begin)
        if self.cores is None:
            longest = 5 * max(self.elements.values()) + 20_000
            run = run_cluster(before, steps, topology=self.topology, longest=longest,
                              **self.options)
            wrong = sum(a != b for ours, theirs in zip(run.completions, reports, strict=True)
                        for a, b in zip(ours, theirs, strict=True))
            cycles = self._cycles(run)
        else:
            run, wrong = self._run_cores(before, steps, begin)
            cycles = self._cycles_of_cores(run)
        figures = StepFigures(
            float(np.mean(losses)), bytes_, cycles, links,
            {"reports": wrong,
             "bytes": sum(int(np.count_nonzero(a != b))
                          for a, b in zip(run.memories, self.memories, strict=True)),
             "flits": sum(abs(a - b) for a, b in zip(run.flits, flits, strict=True)),
             "elements": self._descend(run.memories)})
        self.step_number += 1
        self.memories = run.memories
        return figures

    def _learn(self) -> tuple[list[float], list[dict[str, Any]]]:
        """Gradients of a batch of every learner, to memory; losses, and the layers' settings."""
        losses, settings = [], []
        for node, (network, learner) in enumerate(zip(self.networks, self.learners, strict=True)):
            share = np.arange(node, len(self.images), self.count)
            chosen = self.rng.choice(share, self.batch, replace=False)
            gradients, loss = network.gradients(self.images[chosen], self.labels[chosen])
            losses.append(loss)
            for name, gradient in gradients.items():
                self._view(self.memories, node, self.gradients[name], gradient.nbytes)[:] = (
                    gradient.view(np.uint8))
            whole = np.concatenate(list(gradients.values())).view(np.uint8)
            self._view(self.memories, node, self.vector, len(whole))[:] = whole
            settings.append({name: learner.layer(name, gradient, self._bin(name)).settings
                             for name, gradient in gradients.items()})
        return losses, settings

    def _compress(self, node: int, settings: dict[str, Any]) -> list[compression.Command]:
        base = self.bases[node]
        return [compression.Command(
            compression.Operation.COMPRESS, size, base + self.gradients[name],
            base + self.buffers + node * self.capacity, self.capacity, layer=number,
            step=self.step_number % STEPS, learner=node, residue=base + self.residues[name],
            append=number > 0, bin_size=settings[name].bin_size,
            factor=settings[name].factor_steps, point=settings[name].point, exact=True)
            for number, (name, size) in enumerate(self.elements.items())]

    def _decode(self, node: int) -> list[compression.Command]:
        base = self.bases[node]
        return [compression.Command(
            compression.Operation.DECODE, size, base + self.sums[name], base + self.buffers,
            self.capacity, layer=number, step=self.step_number % STEPS,
            last_learner=self.count - 1, pitch=self.capacity, append=number > 0, clear=True)
            for number, (name, size) in enumerate(self.elements.items())]

    def _collective(self, operation: collective.Operation, number: int, **fields: int
                    ) -> list[collective.Command]:
        """Of every node; addresses among `fields` are those within a node's memory."""
        return [collective.Command(operation, number % ROUNDS, patience=_PATIENCE, **{
            name: value + (base if name in ("address", "table") else 0)
            for name, value in fields.items()}) for base in self.bases]

    def _golden(self, plan: list[list[compression.Command]], begin: int) -> tuple[
            list[list[Any]], list[int], list[list[NodeStep]], list[int], dict[str, float]]:
        """Carry out a step in the memories: reports and flits of every node, what it is to be told,
        the bytes of its packets; the bytes on links."""
        nodes = range(self.count)
        memories = self.memories * (self.count if self.shared else 1)
        bus_bytes = self.width // 8
        engines = [compression.Engine(m, bus_bytes=bus_bytes) for m in memories]
        cluster = Collectives(self.topology, memories, width=self.width,
                              largest=self.options.get("largest", 1024))
        reports: list[list[Any]] = [[] for _ in nodes]
        steps: list[list[NodeStep]] = [[] for _ in nodes]
        links: dict[str, float] = {}

        def compress(commands: list[list[compression.Command]]) -> None:
            for node in nodes:
                reports[node] += [engines[node].run(command) for command in commands[node]]
                steps[node] += [NodeStep(command) for command in commands[node]]

        def together(commands: list[collective.Command], told: list[NodeStep]) -> list[int]:
            before = cluster.link_bytes
            for node, report in enumerate(cluster.run(commands)):
                reports[node].append(report)
                steps[node].append(told[node])
            return [b - before.get(link, 0) for link, b in cluster.link_bytes.items()]

        def barrier(number: int) -> None:
            commands = self._collective(collective.Operation.BARRIER, begin + number)
            together(commands, [NodeStep(command) for command in commands])

        barrier(0)
        compress(plan)
        bytes_ = [reports[node][-1].bytes for node in nodes]
        barrier(1)
        commands = self._collective(collective.Operation.ALL_GATHER, begin + 2,
                                    address=self.buffers, pitch=self.capacity, table=self.table)
        passed = together(
            [dataclasses.replace(c, bytes=size) for c, size in zip(commands, bytes_, strict=True)],
            [NodeStep(command, packed=True) for command in commands])
        links["gather"], links["gather_mean"] = max(passed), sum(passed) / len(passed)
        barrier(3)
        compress([self._decode(node) for node in nodes])
        barrier(4)
        size = 4 * sum(self.elements.values())
        pitch = -(-size // (self.count * bus_bytes)) * bus_bytes
        commands = self._collective(collective.Operation.ALL_REDUCE, begin + 5,
                                    address=self.vector, bytes=size, pitch=pitch)
        links["dense"] = max(together(commands, [NodeStep(command) for command in commands]))
        flits = [sum(packet_flits(header.bytes, self.width) for header, _ in packets)
                 for packets in cluster.sent]
        return reports, flits, steps, bytes_, links

    def _run_cores(self, before: list[NDArray[np.uint8]], steps: list[list[NodeStep]], begin: int
                   ) -> tuple[CoreRun, int]:
        """A step by the programs of the cores; how many of them have failed."""
        assert self.cores is not None
        jobs = {}
        for node, base in enumerate(self.bases):
            program = program_of(steps[node], base=base, step=self.step_number, round_=begin)
            code = np.frombuffer(encode_program(program), np.uint8)
            for memories in (before, self.memories):
                self._view(memories, node, self.program, len(code))[:] = code
            jobs[node] = CoreJob(base + self.program, len(program),
                                 {Segment.WORKSPACE: (base, self.size)}, self.step_number, begin)
        longest = 100 * sum(self.elements.values()) * (self.count if self.shared else 1) + 100_000
        run = run_cores(before, [*start(jobs), *ends(list(jobs), longest)], config=self.cores,
                        topology=self.topology, **{
                            "shared": False} | {name: value for name, value in self.options.items()
                                                if name not in ("lanes", "width")})
        ended = reports(run.answers[-1 - 4 * self.count:])
        return run, sum(report.cause is not Cause.NONE for report in ended)

    def _cycles(self, run: ClusterRun) -> dict[str, int]:
        layers = len(self.elements)
        phases = {"compress": (1, layers), "gather": (layers + 2, 1),
                  "decode": (layers + 4, layers), "dense": (2 * layers + 5, 1)}
        return {name: max(ended[first + count - 1] for ended in run.ended)
                - min(begun[first] for begun in run.begun)
                for name, (first, count) in phases.items()}

    def _cycles_of_cores(self, run: CoreRun) -> dict[str, int]:
        """Of what the engines of cores do only collective commands are seen: barriers stand before
        and behind the others, whose time includes the sequencer's for them."""
        before, behind = ([min(times) for times in zip(*run.ended, strict=True)],
                          [max(times) for times in zip(*run.begun, strict=True)])
        return {"compress": behind[1] - before[0], "decode": behind[4] - before[3],
                **{name: max(ended[i] for ended in run.ended)
                   - min(begun[i] for begun in run.begun)
                   for name, i in (("gather", 2), ("dense", 5))}}

    def _descend(self, memories: list[NDArray[np.uint8]]) -> int:
        """The sums in each node's memory to its replica; elements in which they are not equal."""
        differing = 0
        for node, network in enumerate(self.networks):
            mean = {}
            for name, size in self.elements.items():
                ours, first = (self._view(memories, i, self.sums[name], 4 * size).view(np.uint32)
                               for i in (node, 0))
                differing += int(np.count_nonzero(ours != first))
                mean[name] = ours.view(np.float32) / np.float32(self.count)
            network.descend(mean, _RATE)
        return differing
