"""Elements in 16-bit slots, the first in the lowest bits: 1 FP16, 2 FP8, 2 INT8, 4 INT4, 8 INT2 or
16 BINARY."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .formats import Format, Precision

__all__ = ["numbers", "pack", "unpack", "unpack_codes", "values"]


def pack(elements: ArrayLike, precision: Precision) -> NDArray[np.uint16]:
    """Put elements along the last axis into slots.

    `elements` holds integers, signed or unsigned (codes for the other precisions). The last axis
    of the result has ceil(elements / per_slot) slots; the elements missing in the last one are
    zero. Raises ValueError for an element that no format of this precision can hold.
    """
    elements = np.asarray(elements)
    if elements.dtype.kind not in "iu":
        raise ValueError(f"elements must be integers, not {elements.dtype}")
    if elements.ndim == 0:
        raise ValueError(f"elements must have an axis to pack, not {elements!r}")
    lowest, highest = Format(precision).lowest, (1 << precision.bits) - 1
    outside = (elements < lowest) | (elements > highest)
    if outside.any():
        raise ValueError(f"elements of {precision.name} must be from {lowest} to {highest}, "
                         f"not {elements[outside][0]}")
    bits, per_slot = precision.bits, precision.per_slot
    codes = (elements.astype(np.int64) & ((1 << bits) - 1)).astype(np.uint16)
    missing = -codes.shape[-1] % per_slot
    if missing:
        codes = np.concatenate([codes, np.zeros((*codes.shape[:-1], missing), np.uint16)], axis=-1)
    codes = codes.reshape(*codes.shape[:-1], codes.shape[-1] // per_slot, per_slot)
    slots = codes[..., 0].copy()
    for i in range(1, per_slot):
        slots |= codes[..., i] << np.uint16(bits * i)
    return slots


def unpack_codes(slots: ArrayLike, precision: Precision) -> NDArray[np.uint16]:
    """The bits of every element as an unsigned number; the last axis grows by `per_slot`."""
    packed = np.asarray(slots, np.uint16)
    bits, per_slot = precision.bits, precision.per_slot
    codes = np.empty((*packed.shape, per_slot), np.uint16)
    for i in range(per_slot):
        np.right_shift(packed, np.uint16(bits * i), out=codes[..., i])
    if per_slot > 1:
        codes &= np.uint16((1 << bits) - 1)
    return codes.reshape(*packed.shape[:-1], packed.shape[-1] * per_slot)


def unpack(slots: ArrayLike, source: Format) -> NDArray[np.int64]:
    """The elements of slots as numbers: integers as they are written, the others as codes.

    The last axis grows by `per_slot`.
    """
    codes = unpack_codes(slots, source.precision).astype(np.int64)
    if source.signed and source.precision.is_integer:
        codes -= (codes > source.highest).astype(np.int64) << source.precision.bits
    return codes


def values(slots: ArrayLike, source: Format) -> NDArray[np.int64]:
    """What the elements of slots stand for; see `numbers`."""
    return numbers(unpack(slots, source), source)


def numbers(codes: NDArray[np.int64], source: Format) -> NDArray[np.int64]:
    """What codes stand for: themselves, but +1 and -1 for BINARY, and odd numbers for an odd
    format. Raises ValueError for a format of floating point."""
    if source.precision.is_float:
        raise ValueError(f"source must be a format of integers or BINARY, not {source}")
    return 2 * codes - 1 if source.precision is Precision.BINARY else \
        2 * codes + 1 if source.odd else codes
