"""From a network to a program for the core.

Activations never leave the scratchpad: images are loaded, results stored, and between them each
chain (see `fusion`) is computed tile by tile, a MATMUL into one part of the accumulators while
SPECIAL drains another. Where there is room, the first chains of an image are computed beside the
last ones of the image before: layers that keep the array busy and layers that keep SPECIAL busy
then fill each other's gaps. Weights and column parameters are kept where they fit and loaded
ahead of their use where they do not. Small layers take several images at a time, so that the
array need not change its weights too often.

The work is first listed as steps in an order that is right when everything runs one after the
other; `tokens` then finds what must wait for what.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import evaluation, integers
from .config import SLOT_BYTES, CoreConfig
from .formats import Format
from .fusion import VECTOR, Chain, CompileError, Fused, Tensor, fuse
from .interpreter import PARAMETER_SLOTS
from .isa import Instruction, Segment, Target
from .layout import TensorLayout
from .network import Network
from .tokens import TokenError, with_tokens

__all__ = ["CompileError", "Compiled", "compile_network"]

#: Images in a program, if the caller leaves the choice.
_BATCHES = (16, 8, 4, 2, 1)
#: Vectors that a MATMUL should have at least, in periods of a tile; less where memory is short.
_PERIODS = (2, 1, 0)
#: Parts that the accumulators are cut into, a tile in each; fewer for large windows.
_BUFFERS = (3, 2, 1)
#: Pieces of weights or parameters that are loaded ahead of the one in use.
_AHEAD = 4
#: Largest count of a loop, and largest depth, in an instruction.
_MOST_COUNT, _MOST_DEPTH = 4095, 65535


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
        rows = np.zeros((self.batch, tensor.shape[0], _bus_row(tensor, self.config)), np.uint16)
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
            self.batch, tensor.shape[0], _bus_row(tensor, self.config))
        slots = slots[:, :, :tensor.shape[1] * tensor.pixel_slots].reshape(
            self.batch, *tensor.shape[:2], tensor.pixel_slots)
        return integers.unpack(slots, tensor.stored.format)[..., :tensor.shape[2]]


def compile_network(network: Network, config: CoreConfig, batch: int | None = None) -> Compiled:
    """Compile a network for a core.

    `batch` is the number of images in one run of the program; without it the largest of 16, 8,
    4, 2 and 1 that fits is taken. Raises CompileError naming the layer, what it needs and what
    there is.
    """
    if batch is not None and (isinstance(batch, bool) or not isinstance(batch, int) or batch < 1):
        raise ValueError(f"batch must be a positive integer, not {batch!r}")
    fused = fuse(network)
    _check_formats(fused, config)
    batches = _BATCHES if batch is None else (batch,)
    error: CompileError | None = None
    for overlap, size, periods in itertools.product((True, False), batches, _PERIODS):
        if overlap and min(size, len(fused.chains)) < 2:
            continue
        try:
            return _Compiler(fused, config, size, periods, overlap).compile()
        except CompileError as refused:
            error = refused
    assert error is not None
    raise error


def _check_formats(fused: Fused, config: CoreConfig) -> None:
    for tensor in fused.tensors.values():
        kind = tensor.stored.format
        if kind.precision not in config.formats:
            raise CompileError(tensor.name, f"format must be one that the core {config.name!r} has "
                               f"({', '.join(p.name for p in config.formats)}), not {kind}")


def _bus_row(tensor: Tensor, config: CoreConfig) -> int:
    """Slots of a row in external memory: whole words of the bus."""
    word = config.bus_bytes // SLOT_BYTES
    return -(-tensor.shape[1] * tensor.pixel_slots // word) * word


def _split(total: int, most: int) -> list[tuple[int, int]]:
    """(first, count) of as few and as equal parts as possible, none larger than `most`."""
    parts = -(-total // most)
    bounds = [total * i // parts for i in range(parts + 1)]
    return [(a, b - a) for a, b in itertools.pairwise(bounds)]


@dataclasses.dataclass(frozen=True)
class _Piece:
    """What one LOAD brings into the weight or parameter memory, in lines or columns."""

    label: str
    target: Target
    offset: int
    size: int


@dataclasses.dataclass(frozen=True)
class _Product:
    """A part of K that one MATMUL takes: a piece of weights, and where its activations lie."""

    piece: _Piece
    first: int
    run_length: int
    run_pitch: int


@dataclasses.dataclass(frozen=True)
class _Step:
    """Instructions without addresses of weights or parameters, and the pieces that they use."""

    label: str
    instruction: Instruction
    piece: _Piece | None = None


@dataclasses.dataclass(frozen=True)
class _Item:
    """One tile of one tile of columns: its MATMULs and the SPECIAL, that share accumulators.

    `cycles` says about how long the two take together.
    """

    steps: list[_Step]
    cycles: int


@dataclasses.dataclass(frozen=True)
class _Tile:
    """Outputs whose accumulators fit: images, then rows and columns of the pooled result."""

    image: int
    images: int
    row: int
    rows: int
    column: int
    columns: int


class _Compiler:
    """One attempt: a batch and a wish for the length of MATMULs."""

    def __init__(self, fused: Fused, config: CoreConfig, batch: int, periods: int,
                 overlap: bool) -> None:
        self.fused, self.config, self.batch = fused, config, batch
        self.front = self._front() if overlap else len(fused.chains)
        self.buffers = self._buffers()
        self.groups = self._groups(periods)
        self.layouts = self._layouts()
        self.weights_stay = sum(
            -(-len(chain.weights) // VECTOR) * math.prod(chain.kernel)
            * fused.tensors[chain.source].pixel_slots for chain in fused.chains
        ) <= config.weight_lines
        self.parameters = bytearray()
        self.buffer = 0
        self.begun: set[int] = set()

    def compile(self) -> Compiled:
        fused, config = self.fused, self.config
        # Each item is at least a MATMUL and a SPECIAL: most programs too long are known as such.
        items = sum(self.batch // group * len(list(self._tiles(chain, 0, group)))
                    * -(-len(chain.weights) // VECTOR)
                    for chain, group in zip(fused.chains, self.groups, strict=True))
        self._check_length(2 * items + self.batch + 1, "at least ")
        self.products = [self._products(chain) for chain in fused.chains]
        self.columns = [self._columns(chain) for chain in fused.chains]
        steps = self._fills(fused.network.input_name)
        for iteration in range(self.batch + (self.front < len(fused.chains))):
            steps += self._iteration(iteration)
        steps = self._with_pieces(steps)
        steps.append(_Step("", Instruction("HALT")))
        self._check_length(len(steps))
        try:
            program = with_tokens([step.instruction for step in steps], config)
        except TokenError as error:
            raise CompileError(fused.network.output_name, str(error)) from error
        network, tensors = fused.network, fused.tensors
        source, result = tensors[network.input_name], tensors[network.output_name]
        return Compiled(
            network=network, config=config, batch=self.batch, program=program,
            labels=[step.label for step in steps], parameters=bytes(self.parameters),
            segment_bytes={
                Segment.PARAMETERS: len(self.parameters),
                Segment.INPUT: self.batch * self._image_bytes(source),
                Segment.OUTPUT: self.batch * self._image_bytes(result),
                Segment.WORKSPACE: 0},
            multiply_adds={chain.layers[0]: chain.multiply_adds for chain in fused.chains
                           if chain.multiply_adds},
            input_tensor=source, output_tensor=result)

    def _check_length(self, instructions: int, about: str = "") -> None:
        if instructions > self.config.program_length:
            raise CompileError(
                self.fused.network.output_name, f"{self.batch} images need a program of {about}"
                f"{instructions} instructions; the core holds {self.config.program_length}")

    def _image_bytes(self, tensor: Tensor) -> int:
        return tensor.shape[0] * _bus_row(tensor, self.config) * SLOT_BYTES

    # --- what is computed beside what, how many images at a time, and where tensors lie

    def _front(self) -> int:
        """How many of the chains are about half of the work."""
        config, work = self.config, []
        for chain in self.fused.chains:
            tensor = self.fused.tensors[chain.source]
            tiles = -(-math.prod(chain.kernel) * tensor.pixel_slots // config.rows)
            products = tiles * math.prod(chain.convolution_shape[:2])
            elements = config.phases * math.prod(chain.shape[:2]) * math.prod(chain.window)
            work.append(-(-len(chain.weights) // VECTOR) * (products + elements))
        return min(range(1, len(work)), key=lambda n: abs(2 * sum(work[:n]) - sum(work)))

    def _buffers(self) -> int:
        """Parts of the accumulators, each large enough for any window."""
        depth = self.config.accumulator_depth
        largest = max(self.fused.chains, key=lambda chain: math.prod(chain.window))
        window = math.prod(largest.window)
        if window > depth:
            raise CompileError(largest.name, f"a window of {window} needs as many accumulators; "
                               f"the core has {depth}")
        return next(n for n in _BUFFERS if window <= depth // n)

    def _groups(self, periods: int) -> list[int]:
        """Images that each chain takes at a time: divisors of the batch that never fall."""
        wanted = periods * self.config.minimum_tile_period
        groups, group = [], 1
        for chain in self.fused.chains:
            vectors = chain.convolution_shape[0] * chain.convolution_shape[1]
            while group < self.batch and group * vectors < wanted:
                group = min(g for g in range(group + 1, self.batch + 1)
                            if self.batch % g == 0 and g % group == 0)
            groups.append(group)
        return groups

    def _layouts(self) -> dict[str, TensorLayout]:
        fused, network = self.fused, self.fused.network
        copies = dict.fromkeys(fused.tensors, 1)
        written_in_front = {network.input_name} | {c.name for c in fused.chains[:self.front]}
        crossing = set()
        for index, (chain, group) in enumerate(zip(fused.chains, self.groups, strict=True)):
            for name in (chain.name, chain.source, chain.residual):
                if name is not None:
                    copies[name] = max(copies[name], group)
                    if index >= self.front and name in written_in_front:
                        crossing.add(name)
        # What one part still reads while the other writes the next images.
        for name in crossing:
            copies[name] = min(2 * copies[name], self.batch)
        doubled = dict(copies)
        if network.input_name not in crossing:
            doubled[network.input_name] = min(2 * copies[network.input_name], self.batch)
        for attempt in (doubled, copies):
            layouts, address = {}, 0
            for name, tensor in fused.tensors.items():
                layouts[name] = TensorLayout(
                    tensor=tensor, copies=attempt[name], address=address, config=self.config,
                    even_rows=name == network.output_name)
                address += layouts[name].size
            if address <= self.config.activation_slots:
                return layouts
        largest = max(layouts.values(), key=lambda layout: layout.size)
        raise CompileError(largest.tensor.name, f"the network's tensors need {address} slots of "
                           f"the activation scratchpad, {largest.size} of them this one's; the "
                           f"core has {self.config.activation_slots}")

    # --- weights and column parameters

    def _products(self, chain: Chain) -> list[list[_Product]]:
        """For every tile of columns the products that make up K; their weights are laid down."""
        tensor, layout = self.fused.tensors[chain.source], self.layouts[chain.source]
        precision = chain.weight_format.precision
        outputs = len(chain.weights)
        weights = np.zeros((-(-outputs // VECTOR) * VECTOR, *chain.kernel,
                            tensor.channels_stored), np.int64)
        weights[:outputs, ..., :chain.weights.shape[3]] = chain.weights
        lines = integers.pack(weights, precision).reshape(len(weights), -1).T
        parts = self._parts(chain, len(lines), layout.row_pitch, tensor.pixel_slots)
        products = []
        for column in range(0, len(weights), VECTOR):
            products.append([])
            for first_line, count, first, run_length, run_pitch in parts:
                data = lines[first_line:first_line + count, column:column + VECTOR]
                piece = _Piece(chain.layers[0], Target.WEIGHTS, len(self.parameters), count)
                self.parameters += data.astype("<u2").tobytes()
                products[-1].append(_Product(piece, first, run_length, run_pitch))
        return products

    def _parts(self, chain: Chain, depth: int, row_pitch: int,
               pixel_slots: int) -> list[tuple[int, int, int, int, int]]:
        """K cut so that the weights of two parts fit: (line, lines, slot, run length, run pitch).

        It is not cut if all weights of the network fit, or if it cannot be and one tile fits.
        """
        config = self.config
        rows, run = chain.kernel[0], chain.kernel[1] * pixel_slots
        if rows == 1 or row_pitch == run:
            rows, run, row_pitch = 1, depth, depth
        uncut = [(0, depth, 0, run, row_pitch)]
        most = min(config.weight_lines // 2, _MOST_DEPTH)
        if depth <= (_MOST_DEPTH if self.weights_stay else most):
            return uncut
        # Tiles of FP16 must stay what they are without the cut: sums depend on them.
        granule = config.rows if chain.weight_format.precision.is_float else 1
        whole = next((n for n in range(most // run, 0, -1) if n * run % granule == 0), 0)
        if whole:
            return [(first * run, count * run, first * row_pitch, run, row_pitch)
                    for first, count in _blocks(rows, whole)]
        if rows > 1 and run % granule:
            if depth <= min(config.weight_lines, _MOST_DEPTH):
                return uncut
            raise CompileError(chain.name, f"{run} slots of a kernel's row must be a multiple of "
                               f"the array's {config.rows} rows, as the weights of a tile of "
                               f"columns, {depth} lines, do not fit the scratchpad's "
                               f"{config.weight_lines}")
        return [(row * run + first, count, row * row_pitch + first, count, count)
                for row in range(rows)
                for first, count in _blocks(run, most // config.rows * config.rows)]

    def _columns(self, chain: Chain) -> list[_Piece]:
        """For every tile of columns its scale, bias, residual scale and upper bound."""
        outputs = len(chain.scale)
        table = np.zeros((-(-outputs // VECTOR) * VECTOR, 4), np.uint32)
        for i, numbers in enumerate((chain.scale, chain.bias, chain.residual_scale, chain.upper)):
            table[:outputs, i] = numbers
        pieces = []
        for column in range(0, len(table), VECTOR):
            pieces.append(_Piece(chain.layers[0], Target.PARAMETERS, len(self.parameters), VECTOR))
            self.parameters += table[column:column + VECTOR].astype("<u4").tobytes()
        return pieces

    # --- the work

    def _iteration(self, iteration: int) -> Iterator[_Step]:
        """The front chains of one image side by side with the others of the image before it."""
        front, back = range(self.front), range(self.front, len(self.groups))
        items = _interleaved(self._items(front, iteration), self._items(back, iteration - 1))
        loads = self._loads(iteration)
        yield from (load for image, load in loads if image == iteration)
        ahead = [load for image, load in loads if image != iteration]
        for item in items:
            # Tiles take turns at the parts of the accumulators.
            self.buffer = (self.buffer + 1) % self.buffers
            for step in item.steps:
                if "accumulator" in step.instruction.values:
                    step.instruction.values["accumulator"] = self.buffer * self._capacity()
            yield from item.steps
            # The next image comes behind what the first tile needs.
            yield from ahead
            ahead = []
        yield from ahead
        image = iteration - (1 if back else 0)
        group = self.groups[-1]
        if image >= 0 and (image + 1) % group == 0:
            layout = self.layouts[self.fused.network.output_name]
            yield from self._stores(layout, image + 1 - group, group)

    def _items(self, chains: Sequence[int], image: int) -> list[_Item]:
        """What some chains can do once an image is there."""
        items = []
        if 0 <= image < self.batch:
            for index in chains:
                group = self.groups[index]
                if (image + 1) % group == 0:
                    items += self._chain(index, image + 1 - group, group)
        return items

    def _chain(self, index: int, image: int, images: int) -> Iterator[_Item]:
        chain = self.fused.chains[index]
        tiles = list(self._tiles(chain, image, images))
        columns = range(len(self.columns[index]))
        # Weights that stay are used column by column in turn: the next layer's first rows are
        # ready early. Others are used up before the next ones come.
        if self.weights_stay:
            order = [(tile, column) for tile in tiles for column in columns]
        else:
            order = [(tile, column) for column in columns for tile in tiles]
        for tile, column in order:
            item = self._item(chain, index, tile, column)
            if index not in self.begun:
                self.begun.add(index)
                item = dataclasses.replace(item, steps=[*self._fills(chain.name), *item.steps])
            yield item

    def _capacity(self) -> int:
        """Accumulators of a tile."""
        return min(self.config.accumulator_depth // self.buffers, _MOST_COUNT)

    def _tiles(self, chain: Chain, image: int, images: int) -> Iterator[_Tile]:
        capacity = self._capacity()
        height, width = chain.shape[:2]

        def extent(axis: int, places: int) -> int:
            """Rows or columns of the convolution under so many places of the window."""
            return (places - 1) * chain.pool_stride[axis] + chain.window[axis]

        def most(axis: int, places: int, room: int) -> int:
            return min(places, (room - chain.window[axis]) // chain.pool_stride[axis] + 1)

        columns = most(1, width, capacity // chain.window[0])
        column_parts = _split(width, columns)
        columns = max(count for _, count in column_parts)
        rows = most(0, height, capacity // extent(1, columns))
        group = 1
        if rows == height and columns == width:
            group = max(1, capacity // (extent(0, rows) * extent(1, columns)))
        for first, count in _split(images, group):
            for row, row_count in _split(height, rows):
                for column, column_count in column_parts:
                    yield _Tile(image + first, count, row, row_count, column, column_count)

    def _item(self, chain: Chain, index: int, tile: _Tile, column: int) -> _Item:
        source, target = self.layouts[chain.source], self.layouts[chain.name]
        (stride_y, stride_x), (step_y, step_x) = chain.stride, chain.pool_stride
        rows = (tile.rows - 1) * step_y + chain.window[0]
        columns = (tile.columns - 1) * step_x + chain.window[1]
        top, left = tile.row * step_y, tile.column * step_x
        precision = chain.weight_format.precision
        first = source.slot(tile.image, top * stride_y - chain.padding[0],
                            left * stride_x - chain.padding[1])
        steps, label = [], chain.layers[0]
        for i, product in enumerate(self.products[index][column]):
            steps.append(_Step(label, Instruction(
                "MATMUL", precision=precision,
                activation_signed=_signed(source.tensor.stored.format),
                weight_signed=_signed(chain.weight_format), accumulate=int(i > 0),
                depth=product.piece.size, address=first + product.first,
                run_length=product.run_length,
                run_pitch=product.run_pitch if product.piece.size > product.run_length else 0,
                **_loops("count_{}", "stride_{}", (
                    (tile.images, source.image_pitch), (rows, stride_y * source.row_pitch),
                    (columns, stride_x * source.tensor.pixel_slots)))), product.piece))
        values = {}
        if chain.residual is not None:
            residual = self.layouts[chain.residual]
            kind = residual.tensor.stored.format
            values = {
                "residual": 1, "residual_precision": kind.precision,
                "residual_signed": _signed(kind),
                "residual_address": residual.slot(tile.image, top, left)
                + column * VECTOR // kind.precision.per_slot,
                **_loops("", "residual_stride_{}", (
                    (tile.images, residual.image_pitch),
                    (tile.rows, step_y * residual.row_pitch),
                    (tile.columns, step_x * residual.tensor.pixel_slots))),
                **_loops("", "residual_window_stride_{}", (
                    (chain.window[0], residual.row_pitch),
                    (chain.window[1], residual.tensor.pixel_slots)))}
        kind = chain.output.format
        steps.append(_Step(label, Instruction(
            "SPECIAL", float_accumulator=int(precision.is_float), relu=int(chain.relu),
            clip=int(chain.clip), pool=chain.pool, output_precision=kind.precision,
            output_signed=_signed(kind),
            window_0=chain.window[0], window_1=chain.window[1],
            address=target.slot(tile.image, tile.row, tile.column)
            + column * VECTOR // kind.precision.per_slot,
            **_loops("count_{}", "stride_{}", (
                (tile.images, target.image_pitch), (tile.rows, target.row_pitch),
                (tile.columns, target.tensor.pixel_slots))),
            **_loops("", "accumulator_stride_{}", (
                (tile.images, rows * columns), (tile.rows, step_y * columns),
                (tile.columns, step_x))),
            **_loops("", "window_stride_{}", ((chain.window[0], columns), (chain.window[1], 1))),
            **values), self.columns[index][column]))
        config, vectors = self.config, tile.images * rows * columns
        tiles = sum(-(-product.piece.size // config.rows)
                    for product in self.products[index][column])
        windows = tile.images * tile.rows * tile.columns * math.prod(chain.window)
        return _Item(steps, tiles * max(vectors, config.minimum_tile_period)
                     + windows * config.phases)

    # --- moving data

    def _stores(self, layout: TensorLayout, image: int, images: int) -> Iterator[_Step]:
        tensor = layout.tensor
        row_bytes = _bus_row(tensor, self.config) * SLOT_BYTES
        height = tensor.shape[0]
        # Images of one row each can go in one instruction.
        parts = [(image, images, layout.image_pitch)] if height == 1 else \
            [(i, height, layout.row_pitch) for i in range(image, image + images)]
        for first, rows, pitch in parts:
            yield _Step(tensor.name, Instruction(
                "STORE", segment=Segment.OUTPUT, offset=first * height * row_bytes,
                target_pitch=row_bytes, rows=rows, length=layout.stored_row_slots,
                address=layout.slot(first, 0, 0), pitch=pitch))

    def _fills(self, name: str) -> list[_Step]:
        """Clear a tensor's border."""
        return [_Step(name, fill) for fill in self.layouts[name].fills()]

    def _loads(self, iteration: int) -> list[tuple[int, _Step]]:
        """(image, LOAD) of the images that an iteration loads: one image ahead if possible."""
        name = self.fused.network.input_name
        layout = self.layouts[name]
        tensor, height = layout.tensor, layout.tensor.shape[0]
        row_bytes = _bus_row(tensor, self.config) * SLOT_BYTES
        readers = [i for i, c in enumerate(self.fused.chains) if name in (c.source, c.residual)]
        group = max(self.groups[i] for i in readers)
        later = int(max(readers) >= self.front)
        loads = []
        for image in range(self.batch):
            # The image whose place this one takes is last read at the end of its group.
            before = image - layout.copies
            free = before // group * group + group + later if before >= 0 else 0
            if max(image - 1, free, 0) == iteration:
                loads.append((image, _Step(name, Instruction(
                    "LOAD", target=Target.ACTIVATIONS, segment=Segment.INPUT,
                    offset=image * height * row_bytes, source_pitch=row_bytes, rows=height,
                    length=layout.row_slots, address=layout.slot(image, 0, 0),
                    pitch=layout.row_pitch))))
        return loads

    def _with_pieces(self, steps: Sequence[_Step]) -> list[_Step]:
        """Give every use of weights and parameters its address, and put in the LOADs."""
        config = self.config
        before: dict[int, list[tuple[int, _Step]]] = {}
        addresses: dict[int, int] = {}
        for target, size, room, slots in (
                (Target.WEIGHTS, config.weight_lines, "lines of the weight scratchpad",
                 config.column_lanes),
                (Target.PARAMETERS, config.parameter_columns, "columns of parameters",
                 PARAMETER_SLOTS)):
            uses = [(place, step.piece) for place, step in enumerate(steps)
                    if step.piece is not None and step.piece.target is target]
            loads, places = _place(uses, size, room)
            addresses |= places
            for load in loads:
                piece = load.piece
                before.setdefault(load.place, []).append((load.first, _Step(
                    piece.label, Instruction(
                        "LOAD", target=target, segment=Segment.PARAMETERS, offset=piece.offset,
                        length=piece.size * slots, address=load.address * slots))))
        result = []
        for place, step in enumerate(steps):
            result += [load for _, load in sorted(before.get(place, []), key=lambda x: x[0])]
            if step.piece is not None:
                field = "weights" if step.piece.target is Target.WEIGHTS else "parameters"
                step.instruction.values[field] = addresses[place]
            result.append(step)
        return result


