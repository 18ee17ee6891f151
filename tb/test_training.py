"""The three products of training on the interpreter, word for word what their definitions give."""

import dataclasses

import numpy as np
import pytest
from ulpsim import dlfloat
from ulpsim.compiler import CompileError
from ulpsim.config import EDGE, NANO
from ulpsim.formats import FORMATS
from ulpsim.interpreter import Machine
from ulpsim.isa import Cause, Segment, Target
from ulpsim.programs import random_codes
from ulpsim.training import PRODUCTS, compile_training, training_products
from wide import WIDE

SMALL = dataclasses.replace(EDGE, weight_bytes=1024, activation_bytes=4096, parameter_columns=16,
                            accumulator_depth=64)
CONFIGS = {"edge": EDGE, "small": SMALL, "wide": WIDE}
SHAPES = [(16, 24, 40), (5, 3, 1), (1, 1, 1), (37, 50, 21), (64, 9, 70)]


def run(compiled, matrices):
    """The results, from a machine whose memories hold anything at first."""
    segments, end = {}, 0
    for segment, size in compiled.segment_bytes.items():
        segments[segment] = end, size
        end += -(-size // 64) * 64
    memory = np.full(max(end, 64), 0xA5, np.uint8)
    for segment, data in ((Segment.PARAMETERS, compiled.parameters),
                          (Segment.INPUT, compiled.pack(*matrices))):
        memory[segments[segment][0]:][:len(data)] = np.frombuffer(data, np.uint8)
    machine = Machine(compiled.config, memory)
    machine.segments = segments
    for array in (machine.activations, machine.weights, machine.parameters, machine.accumulators):
        array[...] = 0x7FFF
    result = machine.run(compiled.program)
    assert result.cause is Cause.NONE, f"{result} {compiled.program[result.index]}"
    first, size = segments[Segment.OUTPUT]
    return compiled.unpack(memory[first:first + size])


def finite_codes(rng, shape):
    """Any magnitudes near one; no NaN-Inf, which would spread over a tile of columns."""
    codes = random_codes(rng, FORMATS["FP16"], shape)
    return np.where(codes & dlfloat.NAN == dlfloat.NAN, 0x8000, codes)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products(config, shape, rng):
    batch, inputs, outputs = shape
    matrices = [finite_codes(rng, size)
                for size in ((batch, inputs), (inputs, outputs), (batch, outputs))]
    compiled = compile_training(batch, inputs, outputs, config)
    expected, results = training_products(*matrices, config), run(compiled, matrices)
    assert results.keys() == expected.keys() == {"y", "dw", "dx"}
    for name, codes in results.items():
        assert np.array_equal(codes, expected[name]), name
    assert compiled.multiply_adds == dict.fromkeys(PRODUCTS, batch * inputs * outputs)


@pytest.mark.parametrize("product, result", [("forward", "y"), ("weight_gradient", "dw"),
                                             ("data_gradient", "dx")])
def test_one_product(product, result, rng):
    """Near the exact product, and only what is asked for."""
    matrices = [rng.normal(size=size) for size in ((20, 30), (30, 10), (20, 10))]
    codes = [dlfloat.encode_array(matrix).astype(np.int64) for matrix in matrices]
    results = run(compile_training(20, 30, 10, EDGE, [product]), codes)
    assert list(results) == [result]
    x, w, dy = matrices
    exact = {"y": x @ w, "dw": x.T @ dy, "dx": dy @ w.T}[result]
    assert np.abs(dlfloat.decode_array(results[result]) - exact).max() < 0.1


def test_no_copy_of_what_can_be_read_across():
    """The activations of the weight gradient are read in place; weights alone are transposed."""
    for products, stored in ((["forward", "weight_gradient"], {Segment.OUTPUT}),
                             (["data_gradient"], {Segment.OUTPUT, Segment.WORKSPACE})):
        program = compile_training(40, 30, 20, EDGE, products).program
        assert {i.choice("segment") for i in program if i.name == "STORE"} == stored
    runs = {i["run_length"] for i in compile_training(
        40, 30, 20, EDGE, ["weight_gradient"]).program if i.name == "MATMUL"}
    assert runs == {1}


def test_transposed_weights_come_when_they_are_there():
    """No LOAD of them before the first product that they are for."""
    compiled = compile_training(64, 64, 64, EDGE)
    loads = [i for i, instruction in enumerate(compiled.program) if instruction.name == "LOAD"
             and instruction.choice("segment") is Segment.WORKSPACE]
    stores = [i for i, instruction in enumerate(compiled.program) if instruction.name == "STORE"
              and instruction.choice("segment") is Segment.WORKSPACE]
    assert loads and min(loads) > max(stores)
    assert all(compiled.program[i].choice("target") is Target.WEIGHTS for i in loads)


def test_refused():
    for value in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match="inputs must be a positive integer, not"):
            compile_training(1, value, 1, EDGE)
    with pytest.raises(ValueError, match=r"products must be among forward, .* not 'backward'"):
        compile_training(1, 1, 1, EDGE, ["backward"])
    with pytest.raises(CompileError, match="needs FP16; the core 'nano' has INT8, INT4, INT2"):
        compile_training(1, 1, 1, NANO)
    with pytest.raises(CompileError, match="slots of the activation scratchpad; the core has"):
        compile_training(1, 5000, 1, SMALL)
    compiled = compile_training(2, 3, 4, EDGE)
    with pytest.raises(ValueError, match=r"w must be \[3, 4\], not \[4, 3\]"):
        compiled.pack(np.zeros((2, 3)), np.zeros((4, 3)), np.zeros((2, 4)))
