"""Networks whose activations pass through the scratchpad stripe by stripe.

Chain after chain (see `fusion`) reads its tensors from external memory and writes its result
there. A stripe is some rows of the result, or some whole images if they are small: its source is
loaded into one of two buffers while the array works on the stripe before, and its result is
stored while the array works on the next one.

Weights are used for all columns of a stripe in turn. If those of a chain do not fit, either they
are loaded again for every stripe, or the columns are cut into parts whose weights fit and the
stripes are loaded again for every part: what costs less is taken.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

from .config import SLOT_BYTES, CoreConfig
from .cycles_execute import tile_period
from .cycles_special import vectors_together
from .fusion import Chain, CompileError, Fused, Tensor
from .isa import INSTRUCTION_BYTES, Instruction, Segment, Target
from .layout import StripeLayout, TransposedStripe
from .steps import (
    MOST_COUNT,
    External,
    Prepared,
    Step,
    accumulator_parts,
    bus_row,
    item,
    split,
    tiles,
)

__all__ = ["StreamedSchedule", "external_places"]

#: Bytes that a tensor in the workspace begins at a multiple of.
_ALIGNMENT = 64
#: Stripes that are tried, as a multiple of the fewest.
_MOST_STRIPES = 8
#: Cycles of an instruction beside its work, about.
_OVERHEAD = 40


@dataclasses.dataclass(frozen=True)
class _Cut:
    """How a chain is cut.

    `columns` are tiles of columns in a part, `images` and `rows` the most that a stripe has of
    the result; `sources` and `targets` are numbers of buffers.
    """

    columns: int
    images: int
    rows: int
    sources: int
    targets: int


@dataclasses.dataclass(frozen=True)
class _Stripe:
    """Rows (first, count) of the result, of images (first, count)."""

    images: tuple[int, int]
    rows: tuple[int, int]


class StreamedSchedule:
    """Steps of a network whose tensors lie in external memory.

    Parameters
    ----------
    chains, tensors
        The work in order, and every tensor by name.
    external
        Where each tensor lies.
    config, batch
        For which core, for how many images.
    parameters
        Contents of the segment PARAMETERS, which grow.

    Raises CompileError if a stripe of one row, a window or the weights do not fit.
    """

    def __init__(self, chains: Sequence[Chain], tensors: Mapping[str, Tensor],
                 external: Mapping[str, External], config: CoreConfig, batch: int, *,
                 parameters: bytearray) -> None:
        self.chains, self.tensors, self.external = chains, tensors, external
        self.config, self.batch = config, batch
        self.parts = accumulator_parts(chains, config)
        self.parameters = parameters
        self.part = 0

    def steps(self) -> list[list[Step]]:
        """The program in parts, in an order that is right when one step runs after the other.

        The weights of a part are used again and again, those of different parts are not.
        """
        return [part for chain in self.chains for part in _Chain(self, chain).steps()]


def external_places(fused: Fused, config: CoreConfig,
                    batch: int) -> tuple[dict[str, External], int]:
    """Where the tensors of a network lie for `batch` images; and the bytes of WORKSPACE."""
    network, places, end = fused.network, {}, 0
    for name, tensor in fused.tensors.items():
        row = bus_row(tensor, config) * SLOT_BYTES
        image = tensor.shape[0] * row
        if name == network.output_name:
            places[name] = External(Segment.OUTPUT, 0, row, image)
        elif name == network.input_name:
            places[name] = External(Segment.INPUT, 0, row, image)
        else:
            places[name] = External(Segment.WORKSPACE, end, row, image)
            end += -(-batch * image // _ALIGNMENT) * _ALIGNMENT
    return places, end


class _Chain:
    """One chain: its cut, its stripes, and the steps that come of them."""

    def __init__(self, schedule: StreamedSchedule, chain: Chain) -> None:
        self.schedule, self.chain, self.config = schedule, chain, schedule.config
        tensors = schedule.tensors
        source = tensors[chain.source]
        modulus = self.config.residues * chain.most_groups(self.config)
        residue = chain.kernel[1] * source.pixel_slots % modulus
        self.source = dataclasses.replace(
            source, border=(0, chain.padding[1]), gap=0,
            row_residue=residue if chain.kernel[0] > 1 else None, row_modulus=modulus)
        self.target = dataclasses.replace(tensors[chain.name], border=(0, 0), row_residue=None)
        self.residual = None if chain.residual is None else dataclasses.replace(
            tensors[chain.residual], border=(0, 0), row_residue=None)
        self.all_columns = -(-len(chain.weights) // self.config.column_lanes)
        #: Rows of the largest stripe, once there is a cut.
        self.most_rows = 0
        self.weight_tiles = max(chain.tiles(source, self.config))
        #: Cycles between tiles, at least.
        self.least_period = tile_period(self.config, 1, chain.fold(self.config, 0))
        self.weight_lines = max(chain.lines(source, self.config))
        # Where the special functions are the slower ones, fewer and longer instructions are better.
        vectors = math.prod(chain.convolution_shape[:2]) * self.weight_tiles
        self.special_cycles = self._special_cycles()
        elements = math.prod((*chain.shape[:2], *chain.window)) * self.special_cycles
        self.parts = min(schedule.parts, 2) if elements >= vectors else schedule.parts
        self.capacity = min(self.config.accumulator_depth // self.parts, MOST_COUNT)
        cut = min(self._cuts(), key=self._cycles, default=None)
        if cut is None:
            least = _Cut(self._least_columns(), 1, 1, 1, 1)
            raise CompileError(chain.name, f"one row of the result and what it is made of need "
                               f"{self._slots(least)} slots of the activation scratchpad; the "
                               f"core has {self.config.activation_slots}")
        self.cut = cut
        self.most_rows = max(stripe.rows[1] for stripe in self._stripes((cut.images, cut.rows)))
        #: Of each source buffer, its images and rows, and which of those have been cleared.
        self.cleared: list[tuple[tuple[int, int], list[tuple[int, int]]]] = \
            [((0, 0), [])] * cut.sources

    # --- the cut

    def _least_columns(self) -> int:
        """Tiles of columns whose slots are whole words of the bus, in every tensor."""
        word, columns = self.config.bus_slots, 1
        if self.target.gap or self.chain.most_groups(self.config) > 1:
            return self.all_columns
        while columns < self.all_columns:
            slots = [columns * self.config.column_lanes // tensor.stored.format.precision.per_slot
                     for tensor in (self.target, self.residual) if tensor is not None]
            if all(count and count % word == 0 for count in slots) \
                    and self.all_columns % columns == 0:
                return columns
            columns *= 2
        return self.all_columns

    def _cuts(self) -> Iterator[_Cut]:
        """Cuts that fit: for each number of columns and buffers the largest stripe, and less."""
        batch, height = self.schedule.batch, self.chain.shape[0]
        least = self._least_columns()
        widths = dict.fromkeys(
            least * -(-self.all_columns // (least * parts))
            for parts in range(1, self.all_columns // least + 1))
        sizes = [(images, height) for images in range(batch, 0, -1)]
        step = self.config.bus_slots if self.chain.transposed else 1
        sizes += [(1, rows) for rows in range((height - 1) // step * step, 0, -step)]
        for columns, (sources, targets) in itertools.product(widths, ((2, 2), (2, 1), (1, 1))):
            fitting = [size for size in sizes if self._slots(
                _Cut(columns, *size, sources, targets)) <= self.config.activation_slots]
            stripes = {len(self._stripes(size)): size for size in reversed(fitting)}
            least_stripes = min(stripes, default=0)
            for count, size in stripes.items():
                if count <= _MOST_STRIPES * least_stripes or count <= _MOST_STRIPES:
                    yield _Cut(columns, *size, sources, targets)

    def _conv_rows(self, rows: int) -> int:
        """Rows of the convolution under so many rows of the result."""
        return (rows - 1) * self.chain.pool_stride[0] + self.chain.window[0]

    def _source_rows(self, rows: int) -> int:
        return (self._conv_rows(rows) - 1) * self.chain.stride[0] + self.chain.extent[0]

    def _buffers(self, cut: _Cut) -> tuple[int, int, int]:
        """Slots of a buffer for source, residual and result."""
        stripe = _Stripe((0, cut.images), (0, cut.rows))
        residual = self._residual_layout(stripe, 0, cut.columns)
        return (self._source_layout(stripe, 0).size, residual.size if residual else 0,
                self._target_layout(stripe, 0, cut.columns).size)

    def _slots(self, cut: _Cut) -> int:
        source, residual, target = self._buffers(cut)
        return cut.sources * (source + residual) + cut.targets * target

    def _cycles(self, cut: _Cut) -> float:
        """About how long the chain takes: the busiest of array, special functions and bus."""
        config, chain = self.config, self.chain
        weight_cycles = self._transfer(1, self.weight_lines * config.column_lanes)
        first = compute = special = sources = targets = program = 0
        source_cycles = target_cycles = 0
        stripes = self._stripes((cut.images, cut.rows))
        for stripe in stripes:
            for tile in tiles(chain, self.capacity, stripe.images, stripe.rows):
                vectors = (tile.images * self._conv_rows(tile.rows)
                           * ((tile.columns - 1) * chain.pool_stride[1] + chain.window[1]))
                windows = tile.images * tile.rows * tile.columns
                compute += self.weight_tiles * max(vectors, self.least_period)
                special += (windows * math.prod(chain.window)
                            * self.special_cycles + _OVERHEAD)
                program += 2 * INSTRUCTION_BYTES // config.bus_bytes
            source = self._source_layout(stripe, 0)
            source_cycles = self._transfer(stripe.images[1] * source.rows, source.row_slots)
            residual = self._residual_layout(stripe, 0, cut.columns)
            if residual is not None:
                source_cycles += self._move_cycles(residual, cut.columns)
            first = first or source_cycles + weight_cycles
            sources += source_cycles
            target_cycles = self._move_cycles(self._target_layout(stripe, 0, cut.columns),
                                              cut.columns)
            targets += target_cycles
        parts = -(-self.all_columns // cut.columns)
        fits = cut.columns * self.weight_lines <= config.weight_lines
        weights = self.all_columns * weight_cycles * (1 if fits else len(stripes))
        array = self.all_columns * max(compute, special)
        loads = parts * sources - (parts - 1) * source_cycles + weights
        loads += self.all_columns * program
        stores = parts * targets
        # Before the first product and after the last one nothing overlaps.
        cycles = first + max(array, loads, stores) + target_cycles
        # Weights of the next part come while the array works on the last stripe of this one, but
        # for those that there is room for before.
        if parts > 1 and fits:
            room = config.weight_lines // self.weight_lines - cut.columns
            last = (cut.columns - room) * weight_cycles
            cycles += (parts - 1) * max(0, last - cut.columns * compute // len(stripes))
        # With one buffer only, its transfers and the work on it take turns.
        if cut.sources == 1:
            cycles += parts * sources
        if cut.targets == 1:
            cycles += parts * targets
        return cycles

    def _special_cycles(self) -> float:
        """Cycles of a vector in the special functions, if stripes hold all columns."""
        step = self.chain.pool_stride[1]
        together = [self.config.special_vectors]
        for tensor, pixels in ((self.target, 1), (self.residual, step)):
            if tensor is not None:
                together.append(vectors_together(
                    self.config, tensor.stored.format.precision,
                    pixels * tensor.pixel_slots))
        return self.config.phases / min(together)

    def _move_cycles(self, layout: StripeLayout, columns: int) -> int:
        """Cycles to load or store a stripe that holds so many tiles of columns."""
        rows = layout.images * layout.rows
        if columns == self.all_columns:
            return self._transfer(rows, layout.row_slots)
        return self._transfer(rows * layout.tensor.shape[1], layout.tensor.pixel_slots)

    def _transfer(self, rows: int, slots: int) -> int:
        """About the cycles that rows of so many slots take: each in groups of its own."""
        banks = self.config.banks
        return _OVERHEAD + rows * banks // self.config.bus_slots * -(-slots // banks)

    def _stripes(self, size: tuple[int, int]) -> list[_Stripe]:
        """Stripes of at most so many images and rows."""
        height = self.chain.shape[0]
        rows = split(height, size[1])
        if self.chain.transposed and size[1] < height:
            # They begin at whole words of the bus.
            word = self.config.bus_slots
            rows = [(first * word, min(count * word, height - first * word))
                    for first, count in split(-(-height // word), size[1] // word)]
        return [_Stripe(images, each) for images in split(self.schedule.batch, size[0])
                for each in rows]

    # --- buffers

    def _source_layout(self, stripe: _Stripe, address: int) -> StripeLayout | TransposedStripe:
        chain = self.chain
        if chain.transposed:
            return TransposedStripe(
                tensor=self.source, first_row=stripe.rows[0], row_slots=stripe.rows[1],
                most_slots=max(self.most_rows, stripe.rows[1]), address=address,
                config=self.config)
        first = stripe.rows[0] * chain.pool_stride[0] * chain.stride[0] - chain.padding[0]
        return StripeLayout(
            tensor=self.source, first_image=stripe.images[0], images=stripe.images[1],
            first_row=first, rows=self._source_rows(stripe.rows[1]), address=address,
            config=self.config)

    def _target_layout(self, stripe: _Stripe, address: int, columns: int) -> StripeLayout:
        return self._narrow(self.target, stripe.images, stripe.rows, address, columns)

    def _residual_layout(self, stripe: _Stripe, address: int,
                         columns: int) -> StripeLayout | None:
        if self.residual is None:
            return None
        rows = (stripe.rows[0] * self.chain.pool_stride[0], self._conv_rows(stripe.rows[1]))
        return self._narrow(self.residual, stripe.images, rows, address, columns)

    def _narrow(self, tensor: Tensor, images: tuple[int, int], rows: tuple[int, int],
                address: int, columns: int) -> StripeLayout:
        """A stripe that holds some tiles of columns only."""
        slots = tensor.pixel_slots if columns == self.all_columns else \
            columns * self.config.column_lanes // tensor.stored.format.precision.per_slot
        return StripeLayout(
            tensor=dataclasses.replace(tensor, pixel_slots=slots), first_image=images[0],
            images=images[1], first_row=rows[0], rows=rows[1], address=address,
            config=self.config, even_rows=True)

    # --- the work

    def steps(self) -> Iterator[list[Step]]:
        """The steps of each part of the columns."""
        cut, schedule, chain = self.cut, self.schedule, self.chain
        first = self._source_layout(_Stripe((0, 1), (0, 1)), 0)
        prepared = Prepared(
            chain, self.config, self.source, first.run_pitch if isinstance(
                first, TransposedStripe) else first.row_pitch, uncut=False,
            operand=schedule.external[chain.operand] if chain.operand else None,
            parameters=schedule.parameters)
        source_size, residual_size, target_size = self._buffers(cut)
        residuals = cut.sources * source_size
        targets = residuals + cut.sources * residual_size
        work = []
        # Each part begins with the stripe that the one before ended with: it is there already.
        stripes = self._stripes((cut.images, cut.rows))
        for column in range(0, self.all_columns, cut.columns):
            part = column, min(cut.columns, self.all_columns - column)
            work += [(part, stripe) for stripe in stripes]
            stripes = stripes[::-1]
        buffers = [0]
        for (_, before), (_, stripe) in itertools.pairwise(work):
            buffers.append((buffers[-1] + (stripe != before)) % cut.sources)

        def residual_layout(place: int) -> StripeLayout | None:
            (_, columns), stripe = work[place]
            return self._residual_layout(
                stripe, residuals + place % cut.sources * residual_size, columns)

        def load(place: int) -> list[Step]:
            (column, columns), stripe = work[place]
            buffer = buffers[place]
            steps: list[Step] = []
            if not place or stripe != work[place - 1][1]:
                steps += self._load(self._source_layout(stripe, buffer * source_size), buffer)
            residual = residual_layout(place)
            if residual is not None:
                steps += self._move("LOAD", residual, column, columns)
            return steps

        steps: list[Step] = []
        for place, (part, stripe) in enumerate(work):
            column, columns = part
            if place and part != work[place - 1][0]:
                yield steps
                steps = []
            if place == 0 or cut.sources == 1:
                steps += load(place)
            buffer = buffers[place]
            source = self._source_layout(stripe, buffer * source_size)
            residual = residual_layout(place)
            target = self._target_layout(
                stripe, targets + place % cut.targets * target_size, columns)
            steps += [Step(chain.name, fill) for fill in target.column_fills()]
            ahead = cut.sources == 2 and place + 1 < len(work)
            for each in range(column, column + columns):
                for tile in tiles(chain, self.capacity, stripe.images, stripe.rows):
                    schedule.part = (schedule.part + 1) % self.parts
                    made = item(prepared, tile, each, source=source, target=target,
                                residual=residual, first_column=column)
                    for step in made.steps:
                        step.instruction.values["accumulator"] = schedule.part * self.capacity
                    steps += made.steps
                    # The next stripe comes behind what the first tile needs.
                    if ahead:
                        steps += load(place + 1)
                        ahead = False
            steps += self._move("STORE", target, column, columns)
        yield steps

    def _load(self, layout: StripeLayout | TransposedStripe, buffer: int) -> list[Step]:
        """Bring a stripe of the source into its buffer, with zeros around it."""
        name, steps = self.chain.source, []
        if isinstance(layout, TransposedStripe):
            external = self.schedule.external[name]
            return [Step(name, Instruction(
                "LOAD", target=Target.ACTIVATIONS, segment=external.segment,
                offset=external.offset + layout.first_row * SLOT_BYTES, rows=layout.rows,
                source_pitch=external.row_bytes, length=layout.row_slots,
                address=layout.address, pitch=layout.run_pitch))]
        outside = layout.outside()
        shape = (layout.images, layout.rows)
        # What has been cleared stays so as long as rows lie where they did.
        if self.cleared[buffer][0] != shape:
            steps += [Step(name, fill) for fill in layout.column_fills()]
        if self.cleared[buffer] != (shape, outside):
            steps += [Step(name, layout.row_fill(*rows)) for rows in outside]
        self.cleared[buffer] = shape, outside
        first = max(layout.first_row, 0)
        rows = layout.rows - sum(count for _, count in outside)
        if not rows:
            return steps
        external = self.schedule.external[name]
        for image in range(layout.first_image, layout.first_image + layout.images):
            steps.append(Step(name, Instruction(
                "LOAD", target=Target.ACTIVATIONS, segment=external.segment,
                **self._rows(layout, external, image, first, rows, "source_pitch"))))
        return steps

    def _rows(self, layout: StripeLayout, external: External, image: int, first: int, rows: int,
              external_pitch: str) -> dict[str, int]:
        """Fields that say where rows of an image lie, inside and outside."""
        length, pitch = layout.stored_row_slots, layout.row_pitch
        fields = {
            "offset": external.offset + image * external.image_bytes + first * external.row_bytes,
            "address": layout.slot(image, first, 0)}
        if length == pitch and length * SLOT_BYTES == external.row_bytes:
            return fields | {"rows": 1, "length": rows * length}
        return fields | {"rows": rows, "length": length, "pitch": pitch,
                         external_pitch: external.row_bytes}

    def _move(self, name: str, layout: StripeLayout, column: int, columns: int) -> list[Step]:
        """LOAD a stripe of the residual, or STORE one of the result."""
        tensor = self.schedule.tensors[layout.tensor.name]
        external = self.schedule.external[tensor.name]
        fields: dict = {"segment": external.segment}
        external_pitch = "target_pitch"
        if name == "LOAD":
            fields["target"] = Target.ACTIVATIONS
            external_pitch = "source_pitch"
        images = range(layout.first_image, layout.first_image + layout.images)
        if columns == self.all_columns:
            return [Step(tensor.name, Instruction(name, **fields, **self._rows(
                layout, external, image, layout.first_row, layout.rows, external_pitch)))
                for image in images]
        # Some columns of each pixel. Rows follow each other without gaps, inside and outside.
        slots = layout.tensor.pixel_slots
        pixel_bytes = tensor.pixel_slots * SLOT_BYTES
        first = column * self.config.column_lanes // tensor.stored.format.precision.per_slot
        offset = first * SLOT_BYTES
        return [Step(tensor.name, Instruction(
            name, **fields, offset=external.offset + image * external.image_bytes
            + layout.first_row * external.row_bytes + offset,
            address=layout.slot(image, layout.first_row, 0),
            rows=layout.rows * tensor.shape[1], length=slots, pitch=slots,
            **{external_pitch: pixel_bytes})) for image in images]
