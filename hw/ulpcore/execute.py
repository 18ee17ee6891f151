"""The execute unit: runs MATMUL by feeding weights and vectors of activations to the array."""

from collections.abc import Sequence
from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2
from ulpsim.config import SLOT_BITS, CoreConfig
from ulpsim.cycles_execute import VECTOR_LATENCY
from ulpsim.formats import Precision, multipliable
from ulpsim.isa import INDEX_BITS, Cause, Unit

from .addresses import AffineLoop, WindowWalker, saturate, saturating_add
from .decoder import unit_layout
from .packing import PRECISION_BITS, is_any
from .scratchpad import SCRATCHPAD_READ_LATENCY, WEIGHT_READ_LATENCY, require_config
from .unit import unit_members
from .widening import PART_BITS, narrower

__all__ = ["Execute"]

# From the beginning of a tile: its addresses are there after two cycles.
assert VECTOR_LATENCY == 2 + SCRATCHPAD_READ_LATENCY
# Row 0 of the weights goes to the array two cycles before the vector that swaps them in.
assert VECTOR_LATENCY == 3 + WEIGHT_READ_LATENCY
# No fewer than the instructions between being taken and being retired.
_OUTSTANDING = 16


class Execute(wiring.Component):
    """Runs MATMUL: K in tiles of `rows` slots, all vectors of a tile one after the other.

    With F groups of columns a tile has F times `rows` slots; "rows" below are as many then.

    Two parts work side by side. The walker takes an instruction and finds the offsets of a tile's
    rows, one a cycle. The feeder begins a tile when its offsets are known: it reads the tile's
    lines of weights, one a cycle, and one vector a cycle, whose rows lie at the vector's address
    plus their offsets. Meanwhile the walker prepares the next tile, of the next instruction if
    there is one.

    Timing, with F the cycle in which a tile of M vectors begins:

    - An instruction is taken when the last tile of the one before begins, or later when it comes
      later. Its first tile begins `rows` + 1 cycles after that at the earliest.
    - The next tile begins max(M, `minimum_tile_period`) cycles after F, at the earliest, and
      `rows` + 1 cycles after F if it is of the same instruction. There is one exception: the first
      tile of an instruction that accumulates from another `accumulator` on than its predecessor
      waits for the predecessor's last vector, until M + `accumulate_latency` - 1 cycles after F.
    - The weights of row r are given to the array in F + `VECTOR_LATENCY` - 2 + r, vector m in
      F + `VECTOR_LATENCY` + m.

    `busy` falls in the cycle after the last instruction retired. `ulpsim.cycles_execute` is the
    same as a recurrence over instructions.

    Faults, the first one of this order: ILLEGAL_INSTRUCTION, UNSUPPORTED_FORMAT,
    UNSUPPORTED_FUNCTION, MISALIGNED_ADDRESS, WEIGHT_RANGE are seen before the first vector;
    ACCUMULATOR_RANGE in the first tile, at the vector that has no accumulator; ACTIVATION_RANGE at
    the end of the first tile with a row beyond the scratchpad. Vectors before that one have reached
    the array then; those from there on do not. Earlier instructions are finished.

    Parameters
    ----------
    config
        The core.

    Members
    -------
    instructions, retired, retired_post, fault, fault_cause, fault_index, busy, stop
        The unit interface.
    gather_enable : Out(1), gather_addresses : Out(fold * rows addresses), gather_groups : Out(2),
    gathered : In(fold * rows slots)
        Gather port of the `ActivationScratchpad`.
    weight_read_enable : Out(1), weight_read_line : Out, weight_read_data : In(N slots)
        Read port of the `WeightScratchpad`.
    vector, mask, valid, swap, precision, activation_signed, vector_weight_signed, vector_odd,
    address, overwrite, last, post, weights, weight_valid, weight_row, weight_precision,
    weight_target, weight_signed, weight_part : Out
        The inputs of the `Array`. Rows of a tile beyond `depth` are not in the mask, and their
        weights are zero.
    completed : In(1), completed_post : In
        `retired` of the `Accumulators`.
    """

    instructions: Any
    retired: Signal
    retired_post: Signal
    fault: Signal
    fault_cause: Signal
    fault_index: Signal
    busy: Signal
    stop: Signal
    gather_enable: Signal
    gather_addresses: Any
    gather_groups: Signal
    gathered: Any
    weight_read_enable: Signal
    weight_read_line: Signal
    weight_read_data: Any
    vector: Any
    mask: Signal
    valid: Signal
    swap: Signal
    precision: Signal
    activation_signed: Signal
    vector_weight_signed: Signal
    vector_odd: Signal
    address: Signal
    overwrite: Signal
    last: Signal
    post: Signal
    weights: Any
    weight_valid: Signal
    weight_row: Signal
    weight_precision: Signal
    weight_target: Signal
    weight_signed: Signal
    weight_part: Signal
    completed: Signal
    completed_post: Signal

    def __init__(self, *, config: CoreConfig) -> None:
        self.config = require_config(config)
        self.slot_bits = exact_log2(config.activation_slots)
        self.accumulator_bits = exact_log2(config.accumulator_depth)
        rows, slots = config.rows, config.fold * config.rows
        line = data.ArrayLayout(SLOT_BITS, config.column_lanes)
        super().__init__({
            **unit_members(Unit.EXECUTE, config),
            "gather_enable": Out(1),
            "gather_addresses": Out(data.ArrayLayout(unsigned(self.slot_bits), slots)),
            **({"gather_groups": Out(2)} if config.fold > 1 else {}),
            "gathered": In(data.ArrayLayout(SLOT_BITS, slots)),
            "weight_read_enable": Out(1),
            "weight_read_line": Out(range(config.weight_lines)),
            "weight_read_data": In(line),
            "vector": Out(data.ArrayLayout(SLOT_BITS, slots)), "mask": Out(slots),
            "valid": Out(1), "swap": Out(1), "precision": Out(PRECISION_BITS),
            "activation_signed": Out(1), "vector_weight_signed": Out(1), "vector_odd": Out(1),
            "address": Out(self.accumulator_bits), "overwrite": Out(1),
            "last": Out(1), "post": Out(len(config.units)),
            "weights": Out(line), "weight_valid": Out(1), "weight_row": Out(range(rows)),
            "weight_precision": Out(PRECISION_BITS), "weight_target": Out(PRECISION_BITS),
            "weight_signed": Out(1), "weight_part": Out(PART_BITS),
            "completed": In(1), "completed_post": In(len(config.units)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.walker = walker = _Walker(config=self.config)
        m.submodules.feeder = feeder = _Feeder(config=self.config)
        m.submodules.reader = reader = _WeightReader(config=self.config)
        halt = Signal()
        stopped = Signal()
        m.d.sync += stopped.eq(halt)
        m.d.comb += halt.eq(stopped | self.stop | feeder.failed)

        # A tile begins in the cycle in which it passes from the walker to the feeder.
        begin = Signal()
        m.d.comb += [
            begin.eq(walker.tiles.valid & feeder.tiles.ready & ~stopped),
            walker.instructions.payload.eq(self.instructions.payload),
            walker.instructions.valid.eq(self.instructions.valid & ~stopped),
            self.instructions.ready.eq(walker.instructions.ready & ~stopped),
            walker.tiles.ready.eq(begin),
            feeder.tiles.payload.eq(walker.tiles.payload),
            feeder.tiles.valid.eq(begin),
            reader.begin.eq(begin),
            reader.tile.eq(walker.tiles.payload),
            feeder.halt.eq(stopped | self.stop),
        ]
        self._connect(m, feeder, reader)

        outstanding = Signal(range(_OUTSTANDING))
        taken = Signal()
        m.d.comb += [
            taken.eq(self.instructions.valid & self.instructions.ready),
            self.retired.eq(self.completed),
            self.retired_post.eq(self.completed_post),
            self.busy.eq(outstanding != 0),
        ]
        m.d.sync += outstanding.eq(outstanding + taken - self.completed)
        return m

    def _connect(self, m: Module, feeder: "_Feeder", reader: "_WeightReader") -> None:
        m.d.sync += [
            self.fault.eq(feeder.failed),
            self.fault_cause.eq(feeder.cause),
            self.fault_index.eq(feeder.sent.index),
        ]
        m.d.comb += [
            self.gather_enable.eq(feeder.sent_valid),
            self.gather_addresses.eq(feeder.slots),
            self.valid.eq(_delay(m, feeder.sent_valid, SCRATCHPAD_READ_LATENCY, "valid",
                                 reset=True)),
            self.weight_read_enable.eq(reader.enable),
            self.weight_read_line.eq(reader.line),
            self.weight_valid.eq(_delay(m, reader.valid, WEIGHT_READ_LATENCY, "weight_valid",
                                        reset=True)),
        ]
        sent = _delay(m, feeder.sent, SCRATCHPAD_READ_LATENCY, "sent")
        row = _delay(m, reader.row, WEIGHT_READ_LATENCY, "row")
        if self.config.fold > 1:
            m.d.comb += self.gather_groups.eq(feeder.sent.fold)
        self._share(m, sent, row)
        m.d.comb += [getattr(self, name).eq(getattr(sent, name)) for name in (
            "swap", "precision", "activation_signed", "vector_weight_signed", "vector_odd",
            "address", "overwrite", "last", "post")]
        m.d.comb += [getattr(self, name).eq(getattr(row, name)) for name in (
            "weight_row", "weight_precision", "weight_target", "weight_signed", "weight_part")]


    def _share(self, m: Module, sent: Any, row: Any) -> None:
        """Give each of `fold` groups of columns the slots that it works on. Of a line of weights
        only those columns count that have a slot in this row."""
        config, rows = self.config, self.config.rows
        if config.fold == 1:
            m.d.comb += [self.vector.eq(self.gathered), self.mask.eq(sent.mask),
                         self.weights.eq(self.weight_read_data)]
            return
        columns = config.column_lanes // config.fold
        for group in range(config.fold):
            slots, masks = ([_choose_group(config, group, sent.fold, [
                part[i * rows + r] for i in range(config.fold)]) for r in range(rows)]
                for part in (self.gathered, sent.mask))
            for r in range(rows):
                m.d.comb += [self.vector[group * rows + r].eq(slots[r]),
                             self.mask[group * rows + r].eq(masks[r])]
            for n in range(group * columns, (group + 1) * columns):
                m.d.comb += self.weights[n].eq(
                    self.weight_read_data[n] & row.counts[group].replicate(SLOT_BITS))


def _choose_group(config: CoreConfig, group: int, fold: Value, values: Sequence[Value]) -> Value:
    """What the columns of a group get of `values`, one for each of the groups in use."""
    chosen = values[0]
    for used in config.folds[1:]:
        chosen = Mux(fold == used.value, values[group * used.groups // config.fold], chosen)
    return chosen


def _delay(m: Module, value: Any, cycles: int, name: str, *, reset: bool = False) -> Any:
    for i in range(cycles):
        later = Signal(value.shape(), name=f"{name}_{i + 1}", reset_less=not reset)
        m.d.sync += later.eq(value)
        value = later
    return value


def _signs(instruction: Any) -> Value:
    """Whether weights of BINARY multiply integers, as signs."""
    return ((instruction.weight_precision == Precision.BINARY.value)
            & (instruction.precision != Precision.BINARY.value))


def _ratio_log2(instruction: Any, config: CoreConfig) -> Value:
    """log2 of how many slots of activations one slot of weights serves, if the pair is allowed."""
    pairs = [(p, q, exact_log2(p.bits // q.bits)) for p in config.formats
             for q in narrower(p, config)]
    same = [(instruction.precision == p.value) & (instruction.weight_precision == q.value)
            for p, q, _ in pairs]
    return Cat(Cat(matches for matches, (_, _, log2) in zip(same, pairs, strict=True)
                   if log2 >> bit & 1).any() for bit in range(2))


def _tile_layout(config: CoreConfig) -> data.StructLayout:
    """A tile that can begin: its instruction, where its rows lie, and what is wrong with it."""
    offset = unsigned(exact_log2(config.activation_slots) + 1)
    return data.StructLayout({
        "instruction": unit_layout(Unit.EXECUTE, config),
        "offsets": data.ArrayLayout(offset, config.fold * config.rows),
        "mask": unsigned(config.fold * config.rows),
        "first": 1,
        "last": 1,
        "cause": unsigned(8),
    })


class _Walker(wiring.Component):
    """Takes instructions and finds the tiles of each, in a cycle a slot and one more a tile."""

    instructions: Any
    tiles: Any

    def __init__(self, *, config: CoreConfig) -> None:
        self.config = config
        super().__init__({
            "instructions": In(stream.Signature(unit_layout(Unit.EXECUTE, config))),
            "tiles": Out(stream.Signature(_tile_layout(config))),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, tile = self.config, self.tiles.payload
        instruction: Any = Signal(self.instructions.payload.shape(), reset_less=True)
        offsets = Signal(tile.offsets.shape(), reset_less=True)
        mask = Signal(len(tile.mask), reset_less=True)
        first = Signal()
        taken = self.instructions.valid & self.instructions.ready
        left = Signal(len(instruction.depth), reset_less=True)
        row = Signal(range(config.fold * config.rows), reset_less=True)
        m.submodules.window = window = WindowWalker(width=exact_log2(config.activation_slots))
        m.d.comb += [
            window.start.eq(taken),
            window.run_length.eq(instruction.run_length),
            window.run_pitch.eq(instruction.run_pitch),
            tile.instruction.eq(instruction),
            tile.offsets.eq(offsets),
            tile.mask.eq(mask & self._in_use(instruction)),
            tile.first.eq(first),
            tile.cause.eq(self._cause(m, instruction)),
        ]
        with m.FSM(name="walker"):
            with m.State("IDLE"):
                m.d.comb += self.instructions.ready.eq(1)
                with m.If(taken):
                    m.next = "WALK"
            with m.State("WALK"):
                # Offsets move in from the far end: after as many steps each is in its place.
                m.d.comb += window.step.eq(1)
                m.d.sync += [
                    Cat(offsets).eq(self._moved_in(instruction, list(offsets), window.offset)),
                    mask.eq(self._moved_in(instruction, list(mask), left != 0)),
                    row.eq(row + 1),
                ]
                m.d.sync += tile.last.eq(~left[1:].any())
                with m.If(left != 0):
                    m.d.sync += left.eq(left - 1)
                with m.If(row == self._last_slot(instruction)):
                    m.next = "READY"
            with m.State("READY"):
                m.d.comb += self.tiles.valid.eq(1)
                with m.If(self.tiles.ready):
                    m.d.comb += self.instructions.ready.eq(tile.last)
                    m.d.sync += [first.eq(0), row.eq(0)]
                    m.next = "WALK"
                    with m.If(tile.last & ~taken):
                        m.next = "IDLE"
        with m.If(taken):
            m.d.sync += [
                instruction.eq(self.instructions.payload),
                left.eq(self.instructions.payload.depth),
                first.eq(1),
                row.eq(0),
            ]
        return m

    def _last_slot(self, instruction: Any) -> Value:
        """Slots of a tile, less 1."""
        last: Value = Const(self.config.rows - 1)
        for fold in self.config.folds[1:]:
            last = Mux(instruction.fold == fold.value, fold.groups * self.config.rows - 1, last)
        return last

    def _in_use(self, instruction: Any) -> Value:
        """The slots of a tile."""
        rows = self.config.rows
        return Cat(Const(-1, rows), *(slot <= self._last_slot(instruction)
                                      for slot in range(rows, self.config.fold * rows)))

    def _moved_in(self, instruction: Any, values: list[Value], new: Value) -> Value:
        """The values of a tile's slots, each moved on by one, and a new one for the last slot."""
        moved = [*values[1:], new]
        for fold in self.config.folds[:-1]:
            last = fold.groups * self.config.rows - 1
            moved[last] = Mux(instruction.fold == fold.value, new, moved[last])
        return Cat(moved)

    def _lines(self, instruction: Any) -> Value:
        """Slots of K of the first group of columns, less 1."""
        last = (instruction.depth - 1)[:len(instruction.depth)]
        low, lines = exact_log2(self.config.rows), last
        for fold in self.config.folds[1:]:
            high = low + fold.value
            beyond = last[low:high].any()
            lines = Mux(instruction.fold == fold.value,
                        Cat(last[:low] | beyond.replicate(low), last[high:]), lines)
        return lines

    def _cause(self, m: Module, instruction: Any) -> Value:
        """What is wrong with the instruction itself, three cycles after it was taken."""
        config = self.config
        precision, weight_precision = instruction.precision, instruction.weight_precision
        integers = [p for p in Precision if p.is_integer]
        means_nothing = (
            instruction.activation_signed & ~is_any(precision, integers)
            | instruction.weight_signed & ~is_any(weight_precision, integers)
            | instruction.weight_odd & ~instruction.weight_signed)
        fits = Cat((precision == p.value) & is_any(
            weight_precision, [q for q in Precision if multipliable(p, q)])
            for p in Precision).any()
        known = is_any(precision, config.formats) & is_any(weight_precision, config.formats)
        low = exact_log2(config.residues)
        bits = low + exact_log2(config.fold)
        gap = instruction.run_pitch[:bits] - instruction.run_length[:bits]
        uneven = gap[:low].any()
        for fold in config.folds[1:]:
            uneven |= (instruction.fold >= fold.value) & gap[low + fold.value - 1]
        # Lines of weights after the first one.
        lines = Signal(len(instruction.depth), reset_less=True)
        m.d.sync += lines.eq(self._lines(instruction) >> _ratio_log2(instruction, config))
        last_line = instruction.weights + lines
        rules = [
            (~fits | means_nothing, Cause.ILLEGAL_INSTRUCTION),
            (~known, Cause.UNSUPPORTED_FORMAT),
            (instruction.fold > config.folds[-1].value, Cause.UNSUPPORTED_FUNCTION),
            ((instruction.depth > instruction.run_length) & uneven, Cause.MISALIGNED_ADDRESS),
            (last_line[exact_log2(config.weight_lines):].any(), Cause.WEIGHT_RANGE),
        ]
        cause: Value = Const(Cause.NONE.value, 8)
        for broken, its_cause in reversed(rules):
            register = Signal(name=f"breaks_{its_cause.name.lower()}")
            m.d.sync += register.eq(broken)
            cause = Mux(register, its_cause.value, cause)
        return cause


class _Feeder(wiring.Component):
    """Generates the addresses of a tile's vectors, one a cycle, and checks them.

    The vector's slots, and what goes to the array with them, are there two cycles after the tile
    was taken; `sent_valid` only if the vector may be used. `failed`, with `cause`, is about the
    same vector.
    """

    tiles: Any
    halt: Signal
    slots: Any
    sent: Any
    sent_valid: Signal
    failed: Signal
    cause: Signal

    def __init__(self, *, config: CoreConfig) -> None:
        self.config = config
        self.slot_bits = exact_log2(config.activation_slots)
        self.accumulator_bits = exact_log2(config.accumulator_depth)
        self.sideband = data.StructLayout({
            "mask": unsigned(config.fold * config.rows), "swap": 1,
            "precision": unsigned(PRECISION_BITS),
            "activation_signed": 1, "vector_weight_signed": 1, "vector_odd": 1,
            "address": unsigned(self.accumulator_bits), "overwrite": 1, "last": 1,
            "post": unsigned(len(config.units)), "index": unsigned(INDEX_BITS),
            **({"fold": unsigned(2)} if config.fold > 1 else {}),
        })
        super().__init__({
            "tiles": In(stream.Signature(_tile_layout(config))),
            "halt": In(1),
            "slots": Out(data.ArrayLayout(unsigned(self.slot_bits), config.fold * config.rows)),
            "sent": Out(self.sideband),
            "sent_valid": Out(1),
            "failed": Out(1), "cause": Out(8),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = self.accumulator_bits
        coming = self.tiles.payload
        tile: Any = Signal(coming.shape(), reset_less=True)
        active = Signal()
        begin = Signal()
        accumulator = Signal(bits + 1, reset_less=True)
        m.submodules.loop = loop = AffineLoop(width=self.slot_bits)
        m.d.comb += [
            begin.eq(self.tiles.valid & self.tiles.ready),
            loop.start.eq(begin),
            loop.base.eq(coming.instruction.address),
            loop.step.eq(active),
            *(loop.counts[i].eq(coming.instruction[f"count_{i}"]) for i in range(3)),
            *(loop.strides[i].eq(coming.instruction[f"stride_{i}"]) for i in range(3)),
        ]
        with m.If(begin):
            m.d.sync += [tile.eq(coming), active.eq(1),
                         accumulator.eq(saturate(coming.instruction.accumulator, bits))]
        with m.Elif(active):
            m.d.sync += [active.eq(~loop.last),
                         accumulator.eq(saturating_add(accumulator, Const(1, bits + 1), bits))]
        self._pace(m, begin, active & ~loop.last & ~loop.coming_last, active,
                   active & ~loop.last, tile)
        self._send(m, tile, loop, active, accumulator)
        return m

    def _pace(self, m: Module, begin: Value, coming_more: Value, active: Value, ongoing: Value,
              tile: Any) -> None:
        """When the next tile may be taken. A tile is `active`, `ongoing` unless this cycle has its
        last vector, and `coming_more` unless the next cycle has."""
        config, coming = self.config, self.tiles.payload
        # Counters to zero, and beside each a bit that tells whether it is there.
        wait, waiting = Signal(range(config.minimum_tile_period)), Signal()
        coming_waiting = waiting & (wait != 1)
        with m.If(begin):
            m.d.sync += [wait.eq(config.minimum_tile_period - 1), waiting.eq(1)]
        with m.Elif(waiting):
            m.d.sync += [wait.eq(wait - 1), waiting.eq(coming_waiting)]
        # Neither the last tile's vectors nor its period hold the next one up.
        free = Signal(init=1)
        m.d.sync += free.eq(~begin & ~coming_more & ~coming_waiting)
        # An instruction that accumulates elsewhere could meet its predecessor's last sums early.
        # In the cycle after `begin`, in which this is not yet known, no tile may be taken anyhow.
        settling, unsettled = Signal(range(config.accumulate_latency)), Signal()
        with m.If(active):
            m.d.sync += [settling.eq(config.accumulate_latency - 2),
                         unsettled.eq(ongoing | int(config.accumulate_latency > 2))]
        with m.Elif(unsettled):
            m.d.sync += [settling.eq(settling - 1), unsettled.eq(settling != 1)]
        elsewhere = Signal()
        m.d.sync += elsewhere.eq(
            coming.first & coming.instruction.accumulate
            & (coming.instruction.accumulator != tile.instruction.accumulator))
        m.d.comb += self.tiles.ready.eq(free & ~(elsewhere & unsettled))

    def _send(self, m: Module, tile: Any, loop: AffineLoop, active: Value,
              accumulator: Value) -> None:
        config, instruction = self.config, tile.instruction
        valid, ends = Signal(), Signal()
        cause = Signal(8)
        sent: Any = Signal(self.sideband, name="vector_sent", reset_less=True)
        addresses = [Signal(self.slot_bits + 1, name=f"address_{i}", reset_less=True)
                     for i in range(config.fold * config.rows)]
        accumulator_beyond = Signal()
        m.d.sync += [
            valid.eq(active),
            ends.eq(loop.last),
            cause.eq(tile.cause),
            *(address.eq(saturating_add(loop.address, tile.offsets[i], self.slot_bits))
              for i, address in enumerate(addresses)),
            accumulator_beyond.eq(accumulator[-1]),
            sent.mask.eq(tile.mask),
            sent.swap.eq(loop.first),
            sent.precision.eq(instruction.precision),
            sent.activation_signed.eq(instruction.activation_signed),
            sent.vector_weight_signed.eq(instruction.weight_signed | _signs(instruction)),
            sent.vector_odd.eq(instruction.weight_odd | _signs(instruction)),
            sent.address.eq(accumulator),
            sent.overwrite.eq(tile.first & ~instruction.accumulate),
            sent.last.eq(tile.last & loop.last),
            sent.post.eq(instruction.post),
            sent.index.eq(instruction.index),
            *([sent.fold.eq(instruction.fold)] if config.fold > 1 else []),
        ]
        # A slot beyond the scratchpad is reported when the tile ends: all its vectors have passed
        # the check for accumulators then.
        beyond = Signal()
        beyond_before = Signal()
        m.d.comb += [
            self.sent.eq(sent),
            beyond.eq((Cat(address[-1] for address in addresses) & sent.mask).any()),
            self.cause.eq(Mux(cause != 0, cause, Mux(
                accumulator_beyond, Cause.ACCUMULATOR_RANGE.value, Cause.ACTIVATION_RANGE.value))),
            self.failed.eq(valid & ~self.halt & ((cause != 0) | accumulator_beyond
                                                 | (ends & (beyond | beyond_before)))),
            self.sent_valid.eq(valid & ~self.halt & (cause == 0) & ~accumulator_beyond
                               & ~beyond & ~beyond_before),
            *(self.slots[i].eq(address) for i, address in enumerate(addresses)),
        ]
        with m.If(valid & beyond):
            m.d.sync += beyond_before.eq(1)


class _WeightReader(wiring.Component):
    """Reads the lines of a tile's weights, a row a cycle, from the cycle after its beginning on."""

    begin: Signal
    tile: Any
    valid: Signal
    row: Any
    enable: Signal
    line: Signal

    def __init__(self, *, config: CoreConfig) -> None:
        self.config = config
        self.sideband = data.StructLayout({
            "weight_row": range(config.rows), "weight_precision": unsigned(PRECISION_BITS),
            "weight_target": unsigned(PRECISION_BITS), "weight_signed": 1,
            "weight_part": unsigned(PART_BITS),
            **({"counts": unsigned(config.fold)} if config.fold > 1 else {}),
        })
        super().__init__({
            "begin": In(1), "tile": In(_tile_layout(config)),
            "valid": Out(1), "row": Out(self.sideband),
            "enable": Out(1), "line": Out(range(config.weight_lines)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        active, line, row = self.valid, self.line, self.row
        mask = Signal(config.rows)
        # Of the groups of columns beside the first one, which never has fewer slots.
        masks = [mask, *(Signal(config.rows, name=f"mask_{group}")
                         for group in range(1, config.fold))]
        # Parts of a slot, less 1.
        parts = Signal(PART_BITS)
        with m.If(active):
            m.d.sync += row.weight_part.eq((row.weight_part + 1) & parts)
            with m.If(row.weight_part == parts):
                m.d.sync += line.eq(line + 1)
        with m.If(self.begin):
            instruction = self.tile.instruction
            m.d.sync += [active.eq(1), row.weight_row.eq(0),
                         *(each.eq(_choose_group(config, group, instruction.fold, [
                             self.tile.mask[i * config.rows:(i + 1) * config.rows]
                             for i in range(config.fold)])) for group, each in enumerate(masks)),
                         row.weight_precision.eq(instruction.weight_precision),
                         row.weight_target.eq(instruction.precision),
                         row.weight_signed.eq(instruction.weight_signed)]
            with m.If(self.tile.first):
                m.d.sync += [line.eq(instruction.weights), row.weight_part.eq(0),
                             parts.eq((1 << _ratio_log2(instruction, config)) - 1)]
        with m.Elif(active):
            m.d.sync += [row.weight_row.eq(row.weight_row + 1),
                         *(each.eq(each >> 1) for each in masks)]
            with m.If(row.weight_row == config.rows - 1):
                m.d.sync += active.eq(0)
        m.d.comb += self.enable.eq(active & mask[0])
        if config.fold > 1:
            m.d.comb += row.counts.eq(Cat(each[0] for each in masks))
        return m
