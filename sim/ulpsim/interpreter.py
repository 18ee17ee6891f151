"""The core as its programmer sees it: memories, instructions and what they do, without time.

`Machine` holds the memories of one core and runs programs on them. What the instructions do is
told in the table of `isa.py`, and what the core finds wrong with one in `rules.py`; here stands
what they leave open:

- Rows and vectors are written in order: where they overlap, the last one stays. SPECIAL reads all
  sources and residuals before it writes; a program may overwrite what a vector reads by its own
  output, but on the core an output that overlaps what a later vector reads depends on the
  pipeline. The same holds for row scalars.
- An instruction is put into its unit's queue in program order. A unit starts the first one of its
  queue as soon as the tokens are there that it waits for. Here, of all instructions that can start
  the first of the program does so, and nothing is queued while one can: programs whose tokens
  come from earlier instructions run in program order. When nothing can start and the next
  instruction is HALT, does not fit its queue (`queue_depth` and the one that waits to start), or
  is to be fetched to the place of one that still waits in a queue, that is a DEADLOCK.
- Tokens are counted up to 255 for each pair of units; all counts start from zero.
- The core finds a fault when it gets there, and units run side by side: if a program has several
  faults, or only one but work under way beside it, then which one is reported and what has been
  written by then are the core's; the model stops at the first one that it meets.
"""

import dataclasses
import itertools
from collections import deque
from collections.abc import Generator, Sequence

import numpy as np
from numpy.typing import NDArray

from . import exchange, fixed_point, fold, special
from .compression.engine import Engine, Operation
from .config import SLOT_BYTES, CoreConfig
from .formats import FORWARD_BIAS, Format, Precision
from .integers import pack, unpack_codes
from .interconnect import collective
from .isa import (
    INSTRUCTION_BYTES,
    MOST_INSTRUCTIONS,
    Cause,
    Fold,
    Instruction,
    Segment,
    Source,
    Target,
    Unit,
    decode,
    encode_program,
)
from .matmul import weight_ratio
from .rules import (
    check,
    loop_counts,
    operand_format,
    segment_of,
    slots_of_vector,
    special_function,
    vector_count,
    window_counts,
)
from .special import ColumnParameters

__all__ = ["MOST_TOKENS", "Machine", "Result"]

#: Tokens from one unit to another that can be outstanding.
MOST_TOKENS = 255


@dataclasses.dataclass(frozen=True)
class Result:
    """How a program ended.

    `cause` is NONE if it reached HALT. `index` is the place in the program of the instruction at
    fault: without a HALT the last one; for DEADLOCK the first of the program of those that wait at
    the head of a queue; 0 if no instruction is. `multiply_adds` counts those of elements in the
    MATMULs that were run.
    """

    cause: Cause
    index: int
    multiply_adds: int = 0


def _offsets(counts: Sequence[int], strides: Sequence[int]) -> NDArray[np.int64]:
    """The sum of i * stride for every iteration of nested loops, in order."""
    total = np.zeros(1, np.int64)
    for count, stride in zip(counts, strides, strict=True):
        total = (total[:, None] + np.arange(count) * stride).ravel()
    return total


