"""From a network over sequences to a program for the core.

All weights stay in the weight scratchpad, and everything that a sequence needs in the activation
scratchpad. A network with an LSTM goes step by step, each step for many sequences at a time; one
without goes sequence by sequence, all steps at a time. Either way the sequences are divided among
two streams of work that share no memory that is written (`layers`), and that are merged so that
one keeps the array busy while the other waits for the special unit (`streams`).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..config import SLOT_BYTES, CoreConfig
from ..formats import FORWARD_BIAS, Precision
from ..fusion import CompileError
from ..isa import MOST_INSTRUCTIONS, Instruction, Segment
from ..tokens import TokenError, with_tokens
from .evaluation import input_codes
from .layers import Share, Stream, add_constants
from .memory import Constants, stored
from .network import Attention, Lstm, SequenceNetwork
from .streams import Step, merge

__all__ = ["CompiledSequences", "compile_sequences"]

#: Sequences in a program, if the caller leaves the choice: with an LSTM, and without.
_STEP_BATCHES, _BATCHES = (64, 32, 16, 8, 4, 2, 1), (8,)
_STREAMS = 2


@dataclasses.dataclass(frozen=True, eq=False)
class CompiledSequences:
    """A program with what belongs to it.

    Parameters
    ----------
    network, config
        What was compiled, for what.
    batch
        Sequences in one run of the program.
    program
        Instructions; the last one is HALT.
    labels
        For each instruction the layer or tensor that it belongs to; "" for HALT.
    parameters
        Contents of the segment PARAMETERS.
    segment_bytes
        Smallest size of each segment.
    multiply_adds
        By layer, the products that one sequence needs by the layer's definition.
    """

    network: SequenceNetwork
    config: CoreConfig
    batch: int
    program: list[Instruction]
    labels: list[str]
    parameters: bytes
    segment_bytes: dict[Segment, int]
    multiply_adds: dict[str, int]

    #: Nothing is in E4M3.
    forward_bias = FORWARD_BIAS

    def pack_input(self, inputs: ArrayLike) -> bytes:
        """Contents of the segment INPUT for at most `batch` sequences; missing ones are zero.

        Inputs are as `evaluation.input_codes` takes them. Raises ValueError.
        """
        codes = input_codes(self.network, inputs)
        if len(codes) > self.batch:
            raise ValueError(f"sequences must be at most {self.batch}, what one run of the program "
                             f"takes, not {len(codes)}")
        slots = np.zeros((self.batch, self.network.steps,
                          stored(self.network.input_channels, self.config)), "<u2")
        slots[:len(codes), :, :codes.shape[2]] = codes
        return slots.tobytes()

    def unpack_output(self, data: bytes | NDArray[np.uint8]) -> NDArray[np.int64]:
        """Codes [batch, steps, channels] from the contents of the segment OUTPUT."""
        size = self.segment_bytes[Segment.OUTPUT]
        if len(data) < size:
            raise ValueError(f"data must be at least {size} bytes, not {len(data)}")
        channels = self.network.channels[self.network.output_name]
        slots = np.frombuffer(bytes(data[:size]), "<u2").reshape(
            self.batch, self.network.steps, stored(channels, self.config))
        return slots[..., :channels].astype(np.int64)


def compile_sequences(network: SequenceNetwork, config: CoreConfig, batch: int | None = None
                      ) -> CompiledSequences:
    """Compile a network for a core.

    `batch` is the number of sequences in one run of the program; without it, of 64, 32, 16, 8, 4,
    2 and 1 the largest that fits is taken with an LSTM, and 8 otherwise. Raises CompileError
    naming the layer, what it needs and what there is.
    """
    if batch is not None and (isinstance(batch, bool) or not isinstance(batch, int) or batch < 1):
        raise ValueError(f"batch must be a positive integer, not {batch!r}")
    first = network.layers[0].name
    if Precision.FP16 not in config.formats or not config.special_functions:
        raise CompileError(first, f"the core {config.name!r} must have FP16 and special_functions")
    by_step = any(isinstance(layer, Lstm) for layer in network.layers)
    if by_step:
        for layer in network.layers:
            if isinstance(layer, Attention):
                raise CompileError(layer.name, "attention takes all steps of a sequence at a time, "
                                   "an lstm one after the other; a network must have only one of "
                                   "both")
    batches = (batch,) if batch is not None else _STEP_BATCHES if by_step else _BATCHES
    error: CompileError | None = None
    for size in batches:
        for streams in range(min(_STREAMS, size), 0, -1):
            try:
                return _compile(network, config, size, streams, by_step=by_step)
            except CompileError as refused:
                error = refused
    assert error is not None
    raise error


def _compile(network: SequenceNetwork, config: CoreConfig, batch: int, count: int, *,
             by_step: bool) -> CompiledSequences:
    constants = Constants(config)
    add_constants(network, constants)
    streams: list[Stream] = []
    workspace = 0
    for number in range(count):
        def share(total: int, first: int = 0, number: int = number) -> tuple[int, int]:
            """This stream's part of so much: where it begins and how much it is."""
            part = (total - first) // count
            return first + number * part, part

        slot, slots = share(config.activation_slots, constants.slots)
        stream = Stream(
            network, config, constants,
            Share(share(config.accumulator_depth), share(config.row_scalars), (slot, slot + slots)),
            len(range(number, batch, count)) if by_step else network.steps,
            by_step=by_step, workspace=workspace)
        _blocks(stream, network, config, batch, number, count)
        workspace = stream.workspace_end
        streams.append(stream)
    parameters, columns = constants.parameters()
    steps = [Step(network.input_name, columns),
             *_with_loads(merge([stream.steps for stream in streams], config), constants),
             Step("", Instruction("HALT"))]
    output = network.output_name
    if len(steps) > MOST_INSTRUCTIONS:
        raise CompileError(output, f"{batch} sequences need a program of {len(steps)} "
                           f"instructions; the most is {MOST_INSTRUCTIONS}")
    try:
        program = with_tokens([step.instruction for step in steps], config)
    except TokenError as error:
        raise CompileError(output, str(error)) from error

    def tensor_bytes(name: str) -> int:
        return (batch * network.steps * stored(network.channels[name], config)) * SLOT_BYTES

    return CompiledSequences(
        network=network, config=config, batch=batch, program=program,
        labels=[step.label for step in steps], parameters=parameters,
        segment_bytes={
            Segment.PARAMETERS: len(parameters), Segment.INPUT: tensor_bytes(network.input_name),
            Segment.OUTPUT: tensor_bytes(output), Segment.WORKSPACE: workspace},
        multiply_adds=network.multiply_adds())


def _blocks(stream: Stream, network: SequenceNetwork, config: CoreConfig, batch: int, number: int,
            count: int) -> None:
    """All blocks of a stream: every `count`-th sequence from `number` on."""
    rows = [stored(network.channels[name], config) * SLOT_BYTES
            for name in (network.input_name, network.output_name)]
    if stream.by_step:
        for step in range(network.steps):
            inputs, outputs = (((number * network.steps + step) * row,
                                count * network.steps * row) for row in rows)
            stream.block(inputs, outputs, step)
    else:
        for sequence in range(number, batch, count):
            inputs, outputs = ((sequence * network.steps * row, row) for row in rows)
            stream.block(inputs, outputs, 0)


def _with_loads(steps: Sequence[Step], constants: Constants) -> list[Step]:
    """The steps, and in front of each the loads that it is the first to need."""
    result: list[Step] = []
    loaded: set[int] = set()
    for step in steps:
        for load in step.needs:
            if load not in loaded:
                loaded.add(load)
                result.append(Step(*constants.loads[load]))
        result.append(step)
    return result
