"""What a program is listed as before its weights have addresses: steps, tile by tile.

`Prepared` is a chain (see `fusion`) whose weights and column parameters have been laid down in
the segment PARAMETERS, in pieces that one LOAD brings. `tiles` cuts its outputs into what the
accumulators hold, and `item` is one tile of one tile of columns: the MATMULs and the SPECIAL that
drains them. Where activations lie is known here; where weights will lie is found by `placement`.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from . import integers
from .config import SLOT_BYTES, CoreConfig
from .cycles_execute import tile_period, vector_slots
from .fold import group_slots
from .formats import Format, Precision
from .fusion import Chain, CompileError, Tensor
from .isa import Fold, Instruction, Segment, Target
from .layout import Layout

__all__ = [
    "MOST_COUNT",
    "External",
    "Item",
    "Piece",
    "Prepared",
    "Step",
    "Tile",
    "accumulator_parts",
    "bus_row",
    "item",
    "split",
    "tiles",
]

#: Largest count of a loop, and largest depth, in an instruction.
MOST_COUNT, _MOST_DEPTH = 4095, 65535
#: Lines of weights of which pieces are not cut further where memory is small.
_LEAST_PIECE = 256
#: Parts that the accumulators are cut into, a tile in each; fewer for large windows.
_BUFFERS = (3, 2, 1)


@dataclasses.dataclass(frozen=True)
class Piece:
    """What one LOAD brings into the weight or parameter memory, in lines or columns.

    It begins at byte `offset` of the segment; lines lie `pitch` bytes apart, or (0) without gaps.
    """

    label: str
    target: Target
    offset: int
    size: int
    segment: Segment = Segment.PARAMETERS
    pitch: int = 0


@dataclasses.dataclass(frozen=True)
class External:
    """Where a tensor lies in external memory: images of rows without borders."""

    segment: Segment
    offset: int
    row_bytes: int
    image_bytes: int


@dataclasses.dataclass(frozen=True)
class Product:
    """A part of K that one MATMUL takes: a piece of weights, and where its activations lie.

    `depth` counts slots of activations.
    """

    piece: Piece
    depth: int
    first: int
    run_length: int
    run_pitch: int


@dataclasses.dataclass(frozen=True)
class _Runs:
    """`count` runs of `length` slots, `pitch` apart, from slot `first` on: a part of K."""

    first: int
    length: int
    pitch: int
    count: int

    @property
    def slots(self) -> int:
        """Slots of all of them."""
        return self.count * self.length


@dataclasses.dataclass(frozen=True)
class Step:
    """Instructions without addresses of weights or parameters, and the pieces that they use."""

    label: str
    instruction: Instruction
    piece: Piece | None = None


@dataclasses.dataclass(frozen=True)
class Item:
    """One tile of one tile of columns: its MATMULs and the SPECIAL, that share accumulators.

    `cycles` says about how long the two take together.
    """

    steps: list[Step]
    cycles: int


@dataclasses.dataclass(frozen=True)
class Tile:
    """Outputs whose accumulators fit: images, then rows and columns of the pooled result."""

    image: int
    images: int
    row: int
    rows: int
    column: int
    columns: int


def bus_row(tensor: Tensor, config: CoreConfig) -> int:
    """Slots of a row in external memory: whole words of the bus."""
    word = config.bus_slots
    return -(-tensor.shape[1] * tensor.pixel_slots // word) * word


def split(total: int, most: int) -> list[tuple[int, int]]:
    """(first, count) of as few and as equal parts as possible, none larger than `most`."""
    parts = -(-total // most)
    bounds = [total * i // parts for i in range(parts + 1)]
    return [(a, b - a) for a, b in itertools.pairwise(bounds)]


def accumulator_parts(chains: Sequence[Chain], config: CoreConfig) -> int:
    """Parts of the accumulators, each large enough for any window. Raises CompileError."""
    depth = config.accumulator_depth
    largest = max(chains, key=lambda chain: math.prod(chain.window))
    window = math.prod(largest.window)
    if window > depth:
        raise CompileError(largest.name, f"a window of {window} needs as many accumulators; "
                           f"the core has {depth}")
    return next(n for n in _BUFFERS if window <= depth // n)


def tiles(chain: Chain, capacity: int, images: tuple[int, int],
          rows: tuple[int, int]) -> Iterator[Tile]:
    """Tiles of at most `capacity` accumulators; `images` and `rows` are (first, count)."""
    height, width = rows[1], chain.shape[1]

    def extent(axis: int, places: int) -> int:
        """Rows or columns of the convolution under so many places of the window."""
        return (places - 1) * chain.pool_stride[axis] + chain.window[axis]

    def most(axis: int, places: int, room: int) -> int:
        return min(places, (room - chain.window[axis]) // chain.pool_stride[axis] + 1)

    columns = most(1, width, capacity // chain.window[0])
    column_parts = split(width, columns)
    columns = max(count for _, count in column_parts)
    most_rows = most(0, height, capacity // extent(1, columns))
    group = 1
    if most_rows == height and columns == width:
        group = max(1, capacity // (extent(0, most_rows) * extent(1, columns)))
    for first, count in split(images[1], group):
        for row, row_count in split(height, most_rows):
            for column, column_count in column_parts:
                yield Tile(images[0] + first, count, rows[0] + row, row_count, column,
                           column_count)


class Prepared:
    """A chain with its weights and column parameters laid down.

    Parameters
    ----------
    chain, config
        What and for what.
    source
        The tensor that it reads.
    row_pitch
        Slots from row to row of the source in the scratchpad.
    operand
        Where the chain's operand lies, if it has one.
    uncut
        K need not be cut: there is room for whatever weights this chain has.
    parameters
        Contents of the segment PARAMETERS, which grow.

    Members
    -------
    products
        For every tile of columns the products that make up K.
    columns
        For every tile of columns its scale, bias, residual scale and upper bound.

    Raises CompileError if the weights cannot be cut so that they fit.
    """

    def __init__(self, chain: Chain, config: CoreConfig, source: Tensor, row_pitch: int, *,
                 uncut: bool, parameters: bytearray, operand: External | None = None) -> None:
        self.chain, self.config = chain, config
        outputs, vector = len(chain.weights), config.column_lanes
        columns = -(-outputs // vector)
        precision = source.stored.format.precision
        #: Slots of K that a line of weights serves in a column.
        self.ratio = chain.ratio(source)
        self.products: list[list[Product]] = []
        for column in range(columns):
            self.products.append([])
            weights = np.zeros((0, 0), np.int64) if operand is not None else \
                chain.tile_weights(source, config, column).reshape(vector, -1)
            for runs in self._runs(source, row_pitch, column):
                for slot, part in self._parts(runs, uncut, chain.fold(config, column)):
                    if operand is not None:
                        piece = Piece(chain.layers[0], Target.WEIGHTS, operand.offset
                                      + slot * operand.row_bytes + column * vector * SLOT_BYTES,
                                      part.slots, operand.segment, operand.row_bytes)
                    else:
                        elements = slice(slot * precision.per_slot,
                                         (slot + part.slots) * precision.per_slot)
                        lines = self._lines(weights[:, elements], precision,
                                            chain.fold(config, column))
                        piece = Piece(chain.layers[0], Target.WEIGHTS, len(parameters), len(lines))
                        parameters += lines.astype("<u2").tobytes()
                    self.products[-1].append(Product(piece, part.slots, part.first, part.length,
                                                     part.pitch))

        table = np.zeros((columns * vector, 4), np.uint32)
        table[:outputs] = chain.column_parameters(config)
        self.columns: list[Piece] = []
        for column in range(0, len(table), vector):
            self.columns.append(Piece(chain.layers[0], Target.PARAMETERS, len(parameters), vector))
            parameters += table[column:column + vector].astype("<u4").tobytes()

    def _lines(self, weights: NDArray[np.int64], precision: Precision,
               fold: Fold) -> NDArray[np.uint16]:
        """Lines of weights [outputs, elements along K] for activations of a precision; with
        groups of columns those of the first ones, each group's own."""
        slots = weights.shape[1] // precision.per_slot
        outputs = len(weights) // fold.groups
        elements = weights[:outputs].reshape(outputs, slots, precision.per_slot)
        parts = [integers.pack(elements[:, group].reshape(outputs, -1),
                               self.chain.weight_format.precision).T
                 for group in group_slots(slots, self.config.rows, fold)]
        return np.concatenate([np.pad(part, ((0, len(parts[0]) - len(part)), (0, 0)))
                               for part in parts], axis=1)

    def _runs(self, source: Tensor, row_pitch: int, column: int) -> Iterator[tuple[int, "_Runs"]]:
        """K of a tile of columns as (its first slot, runs): of whole rows of the kernel, or, where
        pixels or slots are left out, of its pixels, row by row."""
        (height, width), (down, right) = self.chain.kernel, self.chain.dilation
        first, count = self.chain.slots(source, self.config, column)
        if self.chain.transposed:
            yield 0, _Runs(first * row_pitch, 1, row_pitch, count)
            return
        if width == 1 or (right == 1 and count == source.pixel_slots):
            yield 0, _Runs(first, width * count, down * row_pitch, height)
            return
        for row in range(height):
            yield row * width * count, _Runs(
                first + row * down * row_pitch, count, right * source.pixel_slots, width)

    def _parts(self, slot_runs: tuple[int, "_Runs"], fits: bool,
               fold: Fold) -> list[tuple[int, "_Runs"]]:
        """The same, cut so that weights come piece by piece.

        It is not cut if all weights fit, or if it cannot be and one tile fits.
        """
        chain, config = self.chain, self.config
        slot, runs = slot_runs
        if runs.count == 1 or runs.pitch == runs.length:
            runs = _Runs(runs.first, runs.slots, runs.slots, 1)
        most = min(config.weight_lines // 2, max(config.weight_lines // 8, _LEAST_PIECE))
        # Slots of K that a line of weights serves in all.
        served = self.ratio * fold.groups
        most = min(most * served, _MOST_DEPTH)
        if runs.slots <= (_MOST_DEPTH if fits else most):
            return [(slot, runs)]
        # Tiles of FP16 must stay what they are without the cut: sums depend on them.
        rows = vector_slots(config, fold)
        granule = rows if chain.weight_format.precision.is_float else 1
        length = runs.length
        whole = next((n for n in range(most // length, 0, -1) if n * length % granule == 0), 0)
        if whole:
            return [(slot + first * length, _Runs(
                runs.first + first * runs.pitch, length, runs.pitch, count))
                for first, count in _blocks(runs.count, whole)]
        if runs.count > 1 and length % granule:
            if runs.slots <= min(config.weight_lines * served, _MOST_DEPTH):
                return [(slot, runs)]
            raise CompileError(chain.name, f"{length} slots of a kernel's row must be a multiple "
                               f"of the array's {rows} rows, as the weights of a tile of "
                               f"columns, {runs.slots // fold.groups} lines, do not fit the "
                               f"scratchpad's {config.weight_lines}")
        return [(slot + i * length + first, _Runs(
            runs.first + i * runs.pitch + first, count, count, 1))
            for i in range(runs.count)
            for first, count in _blocks(length, max(1, most // rows) * rows)]


def item(prepared: Prepared, tile: Tile, column: int, *, source: Layout, target: Layout,
         residual: Layout | None, first_column: int = 0) -> Item:
    """The MATMULs and the SPECIAL of a tile and of tile of columns `column`.

    The first tile of columns that `target` and `residual` hold is `first_column`.
    """
    chain, config = prepared.chain, prepared.config
    (stride_y, stride_x), (step_y, step_x) = chain.stride, chain.pool_stride
    rows = (tile.rows - 1) * step_y + chain.window[0]
    columns = (tile.columns - 1) * step_x + chain.window[1]
    top, left = tile.row * step_y, tile.column * step_x
    activations, weights = source.tensor.stored.format, chain.weight_format
    fold = chain.fold(config, column)
    first = source.slot(tile.image, top * stride_y - chain.padding[0],
                        left * stride_x - chain.padding[1])
    steps, label = [], chain.layers[0]
    for i, product in enumerate(prepared.products[column]):
        steps.append(Step(label, Instruction(
            "MATMUL", precision=activations.precision, weight_precision=weights.precision,
            activation_signed=_signed(activations), weight_signed=_signed(weights),
            weight_odd=int(weights.odd), accumulate=int(i > 0), fold=fold,
            depth=product.depth, address=first + product.first,
            run_length=product.run_length,
            run_pitch=product.run_pitch if product.depth > product.run_length else 0,
            **_loops("count_{}", "stride_{}", (
                (tile.images, source.image_pitch), (rows, stride_y * source.row_pitch),
                (columns, stride_x * source.tensor.pixel_slots)))), product.piece))

    first_output = (column - first_column) * config.column_lanes

    def vector_offset(kind: Format) -> int:
        return first_output // kind.precision.per_slot

    values = {}
    if residual is not None:
        kind = residual.tensor.stored.format
        values = {
            "residual": 1, "residual_precision": kind.precision,
            "residual_signed": _signed(kind),
            "residual_address": residual.slot(tile.image, top, left) + vector_offset(kind),
            **_loops("", "residual_stride_{}", (
                (tile.images, residual.image_pitch),
                (tile.rows, step_y * residual.row_pitch),
                (tile.columns, step_x * residual.tensor.pixel_slots))),
            **_loops("", "residual_window_stride_{}", (
                (chain.window[0], residual.row_pitch),
                (chain.window[1], residual.tensor.pixel_slots)))}
    kind = chain.output.format
    used = {kind.precision, *([residual.tensor.stored.format.precision] if residual else [])}
    upper = any(first_output % p.per_slot for p in used.intersection(config.halved_formats))
    steps.append(Step(label, Instruction(
        "SPECIAL", float_accumulator=int(activations.precision.is_float), relu=int(chain.relu),
        clip=int(chain.clip), pool=chain.pool, fold=fold, upper=int(upper),
        output_precision=kind.precision,
        output_signed=_signed(kind),
        window_0=chain.window[0], window_1=chain.window[1],
        address=target.slot(tile.image, tile.row, tile.column) + vector_offset(kind),
        **_loops("count_{}", "stride_{}", (
            (tile.images, target.image_pitch), (tile.rows, target.row_pitch),
            (tile.columns, target.tensor.pixel_slots))),
        **_loops("", "accumulator_stride_{}", (
            (tile.images, rows * columns), (tile.rows, step_y * columns),
            (tile.columns, step_x))),
        **_loops("", "window_stride_{}", ((chain.window[0], columns), (chain.window[1], 1))),
        **values), prepared.columns[column]))
    vectors = tile.images * rows * columns
    weight_tiles = sum(-(-product.depth // vector_slots(config, fold))
                       for product in prepared.products[column])
    windows = tile.images * tile.rows * tile.columns * math.prod(chain.window)
    return Item(steps, weight_tiles * tile_period(config, vectors, fold)
                + windows * config.phases)


def _blocks(total: int, size: int) -> list[tuple[int, int]]:
    """(first, count) of blocks of `size`; the last one may be smaller."""
    return [(first, min(size, total - first)) for first in range(0, total, size)]


def _signed(kind: Format) -> int:
    """The bit of an instruction for an integer format's sign."""
    return int(kind.signed and kind.precision.is_integer)


def _loops(count: str, stride: str, loops: Sequence[tuple[int, int]]) -> dict[str, int]:
    """Fields of nested loops of (count, stride); a loop that does not turn has stride 0."""
    values = {}
    for i, (times, step) in enumerate(loops):
        if count:
            values[count.format(i)] = times
        values[stride.format(i)] = step if times > 1 else 0
    return values
