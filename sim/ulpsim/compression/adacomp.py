"""AdaComp: which elements of a gradient are sent, and what stays behind in the residue.

C.-Y. Chen et al., "AdaComp: Adaptive Residual Gradient Compression for Data-Parallel Distributed
Training", AAAI 2018, algorithms 1 and 2 (`pack`, `unpack`).

Arithmetic. Gradients and scales are FP32 (`ulpsim.float32`), gradients also DLFloat16, every number
of which is one of FP32; residues are integers of 32 bits, two's complement, in units of 2^-point,
where `point` is a setting of the layer. So

- a gradient is rounded once, to the nearest multiple of the unit, ties to even;
- G = residue + dW, H = residue + factor * dW, the maxima of the bins, their sum, every comparison
  and residue - sign * scale are exact;
- the scale is rounded once: to a multiple of the unit and to the 24 bits that FP32 holds, to
  nearest, ties to even, and to one unit at least if any element is not zero.

Residue plus what was sent is therefore *equal* to the sum of the gradients taken, always. A
gradient that is NaN-Inf, or whose sum with the residue has no 32 bits, is not taken: it counts as
zero, the residue stays as it was, and the number of such elements is reported and travels with
the packets as a flag.

`compress` reads like the paper; `compress_array` is its twin for arrays.
"""

import dataclasses
import enum
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from .. import float32

__all__ = [
    "FACTOR_UNITS",
    "LARGEST_BIN",
    "POINTS",
    "Compressed",
    "EncoderCause",
    "Gradient",
    "Settings",
    "compress",
    "compress_array",
    "gradient_values",
    "point_for",
    "quantise",
    "quantise_array",
    "residue_values",
    "scale_of_mean",
    "scale_to_units",
    "units_to_scale",
]

LARGEST_BIN = 16384
#: The factor is a multiple of 1 / FACTOR_UNITS.
FACTOR_UNITS = 4
#: Points with which every scale, from 1 to 2^31 units, is a normal FP32 number.
POINTS = range(-96, 127)

#: FP32 numbers, or codes of DLFloat16.
Gradient = NDArray[np.float32] | NDArray[np.uint16]

_LOWEST, _HIGHEST = -(1 << 31), (1 << 31) - 1
_SIGNIFICAND_BITS = 24
#: The largest gradient that is seen first has this many bits, with 12 above it for residues.
_FIRST_BITS = 19


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a layer is compressed.

    Attributes
    ----------
    bin_size
        Elements in a bin (L_T), from 1 to 16384; the last bin of a layer may be shorter. The
        paper's are 50 for convolutions, 500 for fully connected layers and LSTMs.
    factor
        The soft threshold: H = residue + factor * dW; a multiple of 1/4 from 1/4 to 31/4. The
        paper's is 2.
    point
        The unit of the residue is 2^-point.
    """

    bin_size: int = 50
    factor: float | Fraction = 2
    point: int = 24

    def __post_init__(self) -> None:
        if not isinstance(self.bin_size, int) or not 1 <= self.bin_size <= LARGEST_BIN:
            raise ValueError(f"bin_size must be an integer from 1 to {LARGEST_BIN}, not "
                             f"{self.bin_size!r}")
        steps = Fraction(self.factor) * FACTOR_UNITS if math.isfinite(self.factor) else Fraction(0)
        if steps.denominator != 1 or not 1 <= steps < 32:
            raise ValueError("factor must be a multiple of 1/4 from 1/4 to 31/4, not "
                             f"{self.factor!r}")
        if not isinstance(self.point, int) or self.point not in POINTS:
            raise ValueError(f"point must be an integer from {POINTS[0]} to {POINTS[-1]}, not "
                             f"{self.point!r}")

    @property
    def factor_steps(self) -> int:
        """The factor in quarters."""
        return int(Fraction(self.factor) * FACTOR_UNITS)

    def bins(self, elements: int) -> int:
        """Bins of a layer of so many elements."""
        return -(-elements // self.bin_size)


class EncoderCause(enum.IntEnum):
    """Why the hardware's encoder refuses a layer; of several causes the first one counts."""

    NONE = 0
    BIN_SIZE = 1        #: 0, or more than the encoder's largest bin
    FACTOR = 2          #: 0
    POINT = 3           #: not from -96 to 126
    #: Negative, NaN-Inf, beyond 2^31 units, no multiple of the unit; not 0 in a pass that chooses.
    SCALE = 4


