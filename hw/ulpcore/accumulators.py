"""The accumulators: what the array's partial sums are added to."""

from amaranth.hdl import Module, Mux, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2
from ulpsim.config import CoreConfig

from .float32 import Add, delay, from_dlfloat
from .verilog import once

__all__ = ["ACCUMULATOR_BITS", "ACCUMULATOR_READ_LATENCY", "Accumulators", "read_address_shape"]

ACCUMULATOR_BITS = 32
#: Cycles from `read_address` to `read_data`.
ACCUMULATOR_READ_LATENCY = 1


def read_address_shape(config: CoreConfig) -> range | data.ArrayLayout:
    """The shape of the read port's address: one, or one for each quarter of the columns."""
    address = range(config.accumulator_depth)
    return address if config.special_vectors == 1 else data.ArrayLayout(
        unsigned(exact_log2(config.accumulator_depth)), config.phases)


class Accumulators(wiring.Component):
    """`columns * lanes` banks of 32-bit accumulators, to which vectors of partial sums are added.

    accumulator[address] = (0 if `overwrite`, else its old value) + sum. With `is_float` the sum is
    a DLFloat16 code and the accumulator FP32, rounded to nearest even; else both are integers in
    two's complement and the accumulator wraps around at 32 bits.

    A vector's column 0 comes with its sideband, column c follows c cycles later. Every vector is
    written `config.accumulate_latency` cycles after its column came, in the sense that a read or
    another vector in that cycle meets the new value. The same address must not come again
    earlier.

    Parameters
    ----------
    config
        `columns`, `lanes`, `formats` and `accumulator_depth` are of use.

    Members
    -------
    sums : In(columns * lanes x partial_sum_bits)
        Index column * lanes + lane; column c belongs to the sideband of c cycles ago.
    valid, address, overwrite, is_float : In
        Sideband of column 0. `is_float` must be constant if the formats are all of one kind.
    last : In(1), post : In(4)
        The vector is the last one of an instruction, which gives tokens to the units in `post`.
    retired : Out(1), retired_post : Out(4)
        One pulse for each `last`, with its `post`, in the first cycle in which `read_address`
        reads the last vector in every column.
    read_address : In, read_data : Out(columns * lanes x 32)
        A vector of accumulators, `ACCUMULATOR_READ_LATENCY` cycles after its address. If SPECIAL
        takes several vectors at a time, each quarter of the columns has an address of its own.
    """

    def __init__(self, *, config: CoreConfig) -> None:
        if not isinstance(config, CoreConfig):
            raise TypeError(f"config must be a CoreConfig, not {config!r}")
        self.config = config
        address = range(config.accumulator_depth)
        super().__init__({
            "sums": In(data.ArrayLayout(unsigned(config.partial_sum_bits), config.column_lanes)),
            "valid": In(1),
            "address": In(address),
            "overwrite": In(1),
            "is_float": In(1),
            "last": In(1),
            "post": In(len(config.units)),
            "retired": Out(1),
            "retired_post": Out(len(config.units)),
            "read_address": In(read_address_shape(config)),
            "read_data": Out(data.ArrayLayout(ACCUMULATOR_BITS, config.column_lanes)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        valid, address = self.valid, self.address
        overwrite, is_float = self.overwrite, self.is_float
        for column in range(config.columns):
            if column:
                valid = delay(m, valid, 1, name=f"valid_{column}", reset=True)
                address = delay(m, address, 1, name=f"address_{column}")
                overwrite = delay(m, overwrite, 1, name=f"overwrite_{column}")
                is_float = delay(m, is_float, 1, name=f"is_float_{column}")
            for lane in range(config.lanes):
                index = column * config.lanes + lane
                bank = _Bank(config=config)
                m.submodules[f"bank_{index}"] = once(platform, bank, f"{config.name}_accumulator")
                m.d.comb += [
                    bank.sum.eq(self.sums[index]),
                    bank.valid.eq(valid),
                    bank.address.eq(address),
                    bank.overwrite.eq(overwrite),
                    bank.is_float.eq(is_float),
                    bank.read_address.eq(self.read_address if config.special_vectors == 1 else
                                         self.read_address[index // config.quarter]),
                    self.read_data[index].eq(bank.read_data),
                ]
        written = config.columns - 1 + config.accumulate_latency
        m.d.comb += [
            self.retired.eq(delay(m, self.valid & self.last, written, name="last", reset=True)),
            self.retired_post.eq(delay(m, self.post, written, name="post")),
        ]
        return m


class _Bank(wiring.Component):
    """The accumulators of one column and lane."""

    def __init__(self, *, config: CoreConfig) -> None:
        self.config = config
        address = range(config.accumulator_depth)
        super().__init__({
            "sum": In(config.partial_sum_bits),
            "valid": In(1),
            "address": In(address),
            "overwrite": In(1),
            "is_float": In(1),
            "read_address": In(address),
            "read_data": Out(ACCUMULATOR_BITS),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        # With `no_rw_check` Yosys need not build the old value of a word that is being written.
        m.submodules.memory = memory = Memory(
            shape=ACCUMULATOR_BITS, depth=config.accumulator_depth, init=[],
            attrs={"no_rw_check": 1})
        old_port, read_port, write_port = (
            memory.read_port(), memory.read_port(), memory.write_port())
        m.d.comb += [
            read_port.addr.eq(self.read_address),
            self.read_data.eq(read_port.data),
            old_port.addr.eq(self.address),
        ]

        # The old value is there one cycle after the sum; with FP32 in a register, after two.
        fetching = 2 if config.has_float else 1
        addend = delay(m, self.sum, fetching, name="sum")
        overwrite = delay(m, self.overwrite, 1, name="overwrite")
        old = delay(m, old_port.data & ~overwrite.replicate(ACCUMULATOR_BITS), fetching - 1,
                    name="old")
        adding = config.accumulate_latency - 1 - fetching
        if config.has_integer:
            total = delay(m, (old + addend.as_signed())[:ACCUMULATOR_BITS], adding,
                          name="integer_sum")
        if config.has_float:
            m.submodules.add = add = Add(stages=adding)
            m.d.comb += [add.a.eq(old), add.b.eq(from_dlfloat(addend[:16]))]
            if config.has_integer:
                is_float = delay(m, self.is_float, adding + fetching, name="is_float")
                total = Mux(is_float, add.result, total)
            else:
                total = add.result
        m.d.comb += [
            write_port.en.eq(delay(m, self.valid, adding + fetching, name="valid", reset=True)),
            write_port.addr.eq(delay(m, self.address, adding + fetching, name="address")),
            write_port.data.eq(total),
        ]
        return m
