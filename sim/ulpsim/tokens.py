"""Tokens: which instructions of a program must wait for which, found from what they touch.

`accesses` lists every word that an instruction reads or writes. `with_tokens` takes a program
that is right when its instructions run one after the other, and sets the wait and post fields so
that it is right on four units that run side by side.

A unit runs its instructions in order, and each sees all that the ones before it in the same unit
have done. So an instruction needs, of every other unit, only the last instruction that touches a
word in conflict with it (one of the two writes): that one gives a token, and this one takes it.
Waits that follow from other waits are left out. Every token is taken by the one instruction that
it was given for, so counts of waits are 0 or 1.
"""

import dataclasses
import enum
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from .config import SLOT_BYTES, CoreConfig
from .fold import group_depth
from .formats import Precision
from .interpreter import MOST_TOKENS
from .isa import Fold, Instruction, Segment, Source, Target, Unit
from .matmul import weight_ratio
from .rules import PARAMETER_SLOTS

__all__ = [
    "Access",
    "Memory",
    "TokenError",
    "accesses",
    "dependencies",
    "most_outstanding",
    "with_tokens",
]


class TokenError(ValueError):
    """A program that cannot be given tokens; the message holds both numbers."""


class Memory(enum.Enum):
    """What instructions touch, with the unit in which `Access.words` counts."""

    ACTIVATIONS = "slots"
    WEIGHTS = "lines"
    PARAMETERS = "columns"
    ACCUMULATORS = "vectors"
    OUTPUT = "words of the bus in segment OUTPUT"
    WORKSPACE = "words of the bus in segment WORKSPACE"


@dataclasses.dataclass(frozen=True, eq=False)
class Access:
    """Words of a memory that an instruction reads or writes."""

    memory: Memory
    words: NDArray[np.int64]
    write: bool


def _nested(first: int, *loops: tuple[int, int]) -> NDArray[np.int64]:
    """first + sum of i * stride over nested loops of (count, stride); each word once, in order."""
    words = np.array([first], np.int64)
    for count, stride in loops:
        words = (words[:, None] + np.arange(count) * stride).ravel()
        if not (words[1:] > words[:-1]).all():
            words = np.unique(words)
    return words


def _loops(instruction: Instruction, stride: str) -> list[tuple[int, int]]:
    return [(instruction[f"count_{i}"], instruction[f"{stride}_{i}"]) for i in range(3)]


