"""The three products of training a fully connected layer, as programs of a core.

With inputs x [batch, inputs], weights w [inputs, outputs] and gradients dy of the outputs, all
FP16 and row by row in external memory:

    forward          y  = x w       the activations are x, the weights w as it stands
    weight gradient  dw = x^T dy    the activations are x, read across its rows: a slot of each
    data gradient    dx = dy w^T    the activations are dy, the weights w transposed

The weights of a product must lie with the dimension that is summed over outermost. So y and dw need
no copy of anything, and no order of the three tensors makes one unnecessary for all three products.
The array makes it itself: w is read across its rows and multiplied by the identity, a tile of
columns by no more than its own channels. That is exact (but -0 becomes +0, which changes no sum,
and a NaN-Inf spreads to the tile of columns), and takes 1 / (8 columns * lanes) of a cycle for each
weight and each of the array's outputs, that is columns * lanes / batch of what the product takes.

A 1 x 1 convolution without stride is a fully connected layer whose batch is its pixels.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import dlfloat, float32
from .config import SLOT_BYTES, CoreConfig
from .formats import FORMATS, Precision
from .fusion import Chain, CompileError, Tensor
from .isa import MOST_INSTRUCTIONS, Instruction, Segment
from .matmul import matmul
from .network import Stored
from .placement import with_pieces
from .steps import External, Step
from .streamed import StreamedSchedule
from .tokens import TokenError, with_tokens

__all__ = ["PRODUCTS", "CompiledTraining", "compile_training", "training_products"]

#: Names of the products, in the order of a program.
PRODUCTS = ("forward", "weight_gradient", "data_gradient")
_ALIGNMENT = 64
_FP16 = FORMATS["FP16"]


@dataclasses.dataclass(frozen=True, eq=False)
class CompiledTraining:
    """A program with what belongs to it.

    Parameters
    ----------
    config
        For which core.
    batch, inputs, outputs
        Of the layer.
    program, labels
        Instructions, and for each the product or matrix that it belongs to.
    parameters
        Contents of the segment PARAMETERS.
    segment_bytes
        Smallest size of each segment.
    multiply_adds
        By product, what it needs by its definition.
    places
        Where each matrix lies: "x", "w", "dy" and the results "y", "dw", "dx".
    """

    config: CoreConfig
    batch: int
    inputs: int
    outputs: int
    program: list[Instruction]
    labels: list[str]
    parameters: bytes
    segment_bytes: dict[Segment, int]
    multiply_adds: dict[str, int]
    places: dict[str, External]

    def pack(self, x: ArrayLike, w: ArrayLike, dy: ArrayLike) -> bytes:
        """Contents of the segment INPUT for DLFloat16 codes of the three matrices.

        Raises ValueError for wrong shapes.
        """
        data = np.zeros(self.segment_bytes[Segment.INPUT], np.uint8)
        shapes = _shapes(self.batch, self.inputs, self.outputs)
        for name, given in (("x", x), ("w", w), ("dy", dy)):
            codes = np.asarray(given)
            if codes.shape != shapes[name]:
                raise ValueError(f"{name} must be {list(shapes[name])}, not {list(codes.shape)}")
            place = self.places[name]
            rows = data[place.offset:place.offset + len(codes) * place.row_bytes]
            rows = rows.reshape(len(codes), -1).view("<u2")
            rows[:, :codes.shape[1]] = codes
        return data.tobytes()

    def unpack(self, data: bytes | NDArray[np.uint8]) -> dict[str, NDArray[np.int64]]:
        """Codes of the results that the program makes, from the segment OUTPUT."""
        shapes = _shapes(self.batch, self.inputs, self.outputs)
        array = np.frombuffer(bytes(data), np.uint8)
        results = {}
        for name, place in self.places.items():
            if place.segment is Segment.OUTPUT:
                rows, columns = shapes[name]
                part = array[place.offset:place.offset + rows * place.row_bytes]
                results[name] = part.view("<u2").reshape(rows, -1)[:, :columns].astype(np.int64)
        return results


def _shapes(batch: int, inputs: int, outputs: int) -> dict[str, tuple[int, int]]:
    return {"x": (batch, inputs), "w": (inputs, outputs), "dy": (batch, outputs),
            "y": (batch, outputs), "dw": (inputs, outputs), "dx": (batch, inputs),
            "transposed w": (outputs, inputs)}


#: Of each product, and of the transposition: activations, whether they are read across their rows,
#: weights (None: the identity) and result.
_OPERANDS: dict[str, tuple[str, bool, str | None, str]] = {
    "forward": ("x", False, "w", "y"),
    "weight_gradient": ("x", True, "dy", "dw"),
    "transposition": ("w", True, None, "transposed w"),
    "data_gradient": ("dy", False, "transposed w", "dx"),
}


def compile_training(batch: int, inputs: int, outputs: int, config: CoreConfig,
                     products: Iterable[str] = PRODUCTS) -> CompiledTraining:
    """A program for some of the three products of a layer.

    The transposition of the weights stands in front of the data gradient. Raises ValueError for
    sizes that are no positive integers and unknown products, CompileError for a core without FP16
    and for what does not fit it.
    """
    for name, value in (("batch", batch), ("inputs", inputs), ("outputs", outputs)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a positive integer, not {value!r}")
    products = list(products)
    for name in products:
        if name not in PRODUCTS:
            raise ValueError(f"products must be among {', '.join(PRODUCTS)}, not {name!r}")
    if Precision.FP16 not in config.formats:
        raise CompileError("training", f"needs FP16; the core {config.name!r} has "
                           f"{', '.join(p.name for p in config.formats)}")
    order = [name for name in _OPERANDS if name in products
             or (name == "transposition" and "data_gradient" in products)]
    shapes = _shapes(batch, inputs, outputs)
    used = {name for product in order for name in _OPERANDS[product] if isinstance(name, str)}
    segments = {Segment.INPUT: ("x", "w", "dy"), Segment.OUTPUT: ("y", "dw", "dx"),
                Segment.WORKSPACE: ("transposed w",)}
    tensors, places, sizes = {}, {}, {}
    for segment, names in segments.items():
        end = 0
        for name in names:
            if name in used or segment is Segment.INPUT:
                rows, columns = shapes[name]
                slots = -(-columns // config.column_lanes) * config.column_lanes
                tensors[name] = Tensor(name, (rows, 1, columns), Stored(_FP16), slots, (0, 0), None)
                size = rows * slots * SLOT_BYTES
                places[name] = External(segment, end, slots * SLOT_BYTES, size)
                end += -(-size // _ALIGNMENT) * _ALIGNMENT
        sizes[segment] = end
    chains = [_chain(name, shapes) for name in order]
    parameters = bytearray()
    parts = StreamedSchedule(chains, tensors, places, config, 1, parameters=parameters).steps()
    steps = [*with_pieces(parts, config), Step("", Instruction("HALT"))]
    if len(steps) > MOST_INSTRUCTIONS:
        raise CompileError("training", f"needs a program of {len(steps)} instructions; the most "
                           f"is {MOST_INSTRUCTIONS}")
    try:
        program = with_tokens([step.instruction for step in steps], config)
    except TokenError as error:
        raise CompileError("training", str(error)) from error
    return CompiledTraining(
        config=config, batch=batch, inputs=inputs, outputs=outputs, program=program,
        labels=[step.label for step in steps], parameters=bytes(parameters),
        segment_bytes={Segment.PARAMETERS: len(parameters), **sizes},
        multiply_adds=dict.fromkeys(products, batch * inputs * outputs), places=places)


def _chain(name: str, shapes: dict[str, tuple[int, int]]) -> Chain:
    """A product as a convolution of a column of pixels."""
    source, transposed, operand, result = _OPERANDS[name]
    depth = shapes[source][0 if transposed else 1]
    rows, outputs = shapes[result]
    # Weights that come from an operand count with their shape alone.
    weights = np.full((outputs, 1, 1, 1), dlfloat.encode(1.0)) if operand is None else \
        np.broadcast_to(np.int64(0), (outputs, 1, 1, depth))
    chain = Chain(
        name=result, layers=[name], source=source, weights=weights, weight_format=_FP16,
        weight_step=np.ones(outputs), real_bias=np.zeros(outputs), stride=(1, 1), padding=(0, 0),
        groups=outputs if operand is None else 1, operand=operand, transposed=transposed,
        convolution_shape=(rows, 1, outputs), shape=(rows, 1, outputs),
        multiply_adds=rows * depth * outputs, output=Stored(_FP16))
    chain.finish({source: Stored(_FP16)})
    return chain


def training_products(x: ArrayLike, w: ArrayLike, dy: ArrayLike,
                      config: CoreConfig) -> dict[str, NDArray[np.int64]]:
    """What a core makes of codes: "y", "dw" and "dx", by their definitions.

    Sums are taken over the inputs, the batch and the outputs, in the array's order.
    """
    x, w, dy = (np.asarray(matrix, np.int64) for matrix in (x, w, dy))

    def product(left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.int64]:
        sums = matmul(left, right, _FP16, _FP16, config.rows)
        return dlfloat.encode_array(float32.to_values(sums)).astype(np.int64)

    return {"y": product(x, w), "dw": product(x.T, dy), "dx": product(dy, w.T)}
