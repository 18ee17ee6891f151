"""Operands at which a multiply-add can go wrong, for tests and benches alike."""

import numpy as np
from numpy.typing import NDArray

from . import dlfloat

__all__ = ["EDGES", "multiply_add_operands"]

#: Codes at which something changes: zero, smallest, one, largest, NaN-Inf and their neighbours.
EDGES = np.array([s | m for s in (0, 0x8000) for m in (
    0, 1, 2, 0x1FF, 0x200, 0x201, 0x3DFF, 0x3E00, 0x3E01, 0x3FFF, 0x4000, 0x7DFF, 0x7E00, 0x7FFD,
    0x7FFE, 0x7FFF)], np.uint16)


def multiply_add_operands(count: int, rng: np.random.Generator
                          ) -> tuple[NDArray[np.uint16], NDArray[np.uint16], NDArray[np.uint16]]:
    """Three arrays of codes: every triple of edges, and `count` of each kind of random ones.

    Any codes; sums that all but cancel; and addends at every distance from the product, with
    few fraction bits, so that ties are frequent.
    """
    a, b, c = (x.ravel() for x in np.meshgrid(EDGES, EDGES, EDGES))
    parts = [(a, b, c), tuple(rng.integers(0, 1 << 16, (3, count), dtype=np.uint16))]
    a, b = rng.integers(0, 1 << 16, (2, count), dtype=np.uint16)
    product = dlfloat.fma_array(a, b, np.uint16(0))
    parts.append((a, b, (product ^ 0x8000) + rng.integers(-2, 3, count).astype(np.uint16)))
    few = np.uint16(0xFFFF) << rng.integers(0, 9, (3, count)).astype(np.uint16)
    a, b, c = rng.integers(0, 1 << 16, (3, count), dtype=np.uint16) & few
    exponent = (dlfloat.fma_array(a, b, np.uint16(0)) >> 9 & 63).astype(np.int64)
    exponent = np.clip(exponent + rng.integers(-16, 17, count), 0, 63).astype(np.uint16)
    parts.append((a, b, c & 0x81FF | exponent << 9))
    a, b, c = (np.concatenate(x) for x in zip(*parts, strict=True))
    return a, b, c
