"""From a network to a program for the core.

If all tensors of the network fit the activation scratchpad together, activations never leave it
(`resident`); if not, they pass through it stripe by stripe (`streamed`). Either way the work is
first listed as steps in an order that is right when everything runs one after the other, with
pieces of weights in the place of addresses; `placement` finds the addresses and puts in the
LOADs, and `tokens` finds what must wait for what.
"""

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import evaluation, integers
from .config import SLOT_BYTES, CoreConfig
from .fusion import CompileError, Fused, Tensor, fuse
from .isa import MOST_INSTRUCTIONS, Instruction, Segment
from .network import Network
from .placement import with_pieces
from .resident import ResidentSchedule
from .steps import Step, bus_row
from .streamed import StreamedSchedule, external_places
from .tokens import TokenError, with_tokens

__all__ = ["CompileError", "Compiled", "compile_network"]

#: Images in a program, if the caller leaves the choice.
_BATCHES = (16, 8, 4, 2, 1)
#: Vectors that a MATMUL should have at least, in periods of a tile; less where memory is short.
_PERIODS = (2, 1, 0)


@dataclasses.dataclass(frozen=True, eq=False)
class Compiled:
    """A program with what belongs to it.

    Parameters
    ----------
    network, config
        What was compiled, for what.
    batch
        Images in one run of the program.
    program
        Instructions; the last one is HALT.
    labels
        For each instruction the layer that it belongs to (of layers that are fused, the first
        one), or the tensor that it clears, loads or stores; "" for HALT.
    parameters
        Contents of the segment PARAMETERS.
    segment_bytes
        Smallest size of each segment.
    multiply_adds
        By convolution and fully connected layer, the products that one image needs by the
        layer's definition: without those that are added by padding channels.
    """

    network: Network
    config: CoreConfig
    batch: int
    program: list[Instruction]
    labels: list[str]
    parameters: bytes
    segment_bytes: dict[Segment, int]
    multiply_adds: dict[str, int]
    input_tensor: Tensor
    output_tensor: Tensor

    @property
    def forward_bias(self) -> int:
        """What the register FORWARD_BIAS must hold."""
        return self.network.forward_bias

    def instructions_of(self, label: str) -> list[int]:
        """Places in the program of a layer's instructions."""
        return [i for i, name in enumerate(self.labels) if name == label]

    def pack_input(self, images: ArrayLike) -> bytes:
        """Contents of the segment INPUT for at most `batch` images.

        Images are [images, height, width, channels]: integers are codes, floating-point numbers
        are real and are quantised. Missing images are zero. Raises ValueError for wrong shapes,
        codes or numbers of images.
        """
        array = np.asarray(images)
        if array.dtype.kind == "f":
            array = evaluation.quantise(array, self.network.input)
        codes = evaluation.check_codes(self.network, array)
        if len(codes) > self.batch:
            raise ValueError(f"images must be at most {self.batch}, what one run of the program "
                             f"takes, not {len(codes)}")
        tensor = self.input_tensor
        slots = integers.pack(codes, tensor.stored.format.precision)
        padded = np.zeros((self.batch, *tensor.shape[:2], tensor.pixel_slots), np.uint16)
        padded[:len(codes), :, :, :slots.shape[-1]] = slots
        rows = np.zeros((self.batch, tensor.shape[0], bus_row(tensor, self.config)), np.uint16)
        rows[:, :, :tensor.shape[1] * tensor.pixel_slots] = padded.reshape(
            self.batch, tensor.shape[0], -1)
        return rows.astype("<u2").tobytes()

    def unpack_output(self, data: bytes | NDArray[np.uint8]) -> NDArray[np.int64]:
        """Codes [batch, height, width, channels] from the contents of the segment OUTPUT."""
        tensor = self.output_tensor
        size = self.segment_bytes[Segment.OUTPUT]
        if len(data) < size:
            raise ValueError(f"data must be at least {size} bytes, not {len(data)}")
        slots = np.frombuffer(bytes(data[:size]), "<u2").reshape(
            self.batch, tensor.shape[0], bus_row(tensor, self.config))
        slots = slots[:, :, :tensor.shape[1] * tensor.pixel_slots].reshape(
            self.batch, *tensor.shape[:2], tensor.pixel_slots)
        return integers.unpack(slots, tensor.stored.format)[..., :tensor.shape[2]]


