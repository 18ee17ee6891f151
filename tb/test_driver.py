"""The host's side, against the interpreter behind a bus."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
from ulpsim.compiler import compile_network
from ulpsim.config import EDGE, NANO
from ulpsim.driver import CoreError, Driver, ModelBus, place
from ulpsim.evaluation import evaluate
from ulpsim.formats import Precision
from ulpsim.isa import Cause, Instruction, Segment
from ulpsim.network import Network, load_network
from ulpsim.programs import random_codes
from ulpsim.registers import BY_NAME

NETWORK = load_network(Path(__file__).parent.parent / "examples" / "residual.json")


def test_any_number_of_images(rng):
    compiled = compile_network(NETWORK, EDGE, 4)
    driver = Driver(ModelBus(EDGE, 1 << 18), compiled, base=8192)
    images = random_codes(rng, NETWORK.input.format, (9, *NETWORK.input_shape))
    expected = evaluate(NETWORK, images)
    for count in (1, 4, 9, 0):
        assert np.array_equal(driver.run(images[:count]), expected[:count])
    real = images[:3] * NETWORK.input.step
    assert np.array_equal(driver.run(real), expected[:3])


@pytest.mark.parametrize("bias", [4, 11])
def test_forward_bias(bias, rng):
    config = dataclasses.replace(EDGE, formats=tuple(Precision))
    network = Network.from_description({
        "name": "bias", "forward_bias": bias,
        "input": {"name": "image", "height": 2, "width": 2, "channels": 3, "format": "E4M3"},
        "layers": [{"name": "layer", "op": "fully_connected", "input": "image",
                    "weights": rng.normal(size=(3, 12)), "weight_format": "E4M3",
                    "output": {"format": "E5M2"}}]})
    driver = Driver(ModelBus(config, 1 << 18), compile_network(network, config, 2))
    images = random_codes(rng, network.input.format, (2, 2, 2, 3))
    assert np.array_equal(driver.run(images), evaluate(network, images))
    assert driver.bus.read_register(BY_NAME["FORWARD_BIAS"].offset) == bias


def test_placement():
    compiled = compile_network(NETWORK, EDGE, 4)
    placement = place(compiled, 4096)
    regions = [(4096, 64 * len(compiled.program)), *placement.segments.values()]
    for (first, size), (after, _) in itertools.pairwise(regions):
        assert first % 4096 == 0
        assert first + size <= after
    assert placement.end == sum(placement.segments[Segment.WORKSPACE])
    close = place(compiled, 64, alignment=64)
    assert close.end < placement.end and close.program == 64
    assert all(first % 64 == 0 for first, _ in close.segments.values())
    with pytest.raises(ValueError, match="base must be a multiple of 4096, not 64"):
        place(compiled, 64)


def test_another_core():
    with pytest.raises(ValueError, match="register ROWS of the core must hold 0x8, as the network "
                                         "was compiled for 'edge', not 0x4"):
        Driver(ModelBus(NANO, 1 << 18), compile_network(NETWORK, EDGE, 1))


def test_fault():
    compiled = compile_network(NETWORK, EDGE, 1)
    program = [Instruction("FILL", length=2, address=EDGE.activation_slots - 1),
               Instruction("HALT")]
    driver = Driver(ModelBus(EDGE, 1 << 18), dataclasses.replace(compiled, program=program))
    with pytest.raises(CoreError, match="stopped with ACTIVATION_RANGE at instruction 0: FILL"):
        driver.run(np.zeros((1, *NETWORK.input_shape), int))
    driver.bus.write_memory(0, bytes(64 * 2))
    assert driver.run(np.zeros((1, *NETWORK.input_shape), int)).shape == (1, 1, 1, 4)


def test_model_bus():
    bus = ModelBus(EDGE, 4096)
    offset = {name: register.offset for name, register in BY_NAME.items()}
    bus.write_register(offset["CONTROL"], 1)
    assert Cause(bus.read_register(offset["CAUSE"])) is Cause.PROGRAM_LENGTH
    bus.write_register(offset["PROGRAM_LENGTH"], 65)
    bus.write_register(offset["CONTROL"], 1)
    assert Cause(bus.read_register(offset["CAUSE"])) is Cause.BUS_DECODE_ERROR
    assert bus.read_register(offset["STATUS"]) == 4
    assert bus.read_register(offset["CONTROL"]) == 0
    bus.write_register(offset["PROGRAM_ADDRESS"], 0x123)
    assert bus.read_register(offset["PROGRAM_ADDRESS"]) == 0x120
    with pytest.raises(ValueError, match="register STATUS can only be read"):
        bus.write_register(offset["STATUS"], 0)
    with pytest.raises(ValueError, match="offset must be that of a register, not 0xfc"):
        bus.read_register(0xFC)
    with pytest.raises(ValueError, match="memory must be accessed within its 4096 bytes"):
        bus.read_memory(4000, 100)
