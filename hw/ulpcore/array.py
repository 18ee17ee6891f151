"""The array of processing elements, with the skew that its edges need; twin `ulpsim.matmul`.

Row r works on a vector `multiply_add_stages` cycles after row r - 1, column c one cycle after
column c - 1. Slots are delayed as they are and packed (`ulpcore.packing`) where they enter.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from ulpsim.config import SLOT_BITS, CoreConfig
from ulpsim.formats import Precision

from .offsets import SlotOffset, with_offset
from .packing import PRECISION_BITS, Mode, Packer, is_any
from .processing_element import Control, ProcessingElement
from .verilog import once
from .widening import PART_BITS, Widener, narrower

__all__ = ["Array"]


class Array(wiring.Component):
    """rows x columns processing elements: sums[n] = sum over the rows of slot[r] * weight[r][n].

    A vector is `rows` slots, one vector each cycle, its precision chosen for each. Its sums leave
    `latency` cycles later, DLFloat16 codes (FP16: the multiply-adds start from zero and go
    from the first row to the last) or integers in two's complement.

    Weights are given a row each cycle, row 0 first, and are held beside those in use until a
    vector comes with `swap`. If row 0 is given in cycle t, row r in t + r:

    - the weights may be taken into use by a swap in t + 2 or later;
    - t is at least `next_weights` cycles after the swap before.

    So tiles of `config.minimum_tile_period` vectors or more follow each other without a gap, each
    with a precision and signs of its own.

    The columns are in `config.fold` groups, from the first to the last: each group has `rows` slots
    of the vector to itself. Slots that several groups share are given for each of them.

    Parameters
    ----------
    config
        What to build.

    Members
    -------
    vector : In(fold * rows x 16)
        Slot g * rows + r meets the weights of row r in the columns of group g.
    mask : In(fold * rows)
        Which slots count; the others are taken as zero.
    valid, swap : In(1)
        A vector is given; it is the first one of a tile of weights.
    precision : In(3), activation_signed, vector_weight_signed : In(1)
        Precision of the vector, its sign and that of the weights that it meets: signed if they are
        of BINARY beside integers.
    vector_odd : In(1)
        The weights that it meets are odd, or of BINARY beside integers.
    address, overwrite, last, post : In
        What leaves with the sums; see `Accumulators`.
    weights : In(columns * lanes x 16)
        Weight n goes to column n // lanes, lane n % lanes.
    weight_valid : In(1), weight_row : In
        A row of weights is given, and which.
    weight_precision : In(3), weight_target : In(3), weight_signed : In(1), weight_part : In(3)
        Precision of these weights and of the activations that they will meet; which part of each
        slot counts, if the weights are narrower.
    forward_bias : In(4)
        What is subtracted from the exponents of E4M3.
    sums : Out(columns * lanes x partial_sum_bits)
        Those of column c come c cycles after those of column 0. Not from registers: a code is
        made of a sum in floating point in the same cycle.
    sum_valid, sum_is_float, sum_address, sum_overwrite, sum_last, sum_post : Out
        With the sums of column 0.
    """

    def __init__(self, *, config: CoreConfig) -> None:
        if not isinstance(config, CoreConfig):
            raise TypeError(f"config must be a CoreConfig, not {config!r}")
        self.config = config
        address = range(config.accumulator_depth)
        super().__init__({
            "vector": In(data.ArrayLayout(SLOT_BITS, config.fold * config.rows)),
            "mask": In(config.fold * config.rows),
            "valid": In(1),
            "swap": In(1),
            "precision": In(PRECISION_BITS),
            "activation_signed": In(1),
            "vector_weight_signed": In(1),
            "vector_odd": In(1),
            "address": In(address),
            "overwrite": In(1),
            "last": In(1),
            "post": In(len(config.units)),
            "weights": In(data.ArrayLayout(SLOT_BITS, config.column_lanes)),
            "weight_valid": In(1),
            "weight_row": In(range(config.rows)),
            "weight_precision": In(PRECISION_BITS),
            "weight_target": In(PRECISION_BITS),
            "weight_signed": In(1),
            "weight_part": In(PART_BITS),
            "forward_bias": In(4),
            "sums": Out(data.ArrayLayout(unsigned(config.partial_sum_bits), config.column_lanes)),
            "sum_valid": Out(1),
            "sum_is_float": Out(1),
            "sum_address": Out(address),
            "sum_overwrite": Out(1),
            "sum_last": Out(1),
            "sum_post": Out(len(config.units)),
        })

    @property
    def latency(self) -> int:
        """Cycles from a vector to its sums of column 0."""
        config = self.config
        return config.rows * config.multiply_add_stages + 1 + config.product_latency

    @property
    def next_weights(self) -> int:
        """Cycles after a swap from which row 0 of the next tile may be given."""
        return (self.config.rows - 1) * (self.config.multiply_add_stages - 1)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        stages, rows, columns = config.multiply_add_stages, config.rows, config.columns

        def delay(value: Value, cycles: int, name: str, *, reset_less: bool = True) -> Value:
            for i in range(cycles):
                register = Signal(value.shape(), name=f"{name}_{i + 1}", reset_less=reset_less)
                m.d.sync += register.eq(value)
                value = register
            return value

        # West: row r is delayed r * stages cycles, then packed into a register. A slot that does
        # not count is zeroed first: the slot 0 is zero in every precision. A group of columns has
        # a west of its own, later by the columns before it.
        activations, controls, offsets = [], [], []
        given_way = Cat(self.precision, self.activation_signed,
                        Mode.of(self.precision, self.activation_signed,
                                self.vector_weight_signed).as_value())
        swap: Value = self.valid & self.swap
        for group in range(config.fold):
            suffix, skew = f"_of_group_{group}" if group else "", group * columns // config.fold
            offset: Value | None = None
            way = delay(given_way, skew, f"way{suffix}")
            for row in range(rows):
                index = group * rows + row
                if row:
                    way = delay(way, stages, f"way_{row}{suffix}")
                if row and not group:
                    swap = delay(swap, stages, f"swap_{row}", reset_less=False)
                packer = Packer(formats=config.formats, weights=False)
                m.submodules[f"pack_row{index}"] = once(platform, packer,
                                                        f"{config.name}_pack_row")
                slot = delay(self.vector[index] & self.mask[index].replicate(SLOT_BITS),
                             row * stages + skew, f"slot_{index}")
                m.d.comb += [
                    packer.slot.eq(slot),
                    packer.precision.eq(way[:PRECISION_BITS]),
                    packer.is_signed.eq(way[PRECISION_BITS]),
                    packer.forward_bias.eq(self.forward_bias),
                ]
                if config.has_integer:
                    slot_offset = SlotOffset(config=config)
                    m.submodules[f"offset_row{index}"] = once(platform, slot_offset,
                                                              f"{config.name}_slot_offset")
                    m.d.comb += [
                        slot_offset.slot.eq(slot),
                        slot_offset.counts.eq(delay(self.mask[index], row * stages + skew,
                                                    f"counts_{index}")),
                        slot_offset.precision.eq(way[:PRECISION_BITS]),
                        slot_offset.is_signed.eq(way[PRECISION_BITS]),
                    ]
                    more = delay(slot_offset.offset, 1, f"offset_of_row_{index}")
                    if offset is not None:
                        before = delay(offset, stages - 1, f"offset_before_{index}")
                        more = (more + before)[:len(more)].as_signed()
                    offset = delay(more, 1, f"offset_{index}")
                activations.append(delay(packer.packed, 1, f"activation_{index}"))
                if group:
                    continue
                control = Signal(Control, name=f"control_{row}")
                m.d.sync += [control.swap.eq(swap), control.mode.eq(way[PRECISION_BITS + 1:])]
                controls.append(control)
            offsets.append(offset)

        # North: column c is delayed c cycles, then widened into a register and packed into another.
        weights, loads = [], []
        # Integers are packed in the precision of the activations.
        wide = is_any(self.weight_target, [p for p in config.formats if p.is_integer])
        given = Cat(
            Mux(wide, self.weight_target, self.weight_precision),
            self.weight_signed | wide & (self.weight_precision == Precision.BINARY.value),
            self.weight_precision, self.weight_target, self.weight_part)
        widens = any(narrower(p, config) for p in config.formats)
        load = Signal(rows, name="load_row")
        m.d.comb += load.eq(self.weight_valid << self.weight_row)
        chosen: Value = load
        for column in range(columns):
            if column:
                given = delay(given, 1, f"given_{column}")
                chosen = delay(chosen, 1, f"chosen_{column}", reset_less=False)
            way = delay(given[:PRECISION_BITS + 1], 1, f"way_of_weight_{column}")
            lanes = []
            for lane in range(config.lanes):
                index = column * config.lanes + lane
                packer = Packer(formats=config.formats, weights=True)
                m.submodules[f"pack_column{index}"] = once(platform, packer,
                                                           f"{config.name}_pack_column")
                weight = delay(self.weights[index], column, f"weight_{index}")
                if widens:
                    widener = Widener(config=config)
                    m.submodules[f"widen_column{index}"] = once(platform, widener,
                                                                f"{config.name}_widen_column")
                    m.d.comb += [
                        widener.slot.eq(weight),
                        widener.is_signed.eq(given[PRECISION_BITS]),
                        Cat(widener.precision, widener.target, widener.part).eq(
                            given[PRECISION_BITS + 1:]),
                    ]
                    weight = widener.widened
                m.d.comb += [
                    packer.slot.eq(delay(weight, 1, f"widened_weight_{index}")),
                    packer.precision.eq(way[:PRECISION_BITS]),
                    packer.is_signed.eq(way[PRECISION_BITS]),
                    packer.forward_bias.eq(self.forward_bias),
                ]
                lanes.append(delay(packer.packed.as_value(), 1, f"packed_weight_{index}"))
            weights.append(Cat(*lanes))
            loads.append(delay(chosen, 2, f"load_{column}", reset_less=False))

        # The elements. Sums start from zero in the north.
        north = [None] * columns
        for row in range(rows):
            activation, control = activations[row], controls[row]
            for column in range(columns):
                group, place = divmod(column * config.fold, columns)
                if group and not place:
                    activation = activations[group * rows + row]
                element = ProcessingElement(config=config)
                m.submodules[f"element_{row}_{column}"] = once(platform, element,
                                                               f"{config.name}_element")
                m.d.comb += [
                    element.activation.eq(activation),
                    element.control.eq(control),
                    element.weights.eq(weights[column]),
                    element.load.eq(loads[column][row]),
                ]
                for lane in range(config.lanes):
                    if north[column] is not None:
                        m.d.comb += element.north[lane].eq(north[column][lane])
                    elif config.has_float:
                        m.d.comb += element.north[lane].floating.none.eq(1)
                activation, control = element.activation_east, element.control_east
                north[column] = element.south

        # South: a sum in floating point becomes a code, one of odd or binary products its value.
        mixed = config.has_float and config.has_integer
        floats = [p for p in config.formats if p.is_float]
        is_float: Value = delay(is_any(self.precision, floats), self.latency,
                                "is_float") if mixed else Const(config.has_float, 1)
        if config.has_integer:
            is_binary = self.precision == Precision.BINARY.value
            doubled = delay(Cat(self.vector_odd | is_binary, is_binary), self.latency, "doubled")
            late = self.latency - ((rows - 1) * stages + 2)
            offset = Mux(doubled[0], delay(offsets[0], late, "offset"), 0)
        sideband = Cat(self.address, self.overwrite, self.last, self.post)
        m.d.comb += [
            self.sum_valid.eq(delay(self.valid, self.latency, "valid", reset_less=False)),
            Cat(self.sum_address, self.sum_overwrite, self.sum_last, self.sum_post).eq(
                delay(sideband, self.latency, "sideband")),
            self.sum_is_float.eq(is_float),
        ]
        for column in range(columns):
            if mixed and column:
                is_float = delay(is_float, 1, f"is_float_column{column}")
            if config.has_integer and column:
                doubled = delay(doubled, 1, f"doubled_column{column}")
                group, place = divmod(column * config.fold, columns)
                if group and not place:
                    offset = Mux(doubled[0], delay(offsets[group], late, f"offset_{group}"), 0)
                else:
                    offset = delay(offset, 1, f"offset_column{column}")
            for lane in range(config.lanes):
                south = north[column][lane]
                if config.has_float:
                    value = south.floating.encode()
                if config.has_integer:
                    integer = with_offset(south.integer, offset, *doubled)
                    value = Mux(is_float, value, integer) if mixed else integer
                m.d.comb += self.sums[column * config.lanes + lane].eq(value)
        return m
