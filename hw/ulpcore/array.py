"""The array of processing elements, with the skew that its edges need; twin `ulpsim.matmul`.

Row r works on a vector `multiply_add_stages` cycles after row r - 1, column c one cycle after
column c - 1. Slots are delayed as they are and packed (`ulpcore.packing`) where they enter.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from ulpsim.config import SLOT_BITS, CoreConfig
from ulpsim.formats import Precision
from ulpsim.isa import Unit

from .packing import Mode, Packer
from .processing_element import Control, ProcessingElement
from .verilog import once

__all__ = ["Array"]


class Array(wiring.Component):
    """rows x columns processing elements: sums[n] = sum over the rows of slot[r] * weight[r][n].

    A vector is `rows` slots, one vector each cycle, its precision chosen for each. Its sums leave
    `latency` cycles later, DLFloat16 codes (FP16: the multiply-adds start from zero and go
    from the first row to the last) or integers in two's complement.

    Weights are given a row each cycle, row 0 first, and are held beside those in use until a
    vector comes with `swap`. If row 0 is given in cycle t, row r in t + r:

    - the weights may be taken into use by a swap in t + 1 or later;
    - t is at least `next_weights` cycles after the swap before.

    So tiles of `config.minimum_tile_period` vectors or more follow each other without a gap, each
    with a precision and signs of its own.

    Parameters
    ----------
    config
        What to build.

    Members
    -------
    vector : In(rows x 16)
        Slot r meets the weights of row r.
    mask : In(rows)
        Rows whose slot counts; those of the others are taken as zero.
    valid, swap : In(1)
        A vector is given; it is the first one of a tile of weights.
    precision : In(2), activation_signed, vector_weight_signed : In(1)
        Precision of the vector and of the weights that it meets, and their signs.
    address, overwrite, last, post : In
        What leaves with the sums; see `Accumulators`.
    weights : In(columns * lanes x 16)
        Weight n goes to column n // lanes, lane n % lanes.
    weight_valid : In(1), weight_row : In
        A row of weights is given, and which.
    weight_precision : In(2), weight_signed : In(1)
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
            "vector": In(data.ArrayLayout(SLOT_BITS, config.rows)),
            "mask": In(config.rows),
            "valid": In(1),
            "swap": In(1),
            "precision": In(2),
            "activation_signed": In(1),
            "vector_weight_signed": In(1),
            "address": In(address),
            "overwrite": In(1),
            "last": In(1),
            "post": In(len(Unit)),
            "weights": In(data.ArrayLayout(SLOT_BITS, config.column_lanes)),
            "weight_valid": In(1),
            "weight_row": In(range(config.rows)),
            "weight_precision": In(2),
            "weight_signed": In(1),
            "sums": Out(data.ArrayLayout(unsigned(config.partial_sum_bits), config.column_lanes)),
            "sum_valid": Out(1),
            "sum_is_float": Out(1),
            "sum_address": Out(address),
            "sum_overwrite": Out(1),
            "sum_last": Out(1),
            "sum_post": Out(len(Unit)),
        })

    @property
    def latency(self) -> int:
        """Cycles from a vector to its sums of column 0."""
        return self.config.rows * self.config.multiply_add_stages + 3

    @property
    def next_weights(self) -> int:
        """Cycles after a swap from which row 0 of the next tile may be given."""
        return (self.config.rows - 1) * (self.config.multiply_add_stages - 1) + 1

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
        # not count is zeroed first: the slot 0 is zero in every precision.
        activations, controls = [], []
        way = Cat(self.precision, self.activation_signed,
                  Mode.of(self.precision, self.activation_signed,
                          self.vector_weight_signed).as_value())
        swap: Value = self.valid & self.swap
        for row in range(rows):
            if row:
                way = delay(way, stages, f"way_{row}")
                swap = delay(swap, stages, f"swap_{row}", reset_less=False)
            packer = Packer(formats=config.formats, weights=False)
            m.submodules[f"pack_row{row}"] = once(platform, packer, f"{config.name}_pack_row")
            slot = self.vector[row] & self.mask[row].replicate(SLOT_BITS)
            m.d.comb += [
                packer.slot.eq(delay(slot, row * stages, f"slot_{row}")),
                packer.precision.eq(way[:2]),
                packer.is_signed.eq(way[2]),
            ]
            activations.append(delay(packer.packed, 1, f"activation_{row}"))
            control = Signal(Control, name=f"control_{row}")
            m.d.sync += [control.swap.eq(swap), control.mode.eq(way[3:])]
            controls.append(control)

        # North: column c is delayed c cycles, then packed into a register.
        weights, loads = [], []
        given = Cat(self.weight_precision, self.weight_signed)
        load = Signal(rows, name="load_row")
        m.d.comb += load.eq(self.weight_valid << self.weight_row)
        chosen: Value = load
        for column in range(columns):
            if column:
                given = delay(given, 1, f"given_{column}")
                chosen = delay(chosen, 1, f"chosen_{column}", reset_less=False)
            lanes = []
            for lane in range(config.lanes):
                index = column * config.lanes + lane
                packer = Packer(formats=config.formats, weights=True)
                m.submodules[f"pack_column{index}"] = once(platform, packer,
                                                           f"{config.name}_pack_column")
                m.d.comb += [
                    packer.slot.eq(delay(self.weights[index], column, f"weight_{index}")),
                    packer.precision.eq(given[:2]),
                    packer.is_signed.eq(given[2]),
                ]
                lanes.append(delay(packer.packed.as_value(), 1, f"packed_weight_{index}"))
            weights.append(Cat(*lanes))
            loads.append(delay(chosen, 1, f"load_{column}", reset_less=False))

        # The elements. Sums start from zero in the north.
        north = [None] * columns
        for row in range(rows):
            activation, control = activations[row], controls[row]
            for column in range(columns):
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

        # South: a sum in floating point becomes a code.
        mixed = config.has_float and config.has_integer
        is_float: Value = delay(self.precision == Precision.FP16.value, self.latency,
                                "is_float") if mixed else Const(config.has_float, 1)
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
            for lane in range(config.lanes):
                south = north[column][lane]
                if mixed:
                    value = Mux(is_float, south.floating.encode(), south.integer.as_unsigned())
                elif config.has_float:
                    value = south.floating.encode()
                else:
                    value = south.integer.as_unsigned()
                m.d.comb += self.sums[column * config.lanes + lane].eq(value)
        return m
