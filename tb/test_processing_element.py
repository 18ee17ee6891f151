"""One element: when weights take over, what passes east, and when the sum leaves."""

import dataclasses
import gc

import numpy as np
import pytest
from ulpcore.processing_element import ProcessingElement
from ulpcore.simulation import run_vectors
from ulpsim.config import CoreConfig
from ulpsim.formats import Precision

CYCLES = 4000


@pytest.mark.parametrize("stages", [2, 5])
def test_weights_and_sums(stages: int, rng: np.random.Generator) -> None:
    config = dataclasses.replace(CoreConfig(), formats=(Precision.INT8,),
                                 multiply_add_stages=stages)
    bits = config.partial_sum_bits
    # An INT8 operand is two factors of 9 bits, a sign included.
    elements, given = rng.integers(-128, 256, (2, CYCLES, 2))
    north = rng.integers(0, 1 << bits, CYCLES)
    swap, load = rng.random(CYCLES) < 0.2, rng.random(CYCLES) < 0.3
    operands = [(x[:, 0] % 512 | x[:, 1] % 512 << 9).astype(np.uint64) for x in (elements, given)]
    control = swap | 1 << 1                                       # mode: eights
    out = run_vectors(ProcessingElement(config=config), {
        "activation": operands[0], "control": control, "weights": operands[1],
        "load": load.astype(np.uint64), "north": north})

    following = weight = None
    for cycle in range(CYCLES - stages - 2):
        # A swap takes the weights that were loaded in an earlier cycle.
        if swap[cycle]:
            weight = following
        if load[cycle]:
            following = given[cycle]
        assert out["activation_east"][cycle + 1] == operands[0][cycle]
        assert out["control_east"][cycle + 1] == control[cycle]
        if weight is not None:
            expected = int(north[cycle + 2]) + int(elements[cycle] @ weight)
            assert out["south"][cycle + 2 + stages] == expected % (1 << bits)


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
def test_bad_config_is_refused() -> None:
    with pytest.raises(TypeError, match="config must be a CoreConfig, not None"):
        ProcessingElement(config=None)  # type: ignore[arg-type]
    gc.collect()