@dataclasses.dataclass(frozen=True)
class Compressed:
    """What one step makes of one layer.

    Attributes
    ----------
    positions
        The elements that are sent, ascending.
    negative
        Whether each of them is sent as -scale.
    scale
        Bits of the FP32 scale.
    residue
        The new residue, in units.
    mean
        Bits of the exact mean of this step's bins: `scale` itself unless that was given.
    refused
        How many gradients were not taken.
    """

    positions: NDArray[np.int64]
    negative: NDArray[np.bool_]
    scale: int
    residue: NDArray[np.int32]
    mean: int
    refused: int

    @property
    def sent(self) -> NDArray[np.float32]:
        """The dense gradient that a receiver adds: scale * sign, 0 where nothing is sent."""
        dense = np.zeros(len(self.residue), np.float32)
        value = np.float32(float32.decode(self.scale))
        dense[self.positions] = np.where(self.negative, -value, value)
        return dense


def quantise(gradient: int, point: int) -> int | None:
    """A gradient (FP32 bits) in units, rounded to nearest even; None if it has no 32 bits."""
    value = float32.decode_exact(gradient)
    if value is None:
        return None
    units = round(value * Fraction(2) ** point)
    return units if _LOWEST <= units <= _HIGHEST else None


def scale_of_mean(total: int, bins: int) -> int:
    """The mean of `bins` maxima whose sum is `total`, in units, as a scale can have it."""
    if total == 0:
        return 0
    mean = Fraction(total, bins)
    step = 1 << max(math.floor(mean).bit_length() - _SIGNIFICAND_BITS, 0)
    return max(round(mean / step) * step, 1)


def units_to_scale(units: int, point: int) -> int:
    """FP32 bits of a scale in units."""
    return float32.round_exact(units / Fraction(2) ** point)


def scale_to_units(scale: int, point: int) -> int:
    """A scale (FP32 bits) in units.

    Raises ValueError if it is negative, NaN-Inf, beyond 2^31 units, or no multiple of the unit:
    what is sent would not be what is taken from the residue.
    """
    value = float32.decode_exact(scale)
    if value is not None:
        units = value * Fraction(2) ** point
        if units.denominator == 1 and 0 <= units <= 1 << 31:
            return int(units)
    raise ValueError(f"scale must be a multiple of 2^{-point} from 0 to 2^{31 - point}, not "
                     f"{float32.decode(scale)!r}")


def compress(residue: Sequence[int], gradient: Sequence[int], settings: Settings,
             scale: int | None = None, *, dlfloat16: bool = False,
             choose: bool = False) -> Compressed:
    """One step of one layer, as the paper has it.

    Parameters
    ----------
    residue
        What earlier steps left, in units.
    gradient
        dW of this step, FP32 bits; with `dlfloat16` codes of DLFloat16.
    scale
        One pass: FP32 bits of the scale to use, the mean of the previous step. By default the
        exact mean of this step, for which hardware passes over the layer twice. With a scale of
        zero nothing is sent.
    choose
        Only say which elements would be sent, with a scale of zero: all of G stays in the residue
        (`cyclic`). There must be no `scale` then.

    Raises ValueError for an empty layer, unequal lengths or a scale that is no multiple of the
    unit or that must not be.
    """
    elements = _check(len(residue), len(gradient))
    if dlfloat16:
        gradient = [float32.from_dlfloat(code) for code in gradient]
    g, h, refused = [], [], 0
    for r, bits in zip(residue, gradient, strict=True):
        w = quantise(bits, settings.point)
        if w is None or not _LOWEST <= r + w <= _HIGHEST:
            w, refused = 0, refused + 1
        g.append(r + w)
        h.append(r + Fraction(settings.factor) * w)

    bins = [range(first, min(first + settings.bin_size, elements))
            for first in range(0, elements, settings.bin_size)]
    g_max = [max(abs(g[j]) for j in one) for one in bins]
    mean = scale_of_mean(sum(g_max), len(bins))
    given = _given(scale, settings.point, choose)
    s = mean if given is None else given

    left, positions, negative = list(g), [], []
    for one, largest in zip(bins, g_max, strict=True):
        for j in one:
            # An element that is zero has no sign to send; so a bin of zeros sends nothing.
            if abs(h[j]) >= largest and g[j] != 0 and (s != 0 or choose):
                positions.append(j)
                negative.append(g[j] < 0)
                left[j] = g[j] + s if g[j] < 0 else g[j] - s
    return Compressed(np.array(positions, np.int64), np.array(negative, bool),
                      units_to_scale(s, settings.point), np.array(left, np.int32),
                      units_to_scale(mean, settings.point), refused)


