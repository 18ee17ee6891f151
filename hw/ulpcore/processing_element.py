"""One element of the array: activations pass to the east, partial sums to the south."""

from amaranth.hdl import Cat, Const, Module, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from ulpsim.config import CoreConfig

from .multiply_add import Product, ProductAdd, Sum
from .packing import Mode, Packing

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
    registers and one for the multiplication; then it meets the sum from the north.

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
        The partial sum, two cycles after its activation.
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
                adder = ProductAdd(stages=config.multiply_add_stages)
                m.submodules[f"add{suffix}"] = adder
                # The significand is in the multiplier's register.
                tags = Product.of(packing.operand(activation), packing.operand(weight),
                                  Const(0, _SIGNIFICAND)).as_value()[_SIGNIFICAND:]
                tags_product = Signal(tags.shape(), name=f"tags{suffix}", reset_less=True)
                m.d.sync += tags_product.eq(tags)
                m.d.comb += [
                    adder.product.eq(Cat(products[0][:_SIGNIFICAND], tags_product)),
                    adder.c.eq(self.north[lane].floating),
                    self.south[lane].floating.eq(adder.result),
                ]
            if config.has_integer:
                odds = self._odds(m, activation, weight, suffix)
                m.d.comb += self.south[lane].integer.eq(self._integer_sum(
                    m, self.north[lane].integer, products, odds, mode, suffix))
        return m

    def _odds(self, m: Module, activation: data.View, weight: data.View,
              suffix: str) -> list[Value]:
        """For each product whether its field above the wanted one is odd."""
        if "parities" not in dict(self.packing.layout):
            return [Cat()] * 2
        odds = []
        for i in range(2):
            odd = Signal(name=f"odd{i}{suffix}", reset_less=True)
            m.d.sync += odd.eq((activation.parities[i] & weight.parities[i]).xor())
            odds.append(odd)
        return odds

    def _integer_sum(self, m: Module, north: Value, products: list[Signal], odds: list[Value],
                     mode: data.View, suffix: str) -> Value:
        """The integers' sum, made in two steps and then kept until it is time."""

        def register(value: Value, name: str) -> Signal:
            signal = Signal(value.shape(), name=f"{name}{suffix}", reset_less=True)
            m.d.sync += signal.eq(value)
            return signal

        def add(left: Value, right: Value, carry: Value) -> Value:
            # One carry chain: the carry enters as the sum of a place below the lowest.
            return (Cat(1, left).as_signed() + Cat(carry, right).as_signed())[1:].as_signed()

        (low, low_carry), (high, carry) = (
            self.packing.dot_product(product, odd, mode)
            for product, odd in zip(products, odds, strict=True))
        dot = register(add(low, high, low_carry)[:self.packing.dot_bits + 1].as_signed(), "dot")
        carry = register(carry, "carry")
        north = register(north, "north_1")
        total = add(north, dot, carry)[:self.config.partial_sum_bits].as_signed()
        for i in range(1, self.config.multiply_add_stages):
            total = register(total, f"sum_{i}")
        return total