@dataclasses.dataclass(kw_only=True)
class _Load:
    """A LOAD of a piece: to where, in front of which step, and the steps that use it."""

    piece: _Piece
    address: int
    first: int
    last: int
    place: int = 0


def _place(uses: Sequence[tuple[int, _Piece]], size: int,
           room: str) -> tuple[list[_Load], dict[int, int]]:
    """Addresses for uses (step, piece), in order, in a memory of `size`.

    Pieces that stay are loaded once. The others share what is left as a ring: each use of
    another piece than the last is a load. Returns the loads and the address of every use.
    """
    times: dict[_Piece, int] = {}
    last = None
    for _, piece in uses:
        if piece is not last:
            times[piece] = times.get(piece, 0) + 1
        last = piece
    # Those stay that would be loaded most often, as long as two of the others still fit.
    pieces = sorted(times, key=lambda piece: -times[piece])
    total = sum(piece.size for piece in pieces)
    stays: dict[_Piece, int] = {}
    used = 0
    if total > size:
        for i, piece in enumerate(pieces):
            others = max((p.size for p in pieces[i + 1:]), default=0)
            if used + piece.size + 2 * others > size or times[piece] == 1:
                break
            stays[piece] = used
            used += piece.size
    ring = used
    loads: list[_Load] = []
    addresses: dict[int, int] = {}
    current: dict[_Piece, _Load] = {}
    for step, piece in uses:
        load = current.get(piece)
        if load is None:
            if piece in stays:
                address = stays[piece]
            else:
                if ring + piece.size > size:
                    ring = used
                if ring + piece.size > size:
                    raise CompileError(piece.label, f"needs {piece.size} {room} at a time; the "
                                       f"core has {size - used}")
                address, ring = ring, ring + piece.size
                current = {p: other for p, other in current.items() if other.address < used
                           or not _overlap(other, address, piece.size)}
            load = _Load(piece=piece, address=address, first=step, last=step)
            current[piece] = load
            loads.append(load)
        load.last = step
        addresses[step] = load.address
    for i, load in enumerate(loads):
        # The first ones are in a hurry: what is needed later must not be in front of them.
        ahead = loads[i - min((i + 1) // 2, _AHEAD)].first
        free = max((other.last + 1 for other in loads[:i]
                    if _overlap(other, load.address, load.piece.size)), default=0)
        load.place = max(ahead, free, loads[i - 1].place if i else 0)
    return loads, addresses


def _interleaved(first: Sequence[_Item], second: Sequence[_Item]) -> Iterator[_Item]:
    """Both in their own order, so that they come to their ends together."""
    lists = [list(first), list(second)]
    totals = [max(1, sum(item.cycles for item in items)) for items in lists]
    done = [0.0, 0.0]
    while any(lists):
        choice = min((i for i in range(2) if lists[i]), key=lambda i: done[i])
        item = lists[choice].pop(0)
        done[choice] += item.cycles / totals[choice]
        yield item


def _overlap(load: _Load, address: int, size: int) -> bool:
    return load.address < address + size and address < load.address + load.piece.size


def _blocks(total: int, size: int) -> list[tuple[int, int]]:
    """(first, count) of blocks of `size`; the last one may be smaller."""
    return [(first, min(size, total - first)) for first in range(0, total, size)]


def _signed(kind: Format) -> int:
    """The bit of an instruction for an integer format's sign."""
    return int(kind.signed and not kind.precision.is_float)


def _loops(count: str, stride: str, loops: Sequence[tuple[int, int]]) -> dict[str, int]:
    """Fields of nested loops of (count, stride); a loop that does not turn has stride 0."""
    values = {}
    for i, (times, step) in enumerate(loops):
        if count:
            values[count.format(i)] = times
        values[stride.format(i)] = step if times > 1 else 0
    return values