def _given(scale: int | None, point: int, choose: bool) -> int | None:
    """The scale in units, None for the mean."""
    if choose and scale is not None:
        raise ValueError(f"scale must be None where elements are only chosen, not {scale!r}")
    if scale is None:
        return 0 if choose else None
    return scale_to_units(scale, point)


def _check(residues: int, gradients: int) -> int:
    if residues != gradients or not residues:
        raise ValueError("residue and gradient must have the same length, at least 1, not "
                         f"{residues} and {gradients}")
    return residues


def quantise_array(gradient: NDArray[np.float32], point: int
                   ) -> tuple[NDArray[np.int32], NDArray[np.bool_] | None]:
    """`quantise` for an array of float32: units, and where there are none (then 0); None for
    that if it is nowhere."""
    # Scaling by a power of two is exact; only the product of a number below 2^-126 and what
    # underflows is not, and both are zero. Beyond FP32's own range is beyond 32 bits.
    factor = np.float32(2.0 ** min(point, 96))
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        wide = gradient * factor
        if point > 96:
            wide *= np.float32(2.0 ** (point - 96))
        np.rint(wide, out=wide)
        none = None
        if not (wide.min() >= -2.0 ** 31 and wide.max() < 2.0 ** 31):      # false for NaN, too
            none = ~((wide >= -2.0 ** 31) & (wide < 2.0 ** 31))
            wide[none] = 0
        if point >= 126:
            # The one place where a subnormal, which counts as zero, would reach half a unit.
            wide[np.abs(gradient) < np.float32(2.0 ** -126)] = 0
    return wide.astype(np.int32), none


#: Elements that are computed at once: what fits a core's cache.
_BLOCK = 1 << 15


@dataclasses.dataclass
class _Block:
    """Some whole bins: G in place of the residue, maxima of the bins, and what may be sent."""

    first: int
    total: int
    refused: int
    candidates: NDArray[np.int64]


def _first_pass(first: int, g: NDArray[np.int32], gradient: NDArray[np.float32],
                settings: Settings) -> _Block:
    w, none = quantise_array(gradient, settings.point)
    r = g.copy()
    np.add(g, w, out=g)                                   # wraps; then a gradient is not taken
    wrapped = ((r ^ g) & (w ^ g)) < 0
    if wrapped.any():
        g[wrapped] = r[wrapped]
        w[wrapped] = 0
        none = wrapped if none is None else none | wrapped
    steps = settings.factor_steps
    magnitude = np.abs(g)                                 # of -2^31: itself, as the unsigned 2^31
    magnitude = magnitude.view(np.uint32)
    whole = len(g) // settings.bin_size * settings.bin_size
    edges = [magnitude[:whole].reshape(-1, settings.bin_size).max(axis=1)] if whole else []
    if whole < len(g):
        edges.append(magnitude[whole:].max(keepdims=True))
    g_max = np.concatenate(edges)
    # H = r + factor w in quarters, in 32 bits if they suffice.
    bound = FACTOR_UNITS * int(np.abs(r.astype(np.int64)).max() if r.min() == _LOWEST
                               else np.abs(r).max())
    bound += steps * int(np.abs(w.astype(np.int64)).max() if w.min() == _LOWEST
                         else np.abs(w).max())
    kind = np.int32 if max(bound, FACTOR_UNITS * int(g_max.max())) < 1 << 31 else np.int64
    h = r.astype(kind, copy=False) * kind(FACTOR_UNITS)
    h += w.astype(kind, copy=False) * kind(steps)
    np.abs(h, out=h)
    threshold = np.maximum(g_max, 1).astype(kind) * kind(FACTOR_UNITS)
    sent = np.empty(len(g), bool)
    if whole:
        bins = whole // settings.bin_size
        np.greater_equal(h[:whole].reshape(bins, -1), threshold[:bins, None],
                         out=sent[:whole].reshape(bins, -1))
    if whole < len(g):
        np.greater_equal(h[whole:], threshold[-1], out=sent[whole:])
    candidates = np.flatnonzero(sent)
    candidates = candidates[g[candidates] != 0]
    return _Block(first, int(g_max.sum(dtype=np.uint64)),
                  0 if none is None else int(np.count_nonzero(none)), candidates)


