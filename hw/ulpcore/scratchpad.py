"""The core's memories: activations in banks, weight lines, parameters of columns.

Every access takes the same number of cycles and none waits for another.
"""

from collections.abc import Sequence
from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2
from ulpsim.config import SLOT_BITS, CoreConfig

from .verilog import once

__all__ = [
    "PARAMETER_BITS",
    "PARAMETER_READ_LATENCY",
    "SCRATCHPAD_READ_LATENCY",
    "WEIGHT_READ_LATENCY",
    "ActivationScratchpad",
    "ParameterMemory",
    "PhaseCounter",
    "ScratchpadRead",
    "ScratchpadWrite",
    "WeightScratchpad",
    "require_config",
]

#: Cycles from a request to the activation scratchpad to its data, on both of its ports.
SCRATCHPAD_READ_LATENCY = 3
#: Cycles from an address of the weight scratchpad to its line.
WEIGHT_READ_LATENCY = 2
#: Cycles from an address of the parameter memory to its line.
PARAMETER_READ_LATENCY = 1
#: Scale, bias, residual scale and upper bound of a column, FP32 each, scale in the lowest bits.
PARAMETER_BITS = 4 * 32

_ADDRESS_BITS = 20
# Tells Yosys that it need not build the old value of a word read while it is being written.
_NO_COLLISIONS: Any = {"no_rw_check": 1}
_RESIDUES = CoreConfig.residues
_RESIDUE_BITS = exact_log2(_RESIDUES)


def require_config(config: object) -> CoreConfig:
    """`config` itself. Raises TypeError unless it is a CoreConfig."""
    if not isinstance(config, CoreConfig):
        raise TypeError(f"config must be a CoreConfig, not {config!r}")
    return config


class ScratchpadWrite(wiring.Signature):
    """A client that writes `count` slots from slot `address` on, in its own phase.

    `count` is from 1 to the number of banks; `data[i]` goes to slot `address + i`. Outside its
    phase `enable` is not looked at. With `choosing` there is no count but a `mask`: bit i says
    whether `data[i]` is written. With `halves` there is `upper`: if it is set, only the upper byte
    of each slot is.
    """

    def __init__(self, *, banks: int, choosing: bool = False, halves: bool = False) -> None:
        super().__init__({
            "enable": Out(1), "address": Out(_ADDRESS_BITS),
            **({"mask": Out(banks)} if choosing else {"count": Out(range(banks + 1))}),
            **({"upper": Out(1)} if halves else {}),
            "data": Out(data.ArrayLayout(SLOT_BITS, banks)),
        })

    @classmethod
    def of_special(cls, config: CoreConfig) -> "ScratchpadWrite":
        """What SPECIAL writes: several vectors at a time, or vectors of half a slot, if it can."""
        return cls(banks=config.banks, choosing=config.special_vectors > 1,
                   halves=bool(config.halved_formats))


class ScratchpadRead(wiring.Signature):
    """A client that reads `count` slots from slot `address` on, in its own phase.

    `count` is from 1 to the number of banks; `data[i]` is slot `address + i` during the one cycle
    that follows the request by `SCRATCHPAD_READ_LATENCY`; from `count` on it is undefined. Outside
    its phase `enable` is not looked at.
    """

    def __init__(self, *, banks: int) -> None:
        super().__init__({
            "enable": Out(1), "address": Out(_ADDRESS_BITS), "count": Out(range(banks + 1)),
            "data": In(data.ArrayLayout(SLOT_BITS, banks)),
        })


def _rotate(m: Module, name: str, values: Sequence[Value], amount: Value, left: bool = False,
            ) -> list[Value]:
    """`values` with value (i + amount) mod n at place i, or (i - amount) mod n if `left`."""
    count = len(values)
    for bit in range(exact_log2(count)):
        distance = -(1 << bit) if left else 1 << bit
        stage = [Signal(len(values[0]), name=f"{name}_{1 << bit}_{i}") for i in range(count)]
        m.d.comb += [stage[i].eq(Mux(amount[bit], values[(i + distance) % count], values[i]))
                     for i in range(count)]
        values = stage
    return list(values)


