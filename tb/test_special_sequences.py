"""Softmax, layer norm, an LSTM cell and a weight update as SPECIAL instructions, against float64.

Every row is a position of `blocks` vectors of 8 channels in the scratchpad, as FP16.
"""

import dataclasses

import numpy as np
import pytest
from test_core import golden, place
from ulpcore.rtl import MemoryModel, run_jobs
from ulpsim import dlfloat, float32
from ulpsim.config import EDGE
from ulpsim.cycles import predict
from ulpsim.formats import Precision
from ulpsim.interpreter import Machine
from ulpsim.isa import Cause, Function, Instruction, Pool, Segment, Source, Target
from ulpsim.tokens import with_tokens

CONFIG = EDGE
ROWS, BLOCKS = 10, 4
CHANNELS = 8 * BLOCKS
SIZE = ROWS * CHANNELS


@pytest.fixture
def machine() -> Machine:
    return Machine(CONFIG, bytearray(4))


def _put(machine: Machine, address: int, values: np.ndarray) -> np.ndarray:
    """Store as FP16; the values that are stored."""
    codes = dlfloat.encode_array(values)
    machine.activations[address:address + codes.size] = codes.ravel()
    return dlfloat.decode_array(codes)


def _get(machine: Machine, address: int, shape: tuple[int, ...]) -> np.ndarray:
    codes = machine.activations[address:address + int(np.prod(shape))]
    return dlfloat.decode_array(codes).reshape(shape)


def _columns(machine: Machine, first: int, scale: float = 1.0, bias: float = 0.0,
             residual_scale: float = 0.0) -> int:
    """Parameters of eight columns; where they begin."""
    machine.parameters[first:first + 8] = [
        float32.encode(v) for v in (scale, bias, residual_scale, 0.0)]
    return first


def _run(machine: Machine, *instructions: Instruction) -> None:
    for instruction in instructions:
        assert machine.step(instruction) is Cause.NONE, instruction


def _elements(parameters: int, source: int, target: int, **fields: object) -> Instruction:
    """Every element of every row; scalars of rows as `fields` say."""
    return Instruction(
        "SPECIAL", **{  # type: ignore[arg-type]
            "source": Source.ACTIVATIONS, "parameters": parameters, "accumulator": source,
            "address": target, "count_1": ROWS, "accumulator_stride_1": CHANNELS,
            "stride_1": CHANNELS, "count_2": BLOCKS, "accumulator_stride_2": 8, "stride_2": 8,
            **fields})


def _reduce(parameters: int, source: int, pool: Pool, row: int, **fields: object) -> Instruction:
    if fields.get("residual"):
        fields |= {"residual_stride_1": CHANNELS, "residual_window_stride_1": 8}
    return _elements(parameters, source, 0, window_1=BLOCKS, window_stride_1=8, count_2=1,
                     pool=pool, reduce=1, reduced_row=row, **fields)


def _scalars(parameters: int, row: int, result: int, **fields: object) -> Instruction:
    """A step on the row scalars themselves: the maximum of eight equal columns."""
    return Instruction("SPECIAL", source=Source.ROWS, row=row, reduced_row=result, reduce=1,
                       pool=Pool.MAXIMUM, parameters=parameters, count_1=ROWS,
                       **fields)  # type: ignore[arg-type]


def _softmax(machine: Machine, x: int, e: int, y: int) -> list[Instruction]:
    one, power, minus = (_columns(machine, 8 * i, scale) for i, scale in enumerate(
        (1.0, np.log2(np.e), -np.log2(np.e))))
    return [
        _reduce(one, x, Pool.MAXIMUM, 0),
        _scalars(minus, 0, 20),
        _elements(power, x, e, row_bias=1, row=20, function=Function.EXPONENTIAL),
        _reduce(one, e, Pool.SUM, 40),
        _scalars(one, 40, 40, function=Function.RECIPROCAL),
        _elements(one, e, y, row_scale=1, row=40)]