def _external(instruction: Instruction, pitch: str, write: bool,
              config: CoreConfig) -> Iterator[Access]:
    word = config.bus_bytes
    segment = Segment(instruction["segment"])
    if segment in (Segment.OUTPUT, Segment.WORKSPACE):
        words = -(-instruction["length"] * SLOT_BYTES // word)
        yield Access(Memory[segment.name], _nested(
            instruction["offset"] // word, (instruction["rows"], instruction[pitch] // word),
            (words, 1)), write)


def accesses(instruction: Instruction, config: CoreConfig) -> list[Access]:
    """All that an instruction reads and writes, in the order read, written.

    Left out are external memory that no instruction can write (PARAMETERS, INPUT) and row scalars,
    which no unit but SPECIAL touches. Raises TokenError for an instruction of the exchange unit.
    """
    return list(_accesses(instruction, config))


def _accesses(instruction: Instruction, config: CoreConfig) -> Iterator[Access]:
    if instruction.name in ("LOAD", "FILL", "STORE"):
        rows = _nested(instruction["address"], (instruction["rows"], instruction["pitch"]),
                       (instruction["length"], 1))
        if instruction.name == "STORE":
            yield Access(Memory.ACTIVATIONS, rows, False)
            yield from _external(instruction, "target_pitch", True, config)
            return
        memory, size = Memory.ACTIVATIONS, 1
        if instruction.name == "LOAD":
            yield from _external(instruction, "source_pitch", False, config)
            memory, size = {
                Target.ACTIVATIONS: (Memory.ACTIVATIONS, 1),
                Target.WEIGHTS: (Memory.WEIGHTS, config.column_lanes),
                Target.PARAMETERS: (Memory.PARAMETERS, PARAMETER_SLOTS),
            }[Target(instruction["target"])]
        yield Access(memory, np.unique(rows // size), True)
    elif instruction.name == "MATMUL":
        yield from _matmul_accesses(instruction, config)
    elif instruction.name == "SPECIAL":
        yield from _special_accesses(instruction, config)
    elif instruction.unit is Unit.EXCHANGE:
        raise TokenError(f"{instruction.name} must be given its tokens by whoever writes the "
                         "program: what it touches is a matter of the cluster")


def _matmul_accesses(instruction: Instruction, config: CoreConfig) -> Iterator[Access]:
    depth, length = instruction["depth"], instruction["run_length"]
    runs, rest = divmod(depth, length)
    taps = np.concatenate([
        _nested(0, (runs, instruction["run_pitch"]), (length, 1)) if runs else np.zeros(0, int),
        runs * instruction["run_pitch"] + np.arange(rest)])
    vectors = _nested(instruction["address"], *_loops(instruction, "stride"))
    yield Access(Memory.ACTIVATIONS, _sum_set(vectors, taps), False)
    depth = group_depth(depth, config.rows, Fold(instruction["fold"]))
    lines = -(-depth // weight_ratio(Precision(instruction["precision"]),
                                     Precision(instruction["weight_precision"])))
    yield Access(Memory.WEIGHTS, instruction["weights"] + np.arange(lines), False)
    count = int(np.prod([instruction[f"count_{i}"] for i in range(3)]))
    sums = instruction["accumulator"] + np.arange(count)
    if instruction["accumulate"]:
        yield Access(Memory.ACCUMULATORS, sums, False)
    yield Access(Memory.ACCUMULATORS, sums, True)


def _sum_set(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """All sums of an element of each, once, in order."""
    few, many = sorted((first, second), key=len)
    present = np.zeros(int(few.max() + many.max()) + 1, bool)
    for offset in few:
        present[many + offset] = True
    return np.flatnonzero(present)


def _special_accesses(instruction: Instruction, config: CoreConfig) -> Iterator[Access]:
    def slots(kind: str) -> int:
        precision = instruction.choice(f"{kind}_precision")
        columns = config.column_lanes // Fold(instruction["fold"]).groups
        # `choice` is any enumeration; that of a precision field is Precision.
        return -(-columns // precision.per_slot)  # type: ignore[attr-defined]

    def windows(stride: str) -> list[tuple[int, int]]:
        return [(instruction[f"window_{i}"], instruction[f"{stride}_{i}"]) for i in range(2)]

    source = instruction.choice("source")
    if source is not Source.ROWS:
        memory, words = Memory.ACCUMULATORS, 1
        if source is Source.ACTIVATIONS:
            memory, words = Memory.ACTIVATIONS, slots("source")
        yield Access(memory, _nested(
            instruction["accumulator"], *_loops(instruction, "accumulator_stride"),
            *windows("window_stride"), (words, 1)), False)
    yield Access(Memory.PARAMETERS,
                 instruction["parameters"] + np.arange(config.column_lanes), False)
    if instruction["residual"]:
        yield Access(Memory.ACTIVATIONS, _nested(
            instruction["residual_address"], *_loops(instruction, "residual_stride"),
            *windows("residual_window_stride"), (slots("residual"), 1)), False)
    if not instruction["reduce"]:
        yield Access(Memory.ACTIVATIONS, _nested(
            instruction["address"], *_loops(instruction, "stride"), (slots("output"), 1)), True)


class _History:
    """For every word of a memory and every unit: its last reader and its last writer."""

    def __init__(self) -> None:
        self.last = np.full((2, len(Unit), 0), -1, np.int32)         # [write][unit][word]

    def touch(self, access: Access, unit: Unit, index: int) -> NDArray[np.int64]:
        """Record an access; the last instruction of each unit that it is in conflict with."""
        words = access.words
        missing = int(words[-1]) + 1 - self.last.shape[2] if len(words) else 0
        if missing > 0:
            # At least twice the size, so that a long program does not copy it again and again.
            missing = max(missing, self.last.shape[2])
            self.last = np.pad(self.last, ((0, 0), (0, 0), (0, missing)), constant_values=-1)
        seen = self.last[:, :, words] if access.write else self.last[1:, :, words]
        conflicts = seen.max(axis=(0, 2), initial=-1)
        self.last[int(access.write), unit.value, words] = index
        return conflicts


def dependencies(program: Sequence[Instruction], config: CoreConfig) -> list[NDArray[np.int64]]:
    """For every instruction, of each unit, the last one before it in conflict with it, or -1."""
    histories = {memory: _History() for memory in Memory}
    needed = []
    for index, instruction in enumerate(program):
        need = np.full(len(Unit), -1, np.int64)
        if instruction.unit is not None:
            for access in accesses(instruction, config):
                need = np.maximum(need, histories[access.memory].touch(
                    access, instruction.unit, index))
        needed.append(need)
    return needed


def with_tokens(program: Sequence[Instruction], config: CoreConfig) -> list[Instruction]:
    """The same program with its wait and post fields set.

    Raises TokenError if more tokens can be outstanding than the core counts.
    """
    marked = [Instruction(i.name, **{f.name: i[f.name] for f in i.type.fields}) for i in program]
    # known[i][u]: the last instruction of unit u that is surely done when i starts.
    known: list[NDArray[np.int64]] = []
    latest = [np.full(len(Unit), -1, np.int64) for _ in Unit]
    for instruction, needed in zip(marked, dependencies(program, config), strict=True):
        if instruction.unit is None:
            known.append(np.full(len(Unit), -1, np.int64))
            continue
        sure = latest[instruction.unit.value].copy()
        others = [u for u in Unit if u is not instruction.unit]
        for unit in sorted(others, key=lambda u: -needed[u.value]):
            producer = int(needed[unit.value])
            if producer <= sure[unit.value]:
                continue
            marked[producer].values[f"post_{instruction.unit.name.lower()}"] = 1
            instruction.values[f"wait_{unit.name.lower()}"] = 1
            sure = np.maximum(sure, known[producer])
            sure[unit.value] = producer
        known.append(sure)
        latest[instruction.unit.value] = sure
    worst = most_outstanding(marked, config)
    if worst > MOST_TOKENS:
        raise TokenError(f"tokens from one unit to another must be at most {MOST_TOKENS} at a "
                         f"time, not {worst}")
    return marked


def most_outstanding(program: Sequence[Instruction], config: CoreConfig) -> int:
    """A bound for the tokens outstanding between any two units at any time.

    A unit may be ahead of another by what is in the other's queue and what comes after it in the
    program up to its own place.
    """
    worst = 0
    for source in Unit:
        for target in Unit:
            posts = [i.unit is source and i[f"post_{target.name.lower()}"] for i in program]
            waits = [i[f"wait_{source.name.lower()}"] if i.unit is target else 0 for i in program]
            balance = np.cumsum(posts) - np.cumsum(waits)
            worst = max(worst, int(balance.max(initial=0)))
    return worst + config.queue_depth + 1
