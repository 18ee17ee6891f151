"""One element of the array: activations pass to the east, partial sums to the south."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from ulpsim.config import CoreConfig

from .multiply_add import Product, ProductAdd, Sum
from .packing import Mode, Packing
from .pair import PRODUCT_BITS, PairSum

__all__ = ["Control", "PartialSum", "ProcessingElement"]

_SIGNIFICAND = Product.as_shape()["significand"].width


class Control(data.Struct):
    """What travels with an activation. `swap`: from this one on, the next weight holds."""

    swap: 1
    mode: Mode


class PartialSum(data.StructLayout):
    """The sum that flows south: one for floating point, one for integers, as far as built.

    They do not share registers: a multiplexer costs more than the flip-flops.
    """

    def __init__(self, config: CoreConfig) -> None:
        members: dict = {}
        if config.has_float:
            members["floating"] = Sum
        if config.has_integer:
            members["integer"] = signed(config.partial_sum_bits)
        super().__init__(members)


class ProcessingElement(wiring.Component):
    """`lanes` slots that share an activation: each multiplies it by its weight and adds.

    south = north + activation * weight. The product takes two cycles, one for the operands'
    registers and one for the multiplication, and two more where two FP8 products are added
    (`config.product_latency`); then it meets the sum from the north. Products of BINARY are counted
    as the elements that differ: `Array` makes sums of them.

    Parameters
    ----------
    config
        `formats`, `lanes`, `multiply_add_stages` and the width of the partial sums.

    Members
    -------
    activation, control : In
        A packed operand and its control, one each cycle.
    activation_east, control_east : Out
        The same, a cycle later.
    weights : In(lanes x packed operand)
    load : In(1)
        Take `weights` as the next ones. They hold from a swap in any later cycle on.
    north : In(lanes x PartialSum)
        The partial sum, `config.product_latency` cycles after its activation.
    south : Out(lanes x PartialSum)
        The new partial sum, `multiply_add_stages` cycles after the north's.
    """

    def __init__(self, *, config: CoreConfig) -> None:
        if not isinstance(config, CoreConfig):
            raise TypeError(f"config must be a CoreConfig, not {config!r}")
        self.config = config
        self.packing = Packing(config.formats)
        operand = self.packing.layout
        sums = data.ArrayLayout(PartialSum(config), config.lanes)
        super().__init__({
            "activation": In(operand),
            "control": In(Control),
            "activation_east": Out(operand),
            "control_east": Out(Control),
            "weights": In(data.ArrayLayout(operand, config.lanes)),
            "load": In(1),
            "north": In(sums),
            "south": Out(sums),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, packing = self.config, self.packing
        activation = Signal(packing.layout, reset_less=True)
        control = Signal(Control, reset_less=True)
        m.d.sync += [activation.eq(self.activation), control.eq(self.control)]
        m.d.comb += [self.activation_east.eq(activation), self.control_east.eq(control)]
        mode = Signal(Mode, reset_less=True)
        m.d.sync += mode.eq(control.mode)
        for lane in range(config.lanes):
            suffix = f"_{lane}" if config.lanes > 1 else ""
            following = Signal(packing.layout, name=f"following_weight{suffix}", reset_less=True)
            weight = Signal(packing.layout, name=f"weight{suffix}", reset_less=True)
            with m.If(self.load):
                m.d.sync += following.eq(self.weights[lane])
            with m.If(self.control.swap):
                m.d.sync += weight.eq(following)

            products = []
            for i in range(packing.multipliers):
                product = Signal(signed(2 * packing.width), name=f"product{i}{suffix}",
                                 reset_less=True)
                m.d.sync += product.eq(activation.factors[i] * weight.factors[i])
                products.append(product)
            if config.has_float:
                adder = ProductAdd(stages=config.multiply_add_stages, carries=packing.has_fp8)
                m.submodules[f"add{suffix}"] = adder
                m.d.comb += [
                    adder.product.eq(self._product(m, activation, control.mode, weight, products,
                                                   suffix)),
                    adder.c.eq(self.north[lane].floating),
                    self.south[lane].floating.eq(adder.result),
                ]
            if config.has_integer:
                m.d.comb += self.south[lane].integer.eq(self._integer_sum(
                    m, self.north[lane].integer,
                    self._dot_product(m, activation, weight, products, mode, suffix), suffix))
        return m

    def _product(self, m: Module, activation: data.View, mode: data.View, weight: data.View,
                 products: list[Signal], suffix: str) -> Value:
        """The `Product` in floating point, `config.product_latency` cycles after its activation."""
        packing = self.packing
        if not packing.has_fp8:
            # The significand is in the multiplier's register.
            tags = Product.of(packing.operand(activation), packing.operand(weight),
                              Const(0, _SIGNIFICAND)).as_value()[_SIGNIFICAND:]
            tags_product = Signal(tags.shape(), name=f"tags{suffix}", reset_less=True)
            m.d.sync += tags_product.eq(tags)
            return Cat(products[0][:_SIGNIFICAND], tags_product)
        m.submodules[f"pair{suffix}"] = pair = PairSum()
        m.d.comb += [
            pair.is_fp8.eq(mode.fp8),
            *(side[i].eq(packing.tags_of(operand, i)) for i in range(2)
              for side, operand in ((pair.activation, activation), (pair.weight, weight))),
            pair.products[0].eq(products[0][:_SIGNIFICAND]),
            pair.products[1].eq(products[1][:PRODUCT_BITS]),
        ]
        return pair.product.as_value()

    def _dot_product(self, m: Module, activation: data.View, weight: data.View,
                     products: list[Signal], mode: data.View, suffix: str) -> tuple[Value, Value]:
        """The slot's sum of products of integers and a bit to be added to it, a cycle after
        `config.product_latency`."""
        packing, register = self.packing, self._register
        dot: Value = Const(0, signed(1))
        carry: Value = Const(0, 1)
        if packing.integers:
            (low, low_carry), (high, carry) = (
                packing.dot_product(product, odd, mode) for product, odd in zip(
                    products, self._odds(m, activation, weight, suffix), strict=True))
            dot = _add(low, high, low_carry)[:packing.dot_bits + 1].as_signed()
        if packing.has_binary:
            differ = register(m, packing.bits_of(activation) ^ packing.bits_of(weight),
                              f"differ{suffix}")
            counts: list[Value] = [differ[i] for i in range(len(differ))]
            while len(counts) > 1:
                counts = [a + b for a, b in zip(counts[::2], counts[1::2], strict=True)]
            dot = Mux(mode.binary, counts[0], dot)
            carry = carry & ~mode.binary
        for i in range(self.config.product_latency - 1):
            dot, carry = (register(m, value, f"{name}_{i}{suffix}")
                          for name, value in (("dot", dot), ("carry", carry)))
        return dot, carry

    def _odds(self, m: Module, activation: data.View, weight: data.View,
              suffix: str) -> list[Value]:
        """For each product whether its field above the wanted one is odd."""
        if "parities" not in dict(self.packing.layout):
            return [Cat()] * 2
        return [self._register(m, (activation.parities[i] & weight.parities[i]).xor(),
                               f"odd{i}{suffix}") for i in range(2)]

    def _integer_sum(self, m: Module, north: Value, addend: tuple[Value, Value],
                     suffix: str) -> Value:
        """The integers' sum, made in the second step and then kept until it is time."""
        north = self._register(m, north, f"north_1{suffix}")
        total = _add(north, *addend)[:self.config.partial_sum_bits].as_signed()
        for i in range(1, self.config.multiply_add_stages):
            total = self._register(m, total, f"sum_{i}{suffix}")
        return total

    @staticmethod
    def _register(m: Module, value: Value, name: str) -> Signal:
        signal = Signal(value.shape(), name=name, reset_less=True)
        m.d.sync += signal.eq(value)
        return signal


def _add(left: Value, right: Value, carry: Value) -> Value:
    """left + right + carry in one carry chain: the carry enters as the sum of a place below the
    lowest."""
    return (Cat(1, left).as_signed() + Cat(carry, right).as_signed())[1:].as_signed()