def _layer_norm(machine: Machine, x: int, centred: int, y: int, gamma: np.ndarray,
                beta: np.ndarray) -> list[Instruction]:
    one, minus_mean, mean, epsilon = (_columns(machine, 24 + 8 * i, *numbers) for i, numbers in
                                      enumerate(((1.0,), (-1 / CHANNELS,), (1 / CHANNELS,),
                                                 (1.0, 1e-5))))
    for i in range(CHANNELS):
        machine.parameters[64 + i] = [float32.encode(float(v)) for v in (gamma[i], beta[i], 0, 0)]
    return [
        _reduce(minus_mean, x, Pool.SUM, 0),
        _elements(one, x, centred, row_bias=1, row=0),
        _reduce(mean, centred, Pool.SUM, 20, residual=1, product=1, residual_address=centred),
        _scalars(epsilon, 20, 20, function=Function.RECIPROCAL_SQUARE_ROOT),
        _elements(one, centred, y, row_scale=1, row=20),
        *(_elements(64 + 8 * b, y + 8 * b, y + 8 * b, count_2=1) for b in range(BLOCKS))]


def test_softmax(rng: np.random.Generator, machine: Machine) -> None:
    x = _put(machine, 0, rng.standard_normal((ROWS, CHANNELS)) * 4)
    _run(machine, *_softmax(machine, 0, SIZE, 2 * SIZE))
    exact = np.exp(x - x.max(1, keepdims=True))
    exact /= exact.sum(1, keepdims=True)
    result = _get(machine, 2 * SIZE, x.shape)
    np.testing.assert_allclose(result, exact, rtol=3.5e-3, atol=2.0**-31)
    np.testing.assert_allclose(result.sum(1), 1, rtol=1e-3)


def test_layer_norm(rng: np.random.Generator, machine: Machine) -> None:
    x = _put(machine, 0, rng.standard_normal((ROWS, CHANNELS)) * 3 + 1)
    gamma, beta = rng.uniform(0.5, 2, CHANNELS), rng.standard_normal(CHANNELS)
    _run(machine, *_layer_norm(machine, 0, SIZE, 2 * SIZE, gamma, beta))
    exact = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(_get(machine, 2 * SIZE, x.shape), exact * gamma + beta, atol=0.012)


def test_on_the_core(rng: np.random.Generator, machine: Machine) -> None:
    """Layer norm, then softmax, between loads and stores: words and cycles."""
    _put(machine, 0, rng.standard_normal((ROWS, CHANNELS)) * 3)
    gamma, beta = rng.uniform(0.5, 2, CHANNELS), rng.standard_normal(CHANNELS)
    sequence = [*_layer_norm(machine, 0, SIZE, 2 * SIZE, gamma, beta),
                *_softmax(machine, 2 * SIZE, 3 * SIZE, 4 * SIZE)]
    columns = 64 + CHANNELS
    program = with_tokens([
        Instruction("LOAD", target=Target.PARAMETERS, segment=Segment.PARAMETERS,
                    length=8 * columns),
        Instruction("LOAD", target=Target.ACTIVATIONS, segment=Segment.INPUT, length=SIZE),
        *sequence,
        Instruction("STORE", segment=Segment.OUTPUT, length=5 * SIZE),
        Instruction("HALT")], CONFIG)
    parameters = machine.parameters[:columns].astype("<u4").tobytes()
    elements = machine.activations[:SIZE].astype("<u2").tobytes()
    first, second = len(parameters), len(parameters) + len(elements)
    placed = place([(program, parameters + elements + bytes(10 * SIZE), {
        Segment.PARAMETERS: (0, first), Segment.INPUT: (first, len(elements)),
        Segment.OUTPUT: (second, 10 * SIZE)})])
    results, memory = run_jobs(CONFIG, placed.memory, placed.jobs, model=MemoryModel(latency=16))
    expected, ends = golden(CONFIG, placed)
    assert ends == [(Cause.NONE, 0)] and results[0].cause is Cause.NONE
    np.testing.assert_array_equal(memory, expected)
    job = placed.jobs[0]
    assert results[0].cycles == predict(
        program, CONFIG, program_address=job.program, segments=job.segments, latency=16).cycles


