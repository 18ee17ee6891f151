"""The sum of a slot's two FP8 products, as exact as one FP16 product; twin `ulpsim.fp8.pair`.

The product with the greater exponent stands at the upper end of a significand of 20 bits, the
other one is shifted right behind it:

    bit 19 18       11 10                   0
           | greater  |
           |   lesser, shifted by the difference of the exponents

For a difference of the products ~lesser is added without a carry-in, so what comes out is short by
1. If it is negative, its complement is the magnitude; if not, the missing 1 is left to
`ProductAdd`, which adds it as it adds c. So no comparison of the products is needed: which one is
called the greater where exponents are alike makes no difference.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from ulpsim.fp8 import PAIR_BITS

from .multiply_add import Product

__all__ = ["PRODUCT_BITS", "PairSum", "Tags"]

#: Bits of a product of two FP8 significands, and of one of two FP16 significands.
PRODUCT_BITS = 8
_SIGNIFICAND = Product.as_shape()["significand"].width
assert _SIGNIFICAND == PRODUCT_BITS + PAIR_BITS + 1


class Tags(data.Struct):
    """What a factor is beside its significand, which is 0 if an FP8 factor is zero.

    `exponent` of FP16 and of a slot's second FP8 factor: both sides' add up to the exponent of
    `Product`. Of the first FP8 factor: what it is greater by than the second one's.
    """

    exponent: signed(7)
    sign: 1
    zero: 1
    nan: 1


class PairSum(wiring.Component):
    """Makes a `Product` of two FP8 products, or of one FP16 product, each cycle.

    Members
    -------
    is_fp8 : In(1), activation, weight : In(2 x Tags)
        Of FP16 only the second tags count.
    products : In(2 x 20)
        One cycle later: the significands' products. Of FP16 only the first one counts.
    product : Out(Product)
        Two cycles after the products. A register.
    """

    is_fp8: In(1)
    activation: In(data.ArrayLayout(Tags, 2))
    weight: In(data.ArrayLayout(Tags, 2))
    products: In(data.ArrayLayout(_SIGNIFICAND, 2))
    product: Out(Product)

    #: Cycles from the products to their sum.
    latency = 2

    def elaborate(self, platform: object) -> Module:
        m = Module()

        def register(value: Value, name: str) -> Signal:
            signal = Signal(value.shape(), name=name, reset_less=True)
            m.d.sync += signal.eq(value)
            return signal

        # While the significands are multiplied: which product is the greater one.
        a, w, is_fp8 = self.activation, self.weight, self.is_fp8
        difference = Signal(signed(7))
        m.d.comb += difference.eq(a[0].exponent + w[0].exponent)
        zeros = [a[i].zero | w[i].zero for i in range(2)]
        signs = [a[i].sign ^ w[i].sign for i in range(2)]
        first = is_fp8 & (zeros[1] | ~zeros[0] & ~difference[-1])
        base = register((a[1].exponent + w[1].exponent)[:8], "base")
        zero = register(zeros[1] & (zeros[0] | ~is_fp8), "zero")
        nan = register(a[1].nan | w[1].nan | is_fp8 & (a[0].nan | w[0].nan), "nan")
        sign = register(Mux(first, signs[0], signs[1]), "sign")
        subtract = register(is_fp8 & (signs[0] ^ signs[1]), "subtract")
        first, is_fp8 = register(first, "first"), register(is_fp8, "is_fp8_1")
        # The first factors' difference is that of the exponents, or its negative less 1, which
        # begins one place further right.
        negative = register(difference[-1], "negative")
        distance = register(difference[:-1] ^ difference[-1].replicate(6), "distance")

        # Shift the lesser product.
        products = [p[:PRODUCT_BITS] for p in self.products]
        greater = Mux(first, products[0], products[1])
        lesser = Mux(first, products[1], products[0])
        lesser = Mux(negative, Cat(lesser, 0), Cat(0, lesser))
        shifted = Cat(Const(0, 7), lesser)
        for i in range(3):
            shifted = Mux(distance[i], Cat(shifted[1 << i:], Const(0, 1 << i)), shifted)
        above = Cat(Const(0, PAIR_BITS), greater)
        above = register(Mux(is_fp8, above, self.products[0]), "above")
        shifted = register(shifted, "shifted")
        far, farther = (register(distance[3 + i], f"far_{8 << i}") for i in range(2))
        # So far right that nothing is left, as nothing is to be of a product that FP16 has not.
        gone = register(distance[5] | ~is_fp8, "gone")
        difference = Cat(distance ^ negative.replicate(6), negative).as_signed()
        exponent = register((base + Mux(first, difference, 0))[:8], "exponent")
        zero, nan, sign, subtract = (register(value, f"{name}_1") for name, value in (
            ("zero", zero), ("nan", nan), ("sign", sign), ("subtract", subtract)))

        # Add it, or subtract it.
        shifted = Cat(Const(0, PAIR_BITS - 8), shifted)
        addend = Mux(farther, Mux(far, shifted[24:], shifted[16:]),
                     Mux(far, shifted[8:], shifted)) & ~gone.replicate(len(shifted))
        addend = addend[:len(shifted)] ^ subtract.replicate(len(shifted))
        low = above[:PAIR_BITS] ^ addend[:PAIR_BITS]
        high = Signal(_SIGNIFICAND - PAIR_BITS + 1)
        m.d.comb += high.eq(above[PAIR_BITS:] + Cat(addend[PAIR_BITS:], subtract.replicate(
            _SIGNIFICAND - len(addend))))
        total = Cat(low, high[:-1])
        complement = subtract & ~high[-1]
        product = Signal(Product, reset_less=True)
        m.d.sync += [
            product.significand.eq(total ^ complement.replicate(_SIGNIFICAND)),
            product.exponent.eq(exponent),
            product.sign.eq(sign ^ complement),
            product.zero.eq(zero | total.all()),
            product.nan.eq(nan),
            product.carry.eq(subtract & ~complement),
        ]
        m.d.comb += self.product.eq(product)
        return m
