"""The instruction table and what is derived from it."""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ulpsim.formats import Precision
from ulpsim.isa import (
    HEADER,
    INSTRUCTION_BITS,
    INSTRUCTION_BYTES,
    INSTRUCTIONS,
    OPCODES,
    Instruction,
    assemble,
    decode,
    decode_program,
    disassemble,
    documentation,
    encode,
    encode_program,
)


@st.composite
def instructions(draw):
    row = draw(st.sampled_from(INSTRUCTIONS))
    values = {}
    for field in (*HEADER, *row.fields):
        if field.name in ("opcode", "reserved"):
            continue
        if field.choices is not None:
            values[field.name] = draw(st.sampled_from(list(field.choices)))
        else:
            values[field.name] = draw(st.integers(field.least, (1 << field.width) - 1))
    return Instruction(row.name, **values)


def test_table_is_consistent():
    assert len(OPCODES) == len(INSTRUCTIONS)
    for row in INSTRUCTIONS:
        layout = row.layout()
        assert len(layout) == len(HEADER) + len(row.fields)
        assert max(first + width for first, width in layout.values()) <= INSTRUCTION_BITS


@given(instructions())
def test_encode_and_decode_are_inverse(instruction):
    data = encode(instruction)
    assert len(data) == INSTRUCTION_BYTES
    assert decode(data) == instruction


@given(st.lists(instructions(), max_size=5))
def test_assemble_and_disassemble_are_inverse(program):
    assert assemble(disassemble(program)) == program
    assert decode_program(encode_program(program)) == program


def test_decode_refuses_every_single_reserved_bit():
    for row in INSTRUCTIONS:
        word = int.from_bytes(encode(Instruction(row.name)), "little")
        used = {bit for name, (first, width) in row.layout().items() if name != "reserved"
                for bit in range(first, first + width)}
        for bit in set(range(INSTRUCTION_BITS)) - used:
            with pytest.raises(ValueError, match=f"reserved bits of {row.name} must be zero"):
                decode((word | 1 << bit).to_bytes(INSTRUCTION_BYTES, "little"))


def test_decode_refuses_fields_out_of_range():
    with pytest.raises(ValueError, match="opcode must be one of 0, 1, 2, 3, 4, 5, 6, 7, 8, not 15"):
        decode(b"\x0f" + bytes(63))
    with pytest.raises(ValueError, match=r"FILL.rows must be from 1 to 65535, not 0"):
        decode(b"\x02" + bytes(63))
    word = int.from_bytes(encode(Instruction("LOAD")), "little")
    first, _ = Instruction("LOAD").type.layout()["target"]
    with pytest.raises(ValueError, match=r"LOAD.target must be one of 0 \(ACTIVATIONS\).*not 3"):
        decode((word | 3 << first).to_bytes(INSTRUCTION_BYTES, "little"))
    with pytest.raises(ValueError, match="an instruction must be 64 bytes, not 63"):
        decode(bytes(63))
    with pytest.raises(ValueError, match="instruction 1: opcode"):
        decode_program(bytes(64) + b"\x0f" + bytes(63))
    with pytest.raises(ValueError, match="a program must be a multiple of 64 bytes, not 65"):
        decode_program(bytes(65))


@pytest.mark.parametrize(("text", "message"), [
    ("JUMP", "line 1: instruction must be one of HALT.*not 'JUMP'"),
    ("HALT\nFILL rows", "line 2: a field must be written name=value, not 'rows'"),
    ("FILL rows=x", r"FILL.rows must be a number, not 'x'"),
    ("LOAD target=NOWHERE", r"LOAD.target must be a number or one of ACTIVATIONS.*'NOWHERE'"),
    ("FILL depth=1", "FILL has no field 'depth'; it has"),
    ("FILL rows=1 rows=2", "FILL.rows must stand once"),
    ("FILL rows=65536", "FILL.rows must be from 1 to 65535, not 65536"),
])
def test_assembler_errors_name_the_line(text, message):
    with pytest.raises(ValueError, match=message):
        assemble(text)


def test_assembler_comments_and_hexadecimal():
    program = assemble("# nothing\n\nfill rows=0x10 address=3 # comment\nHALT")
    assert program == [Instruction("FILL", rows=16, address=3), Instruction("HALT")]


def test_members_are_checked_against_the_field():
    assert Instruction("MATMUL", precision=Precision.INT4).choice("precision") is Precision.INT4
    same = Instruction("MATMUL", precision=Precision.INT4)
    assert same.choice("weight_precision") is Precision.INT4      # what is left out is alike
    with pytest.raises(ValueError, match=r"FILL\.rows must be a number, not <Precision"):
        Instruction("FILL", rows=Precision.INT8)


def test_random_words_never_decode_to_something_else(seed):
    generator = random.Random(seed)
    for _ in range(2000):
        data = bytearray(encode(Instruction(generator.choice(INSTRUCTIONS).name)))
        for _ in range(generator.randrange(1, 4)):
            data[generator.randrange(INSTRUCTION_BYTES)] ^= 1 << generator.randrange(8)
        try:
            instruction = decode(bytes(data))
        except ValueError:
            continue
        assert encode(instruction) == bytes(data)


def test_documentation_is_up_to_date():
    path = Path(__file__).parents[1] / "docs" / "instruction-set.md"
    assert path.read_text() == documentation(), "run: ulpcore instructions > " + str(path)