def test_beside_a_store(rng: np.random.Generator, machine: Machine) -> None:
    """Sources and residuals of a product lie in turns apart; a STORE reads in between."""
    _put(machine, 0, rng.standard_normal((ROWS, CHANNELS)))
    one = _columns(machine, 0)
    program = with_tokens([
        Instruction("LOAD", target=Target.PARAMETERS, segment=Segment.PARAMETERS, length=64),
        Instruction("LOAD", target=Target.ACTIVATIONS, segment=Segment.INPUT, length=SIZE),
        *(Instruction("STORE", segment=Segment.OUTPUT, offset=2 * SIZE * i, length=SIZE)
          for i in range(4)),
        _reduce(one, 0, Pool.SUM, 0, residual=1, product=1, residual_address=0),
        _elements(one, 0, SIZE, residual=1, product=1, residual_address=8,
                  residual_stride_1=CHANNELS, count_2=1),
        _elements(one, 0, 2 * SIZE, row_scale=1, row=0),
        Instruction("STORE", segment=Segment.OUTPUT, offset=8 * SIZE, length=3 * SIZE),
        Instruction("HALT")], CONFIG)
    parameters = machine.parameters[:8].astype("<u4").tobytes()
    elements = machine.activations[:SIZE].astype("<u2").tobytes()
    first, second = len(parameters), len(parameters) + len(elements)
    placed = place([(program, parameters + elements + bytes(14 * SIZE), {
        Segment.PARAMETERS: (0, first), Segment.INPUT: (first, len(elements)),
        Segment.OUTPUT: (second, 14 * SIZE)})])
    results, memory = run_jobs(CONFIG, placed.memory, placed.jobs, model=MemoryModel(latency=16))
    expected, ends = golden(CONFIG, placed)
    assert ends == [(Cause.NONE, 0)] and results[0].cause is Cause.NONE
    # What no instruction wrote is undefined: of the second region all but each row's first vector.
    written = np.ones((7, ROWS, CHANNELS), bool)
    written[5, :, 8:] = False
    place_of_output = placed.jobs[0].segments[Segment.OUTPUT][0]
    output = slice(place_of_output, place_of_output + 14 * SIZE)
    np.testing.assert_array_equal(memory[output].view("<u2")[written.ravel()],
                                  expected[output].view("<u2")[written.ravel()])


def test_lstm_cell(rng: np.random.Generator, machine: Machine) -> None:
    """Gates from accumulators, states from the scratchpad."""
    gates = rng.standard_normal((4, ROWS, 8)) * 2
    machine.accumulators[:4 * ROWS] = float32.encode_array(gates).reshape(4 * ROWS, 8)
    state = _put(machine, 0, rng.standard_normal((ROWS, 8)))
    one = _columns(machine, 0, 1.0, 0.0, 1.0)
    size = 8 * ROWS
    i, f, o, g, product, hidden = (size * n for n in range(1, 7))

    def gate(number: int, target: int, function: Function) -> Instruction:
        return Instruction("SPECIAL", float_accumulator=1, accumulator=number * ROWS,
                           accumulator_stride_2=1, count_2=ROWS, stride_2=8, address=target,
                           parameters=one, function=function)

    def multiply(a: int, b: int, target: int, **fields: object) -> Instruction:
        return Instruction("SPECIAL", source=Source.ACTIVATIONS, accumulator=a, count_2=ROWS,
                           accumulator_stride_2=8, residual=1, product=1, residual_address=b,
                           residual_stride_2=8, address=target, stride_2=8, parameters=one,
                           **fields)  # type: ignore[arg-type]

    def add(a: int, b: int, target: int) -> Instruction:
        instruction = multiply(a, b, target)
        instruction.values["product"] = 0
        return instruction

    _run(machine,
         gate(0, i, Function.SIGMOID), gate(1, f, Function.SIGMOID),
         gate(2, o, Function.SIGMOID), gate(3, g, Function.TANH),
         multiply(i, g, product), multiply(f, 0, 0), add(0, product, 0),
         Instruction("SPECIAL", source=Source.ACTIVATIONS, count_2=ROWS, accumulator_stride_2=8,
                     stride_2=8, address=hidden, parameters=one, function=Function.TANH),
         multiply(o, hidden, hidden))

    def sigmoid(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-x))

    state = sigmoid(gates[1]) * state + sigmoid(gates[0]) * np.tanh(gates[3])
    np.testing.assert_allclose(_get(machine, 0, state.shape), state, atol=5e-3)
    np.testing.assert_allclose(_get(machine, hidden, state.shape),
                               sigmoid(gates[2]) * np.tanh(state), atol=5e-3)


