"""Random programs are valid, small, and the same for a seed."""

import dataclasses

import numpy as np
import pytest
from ulpsim.config import EDGE, NANO
from ulpsim.cycles import predict
from ulpsim.formats import Precision, multipliable
from ulpsim.interpreter import Machine
from ulpsim.isa import Cause, Function, Segment, Source
from ulpsim.programs import random_network, random_program
from wide import WIDE

EVERY = dataclasses.replace(WIDE, formats=tuple(Precision))
CONFIGS = [EDGE, NANO, EVERY]
COUNT = 80


def run(sample, config, contents=0):
    """External memory after the program, on a machine whose memories hold `contents` at first."""
    machine = Machine(config, sample.memory.copy(), sample.base)
    machine.segments, machine.forward_bias = sample.segments, sample.forward_bias
    for array in (machine.activations, machine.weights, machine.parameters, machine.accumulators,
                  machine.rows):
        array[...] = contents
    result = machine.run(sample.program)
    assert result.cause is Cause.NONE, f"{sample.description}: {result}"
    return machine.memory


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
def test_programs_run_and_are_small(config, seed):
    names, operators = set(), set()
    for number in range(seed * 1000, seed * 1000 + COUNT):
        sample = random_program(number, config, base=1 << 20)
        # What the memories hold at first must not matter.
        assert np.array_equal(run(sample, config), run(sample, config, 0x5A5A)), f"seed {number}"
        assert len(sample.memory) <= 64 * 1024
        cycles = predict(sample.program, config, program_address=sample.base,
                         segments=sample.segments, latency=16).cycles
        assert cycles <= 10_000, f"seed {number}: {sample.description}"
        names |= {i.name for i in sample.program}
        operators |= set(sample.description.split()[-1].split("+"))
    assert names == {"LOAD", "FILL", "MATMUL", "SPECIAL", "STORE", "HALT"}
    assert {"convolution", "fully_connected", "add", "relu", "clip", "max_pool",
            "average_pool"} <= operators


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
def test_programs_cover_the_fields(config, seed):
    """Every precision, both signs, accumulation, residuals, every pool, source and function."""
    seen = set()
    for number in range(seed * 1000, seed * 1000 + COUNT):
        for i in random_program(number, config).program:
            if i.name == "MATMUL":
                signs = i["activation_signed"], i["weight_signed"]
                seen |= {("precision", i["precision"]), ("signs", *signs),
                         ("odd", i["weight_odd"]),
                         ("precisions", i["precision"], i["weight_precision"]),
                         ("accumulate", i["accumulate"]), ("runs", i["depth"] > i["run_length"])}
            if i.name == "SPECIAL":
                seen |= {(f, i[f]) for f in ("relu", "clip", "residual", "pool",
                                             "output_precision", "output_signed", "source",
                                             "function", "reduce", "row_scale", "row_bias")}
                if i["residual"]:
                    seen.add(("residual_precision", i["residual_precision"]))
    bits = ("accumulate", "runs", "relu", "clip", "residual", "output_signed")
    wanted = {(f, b) for f in bits for b in (0, 1)} | {("pool", p) for p in range(3)}
    wanted |= {("signs", a, w) for a in (0, 1) for w in (0, 1)} | {("odd", 0), ("odd", 1)}
    wanted |= {("precisions", a.value, w.value) for a in config.formats for w in config.formats
               if multipliable(a, w)}
    wanted |= {("precision", p.value) for p in config.formats}
    wanted |= {(f, p.value) for f in ("output_precision", "residual_precision")
               for p in config.formats}
    if config.special_functions:
        wanted |= {(f, 1) for f in ("reduce", "row_scale", "row_bias")}
        wanted |= {("source", s.value) for s in Source} | {("function", f.value) for f in Function}
    assert wanted <= seen


def test_same_seed_same_program():
    first, second, other = (random_program(n, EDGE) for n in (7, 7, 8))
    assert first.program == second.program
    assert np.array_equal(first.memory, second.memory)
    assert first.program != other.program


def test_base_moves_the_memory_alone():
    """A program is relocatable: the same instructions, the same results elsewhere."""
    first, second = random_program(11, EDGE), random_program(11, EDGE, base=4096)
    assert first.program == second.program
    assert np.array_equal(run(first, EDGE), run(second, EDGE))
    assert second.segments[Segment.INPUT][0] == first.segments[Segment.INPUT][0] + 4096
    with pytest.raises(ValueError, match="base must be a multiple of 64, not 100"):
        random_program(1, EDGE, base=100)


def test_a_core_with_binary_alone_has_no_random_networks(rng):
    config = dataclasses.replace(NANO, name="binary", formats=(Precision.BINARY,))
    with pytest.raises(ValueError, match="one that their tensors can have, not BINARY alone as"):
        random_network(rng, config)