class PhaseCounter(wiring.Component):
    """Whose turn it is at the shared port: counts from reset, for any one of its users."""

    phase: Signal

    def __init__(self, *, config: CoreConfig) -> None:
        super().__init__({"phase": Out(range(config.phases))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.sync += self.phase.eq(self.phase + 1)
        return m


class ActivationScratchpad(wiring.Component):
    """Slots in `banks` banks (slot a in bank a mod `banks`) behind two ports without arbitration.

    The gather port serves the array alone, in every cycle. The shared port serves four clients in
    fixed turns: `phase` counts 0 to 3 from reset; in phase 0 `load` may write, in 1 `store` may
    read, in 2 `special_read` and in 3 `special_write`.

    Both ports read with a latency of `SCRATCHPAD_READ_LATENCY`. What is written can be read from
    the next cycle on; a gather of a slot in the cycle in which it is written is undefined.
    Addresses are not checked: they count modulo the scratchpad's size.

    Members
    -------
    gather_enable : In(1), addresses : In(fold * rows slot addresses)
        Read one slot a row for each group of columns. They must lie apart: with F groups in use,
        address i is address 0 plus i modulo 8 F. Those of other groups do not matter.
    gather_groups : In(2)
        log2 of F; with `fold` only.
    gathered : Out(fold * rows slots)
        The slots, `SCRATCHPAD_READ_LATENCY` cycles later.
    phase : Out(2)
        Whose turn it is at the shared port.
    load, special_write : In(ScratchpadWrite()), store, special_read : In(ScratchpadRead())
        The clients of the shared port; `special_write` is `ScratchpadWrite.of_special`.
    """

    gather_enable: Signal
    addresses: Any
    gather_groups: Signal
    gathered: Any
    phase: Signal
    load: Any
    store: Any
    special_read: Any
    special_write: Any

    def __init__(self, *, config: CoreConfig) -> None:
        self.config = require_config(config)
        self.slot_bits = exact_log2(config.activation_slots)
        slots = config.fold * config.rows
        super().__init__({
            "gather_enable": In(1),
            "addresses": In(data.ArrayLayout(unsigned(self.slot_bits), slots)),
            **({"gather_groups": In(2)} if config.fold > 1 else {}),
            "gathered": Out(data.ArrayLayout(SLOT_BITS, slots)),
            "phase": Out(range(config.phases)),
            "load": In(ScratchpadWrite(banks=config.banks)),
            "store": In(ScratchpadRead(banks=config.banks)),
            "special_read": In(ScratchpadRead(banks=config.banks)),
            "special_write": In(ScratchpadWrite.of_special(config)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        banks = []
        for b in range(self.config.banks):
            bank = _Bank(depth=self.config.activation_slots // self.config.banks,
                         halves=bool(self.config.halved_formats))
            m.submodules[f"bank_{b}"] = once(platform, bank, f"{self.config.name}_bank")
            banks.append(bank)
        self._gather(m, banks)
        self._share(m, banks)
        return m

    def _gather(self, m: Module, banks: "list[_Bank]") -> None:
        config, bank_bits = self.config, exact_log2(self.config.banks)
        slots_read, residues = config.fold * config.rows, config.fold * _RESIDUES
        bits = exact_log2(residues)
        lines = [self.addresses[i][_RESIDUE_BITS:] for i in range(slots_read)]
        # Residues that no slot has read some slot's line; nobody looks at it. With fewer groups
        # than there can be, all banks alike modulo 8 times those read the line of one slot.
        lines = [_chosen(m, f"gather_group_line_{i}", [
            lines[i % (_RESIDUES << log2) % (config.rows << log2)]
            for log2 in range(exact_log2(config.fold) + 1)], self.gather_groups)
            for i in range(residues)] if config.fold > 1 else [
            lines[i % config.rows] for i in range(residues)]
        first = self.addresses[0][:bits]
        rotated = _rotate(m, "gather_line", lines, first, left=True)
        enable = Signal(name="gather_enable_1")
        m.d.sync += enable.eq(self.gather_enable)
        for b, bank in enumerate(banks):
            m.d.comb += [
                bank.gather_enable.eq(enable),
                bank.gather_line.eq(_delayed(
                    m, f"gather_line_of_bank_{b}",
                    rotated[b % residues][bank_bits - _RESIDUE_BITS:], 1)),
            ]
        later = _delayed(m, "gather_first", first, 2)
        slots = [bank.gather_data for bank in banks]
        if len(banks) > residues:
            # All banks of a residue have read the same line: the slot's is the one of these.
            slots = [
                _chosen(m, f"gather_bank_slot_{i}", slots[i::residues],
                        _delayed(m, f"gather_bank_{i}",
                                 rotated[i][bits - _RESIDUE_BITS:bank_bits - _RESIDUE_BITS], 2))
                for i in range(residues)]
        slots = _rotate(m, "gather_slot", slots, later)
        for i in range(slots_read):
            slot = slots[i]
            if config.fold > 1:
                # Where it really lies, counted from the first one.
                distance = _delayed(m, f"gather_distance_{i}", (
                    self.addresses[i][:bits] - first)[_RESIDUE_BITS:bits], 2)
                slot = _chosen(m, f"gather_slot_{i}", slots[i % _RESIDUES::_RESIDUES], distance)
            m.d.comb += self.gathered[i].eq(_delayed(m, f"gathered_{i}", slot, 1))

    def _share(self, m: Module, banks: "list[_Bank]") -> None:
        bank_count, bank_bits = len(banks), exact_log2(len(banks))
        m.submodules.counter = counter = PhaseCounter(config=self.config)
        m.d.comb += self.phase.eq(counter.phase)
        turns = [(self.load, 1), (self.store, 0), (self.special_read, 0), (self.special_write, 1)]
        enable, write = Signal(name="shared_enable"), Signal(name="shared_write")
        address = Signal(self.slot_bits, name="shared_address")
        # How many is asked of writes only: only load (phase 0) and special (phase 3) write, and
        # one bit tells them apart.
        count = Signal(range(bank_count + 1), name="shared_count")
        if self.config.special_vectors == 1:
            m.d.comb += count.eq(Mux(self.phase[0], self.special_write.count, self.load.count))
            touched = [count > i for i in range(bank_count)]
        else:
            m.d.comb += count.eq(self.load.count)
            touched = [Mux(self.phase[0], self.special_write.mask[i], count > i)
                       for i in range(bank_count)]
        with m.Switch(self.phase):
            for turn, (client, writes) in enumerate(turns):
                with m.Case(turn):
                    m.d.comb += [enable.eq(client.enable), address.eq(client.address),
                                 write.eq(writes)]

        # Which parts of the touched slots are written: the upper byte last.
        parts: list[Value] = [write]
        if self.config.halved_formats:
            parts = [write & ~(self.phase[0] & self.special_write.upper), write]

        # Slot a + i lies in the line of a if it does not pass the last bank, else in the next.
        first, line = address[:bank_bits], address[bank_bits:]
        next_line = Signal.like(line, name="shared_next_line")
        m.d.comb += next_line.eq(line + 1)
        touched = _rotate(m, "shared_touched", touched, first, left=True)
        slots = [Mux(self.phase[0], self.special_write.data[i], self.load.data[i])
                 for i in range(bank_count)]
        slots = _rotate(m, "shared_write", slots, first, left=True)
        for b, bank in enumerate(banks):
            m.d.sync += [
                bank.write_enable.eq(Cat(parts) & (enable & touched[b]).replicate(len(parts))),
                bank.read_enable.eq(enable & ~write),
            ]
            m.d.comb += [
                bank.line.eq(_delayed(m, f"line_of_bank_{b}",
                                      Mux(first > b, next_line, line), 1)),
                bank.write_data.eq(_delayed(m, f"write_data_of_bank_{b}", slots[b], 1)),
            ]
        first = _delayed(m, "shared_first", first, 2)
        slots = _rotate(m, "shared_read", [bank.read_data for bank in banks], first)
        result = Signal(self.store.data.shape(), name="shared_data", reset_less=True)
        m.d.sync += [result[i].eq(slots[i]) for i in range(bank_count)]
        m.d.comb += [self.store.data.eq(result), self.special_read.data.eq(result)]


def _chosen(m: Module, name: str, values: Sequence[Value], index: Value) -> Value:
    chosen = Signal(len(values[0]), name=name)
    with m.Switch(index):
        for i, value in enumerate(values):
            with m.Case(i):
                m.d.comb += chosen.eq(value)
    return chosen


def _delayed(m: Module, name: str, value: Value, cycles: int) -> Value:
    for i in range(cycles):
        later = Signal(value.shape(), name=f"{name}_{i + 1}", reset_less=True)
        m.d.sync += later.eq(value)
        value = later
    return value


class _Bank(wiring.Component):
    """A true dual-port memory: one port reads (gather), the other reads or writes.

    The inputs come from registers; data is there one cycle later. With `halves` each byte of a slot
    is written by a bit of its own in `write_enable`.
    """

    gather_enable: Signal
    gather_line: Signal
    gather_data: Signal
    line: Signal
    read_enable: Signal
    read_data: Signal
    write_enable: Signal
    write_data: Signal

    def __init__(self, *, depth: int, halves: bool) -> None:
        self.depth, self.parts = depth, 2 if halves else 1
        super().__init__({
            "gather_enable": In(1), "gather_line": In(range(depth)), "gather_data": Out(SLOT_BITS),
            "line": In(range(depth)), "read_enable": In(1), "read_data": Out(SLOT_BITS),
            "write_enable": In(self.parts), "write_data": In(SLOT_BITS),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.memory = memory = Memory(
            shape=SLOT_BITS, depth=self.depth, init=[], attrs=_NO_COLLISIONS)
        gather = memory.read_port()
        read = memory.read_port()
        write = memory.write_port(granularity=SLOT_BITS // self.parts)
        # Reads and writes of one port exclude each other in a way that synthesis can see.
        m.d.comb += [
            gather.en.eq(self.gather_enable), gather.addr.eq(self.gather_line),
            self.gather_data.eq(gather.data),
            read.en.eq(self.read_enable & ~self.write_enable.any()), read.addr.eq(self.line),
            self.read_data.eq(read.data),
            write.en.eq(self.write_enable), write.addr.eq(self.line),
            write.data.eq(self.write_data),
        ]
        return m


class WeightScratchpad(wiring.Component):
    """Lines of `columns * lanes` slots, one row of a tile each.

    Members
    -------
    write_enable : In(1), write_line, write_data
        Write one line.
    read_enable : In(1), read_line
        Read one line.
    read_data : Out
        That line, `WEIGHT_READ_LATENCY` cycles after its request, and zero after a cycle without
        one. Undefined for a line that is written in the cycle of the request.
    """

    write_enable: Signal
    write_line: Signal
    write_data: Any
    read_enable: Signal
    read_line: Signal
    read_data: Any

    def __init__(self, *, config: CoreConfig) -> None:
        self.config = require_config(config)
        line = data.ArrayLayout(SLOT_BITS, config.column_lanes)
        super().__init__({
            "write_enable": In(1), "write_line": In(range(config.weight_lines)),
            "write_data": In(line),
            "read_enable": In(1), "read_line": In(range(config.weight_lines)),
            "read_data": Out(line),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.memory = memory = Memory(
            shape=SLOT_BITS * self.config.column_lanes, depth=self.config.weight_lines, init=[],
            attrs=_NO_COLLISIONS)
        write, read = memory.write_port(), memory.read_port()
        m.d.comb += [
            write.en.eq(self.write_enable), write.addr.eq(self.write_line),
            write.data.eq(self.write_data),
            read.en.eq(self.read_enable), read.addr.eq(self.read_line),
        ]
        enabled, line = Signal(), Signal(self.read_data.shape(), reset_less=True)
        m.d.sync += [enabled.eq(self.read_enable), line.eq(read.data)]
        m.d.comb += self.read_data.eq(line)
        with m.If(~enabled):
            m.d.sync += line.eq(0)
        return m


class ParameterMemory(wiring.Component):
    """Scale, bias, residual scale and upper bound of columns, a `quarter` of the columns a line.

    Members
    -------
    write_enable : In(1), write_line, write_data
        Write one line: `quarter` columns of `PARAMETER_BITS`, the first in the lowest bits.
    read_enable : In(1), read_line
        Read one line.
    read_data : Out
        That line, `PARAMETER_READ_LATENCY` cycles later. Undefined for a line
        that is written in the cycle of the request.
    """

    write_enable: Signal
    write_line: Signal
    write_data: Any
    read_enable: Signal
    read_line: Signal
    read_data: Any

    def __init__(self, *, config: CoreConfig) -> None:
        self.config = require_config(config)
        self.lines = config.parameter_columns // config.quarter
        line = data.ArrayLayout(PARAMETER_BITS, config.quarter)
        super().__init__({
            "write_enable": In(1), "write_line": In(range(self.lines)), "write_data": In(line),
            "read_enable": In(1), "read_line": In(range(self.lines)), "read_data": Out(line),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.memory = memory = Memory(
            shape=PARAMETER_BITS * self.config.quarter, depth=self.lines, init=[],
            attrs=_NO_COLLISIONS)
        write, read = memory.write_port(), memory.read_port()
        m.d.comb += [
            write.en.eq(self.write_enable), write.addr.eq(self.write_line),
            write.data.eq(self.write_data),
            read.en.eq(self.read_enable), read.addr.eq(self.read_line),
            self.read_data.eq(read.data),
        ]
        return m
