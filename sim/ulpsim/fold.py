"""Fold: the columns of the array in groups, each with a part of K of its own.

Where a product has fewer outputs than the array has columns, several columns can work on one
output. With F groups K is taken in tiles of F x `rows` slots: group g multiplies slots g * rows to
(g + 1) * rows - 1 of each. The groups' accumulators (`matmul` says how each is summed; every group
takes every tile, filled up with zeros in floating point) are added as they are drained:

    two groups      s0 + s1
    four groups     (s0 + s2) + (s1 + s3)

in FP32, rounded to nearest even twice, or modulo 2^32.

`dot` and `add` are this definition, one output at a time; `matmul` and `add_groups` are their
twins for matrices.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import float32
from . import matmul as unfolded
from .formats import Format
from .isa import Fold
from .matmul import weight_ratio

__all__ = ["add", "add_groups", "dot", "group_depth", "group_slots", "matmul", "product"]


def group_slots(depth: int, rows: int, fold: Fold) -> list[NDArray[np.int64]]:
    """For each group the slots of K that it multiplies, in order."""
    place = np.arange(depth) // rows % fold.groups
    return [np.flatnonzero(place == group) for group in range(fold.groups)]


def group_depth(depth: int, rows: int, fold: Fold) -> int:
    """Slots of K of the first group, which has the most."""
    tiles, rest = divmod(depth, rows * fold.groups)
    return tiles * rows + min(rest, rows)


def dot(activations: Sequence[int], weights: Sequence[Sequence[int]], activation_format: Format,
        weight_format: Format, rows: int, fold: Fold,
        accumulators: Sequence[int] | None = None) -> list[int]:
    """The accumulators (32 bits) of all groups for one output.

    `activations` are slots, `weights` the slots of each group.
    """
    tiles = -(-len(activations) // (rows * fold.groups))
    sums = []
    for group, slots in enumerate(group_slots(len(activations), rows, fold)):
        a, w = [int(activations[k]) for k in slots], list(weights[group])
        if activation_format.precision.is_float:
            missing = [0] * (tiles * rows - len(slots))
            a, w = a + missing, w + missing
        start = accumulators[group] if accumulators is not None else 0
        sums.append(unfolded.dot(a, w, activation_format, weight_format, rows, start))
    return sums


def add(sums: Sequence[int], is_float: bool) -> int:
    """The sum of one output's groups, from and to 32 bits."""
    while len(sums) > 1:
        half = len(sums) // 2
        sums = [float32.add(a, b) if is_float else (a + b) % (1 << 32)
                for a, b in zip(sums[:half], sums[half:], strict=True)]
    return sums[0]


def matmul(activations: ArrayLike, weights: ArrayLike, activation_format: Format,
           weight_format: Format, rows: int, fold: Fold, accumulators: ArrayLike | None = None
           ) -> NDArray[np.uint32]:
    """As `matmul.matmul`, with the columns in groups: N outputs are N / F times F groups.

    `weights` are slots [ceil(`group_depth` / ratio), N]; each group's columns hold its own.
    """
    if fold is Fold.ONE:
        return unfolded.matmul(activations, weights, activation_format, weight_format, rows,
                               accumulators)
    left, right = np.asarray(activations, np.uint16), np.asarray(weights, np.uint16)
    ratio = weight_ratio(activation_format.precision, weight_format.precision)
    depth = left.shape[1]
    tiles = -(-depth // (rows * fold.groups))
    lines = -(-group_depth(depth, rows, fold) // ratio)
    if len(right) != lines or right.shape[1] % fold.groups:
        raise ValueError(f"weights must be [{lines}, a multiple of {fold.groups}], not "
                         f"{list(right.shape)}")
    columns = right.shape[1] // fold.groups
    parts = []
    for group, slots in enumerate(group_slots(depth, rows, fold)):
        place = slice(group * columns, (group + 1) * columns)
        a, w = left[:, slots], right[:-(-len(slots) // ratio), place]
        if activation_format.precision.is_float:
            missing = tiles * rows - len(slots)
            a, w = np.pad(a, ((0, 0), (0, missing))), np.pad(w, ((0, missing), (0, 0)))
        start = None if accumulators is None else np.asarray(accumulators)[:, place]
        parts.append(unfolded.matmul(a, w, activation_format, weight_format, rows, start))
    return np.concatenate(parts, axis=1)


def product(activations: NDArray[np.uint16], weights: NDArray[np.uint16],
            activation_format: Format, weight_format: Format, rows: int, fold: Fold
            ) -> NDArray[np.uint32]:
    """The sums [M, outputs], groups and all, of slots [M, K] times [K, outputs] in floating point:
    what comes of `matmul` and `add_groups` if every group's columns hold its slots of weights."""
    tiles = -(-activations.shape[1] // (rows * fold.groups))
    sums = []
    for slots in group_slots(activations.shape[1], rows, fold):
        missing = tiles * rows - len(slots)
        sums.append(unfolded.matmul(
            np.pad(activations[:, slots], ((0, 0), (0, missing))),
            np.pad(weights[slots], ((0, missing), (0, 0))), activation_format, weight_format, rows))
    return add_groups(np.concatenate(sums, axis=1), fold, True)


def add_groups(sums: ArrayLike, fold: Fold, is_float: bool) -> NDArray[np.uint32]:
    """Accumulators [..., N / F] of N / F outputs from those of all groups [..., N]."""
    total = np.asarray(sums, np.uint32)
    for _ in range(fold.value):
        half = total.shape[-1] // 2
        a, b = total[..., :half], total[..., half:]
        total = float32.add_array(a, b) if is_float else a + b
    return total
