"""The coverage model: its bins are those of the core, and what is not hit is named."""

import dataclasses

import pytest
from ulpsim.config import EDGE, NANO
from ulpsim.coverage import bins_of, instruction_bins, required, summary
from ulpsim.formats import Precision
from ulpsim.isa import Function, Instruction, Pool, Segment, Source, Unit
from ulpsim.programs import covering_programs, random_program

SEGMENTS = {segment: (0, 1 << 16) for segment in Segment}


@pytest.mark.parametrize("config", [EDGE, NANO], ids=lambda c: c.name)
def test_bins_follow_the_formats_of_the_core(config):
    bins = required(config)
    for group, index, formats in (
            ("MATMUL: formats", 0, config.formats),
            ("SPECIAL: accumulators, output", 1, config.formats)):
        assert {values[index] for values in bins[group]} == set(formats)
    precisions = {pair for pair in bins["MATMUL: precision after precision"]}
    assert precisions == {(p, q) for p in config.formats for q in config.formats}
    fewer = dataclasses.replace(config, formats=(Precision.INT8,), special_functions=False)
    assert len(required(fewer)["MATMUL: formats"]) < len(bins["MATMUL: formats"])


def test_bins_follow_the_functions_of_the_core():
    functions = {values[0] for values in required(EDGE)["SPECIAL: function, output"]}
    assert functions == set(Function)
    assert {values[0] for values in required(NANO)["SPECIAL: function, output"]} == {Function.NONE}
    assert {values[0] for values in required(NANO)["SPECIAL: rows"]} == {Source.ACCUMULATORS}


def test_what_breaks_a_rule_is_no_bin():
    """No sign of FP16, no reduction without a pool."""
    assert not any(values[1] is Precision.FP16 and values[2]
                   for values in required(EDGE)["SPECIAL: accumulators, output"])
    assert not any(values[3] and values[4] is Pool.NONE
                   for values in required(EDGE)["SPECIAL: rows"])


def test_bins_of_instructions():
    int8 = Precision.INT8
    first = Instruction("MATMUL", precision=int8, depth=9, run_length=9, count_2=3, weight_signed=1)
    second = Instruction("MATMUL", precision=Precision.INT4, accumulate=1)
    found = instruction_bins(EDGE, second, first)
    assert ("MATMUL: precision after precision", (int8, Precision.INT4)) in found
    assert ("MATMUL: accumulates where the last did", (True,)) in found
    found = instruction_bins(EDGE, first)
    assert {("MATMUL: precision, last tile", (int8, "one slot")), ("MATMUL: tiles", (2,)),
            ("MATMUL: loops", (False, False, True)), ("MATMUL: runs", (False, False)),
            ("MATMUL: vectors against the tile period", (-1,)),
            ("MATMUL: precision, accumulate", (int8, 0))} <= found
    assert not any(group == "MATMUL: precision after precision" for group, _ in found)


def test_bins_of_programs():
    program = [Instruction("LOAD", segment=Segment.INPUT, offset=4092, length=4, post_store=1),
               Instruction("STORE", segment=Segment.OUTPUT, length=2, wait_load=1),
               Instruction("HALT")]
    found = bins_of(EDGE, program, SEGMENTS)
    assert {("tokens: from, to", (Unit.LOAD, Unit.STORE)), ("LOAD: row across a page", (True,)),
            ("STORE: row across a page", (False,)), ("STORE: length", ("beat",))} <= found


def test_what_is_missing_is_named():
    groups = summary(EDGE, random_program(3, EDGE).bins(EDGE))
    missed = {name for name, group in groups.items() if group["missing"]}
    assert "MATMUL: precision after precision" in missed
    assert all(group["bins"] == group["hit"] + len(group["missing"]) for group in groups.values())
    assert any("FP16" in name for name in groups["MATMUL: precision after precision"]["missing"])


def test_covering_programs_are_the_same_for_a_seed(seed):
    first, second = (covering_programs(seed, NANO, base=4096) for _ in range(2))
    assert [p.program for p in first] == [p.program for p in second]
    assert first[0].base == 4096 and first[1].base == 4096 + len(first[0].memory)
