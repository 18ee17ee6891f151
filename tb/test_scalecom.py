"""CLT-k with its low-pass memory: definition and twin; what it keeps; its volume."""

import numpy as np
import pytest
from test_adacomp_model import gradient_like
from ulpsim import float32
from ulpsim.compression.scalecom import LowPass, leader, reduce, reduce_array, volume_bytes


def bits(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values, np.float32).view(np.uint32)


@pytest.mark.parametrize("kind", ["normal", "sparse", "zero", "coarse", "constant", "bad"])
@pytest.mark.parametrize(("chunk", "top", "keep"), [(1, 1, 1.0), (7, 2, 0.1), (50, 1, 0.3),
                                                    (400, 5, 1.0)])
def test_array_twin_equals_the_definition(kind: str, chunk: int, top: int, keep: float,
                                          rng: np.random.Generator) -> None:
    settings = LowPass(chunk, top, keep)
    memories = np.zeros((3, 203), np.uint32)
    for step in range(4):
        g = bits(np.stack([gradient_like(rng, 203, kind) for _ in range(3)]))
        exact = reduce(memories.tolist(), g.tolist(), settings, step)
        fast = reduce_array(memories, g, settings, step)
        np.testing.assert_array_equal(fast.positions, exact.positions)
        np.testing.assert_array_equal(fast.values, exact.values)
        np.testing.assert_array_equal(fast.memories, exact.memories)
        assert fast.refused == exact.refused
        memories = fast.memories


def test_nothing_is_lost(rng: np.random.Generator) -> None:
    """With b = 1: memory + sent is the sum of the gradients, exactly where FP32 is."""
    settings, total = LowPass(20, 1), np.zeros((4, 300))
    memories, sent = np.zeros((4, 300), np.uint32), np.zeros(300)
    for step in range(10):
        g = np.rint(64 * rng.standard_normal((4, 300))) / 64
        total += g
        ours = reduce_array(memories, bits(g), settings, step)
        sent[ours.positions] += ours.values.view(np.float32)
        memories = ours.memories
        np.testing.assert_array_equal(memories.view(np.float32).sum(axis=0) + sent,
                                      total.sum(axis=0))


def test_the_leader_goes_round_and_chooses_alone() -> None:
    g = np.zeros((2, 10))
    g[0, 3], g[1, 7] = 1, 2
    for step in range(4):
        ours = reduce_array(np.zeros((2, 10), np.uint32), bits(g), LowPass(10), step)
        assert ours.positions.tolist() == [[3], [7]][leader(step, 2)]


def test_low_pass() -> None:
    """What is not sent comes in as b g; what was sent leaves (1 - b) m behind."""
    settings = LowPass(2, 1, 0.25)
    m, g = np.array([[4.0, 8.0]]), np.array([[16.0, 1.0]])
    ours = reduce_array(bits(m), bits(g), settings, 0)
    assert ours.positions.tolist() == [0]
    assert ours.values.view(np.float32).tolist() == [20]
    assert ours.memories.view(np.float32).tolist() == [[3.0, 8.25]]


def test_volume_is_the_same_for_any_number_of_learners(rng: np.random.Generator) -> None:
    settings = LowPass(100)
    for learners in (1, 4, 16):
        g = bits(rng.standard_normal((learners, 1050)))
        ours = reduce_array(np.zeros_like(g), g, settings, 0)
        assert 6 * len(ours.positions) == volume_bytes(1050, settings) == 66


def test_bad_arguments() -> None:
    for arguments, message in (((0,), "chunk must be an integer from 1 to 16384, not 0"),
                               ((8, 9), "top must be an integer from 1 to the chunk's 8, not 9"),
                               ((8, 1, 0.0), "keep must be above 0 and at most 1, not 0.0"),
                               ((8, 1, float("nan")), "keep must be above 0")):
        with pytest.raises(ValueError, match=message):
            LowPass(*arguments)
    with pytest.raises(ValueError, match="one shape"):
        reduce_array(np.zeros((2, 3), np.uint32), np.zeros((2, 4), np.uint32), LowPass(), 0)
    with pytest.raises(ValueError, match="one shape"):
        reduce([[]], [[]], LowPass(), 0)
    assert float32.decode(LowPass(1, 1, 0.1).factors[1]) == pytest.approx(0.9)