class Machine:
    """One core with the external memory that it sees.

    Parameters
    ----------
    config
        The core.
    memory
        External memory, shared with the caller: a bytearray or a contiguous array of uint8.
    memory_base
        Address of its first byte. A bus access beyond it is a BUS_DECODE_ERROR.

    Members
    -------
    segments
        (base, size) of each segment in bytes, to be set before `run`.
    forward_bias
        Register FORWARD_BIAS: what is subtracted from the exponents of E4M3.
    step_register, round_register
        Registers STEP and ROUND.
    nodes
        Nodes of the cluster that the core is in.
    exchange_fault
        Register EXCHANGE_FAULT after `run`.
    activations
        Slots (uint16).
    weights
        Slots [line, column] (uint16).
    parameters
        Words [column, 4] (uint32): scale, bias, residual scale, upper bound; FP32, or without
        floating point the integers of `fixed_point`.
    accumulators
        Bits [address, column] (uint32), FP32 or INT32.
    rows
        Row scalars, FP32 bits (uint32).

    The memories keep their contents from run to run. On the core they are undefined at first;
    here they are zero.
    """

    def __init__(self, config: CoreConfig, memory: bytearray | NDArray[np.uint8],
                 memory_base: int = 0) -> None:
        self.config = config
        self.memory = np.frombuffer(memory, np.uint8)
        self.memory_base = memory_base
        if not self.memory.flags.writeable:
            raise ValueError(f"memory must be writeable, not {type(memory).__name__}")
        columns = config.column_lanes
        self.segments: dict[Segment, tuple[int, int]] = {s: (0, 0) for s in Segment}
        self.forward_bias = FORWARD_BIAS
        self.step_register = self.round_register = self.exchange_fault = 0
        self.nodes = 1
        self._packed = 0
        self._engine = Engine(self.memory, bus_bytes=config.bus_bytes,
                              largest_bin=config.largest_bin) if config.exchange else None
        if self._engine is not None and memory_base:
            raise ValueError(f"memory_base must be 0 for an exchange unit, not {memory_base}")
        self.activations = np.zeros(config.activation_slots, np.uint16)
        self.weights = np.zeros((config.weight_lines, columns), np.uint16)
        self.parameters = np.zeros((config.parameter_columns, 4), np.uint32)
        self.accumulators = np.zeros((config.accumulator_depth, columns), np.uint32)
        self.rows = np.zeros(config.row_scalars, np.uint32)

    def run(self, program: bytes | bytearray | Sequence[Instruction]) -> Result:
        """Run a program, as bytes or as instructions, until HALT or the first fault.

        Raises ValueError if the bytes are not whole instructions, a segment's base is not a
        multiple of the bus width, or a COLLECTIVE comes, for which there are no other nodes.
        """
        steps = self.steps(program)
        try:
            command = next(steps)
        except StopIteration as end:
            return end.value
        raise ValueError(f"{command.operation.name} must be run by a ClusterMachine, not by one "
                         "core alone")

    def steps(self, program: bytes | bytearray | Sequence[Instruction]) -> Generator[
            collective.Command, collective.Completion, Result]:
        """As `run`, but commands of the collective engine are handed out, and what came of them is
        to be sent."""
        words = bytes(program) if isinstance(program, bytes | bytearray) else \
            encode_program(program)
        if len(words) % INSTRUCTION_BYTES:
            raise ValueError(f"program must be a multiple of {INSTRUCTION_BYTES} bytes, "
                             f"not {len(words)}")
        for segment, (base, _) in self.segments.items():
            if base % self.config.bus_bytes:
                raise ValueError(f"base of segment {segment.name} must be a multiple of "
                                 f"{self.config.bus_bytes}, not {base}")
        length = len(words) // INSTRUCTION_BYTES
        if not 1 <= length <= MOST_INSTRUCTIONS:
            return Result(Cause.PROGRAM_LENGTH, 0)
        return (yield from self._run(words, length))

    def _run(self, words: bytes, length: int) -> Generator[
            collective.Command, collective.Completion, Result]:
        self._packed = self.exchange_fault = 0
        queues: dict[Unit, deque[tuple[int, Instruction]]] = {unit: deque() for unit in Unit}
        tokens = dict.fromkeys(itertools.product(Unit, Unit), 0)     # from, to
        multiply_adds = 0

        def can_start(unit: Unit) -> bool:
            return bool(queues[unit]) and all(
                tokens[source, unit] >= queues[unit][0][1][f"wait_{source.name.lower()}"]
                for source in Unit)

        position = 0
        while True:
            ready = [unit for unit in Unit if can_start(unit)]
            if ready:
                unit = min(ready, key=lambda unit: queues[unit][0][0])
                index, instruction = queues[unit].popleft()
                for source in Unit:
                    tokens[source, unit] -= instruction[f"wait_{source.name.lower()}"]
                if instruction.name == "COLLECTIVE":
                    cause = yield from self._collective(instruction)
                else:
                    cause = self.step(instruction)
                if cause is not Cause.NONE:
                    return Result(cause, index, multiply_adds)
                if instruction.name == "MATMUL":
                    multiply_adds += (vector_count(instruction) * instruction["depth"]
                                      * Precision(instruction["precision"]).per_slot
                                      * (self.config.column_lanes
                                         // Fold(instruction["fold"]).groups))
                for target in Unit:
                    tokens[unit, target] += instruction[f"post_{target.name.lower()}"]
                    if tokens[unit, target] > MOST_TOKENS:
                        return Result(Cause.TOKEN_OVERFLOW, index, multiply_adds)
                continue
            if position == length:
                return Result(Cause.PROGRAM_LENGTH, position - 1, multiply_adds)
            try:
                instruction = decode(words[position * INSTRUCTION_BYTES:][:INSTRUCTION_BYTES],
                                     self.config.units)
            except ValueError:
                return Result(Cause.ILLEGAL_INSTRUCTION, position, multiply_adds)
            waiting = [queue[0][0] for queue in queues.values() if queue]
            # A block of the program takes the place of another, of which none may wait in a queue.
            block = position // self.config.fetch_block
            gone = (block + 1) * self.config.fetch_block - self.config.instruction_memory
            if any(len(queue) > 1 and queue[1][0] < gone for queue in queues.values()):
                return Result(Cause.DEADLOCK, min(waiting), multiply_adds)
            if instruction.unit is None:
                if waiting:
                    return Result(Cause.DEADLOCK, min(waiting), multiply_adds)
                return Result(Cause.NONE, 0, multiply_adds)
            if len(queues[instruction.unit]) > self.config.queue_depth:
                return Result(Cause.DEADLOCK, min(waiting), multiply_adds)
            queues[instruction.unit].append((position, instruction))
            position += 1

    def step(self, instruction: Instruction) -> Cause:
        """Check one instruction and, if it breaks no rule, do what it says; tokens apart.

        COLLECTIVE is not for one core: see `steps`.
        """
        cause = check(self.config, self.segments, instruction, self.nodes)
        if cause is not Cause.NONE:
            return cause
        return {"LOAD": self._load, "FILL": self._fill, "MATMUL": self._matmul,
                "SPECIAL": self._special, "STORE": self._store, "COMPRESS": self._compression,
                "DECODE": self._compression}[instruction.name](instruction)

    def _compression(self, instruction: Instruction) -> Cause:
        assert self._engine is not None
        command = exchange.compression_command(instruction, self.segments, self.step_register)
        completion = self._engine.run(command)
        if (cause := exchange.command_cause(completion)) is not Cause.NONE:
            self.exchange_fault = exchange.detail(completion)
        elif command.operation is Operation.COMPRESS:
            self._packed = completion.bytes
        return cause

    def _collective(self, instruction: Instruction) -> Generator[
            collective.Command, collective.Completion, Cause]:
        cause = check(self.config, self.segments, instruction, self.nodes)
        if cause is Cause.NONE:
            completion = yield exchange.collective_command(
                instruction, self.segments, self.round_register, self._packed)
            if (cause := exchange.command_cause(completion)) is not Cause.NONE:
                self.exchange_fault = exchange.detail(completion)
        return cause

    def _external_rows(self, instruction: Instruction, pitch: str) -> NDArray[np.int64] | None:
        """First bytes of all rows in `memory`; None if a row lies outside of it."""
        base, _ = self.segments[segment_of(instruction)]
        rows = (base - self.memory_base + instruction["offset"]
                + np.arange(instruction["rows"]) * instruction[pitch])
        row_bytes = instruction["length"] * SLOT_BYTES
        return rows if rows[0] >= 0 and rows[-1] + row_bytes <= len(self.memory) else None

    def _load(self, instruction: Instruction) -> Cause:
        sources = self._external_rows(instruction, "source_pitch")
        if sources is None:
            return Cause.BUS_DECODE_ERROR
        memory = {Target.ACTIVATIONS: self.activations,
                  Target.WEIGHTS: self.weights.reshape(-1),
                  Target.PARAMETERS: self.parameters.reshape(-1).view(np.uint16),
                  }[Target(instruction["target"])]
        length = instruction["length"]
        for i, source in enumerate(sources):
            first = instruction["address"] + i * instruction["pitch"]
            row = self.memory[source:source + length * SLOT_BYTES]
            memory[first:first + length] = row.view("<u2")
        return Cause.NONE

    def _fill(self, instruction: Instruction) -> Cause:
        for i in range(instruction["rows"]):
            first = instruction["address"] + i * instruction["pitch"]
            self.activations[first:first + instruction["length"]] = 0
        return Cause.NONE

    def _store(self, instruction: Instruction) -> Cause:
        targets = self._external_rows(instruction, "target_pitch")
        if targets is None:
            return Cause.BUS_DECODE_ERROR
        length = instruction["length"]
        for i, target in enumerate(targets):
            first = instruction["address"] + i * instruction["pitch"]
            row = self.activations[first:first + length].astype("<u2")
            self.memory[target:target + length * SLOT_BYTES] = row.view(np.uint8)
        return Cause.NONE

    def _matmul(self, instruction: Instruction) -> Cause:
        depth = instruction["depth"]
        vectors = instruction["address"] + _offsets(
            loop_counts(instruction), [instruction[f"stride_{i}"] for i in range(3)])
        run, place = np.divmod(np.arange(depth), instruction["run_length"])
        slots = vectors[:, None] + run * instruction["run_pitch"] + place
        activation_format = operand_format(instruction, "activation", self.forward_bias)
        weight_format = operand_format(instruction, "weight", self.forward_bias, "weight_")
        ratio = weight_ratio(activation_format.precision, weight_format.precision)
        groups = Fold(instruction["fold"])
        depth = fold.group_depth(depth, self.config.rows, groups)
        lines = self.weights[instruction["weights"]:][:-(-depth // ratio)]
        accumulators = self.accumulators[instruction["accumulator"]:][:len(vectors)]
        accumulators[:] = fold.matmul(
            self.activations[slots], lines, activation_format, weight_format,
            self.config.rows, groups, accumulators if instruction["accumulate"] else None)
        return Cause.NONE

    def _special(self, instruction: Instruction) -> Cause:
        function = special_function(instruction, self.forward_bias)
        counts, windows = loop_counts(instruction), window_counts(instruction)
        groups = Fold(instruction["fold"])

        def addresses(first: str, stride: str, window_stride: str) -> NDArray[np.int64]:
            """[vector, element of the window]"""
            return instruction[first] + _offsets(
                counts, [instruction[f"{stride}_{i}"] for i in range(3)])[:, None] + _offsets(
                windows, [instruction[f"{window_stride}_{i}"] for i in range(2)])

        def elements(kind: Format, first: NDArray[np.int64]) -> NDArray[np.uint16]:
            slots = np.arange(slots_of_vector(self.config, kind, groups))
            codes = unpack_codes(self.activations[first[..., None] + slots], kind.precision)
            return codes[..., self._half(instruction, kind)]

        vectors = vector_count(instruction)
        row = np.arange(vectors) // instruction["count_2"]
        reads_rows = (Source(instruction["source"]) is Source.ROWS or instruction["row_scale"]
                      or instruction["row_bias"])
        rows = self.rows[instruction["row"] + row if reads_rows else [], None, None]
        if Source(instruction["source"]) is Source.ROWS:
            shape = vectors, int(np.prod(windows)), self.config.column_lanes
            sources = np.broadcast_to(rows, shape)
        else:
            first = addresses("accumulator", "accumulator_stride", "window_stride")
            sources = (fold.add_groups(self.accumulators[first], groups,
                                       function.float_accumulator)
                       if function.source is None else elements(function.source, first))
        residuals = None
        if function.residual is not None:
            residuals = elements(function.residual, addresses(
                "residual_address", "residual_stride", "residual_window_stride"))
        columns = ColumnParameters(
            *self.parameters[instruction["parameters"]:][
                :self.config.column_lanes // groups.groups].T)
        if instruction["row_scale"]:
            columns = dataclasses.replace(columns, scale=rows)
        if instruction["row_bias"]:
            columns = dataclasses.replace(columns, bias=rows)
        apply = special.apply if self.config.has_float else fixed_point.apply
        outputs = apply(function, sources, columns, residuals)
        if function.reduce:
            self.rows[instruction["reduced_row"] + row] = outputs
            return Cause.NONE
        first = instruction["address"] + _offsets(
            counts, [instruction[f"stride_{i}"] for i in range(3)])
        slots = np.arange(slots_of_vector(self.config, function.output, groups))
        packed = pack(outputs, function.output.precision)
        if instruction["upper"] and function.output.precision in self.config.halved_formats:
            packed = packed << 8 | self.activations[first[:, None] + slots] & 0xFF
        self.activations[first[:, None] + slots] = packed
        return Cause.NONE

    def _half(self, instruction: Instruction, kind: Format) -> slice:
        """Which elements of its slots a vector has."""
        outputs = self.config.column_lanes
        if kind.precision not in self.config.halved_formats:
            return slice(None)
        return slice(outputs, None) if instruction["upper"] else slice(outputs)
