"""Networks whose activations stay in the scratchpad.

Images are loaded, results stored, and between them each chain (see `fusion`) is computed tile by
tile, a MATMUL into one part of the accumulators while SPECIAL drains another. Where there is
room, the first chains of an image are computed beside the last ones of the image before: layers
that keep the array busy and layers that keep SPECIAL busy then fill each other's gaps. Small
layers take several images at a time, so that the array need not change its weights too often.
"""

import math
from collections.abc import Iterator, Sequence

from .config import SLOT_BYTES, CoreConfig
from .fusion import CompileError, Fused
from .isa import Instruction, Segment, Target
from .layout import TensorLayout
from .steps import (
    MOST_COUNT,
    Item,
    Prepared,
    Step,
    accumulator_parts,
    bus_row,
    item,
    tiles,
)

__all__ = ["ResidentSchedule"]


class ResidentSchedule:
    """Steps of a network, for `batch` images, that never leaves the scratchpad.

    Parameters
    ----------
    fused, config, batch
        What, for which core, for how many images.
    periods
        Vectors that a MATMUL should have at least, in periods of a tile.
    overlap
        Compute the first chains of an image beside the last ones of the image before.
    parameters
        Contents of the segment PARAMETERS, which grow.

    Raises CompileError if tensors, windows or weights do not fit.
    """

    def __init__(self, fused: Fused, config: CoreConfig, batch: int, *, periods: int,
                 overlap: bool, parameters: bytearray) -> None:
        self.fused, self.config, self.batch = fused, config, batch
        self.front = self._front() if overlap and len(fused.chains) > 1 else len(fused.chains)
        self.parts = accumulator_parts(fused.chains, config)
        self.capacity = min(config.accumulator_depth // self.parts, MOST_COUNT)
        self.groups = self._groups(periods)
        self.layouts = self._layouts()
        self.weights_stay = sum(sum(chain.lines(fused.tensors[chain.source], config))
                                for chain in fused.chains) <= config.weight_lines
        self.part = 0
        self.begun: set[int] = set()
        self.prepared = [
            Prepared(chain, config, fused.tensors[chain.source],
                     self.layouts[chain.source].row_pitch, uncut=self.weights_stay,
                     parameters=parameters)
            for chain in fused.chains]

    def steps(self) -> list[Step]:
        """The program in an order that is right when everything runs one after the other."""
        steps = self._fills(self.fused.network.input_name)
        for iteration in range(self.batch + (self.front < len(self.fused.chains))):
            steps += self._iteration(iteration)
        return steps

    # --- what is computed beside what, how many images at a time, and where tensors lie

    def _front(self) -> int:
        """How many of the chains are about half of the work."""
        config, work = self.config, []
        for chain in self.fused.chains:
            tensor = self.fused.tensors[chain.source]
            depths = [depth / chain.fold(config, column).groups
                      for column, depth in enumerate(chain.depths(tensor, config))]
            products = max(depths) / config.rows * math.prod(chain.convolution_shape[:2])
            elements = config.phases * math.prod(chain.shape[:2]) * math.prod(chain.window)
            work.append(len(depths) * (products + elements))
        return min(range(1, len(work)), key=lambda n: abs(2 * sum(work[:n]) - sum(work)))

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

    # --- the work

    def _iteration(self, iteration: int) -> Iterator[Step]:
        """The front chains of one image side by side with the others of the image before it."""
        front, back = range(self.front), range(self.front, len(self.groups))
        items = _interleaved(self._items(front, iteration), self._items(back, iteration - 1))
        loads = self._loads(iteration)
        yield from (load for image, load in loads if image == iteration)
        ahead = [load for image, load in loads if image != iteration]
        for work in items:
            # Tiles take turns at the parts of the accumulators.
            self.part = (self.part + 1) % self.parts
            for step in work.steps:
                if "accumulator" in step.instruction.values:
                    step.instruction.values["accumulator"] = self.part * self.capacity
            yield from work.steps
            # The next image comes behind what the first tile needs.
            yield from ahead
            ahead = []
        yield from ahead
        image = iteration - (1 if back else 0)
        group = self.groups[-1]
        if image >= 0 and (image + 1) % group == 0:
            layout = self.layouts[self.fused.network.output_name]
            yield from self._stores(layout, image + 1 - group, group)

    def _items(self, chains: Sequence[int], image: int) -> list[Item]:
        """What some chains can do once an image is there."""
        items = []
        if 0 <= image < self.batch:
            for index in chains:
                group = self.groups[index]
                if (image + 1) % group == 0:
                    items += self._chain(index, image + 1 - group, group)
        return items

    def _chain(self, index: int, image: int, images: int) -> Iterator[Item]:
        chain = self.fused.chains[index]
        parts = list(tiles(chain, self.capacity, (image, images), (0, chain.shape[0])))
        prepared = self.prepared[index]
        columns = range(len(prepared.columns))
        # Weights that stay are used column by column in turn: the next layer's first rows are
        # ready early. Others are used up before the next ones come.
        if self.weights_stay:
            order = [(tile, column) for tile in parts for column in columns]
        else:
            order = [(tile, column) for column in columns for tile in parts]
        for tile, column in order:
            work = item(prepared, tile, column, source=self.layouts[chain.source],
                        target=self.layouts[chain.name],
                        residual=self.layouts[chain.residual] if chain.residual else None)
            if index not in self.begun:
                self.begun.add(index)
                work = Item([*self._fills(chain.name), *work.steps], work.cycles)
            yield work

    # --- moving data

    def _stores(self, layout: TensorLayout, image: int, images: int) -> Iterator[Step]:
        tensor = layout.tensor
        row_bytes = bus_row(tensor, self.config) * SLOT_BYTES
        height = tensor.shape[0]
        # Images of one row each can go in one instruction.
        parts = [(image, images, layout.image_pitch)] if height == 1 else \
            [(i, height, layout.row_pitch) for i in range(image, image + images)]
        for first, rows, pitch in parts:
            yield Step(tensor.name, Instruction(
                "STORE", segment=Segment.OUTPUT, offset=first * height * row_bytes,
                target_pitch=row_bytes, rows=rows, length=layout.stored_row_slots,
                address=layout.slot(first, 0, 0), pitch=pitch))

    def _fills(self, name: str) -> list[Step]:
        """Clear a tensor's border."""
        return [Step(name, fill) for fill in self.layouts[name].fills()]

    def _loads(self, iteration: int) -> list[tuple[int, Step]]:
        """(image, LOAD) of the images that an iteration loads: one image ahead if possible."""
        name = self.fused.network.input_name
        layout = self.layouts[name]
        tensor, height = layout.tensor, layout.tensor.shape[0]
        row_bytes = bus_row(tensor, self.config) * SLOT_BYTES
        readers = [i for i, c in enumerate(self.fused.chains) if name in (c.source, c.residual)]
        group = max(self.groups[i] for i in readers)
        later = int(max(readers) >= self.front)
        loads = []
        for image in range(self.batch):
            # The image whose place this one takes is last read at the end of its group.
            before = image - layout.copies
            free = before // group * group + group + later if before >= 0 else 0
            if max(image - 1, free, 0) == iteration:
                loads.append((image, Step(name, Instruction(
                    "LOAD", target=Target.ACTIVATIONS, segment=Segment.INPUT,
                    offset=image * height * row_bytes, source_pitch=row_bytes, rows=height,
                    length=layout.row_slots, address=layout.slot(image, 0, 0),
                    pitch=layout.row_pitch))))
        return loads


def _interleaved(first: Sequence[Item], second: Sequence[Item]) -> Iterator[Item]:
    """Both in their own order, so that they come to their ends together."""
    lists = [list(first), list(second)]
    totals = [max(1, sum(work.cycles for work in items)) for items in lists]
    done = [0.0, 0.0]
    while any(lists):
        choice = min((i for i in range(2) if lists[i]), key=lambda i: done[i])
        work = lists[choice].pop(0)
        done[choice] += work.cycles / totals[choice]
        yield work
