"""Several vectors in one turn of the special unit: how many, and where they lie in an access.

One access of the shared port touches as many slots in a row as there are banks. Vectors that lie a
power of two of slots apart, no closer than they are long, so come and go together if the last one
ends within the access (`ulpsim.cycles_special.vectors_at_once`). Their distance, one bit of a
stride, says where in the access each of them is.
"""

from collections.abc import Iterable, Mapping, Sequence

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data
from amaranth.utils import exact_log2
from ulpsim.config import SLOT_BITS, CoreConfig
from ulpsim.formats import Precision
from ulpsim.isa import Fold, Source

from .addresses import saturate
from .special_addresses import SpecialAddresses
from .unit import precision_bits

__all__ = ["STRIDES", "SeveralVectors", "gather", "sizes", "spread"]

#: The stride between the innermost loop's vectors, of what is in the scratchpad.
STRIDES = {"source": "accumulator_stride_2", "residual": "residual_stride_2",
           "output": "stride_2"}


def sizes(formats: Iterable[Precision]) -> Mapping[int, list[Precision]]:
    """Sizes of elements in bits, each with its precisions."""
    of: dict[int, list[Precision]] = {}
    for p in formats:
        of.setdefault(p.bits, []).append(p)
    return of


class SeveralVectors:
    """The vectors of an instruction's turns, which stands in the register `instruction`.

    Built into a unit without a module of its own. On a core that takes one vector at a time it is
    made of constants.

    Members
    -------
    taken
        Whether more than one is taken at a time, for as long as the instruction stands.
    count
        Turns that loop 2 takes, in the place of `count_2`.
    most
        How many vectors there are beside the first one in the turn that `addresses` shows.
    """

    def __init__(self, m: Module, config: CoreConfig, first: data.View, take: Value,
                 instruction: data.View, addresses: SpecialAddresses) -> None:
        self.config = config
        self.bits = exact_log2(config.special_vectors)
        self.taken, self.most, self.count = Const(0, 1), Const(0, 0), instruction.count_2
        if not self.bits:
            return
        # Of the bits 0 and 1 the first says that there are at least 2 and the second that there
        # are 4: as a number one less than how many there are.
        together = Signal(self.bits, name="together")
        with m.If(take):
            m.d.sync += together.eq(_together(config, first))
        others = instruction.count_2 - 1
        self.count = (self._shifted(together, others, left=False) + 1)[:len(instruction.count_2)]
        self.taken, self.together = together[0], together
        self.most = Signal(self.bits, name="most")
        m.d.comb += self.most.eq(
            together & Mux(addresses.inner_last, others[:self.bits], ~Const(0, self.bits)))

    def _shifted(self, together: Value, value: Value, left: bool) -> Value:
        """`value` times or by the vectors of a turn."""
        for i in range(self.bits):
            value = Mux(together[i], value << 1 if left else value >> 1, value)
        return value

    def stride(self, stride: Value) -> Value:
        """A stride of loop 2 from turn to turn."""
        return self._shifted(self.together, stride, left=True) if self.bits else stride

    def addresses(self, first: Value, stride: Value) -> list[Value]:
        """Where each vector is if the first one is there."""
        return [first, *(first + number * stride for number in range(1, 1 << self.bits))]

    def last(self, first: Value, stride: Value) -> Value:
        """Where the last vector of the turn is; addresses as `saturate` makes them."""
        if not self.bits:
            return first
        width = len(first) - 1
        stride = saturate(stride, width)
        total = first + sum((stride & bit.replicate(width + 1)) << i
                            for i, bit in enumerate(self.most))
        return saturate(total, width)


def _together(config: CoreConfig, instruction: data.View) -> Value:
    """Whether the instruction takes at least 2 vectors in a turn, and 4: a bit each."""
    used = {"residual": instruction.residual, "output": Const(1)}
    if config.special_functions:
        used["source"] = instruction.source == Source.ACTIVATIONS.value
    bits = []
    for count in (2, 4):
        if count <= config.special_vectors:
            fit = [~condition | _fit(config, instruction, name, count)
                   for name, condition in used.items()]
            bits.append(Cat(~instruction.reduce, instruction.fold == Fold.ONE.value, *fit).all())
    return Cat(bits)


def _fit(config: CoreConfig, instruction: data.View, name: str, count: int) -> Value:
    """Whether so many of the vectors lie in one access."""
    precision = instruction[f"{name}_precision"][:precision_bits(config.formats)]
    stride = instruction[STRIDES[name]]
    fits: list[Value] = [Const(0, 1)]
    for bits, precisions in sizes(config.formats).items():
        apart = [stride == distance for distance in _distances(config, bits, count)]
        if apart:
            fits.append(Cat(precision == p.value for p in precisions).any() & Cat(apart).any())
    return Cat(fits).any()


def _distances(config: CoreConfig, bits: int, count: int = 2) -> list[int]:
    """The distances at which `count` vectors of elements of so many bits lie in one access."""
    slots = config.column_lanes * bits // SLOT_BITS
    if not slots:
        return []
    first, end = exact_log2(slots), exact_log2(config.banks // count)
    return [1 << k for k in range(first, end + 1)]


def _all_distances(config: CoreConfig) -> list[int]:
    """Those of any elements."""
    return _distances(config, min(p.bits for p in config.formats
                                  if p not in config.halved_formats))


def gather(m: Module, config: CoreConfig, slots: Value, stride: Value, bits: int,
           name: str) -> list[Value]:
    """The vectors in `slots`, of `bits` in each, that lie `stride` slots apart.

    The first one is what `slots` begins with, whatever the stride.
    """
    length, banks = config.column_lanes, config.banks
    vectors = [slots[:length * bits]]
    for number in range(1, config.special_vectors):
        vector = Signal(length * bits, name=f"{name}_{number}")
        for distance in _all_distances(config):
            if number * distance < banks:
                with m.If(stride[exact_log2(distance)]):
                    m.d.comb += vector.eq(slots[number * distance * bits:][:length * bits])
        vectors.append(vector)
    return vectors


def spread(m: Module, config: CoreConfig, vectors: Sequence[Value], stride: Value, several: Value,
           bits: int, name: str) -> Signal:
    """The access in which these vectors, of `bits` in each slot, lie `stride` slots apart.

    Without `several` it begins with the first one; no other is there.
    """
    length, banks = config.column_lanes, config.banks
    access = Signal(banks * bits, name=name)
    m.d.comb += access.eq(vectors[0])
    for distance in _all_distances(config):
        part = min(distance, length) * bits
        pieces = [Cat(vector[:part], Const(0, distance * bits - part)) for vector in vectors]
        with m.If(several & stride[exact_log2(distance)]):
            m.d.comb += access.eq(Cat(pieces)[:banks * bits])
    return access
