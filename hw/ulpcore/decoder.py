"""The RTL decoder, generated from the instruction table `ulpsim.isa.INSTRUCTIONS`."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Signal, Value, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from ulpsim.config import CoreConfig
from ulpsim.isa import (
    HEADER,
    INDEX_BITS,
    INSTRUCTION_BITS,
    INSTRUCTIONS,
    Field,
    InstructionType,
    Unit,
)

__all__ = ["Decoder", "unit_layout", "word_layout"]


def word_layout(row: InstructionType) -> data.FlexibleLayout:
    """The fields of one instruction, header included, at their places in the 512-bit word."""
    return data.FlexibleLayout(INSTRUCTION_BITS, {
        name: data.Field(unsigned(width), first) for name, (first, width) in row.layout().items()})


def unit_layout(unit: Unit, config: CoreConfig) -> data.StructLayout:
    """What a unit gets of an instruction.

    The fields of all instructions that the unit runs, each once, named as in the table; `opcode`;
    `index`, the instruction's place in the program; and `post`, the units (one bit each) that get
    a token when it is done. A field that an instruction does not have is 0.
    """
    fields: dict[str, int] = {}
    for row in INSTRUCTIONS:
        if row.unit is unit:
            for field in row.fields:
                if fields.setdefault(field.name, field.width) != field.width:
                    raise ValueError(f"field {field.name} must have one width in all instructions "
                                     f"of the {unit.name.lower()} unit")
    return data.StructLayout({
        **{name: unsigned(width) for name, width in fields.items()},
        "opcode": unsigned(HEADER[0].width), "index": unsigned(INDEX_BITS),
        "post": unsigned(len(config.units))})


def _rows(config: CoreConfig) -> list[InstructionType]:
    """The instructions of the units that the core has, and HALT."""
    return [row for row in INSTRUCTIONS if row.unit is None or row.unit in config.units]


def _length(row: InstructionType) -> int:
    """Bits that the instruction uses; its fields follow each other without gaps."""
    return max(first + width for first, width in row.layout().values())


def _field_legal(field: Field, value: Value) -> Value:
    if field.choices is not None:
        return Cat(value == member.value for member in field.choices).any()
    return value.any() if field.least == 1 else value >= field.least


def _fields_legal(row: InstructionType, word: Value, config: CoreConfig) -> Value:
    view = word_layout(row)(word)
    # What belongs to tokens of a unit that is not there is reserved.
    layout = row.layout()
    header_end = sum(field.width for field in HEADER)
    reserved = word[layout["reserved" if Unit.EXCHANGE in config.units else "wait_exchange"][0]:
                    header_end]
    restricted = [f for f in (*HEADER, *row.fields) if f.least > 0 or f.choices is not None]
    return (view.opcode == row.opcode) & ~reserved.any() & Cat(
        *(_field_legal(f, getattr(view, f.name)) for f in restricted)).all()


class Decoder(wiring.Component):
    """Takes an instruction word apart. Combinational, but for `legal`.

    Members
    -------
    word : In(512)
        The instruction as it stands in memory, first byte in the lowest bits.
    index : In
        Its place in the program, passed on.
    legal : Out(1)
        Exactly when `ulpsim.isa.decode` accepts the word of the cycle before.
    halt : Out(1)
        The opcode is HALT's.
    units : Out
        The unit that runs the instruction, one bit each; none for HALT and unknown opcodes.
    wait : Out(4 bits for each unit)
        Tokens to take from each unit.
    load, execute, special, store, exchange : Out(unit_layout(...))
        The instruction for each unit of the core; of meaning only for the unit in `units`.
    """

    word: Signal
    index: Signal
    legal: Signal
    halt: Signal
    units: Signal
    wait: Any
    load: Any
    execute: Any
    special: Any
    store: Any
    exchange: Any

    def __init__(self, *, config: CoreConfig) -> None:
        self.config = config
        units = config.units
        super().__init__({
            "word": In(INSTRUCTION_BITS),
            "index": In(INDEX_BITS),
            "legal": Out(1),
            "halt": Out(1),
            "units": Out(len(units)),
            "wait": Out(data.ArrayLayout(4, len(units))),
            **{unit.name.lower(): Out(unit_layout(unit, config)) for unit in units},
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        rows, units = _rows(self.config), self.config.units
        legal = []
        # From the longest instruction to the shortest: what is spare in one is so in the next.
        spare: Value = Const(0, 1)
        end = INSTRUCTION_BITS
        for row in sorted(rows, key=_length, reverse=True):
            used = Signal(name=f"used_behind_{row.name.lower()}")
            fields = Signal(name=f"fields_of_{row.name.lower()}")
            m.d.sync += [used.eq(self.word[_length(row):end].any()),
                         fields.eq(_fields_legal(row, self.word, self.config))]
            spare, end = spare | used, _length(row)
            legal.append(fields & ~spare)
        m.d.comb += self.legal.eq(Cat(legal).any())

        header = word_layout(INSTRUCTIONS[0])(self.word)
        for unit in units:
            m.d.comb += self.wait[unit.value].eq(header[f"wait_{unit.name.lower()}"])
        post = Cat(header[f"post_{unit.name.lower()}"] for unit in units)
        for row in rows:
            if row.unit is None:
                m.d.comb += self.halt.eq(header.opcode == row.opcode)
        for unit in units:
            own = [row for row in rows if row.unit is unit]
            out = getattr(self, unit.name.lower())
            m.d.comb += [
                self.units[unit.value].eq(Cat(header.opcode == r.opcode for r in own).any()),
                out.opcode.eq(header.opcode),
                out.index.eq(self.index),
                out.post.eq(post),
            ]
            for row in own:
                view = word_layout(row)(self.word)
                with m.If((header.opcode == row.opcode) if len(own) > 1 else 1):
                    for field in row.fields:
                        m.d.comb += getattr(out, field.name).eq(getattr(view, field.name))
        return m
