"""The RTL decoder against `isa.decode`, on legal, mutated and random words."""

import dataclasses
import random

import numpy as np
import pytest
from ulpcore.decoder import Decoder, unit_layout, word_layout
from ulpcore.simulation import run_vectors
from ulpsim.config import EDGE, NANO, CoreConfig
from ulpsim.isa import (
    INDEX_BITS,
    INSTRUCTION_BYTES,
    INSTRUCTIONS,
    Instruction,
    Unit,
    decode,
    encode,
)


def random_words(source: random.Random, count: int, config: CoreConfig) -> list[bytes]:
    """Legal words, words with a few bits changed, words with one field changed, and noise; some
    for a core with all units."""
    words = []
    for _ in range(count):
        missing = set(Unit) - set(config.units) if source.random() < 0.9 else set()
        row = source.choice([row for row in INSTRUCTIONS if row.unit not in missing])
        values = {}
        absent = {f"{kind}_{unit.name.lower()}" for unit in missing for kind in ("wait", "post")}
        for name, (_, width) in row.layout().items():
            field = next((f for f in row.fields if f.name == name), None)
            if name in {"opcode", "reserved"} | absent:
                continue
            if field is not None and field.choices is not None:
                values[name] = source.choice(list(field.choices))
            else:
                least = field.least if field is not None else 0
                values[name] = source.choice([least, (1 << width) - 1,
                                              source.randint(least, (1 << width) - 1)])
        word = int.from_bytes(encode(Instruction(row.name, **values)), "little")
        kind = source.randrange(4)
        if kind == 1:
            for _ in range(source.randint(1, 3)):
                word ^= 1 << source.randrange(8 * INSTRUCTION_BYTES)
        elif kind == 2:
            first, width = source.choice(list(row.layout().values()))
            word &= ~(((1 << width) - 1) << first)
            word |= source.choice([0, 0, source.getrandbits(width)]) << first
        elif kind == 3 and source.random() < 0.2:
            word = source.getrandbits(8 * INSTRUCTION_BYTES)
        words.append(word.to_bytes(INSTRUCTION_BYTES, "little"))
    return words


def every_bit() -> list[bytes]:
    """The least word of each opcode, known or not, with each single bit changed."""
    words = []
    for opcode in range(16):
        row = next((r for r in INSTRUCTIONS if r.opcode == opcode), None)
        word = int.from_bytes(encode(Instruction(row.name)), "little") if row else opcode
        words += [(word ^ (1 << bit)).to_bytes(INSTRUCTION_BYTES, "little")
                  for bit in range(8 * INSTRUCTION_BYTES)]
    return words


EXCHANGE = dataclasses.replace(NANO, name="exchange", exchange=1)


@pytest.mark.parametrize("config", [EDGE, NANO, EXCHANGE], ids=lambda config: config.name)
def test_decoder_agrees_with_the_table(config, seed):
    source = random.Random(seed)
    words = random_words(source, 20_000, config) + every_bit()
    inputs = {
        "word": np.frombuffer(b"".join(words), "<u4").reshape(-1, 16),
        "index": np.array([source.getrandbits(INDEX_BITS) for _ in words], np.uint64),
    }
    outputs = run_vectors(Decoder(config=config), inputs, flush=1)
    outputs["legal"] = outputs["legal"][1:]
    layouts = {unit: unit_layout(unit, config) for unit in config.units}
    legal = 0
    for i, word in enumerate(words):
        try:
            instruction = decode(word, config.units)
        except ValueError:
            assert not outputs["legal"][i], word.hex()
            continue
        assert outputs["legal"][i], word.hex()
        legal += 1
        assert outputs["halt"][i] == (instruction.unit is None)
        assert outputs["units"][i] == (
            0 if instruction.unit is None else 1 << instruction.unit.value)
        assert outputs["wait"][i] == sum(
            instruction[f"wait_{unit.name.lower()}"] << 4 * unit.value for unit in config.units)
        if instruction.unit is None:
            continue
        bits = int.from_bytes(outputs[instruction.unit.name.lower()][i].tobytes(), "little")
        fields = layouts[instruction.unit].from_bits(bits)
        expected = {field.name: instruction[field.name] for field in instruction.type.fields}
        expected |= {
            "opcode": instruction.type.opcode, "index": int(inputs["index"][i]),
            "post": sum(instruction[f"post_{unit.name.lower()}"] << unit.value
                        for unit in config.units)}
        for name, _ in layouts[instruction.unit]:
            assert fields[name] == expected.get(name, 0), (instruction, name)
    assert len(words) / 4 < legal < len(words)


def test_layouts_stand_where_the_table_says():
    for row in INSTRUCTIONS:
        layout = word_layout(row)
        assert layout.size == 8 * INSTRUCTION_BYTES
        for name, (first, width) in row.layout().items():
            assert (layout[name].offset, layout[name].width) == (first, width)