def gradient_values(gradient: Gradient) -> NDArray[np.float32]:
    """A gradient as float32, if it is codes of DLFloat16 (uint16), exactly; else itself."""
    if gradient.dtype == np.uint16:
        return float32.from_dlfloat_array(gradient).view(np.float32)
    return gradient.astype(np.float32, copy=False)


def compress_array(residue: NDArray[np.int32], gradient: Gradient, settings: Settings,
                   scale: int | None = None, *, choose: bool = False, threads: int = 1
                   ) -> Compressed:
    """`compress` for arrays of one dimension: residue int32, gradient float32 or, codes of
    DLFloat16, uint16.

    Blocks of bins are spread over `threads`; the result does not depend on it.
    """
    if residue.dtype != np.int32 or gradient.dtype not in (np.float32, np.uint16) \
            or residue.ndim != 1 or gradient.ndim != 1:
        raise ValueError("residue and gradient must be vectors of int32 and of float32 or uint16, "
                         f"not {residue.dtype} {residue.shape} and {gradient.dtype} "
                         f"{gradient.shape}")
    values = gradient_values(gradient)
    elements = _check(len(residue), len(gradient))
    given = _given(scale, settings.point, choose)
    left = residue.copy()
    size = max(_BLOCK // settings.bin_size, 1) * settings.bin_size

    def one(first: int) -> _Block:
        part = slice(first, first + size)
        return _first_pass(first, left[part], values[part], settings)

    firsts = range(0, elements, size)
    if threads > 1 and len(firsts) > 1:
        with ThreadPoolExecutor(threads) as pool:
            blocks = list(pool.map(one, firsts))
    else:
        blocks = [one(first) for first in firsts]
    mean = scale_of_mean(sum(block.total for block in blocks), settings.bins(elements))
    s = mean if given is None else given
    positions = (np.concatenate([block.candidates + block.first for block in blocks])
                 if s or choose else np.zeros(0, np.int64))
    taken = left[positions]
    negative = taken < 0
    # Between -2^31 and 2^31 - 1 with S up to 2^31: the sum modulo 2^32 is the sum.
    units = np.uint32(s)
    left[positions] = np.where(negative, taken.view(np.uint32) + units,
                               taken.view(np.uint32) - units).view(np.int32)
    return Compressed(positions, negative, units_to_scale(s, settings.point), left,
                      units_to_scale(mean, settings.point),
                      sum(block.refused for block in blocks))


def residue_values(residue: NDArray[np.int32], point: int) -> NDArray[np.float64]:
    """The exact values of a residue."""
    return np.ldexp(residue.astype(np.float64), -point)


def point_for(gradient: NDArray[np.float32]) -> int:
    """A point for a layer, from a gradient that is typical of it: its largest finite magnitude gets
    19 bits, so that its unit is less than 2^-18 of that, and residues may grow to 4096 times it."""
    magnitude = np.abs(gradient[np.isfinite(gradient)])
    largest = float(magnitude.max(initial=0.0))
    if largest == 0:
        return Settings.point
    return min(max(_FIRST_BITS - math.frexp(largest)[1], POINTS[0]), POINTS[-1])
