"""Elements in 16-bit slots: 1 FP16 code, 2 INT8, 4 INT4 or 8 INT2, the first in the lowest bits."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .formats import Format, Precision

__all__ = ["pack", "unpack", "unpack_codes"]


def pack(values: ArrayLike, precision: Precision) -> NDArray[np.uint16]:
    """Put elements along the last axis into slots.

    `values` holds integers, signed or unsigned (codes for FP16). The last axis of the result has
    ceil(elements / per_slot) slots; the elements missing in the last one are zero. Raises
    ValueError for an element that no format of this precision can hold.
    """
    elements = np.asarray(values)
    if elements.dtype.kind not in "iu":
        raise ValueError(f"values must be integers, not {elements.dtype}")
    if elements.ndim == 0:
        raise ValueError(f"values must have an axis to pack, not {values!r}")
    lowest = 0 if precision.is_float else Format(precision).lowest
    highest = Format(precision, signed=False).highest
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
    """The elements of slots as numbers (FP16: as codes); the last axis grows by `per_slot`."""
    codes = unpack_codes(slots, source.precision).astype(np.int64)
    if source.signed and not source.precision.is_float:
        codes -= (codes > source.highest).astype(np.int64) << source.precision.bits
    return codes