def compile_network(network: Network, config: CoreConfig, batch: int | None = None, *,
                    streamed: bool | None = None) -> Compiled:
    """Compile a network for a core.

    `batch` is the number of images in one run of the program; without it the largest of 16, 8,
    4, 2 and 1 that fits is taken. `streamed` says whether activations pass through the scratchpad
    stripe by stripe; without it they do in a network of one chain (see `fusion`), and in another
    one if its tensors do not fit the scratchpad. Raises CompileError naming the layer, what it
    needs and what there is.
    """
    if batch is not None and (isinstance(batch, bool) or not isinstance(batch, int) or batch < 1):
        raise ValueError(f"batch must be a positive integer, not {batch!r}")
    fused = fuse(network, config)
    _check_formats(fused, config)
    error: CompileError | None = None
    for attempt in _attempts(fused, config, batch, streamed):
        try:
            return _finish(attempt, fused, config)
        except CompileError as refused:
            error = refused
    assert error is not None
    raise error


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Attempt:
    """A way to compile: `periods` and `overlap` are those of `ResidentSchedule`."""

    batch: int
    streamed: bool
    periods: int = 0
    overlap: bool = False


def _attempts(fused: Fused, config: CoreConfig, batch: int | None,
              streamed: bool | None) -> Iterator[_Attempt]:
    batches = _BATCHES if batch is None else (batch,)
    if streamed is False or (streamed is None and len(fused.chains) > 1):
        for overlap, size, periods in itertools.product((True, False), batches, _PERIODS):
            if not overlap or size > 1:
                yield _Attempt(batch=size, streamed=False, periods=periods, overlap=overlap)
    if streamed is not False:
        for size in batches:
            yield _Attempt(batch=size, streamed=True)


def _finish(attempt: _Attempt, fused: Fused, config: CoreConfig) -> Compiled:
    parameters = bytearray()
    workspace_bytes = 0
    if attempt.streamed:
        external, workspace_bytes = external_places(fused, config, attempt.batch)
        parts = StreamedSchedule(fused.chains, fused.tensors, external, config, attempt.batch,
                                 parameters=parameters).steps()
    else:
        parts = [ResidentSchedule(
            fused, config, attempt.batch, periods=attempt.periods, overlap=attempt.overlap,
            parameters=parameters).steps()]
    steps = [*with_pieces(parts, config), Step("", Instruction("HALT"))]
    network, tensors = fused.network, fused.tensors
    if len(steps) > MOST_INSTRUCTIONS:
        raise CompileError(network.output_name, f"{attempt.batch} images need a program of "
                           f"{len(steps)} instructions; the most is {MOST_INSTRUCTIONS}")
    try:
        program = with_tokens([step.instruction for step in steps], config)
    except TokenError as error:
        raise CompileError(network.output_name, str(error)) from error

    def segment_bytes(tensor: Tensor) -> int:
        return attempt.batch * tensor.shape[0] * bus_row(tensor, config) * SLOT_BYTES

    source, result = tensors[network.input_name], tensors[network.output_name]
    return Compiled(
        network=network, config=config, batch=attempt.batch, program=program,
        labels=[step.label for step in steps], parameters=bytes(parameters),
        segment_bytes={
            Segment.PARAMETERS: len(parameters), Segment.INPUT: segment_bytes(source),
            Segment.OUTPUT: segment_bytes(result), Segment.WORKSPACE: workspace_bytes},
        multiply_adds={chain.layers[0]: chain.multiply_adds for chain in fused.chains
                       if chain.multiply_adds},
        input_tensor=source, output_tensor=result)


def _check_formats(fused: Fused, config: CoreConfig) -> None:
    for tensor in fused.tensors.values():
        kind = tensor.stored.format
        if kind.precision not in config.formats:
            raise CompileError(tensor.name, f"format must be one that the core {config.name!r} has "
                               f"({', '.join(p.name for p in config.formats)}), not {kind}")
    for chain in fused.chains:
        if chain.weight_format.precision not in config.formats:
            raise CompileError(chain.layers[0], f"weight_format must be one that the core "
                               f"{config.name!r} has ({', '.join(p.name for p in config.formats)}),"
                               f" not {chain.weight_format}")