def test_weight_update(rng: np.random.Generator, machine: Machine) -> None:
    """w - rate * gradient, with the gradient in accumulators or in the scratchpad."""
    weights = _put(machine, 0, rng.standard_normal((ROWS, 8)))
    gradient = _put(machine, 800, rng.standard_normal((ROWS, 8)))
    machine.accumulators[:ROWS] = float32.encode_array(gradient)
    rate = _columns(machine, 0, -0.01, 0.0, 1.0)
    common = {"residual": 1, "residual_stride_2": 8, "count_2": ROWS, "stride_2": 8,
              "parameters": rate}
    _run(machine,
         Instruction("SPECIAL", float_accumulator=1, accumulator_stride_2=1, address=1600,
                     **common),
         Instruction("SPECIAL", source=Source.ACTIVATIONS, accumulator=800,
                     accumulator_stride_2=8, address=2400, **common))
    expected = dlfloat.encode_array(weights - 0.01 * gradient)
    for address in (1600, 2400):
        difference = machine.activations[address:address + weights.size].astype(int) \
            - expected.ravel()
        assert np.abs(difference).max() <= 1 and (difference != 0).mean() < 0.01


def test_without_special_functions() -> None:
    config = dataclasses.replace(EDGE, special_functions=False)
    machine = Machine(config, bytearray(4))
    for fields in ({"source": Source.ACTIVATIONS}, {"source": Source.ROWS},
                   {"function": Function.TANH}, {"residual": 1, "product": 1}, {"row_scale": 1},
                   {"row_bias": 1}, {"reduce": 1, "pool": Pool.SUM}):
        assert machine.step(Instruction("SPECIAL", **fields)) is Cause.UNSUPPORTED_FUNCTION
    assert machine.step(Instruction("SPECIAL", product=1)) is Cause.NONE


@pytest.mark.parametrize(("fields", "cause"), [
    ({"function": Function.TANH, "residual": 1}, Cause.ILLEGAL_INSTRUCTION),
    ({"reduce": 1}, Cause.ILLEGAL_INSTRUCTION),
    ({"source": Source.ACTIVATIONS, "source_signed": 1}, Cause.ILLEGAL_INSTRUCTION),
    ({"source_signed": 1}, Cause.NONE),
    ({"reduce": 1, "pool": Pool.SUM, "output_signed": 1, "address": 1 << 19}, Cause.NONE),
    ({"source": Source.ACTIVATIONS, "accumulator": 32768 - 8}, Cause.NONE),
    ({"source": Source.ACTIVATIONS, "accumulator": 32768 - 7}, Cause.ACTIVATION_RANGE),
    ({"accumulator": 512}, Cause.ACCUMULATOR_RANGE),
    ({"source": Source.ROWS, "accumulator": 512}, Cause.NONE),
    ({"source": Source.ROWS, "row": 512}, Cause.ROW_RANGE),
    ({"row": 512}, Cause.NONE),
    ({"row_bias": 1, "row": 508, "count_1": 4}, Cause.NONE),
    ({"row_bias": 1, "row": 508, "count_1": 5}, Cause.ROW_RANGE),
    ({"reduce": 1, "pool": Pool.SUM, "reduced_row": 508, "count_1": 5}, Cause.ROW_RANGE),
])
def test_rules(machine: Machine, fields: dict, cause: Cause) -> None:
    assert machine.step(Instruction("SPECIAL", **{"output_precision": Precision.FP16, **fields})
                        ) is cause
