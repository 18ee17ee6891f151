"""The array and its accumulators: products of slots, summed exactly as the hardware sums them.

Integers: an accumulator is the exact sum modulo 2^32, in two's complement; order is irrelevant.
Weights may be narrower than activations: a slot of weights then holds the elements of several
successive slots of activations, in the same order along K. BINARY stands for +1 and -1, an odd
format for odd numbers (`integers.values`).

FP16: K is cut into tiles of `rows` slots. In a tile a DLFloat16 partial sum starts from +0 and
takes the slots in order, p = fma(a, w, p); a tile that reaches beyond K is filled up with zeros,
which changes nothing. The accumulator is FP32: it takes the tiles' partial sums in order.

FP8: the same with p = fp8.fma2(a, w, p), a slot's two products in one step.

`dot` is this definition, one output at a time; `matmul` is its twin for matrices.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import dlfloat, float32, fp8
from .formats import Format, Precision, multipliable
from .integers import values

__all__ = ["dot", "matmul", "weight_ratio"]

#: Sums that are computed side by side: what keeps the working set within a core's cache.
_BLOCK = 1 << 15
_THREADS = min(8, os.cpu_count() or 1)


def weight_ratio(activations: Precision, weights: Precision) -> int:
    """Slots of activations that one slot of weights serves.

    Raises ValueError if the array cannot multiply the two (`formats.multipliable`).
    """
    if not multipliable(activations, weights):
        allowed = ", ".join(p.name for p in Precision if multipliable(activations, p))
        raise ValueError(f"weights to activations of {activations.name} must be of {allowed}, "
                         f"not {weights.name}")
    return activations.bits // weights.bits


def dot(activations: Sequence[int], weights: Sequence[int], activation_format: Format,
        weight_format: Format, rows: int, accumulator: int = 0) -> int:
    """One accumulator (32 bits) after the product of two rows of slots is added to it.

    `rows` is the height of the array. Raises ValueError if the rows of slots do not fit each
    other, or the formats.
    """
    ratio = weight_ratio(activation_format.precision, weight_format.precision)
    required = -(-len(activations) // ratio)
    if len(weights) != required:
        raise ValueError(f"weights must be {required} slots for {len(activations)} of "
                         f"activations, not {len(weights)}")
    if activation_format.precision.is_float:
        step = _fused_slot(activation_format, weight_format)
        for first in range(0, len(activations), rows):
            partial = 0
            for a, w in zip(activations[first:first + rows], weights[first:first + rows],
                            strict=True):
                partial = step(int(a), int(w), partial)
            accumulator = float32.add(accumulator, float32.from_dlfloat(partial))
        return accumulator
    left = values(np.asarray(activations), activation_format).tolist()
    right = values(np.asarray(weights), weight_format).tolist()
    return (accumulator + sum(a * w for a, w in zip(left, right[:len(left)], strict=True))
            ) % (1 << 32)


def _fused_slot(activation_format: Format, weight_format: Format
                ) -> Callable[[int, int, int], int]:
    """What a slot in floating point does: takes activations, weights and the DLFloat16 sum."""
    if activation_format.precision is Precision.FP16:
        return dlfloat.fma
    a_kind, w_kind = fp8.of(activation_format), fp8.of(weight_format)

    def step(a: int, w: int, partial: int) -> int:
        return fp8.fma2((a_kind.decode_exact(a & 0xFF), a_kind.decode_exact(a >> 8)),
                        (w_kind.decode_exact(w & 0xFF), w_kind.decode_exact(w >> 8)), partial)

    return step


def matmul(activations: ArrayLike, weights: ArrayLike, activation_format: Format,
           weight_format: Format, rows: int, accumulators: ArrayLike | None = None
           ) -> NDArray[np.uint32]:
    """Accumulators [M, N] (uint32 bits) after activations [M, K] times weights [K, N].

    Both are slots (uint16); a weight slot holds successive K of one column. `accumulators` are
    added to; without them the sum starts from zero. Of narrower weights there are fewer slots,
    [ceil(K / ratio), N] (`weight_ratio`). Raises ValueError for formats or shapes that do not fit.
    """
    left, right, start = _checked(
        activations, weights, rows, accumulators,
        weight_ratio(activation_format.precision, weight_format.precision))
    if activation_format.precision is Precision.FP16:
        return _float_matmul(dlfloat.decode_array(left)[None], dlfloat.decode_array(right)[None],
                             rows, start, _fused_product)
    if activation_format.precision.is_float:
        a, w = (fp8.of(kind).decode_array(np.stack([slots & 0xFF, slots >> 8]))
                for slots, kind in ((left, activation_format), (right, weight_format)))
        return _float_matmul(a, w, rows, start, _fused_pair)
    a, w = values(left, activation_format), values(right.T, weight_format)
    return _integer_matmul(a, w[:, :a.shape[1]], activation_format.precision, start)


def _checked(activations: ArrayLike, weights: ArrayLike, rows: int, accumulators: ArrayLike | None,
             ratio: int) -> tuple[NDArray[np.uint16], NDArray[np.uint16], NDArray[np.uint32]]:
    """Both matrices of slots and the accumulators to begin with."""
    left, right = np.asarray(activations, np.uint16), np.asarray(weights, np.uint16)
    if left.ndim != 2 or right.ndim != 2 or -(-left.shape[1] // ratio) != right.shape[0]:
        lines = "K" if ratio == 1 else f"ceil(K / {ratio})"
        raise ValueError(f"activations and weights must be [M, K] and [{lines}, N], not "
                         f"{list(left.shape)} and {list(right.shape)}")
    shape = (left.shape[0], right.shape[1])
    start = np.zeros(shape, np.uint32) if accumulators is None else \
        np.asarray(accumulators, np.uint32)
    if start.shape != shape:
        raise ValueError(f"accumulators must be {list(shape)}, not {list(start.shape)}")
    if rows < 1:
        raise ValueError(f"rows must be at least 1, not {rows!r}")
    return left, right, start


def _integer_matmul(left: NDArray[np.int64], right: NDArray[np.int64], precision: Precision,
                    start: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """start + left [M, K] @ right.T [K, N]."""
    # float32 is exact, in any order, as long as no sum can reach 2^24.
    chunk = (1 << 24) // ((1 << precision.bits) - 1) ** 2
    total = start.astype(np.int64)
    a, b = left.astype(np.float32), right.astype(np.float32)
    for first in range(0, a.shape[1], chunk):
        total += (a[:, first:first + chunk] @ b[:, first:first + chunk].T).astype(np.int64)
    return total.astype(np.uint32)


#: Takes a slot's elements, [elements, ...] of both sides, and the sums; returns the new sums.
_Step = Callable[[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]],
                 NDArray[np.float64]]


def _fused_product(a: NDArray[np.float64], w: NDArray[np.float64], total: NDArray[np.float64]
                   ) -> NDArray[np.float64]:
    return dlfloat.fma_values(a[0], w[0], total)


def _fused_pair(a: NDArray[np.float64], w: NDArray[np.float64], total: NDArray[np.float64]
                ) -> NDArray[np.float64]:
    return fp8.fma2_values(a[0], w[0], a[1], w[1], total)


def _float_matmul(left: NDArray[np.float64], right: NDArray[np.float64], rows: int,
                  start: NDArray[np.uint32], step: _Step) -> NDArray[np.uint32]:
    """`start` and the sums of left [elements, M, K] times right [elements, K, N]."""
    elements, outputs, depth = left.shape
    columns = right.shape[2]
    tiles = -(-depth // rows)
    a = np.zeros((elements, outputs, tiles * rows))
    a[:, :, :depth] = left
    w = np.zeros((elements, columns, tiles * rows))
    w[:, :, :depth] = right.transpose(0, 2, 1)
    # Operands [rows, elements, outputs, columns, tiles]; an axis that one lacks has length 1.
    a = a.reshape(elements, outputs, 1, tiles, rows).transpose(4, 0, 1, 2, 3)
    w = w.reshape(elements, 1, columns, tiles, rows).transpose(4, 0, 1, 2, 3)
    total = float32.to_values(start)

    step_m = max(1, min(outputs, max(256, _BLOCK // max(1, columns))))
    step_n = max(1, min(columns, _BLOCK // step_m))
    step_t = max(1, _BLOCK // (step_m * step_n))

    def block(corner: tuple[int, int]) -> None:
        m, n = (slice(first, first + step) for first, step in
                zip(corner, (step_m, step_n), strict=True))
        accumulators = total[m, n]
        # No step of this sum can be subnormal: the partial sums are multiples of 2^-40. Once
        # infinite it stays so or becomes NaN, so the special values can be merged at the end.
        with np.errstate(over="ignore", invalid="ignore"):
            for first in range(0, tiles, step_t):
                t = slice(first, first + step_t)
                partial = _partial_sums(a[:, :, m, :, t], w[:, :, :, n, t], step).astype(
                    np.float32)
                for i in range(partial.shape[2]):
                    accumulators += partial[:, :, i]
        total[m, n] = float32.canonical_values(accumulators)

    corners = [(i, j) for i in range(0, outputs, step_m) for j in range(0, columns, step_n)]
    if len(corners) > 1 and _THREADS > 1:
        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(block, corners))
    else:
        for corner in corners:
            block(corner)
    return float32.from_values(total)


def _partial_sums(a: NDArray[np.float64], w: NDArray[np.float64], step: _Step
                  ) -> NDArray[np.float64]:
    """Sums over axes 0 and 1 of a [rows, elements, M, 1, T] times w [rows, elements, 1, N, T].

    They are DLFloat16 values [M, N, T].
    """
    shape = np.broadcast_shapes(a.shape, w.shape)[2:]
    # numpy is fast along the last axis: make it the longest.
    order = sorted(range(3), key=shape.__getitem__)
    axes = (0, 1, *(2 + i for i in order))
    a, w = np.ascontiguousarray(a.transpose(axes)), np.ascontiguousarray(w.transpose(axes))
    total = np.zeros([shape[i] for i in order])
    for x, y in zip(a, w, strict=True):
        total = step(x, y, total)
    return total.transpose(np.argsort(order))
