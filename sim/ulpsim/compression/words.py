"""The words of AdaComp: which elements are sent, in 8 or 16 bits each.

A word is an index in a bin and two ternary bits, as in the paper: 6 + 2 bits for bins of up to 64
elements, 14 + 2 bits above. The index stands in the upper bits.

| ternary bits | word |
|---|---|
| 01 | the element is sent as +scale |
| 11 | the element is sent as -scale |
| 00 | skip: the next word belongs to the bin that is index + 1 bins further on |
| 10 | reserved |

Elements come in ascending order, so no word says which bin it belongs to: it is the one of the
word before if its index is greater, and the next bin if not. A skip is needed where that would be
wrong: where bins that send nothing lie between, or the next bin's first index is greater than the
last one.
After a skip, and at the beginning of a packet, any index belongs to the current bin.

A skip spans at most as many bins as an index has values. It is written as soon as that many bins
have ended since the last word and another one follows, so an encoder never has two to write at
once.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["BYTE_BIN", "MINUS", "PLUS", "SKIP", "decode", "decode_array", "encode", "encode_array",
           "index_bits", "walk_array", "word_bits"]

#: The largest bin that has words of 8 bits.
BYTE_BIN = 64
SKIP, PLUS, MINUS = 0b00, 0b01, 0b11


def word_bits(bin_size: int) -> int:
    """Bits of a word."""
    return 8 if bin_size <= BYTE_BIN else 16


def index_bits(bin_size: int) -> int:
    """Bits of a word's index."""
    return word_bits(bin_size) - 2


def encode(positions: Sequence[int], negative: Sequence[bool], bin_size: int,
           elements: int) -> list[tuple[int, int]]:
    """Words of a layer of so many elements: pairs of a word and the bin that is current before it.

    `positions` are ascending. A packet can begin with any of the words if it names that bin.
    """
    longest = 1 << index_bits(bin_size)
    signs = dict(zip(positions, negative, strict=True))
    words = []
    current, previous = 0, -1
    for bin_, first in enumerate(range(0, elements, bin_size)):
        if bin_ - current == longest:
            words.append(((longest - 1) << 2 | SKIP, current))
            current, previous = bin_, -1
        for position in range(first, min(first + bin_size, elements)):
            if position not in signs:
                continue
            index = position - first
            if bin_ - current > 1 or (bin_ - current == 1 and index > previous):
                words.append(((bin_ - current - 1) << 2 | SKIP, current))
            current, previous = bin_, index
            words.append((index << 2 | (MINUS if signs[position] else PLUS), bin_))
    return words


def decode(words: Sequence[int], bin_size: int, first_bin: int = 0) -> list[tuple[int, bool]]:
    """Positions and whether they are negative, of a packet's words.

    Raises ValueError for a reserved word or an index beyond the bin.
    """
    found = []
    current, previous = first_bin, -1
    for word in words:
        index, kind = word >> 2, word & 3
        if kind == SKIP:
            current, previous = current + index + 1, -1
        elif kind in (PLUS, MINUS):
            if index >= bin_size:
                raise ValueError(f"index must be below the bin size {bin_size}, not {index}")
            if index <= previous:
                current += 1
            previous = index
            found.append((current * bin_size + index, kind == MINUS))
        else:
            raise ValueError(f"word must be an element or a skip, not {word:#x}")
    return found


def encode_array(positions: NDArray[np.int64], negative: NDArray[np.bool_], bin_size: int,
                 elements: int) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
    """`encode` for arrays: the words, and the bin that is current before each."""
    longest = 1 << index_bits(bin_size)
    bins, index = np.divmod(positions, bin_size)
    before = np.concatenate([[0], bins[:-1]]) if len(bins) else bins
    last = np.concatenate([[-1], index[:-1]]) if len(bins) else index
    far, near = np.divmod(bins - before, longest)
    skips = (near > 1) | ((near == 1) & ((far > 0) | (index > last)))
    end = (-(-elements // bin_size) - 1 - (bins[-1] if len(bins) else 0)) // longest
    count = far + skips + 1
    place = np.cumsum(count) - 1
    words = np.full(int(count.sum()) + end, (longest - 1) << 2 | SKIP, np.int64)
    current = np.zeros(len(words), np.int64)
    # Long skips first, each from where the one before has led.
    step = np.arange(len(words)) - np.repeat(np.concatenate([place - count + 1, [count.sum()]]),
                                             np.concatenate([count, [end]]))
    origin = np.repeat(np.concatenate([before, bins[-1:] if len(bins) else [0]]),
                       np.concatenate([count, [end]]))
    current[:] = origin + step * longest
    at = place[skips] - 1
    words[at] = (near[skips] - 1) << 2 | SKIP
    words[place] = index << 2 | np.where(negative, MINUS, PLUS)
    current[place] = bins
    return words.astype(np.uint16), current


def walk_array(words: NDArray[np.uint16], first_bin: int = 0
               ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The bin that is current after each word, and its index."""
    index, skip = words.astype(np.int64) >> 2, (words & 3) == SKIP
    previous = np.concatenate([[-1], np.where(skip, -1, index)])[:len(words)]
    return first_bin + np.cumsum(np.where(skip, index + 1, index <= previous)), index


def decode_array(words: NDArray[np.uint16], bin_size: int, first_bin: int = 0
                 ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """`decode` for an array."""
    kind = words & 3
    if (kind == 0b10).any():
        raise ValueError("word must be an element or a skip, not "
                         f"{int(words[kind == 0b10][0]):#x}")
    bins, index = walk_array(words, first_bin)
    element = kind != SKIP
    if (index[element] >= bin_size).any():
        raise ValueError(f"index must be below the bin size {bin_size}, not "
                         f"{int(index[element].max())}")
    return (bins * bin_size + index)[element], (kind == MINUS)[element]
