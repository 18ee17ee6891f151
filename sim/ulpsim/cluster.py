"""A cluster as its programmer sees it: cores whose programs meet in COLLECTIVE, without time.

Each core runs its own program (`interpreter.Machine`) up to its next COLLECTIVE; when all have come
to one, it is carried out (`interconnect.collective.Collectives`). If some never come, the others
stop with TIMEOUT, each blaming the nearest to its left that is missing, as the hardware does for
ALL_GATHER, BARRIER and ALL_REDUCE; what their regions hold then is not defined.
"""

from collections.abc import Generator, Sequence

import numpy as np
from numpy.typing import NDArray

from .config import CoreConfig
from .interconnect import collective
from .interconnect.collective import Collectives, Operation
from .interconnect.topology import Topology
from .interpreter import Machine, Result
from .isa import Instruction

__all__ = ["ClusterMachine"]

_Run = Generator[collective.Command, collective.Completion, Result]


class ClusterMachine:
    """The cores of a cluster beside their memories.

    Parameters
    ----------
    topology
        A core at each terminal.
    config
        Of each core; it has an exchange unit.
    memories
        Of each core: uint8, from address 0 on; changed in place. Cores with one memory are given
        the same array.
    largest
        As of `Collectives`.

    Members
    -------
    machines
        The cores: their segments and registers are to be set before `run`.
    collectives
        The network: what has been sent.
    """

    def __init__(self, topology: Topology, config: CoreConfig,
                 memories: Sequence[NDArray[np.uint8]], *, largest: int = 1024) -> None:
        if not config.exchange:
            raise ValueError(f"exchange of {config.name!r} must not be 0 in a cluster")
        self.collectives = Collectives(topology, memories, width=8 * config.bus_bytes,
                                       largest=largest)
        self.machines = [Machine(config, memory) for memory in memories]
        for machine in self.machines:
            machine.nodes = len(self.machines)

    def run(self, programs: Sequence[Sequence[Instruction] | None]) -> list[Result | None]:
        """Run a program on each core, at the same time; None for a core that is not started.

        Raises ValueError for COLLECTIVEs that do not belong together, and for a BROADCAST that not
        all come to, of which it is not said here who fails.
        """
        if len(programs) != len(self.machines):
            raise ValueError(f"programs must be as many as the {len(self.machines)} cores, not "
                             f"{len(programs)}")
        results: list[Result | None] = [None] * len(programs)
        runs = {node: machine.steps(program) for node, (machine, program)
                in enumerate(zip(self.machines, programs, strict=True)) if program is not None}
        waiting: dict[int, collective.Command] = {}

        def go_on(node: int, completion: collective.Completion | None) -> None:
            waiting.pop(node, None)
            try:
                # A generator begins with None, which its type does not say.
                waiting[node] = runs[node].send(completion)     # type: ignore[arg-type]
            except StopIteration as end:
                results[node] = end.value

        for node in runs:
            go_on(node, None)
        while waiting:
            for node, completion in self._meet(waiting).items():
                go_on(node, completion)
        return results

    def _meet(self, waiting: dict[int, collective.Command]) -> dict[int, collective.Completion]:
        """What comes of the commands that wait: of those that are refused first."""
        refused = {node: completion for node, command in waiting.items()
                   if (completion := self.collectives.check(command, node)).cause}
        if refused:
            return refused
        count = len(self.machines)
        if len(waiting) == count:
            done = self.collectives.run([waiting[node] for node in range(count)])
            return dict(enumerate(done))
        if any(command.operation is Operation.BROADCAST for command in waiting.values()):
            raise ValueError(f"BROADCAST must be of all {count} nodes, not of "
                             f"{', '.join(map(str, sorted(waiting)))} alone")
        return {node: collective.Completion(collective.Cause.TIMEOUT, next(
            left for left in ((node - k) % count for k in range(1, count + 1))
            if left not in waiting)) for node in waiting}
