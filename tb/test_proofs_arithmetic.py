"""What is proven of arithmetic in floating point: FP8's decoding and pairs, DLFloat16's sums.

From the codes in a slot to the code of a sum, each link for everything that the one before can
give: decoding (`Packer`, `Operand`), the product's place beside tags, a pair of FP8 products
(`PairSum`), and product + c (`ProductAdd`), each against its definition in exact fixed point.
Multipliers are not among them: their products are free numbers, as large as significands allow.
"""

import pytest
from amaranth.hdl import Assert, Assume, Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data
from proof import prove_pipeline
from ulpcore.multiply_add import CUTS, Operand, Product, ProductAdd, Sum
from ulpcore.packing import Packer, Packing
from ulpcore.pair import PRODUCT_BITS, PairSum, Tags
from ulpsim import dlfloat, fp8
from ulpsim.formats import Precision

FORMATS = (Precision.FP16, Precision.E4M3, Precision.E5M2)
SIGNIFICAND_BITS = dlfloat.FRACTION_BITS + 1
#: Of a product of two FP16 significands.
LEAST_PRODUCT, LARGEST_PRODUCT = 512 * 512, 1023 * 1023
#: The two sides of a product: whether it is the weights', and what `Tags.exponent` adds to the
#: exponent of an FP8 value: together 62, less the places of two fractions and of a pair.
SIDES = {"activation": 22, "weight": 23}
assert sum(SIDES.values()) == 62 - 2 * 3 - fp8.PAIR_BITS


def delayed(m: Module, value: Value, cycles: int, name: str) -> Value:
    """The value that was there `cycles` earlier."""
    for i in range(cycles):
        later = Signal(value.shape(), name=f"{name}_{i + 1}_ago", reset_less=True)
        m.d.sync += later.eq(value)
        value = later
    return value


@pytest.mark.parametrize("precision", [Precision.E4M3, Precision.E5M2], ids=lambda p: p.name)
@pytest.mark.parametrize("side", SIDES)
def test_codes_of_fp8_are_decoded_as_defined(precision: Precision, side: str) -> None:
    """For every slot and bias: a value is (-1)^sign * significand * 2^(exponent - offset - 3)."""
    m = Module()
    m.submodules.packer = packer = Packer(formats=FORMATS, weights=side == "weight")
    exponent_bits = {Precision.E4M3: 4, Precision.E5M2: 5}[precision]
    bias = packer.forward_bias if precision is Precision.E4M3 else Const(fp8.BACKWARD.bias)
    m.d.comb += packer.precision.eq(precision.value)
    exponents, shown = [], []
    for i in range(2):
        code = packer.slot.word_select(i, 8)
        tags = Tags(Packing(FORMATS).tags_of(packer.packed, i))
        magnitude = code[:7]
        fraction, exponent = (magnitude[:7 - exponent_bits], magnitude[7 - exponent_bits:])
        # The significand has three places of fraction.
        significand = ((1 << 7 - exponent_bits) + fraction) << 3 - (7 - exponent_bits)
        is_zero = magnitude == 0
        m.d.comb += [
            Assert(packer.packed.factors[i].as_unsigned()[:PRODUCT_BITS]
                   == Mux(is_zero, 0, significand)),
            Assert(tags.sign == code[7]),
            Assert(tags.zero == is_zero),
            Assert(tags.nan == (magnitude == fp8.NAN)),
        ]
        exponents.append(exponent - bias + SIDES[side])
        shown.append(tags.exponent)
    # The first one is kept as its difference from the second one.
    m.d.comb += [Assert(shown[0] + shown[1] == exponents[0]), Assert(shown[1] == exponents[1])]
    prove_pipeline(m, [packer.slot, packer.forward_bias, packer.is_signed], latency=0)


def test_tags_leave_the_product_of_significands_alone() -> None:
    """The lowest bits of the product of two packed factors, whatever stands above them."""
    m = Module()
    width = Packing(FORMATS).width
    a, w = (Signal(signed(width), name=name) for name in SIDES)
    significands = [x.as_unsigned()[:PRODUCT_BITS] for x in (a, w)]
    product = significands[0] * significands[1]
    m.d.comb += [Assume((x == 0) | (x >= 8) & (x <= 15)) for x in significands]
    m.d.comb += [Assert(product < 1 << PRODUCT_BITS),
                 Assert((a * w).as_unsigned()[:PRODUCT_BITS] == product)]
    prove_pipeline(m, [a, w], latency=0)


def pair_with_specification(m: Module, pair: PairSum) -> list[Value]:
    """Asserts that the pair's sum is as defined; returns the inputs.

    What goes in is assumed to be what `Packer` and multipliers can give.
    """
    sides = {"activation": pair.activation, "weight": pair.weight}
    is_zero = [pair.activation[i].zero | pair.weight[i].zero for i in range(2)]
    for name, side in sides.items():
        second = side[1].exponent
        first = second + side[0].exponent
        lowest, highest = SIDES[name] - 15, SIDES[name] + 31 - 15
        m.d.comb += [Assume(~pair.is_fp8 | (x >= lowest) & (x <= highest))
                     for x in (first, second)]
        # An FP16 zero has the least exponent, and no exponent is far from those of the code.
        m.d.comb += [Assume(pair.is_fp8 | (second >= -9) & (second <= 63 - 9)),
                     Assume(pair.is_fp8 | ~side[1].zero | (second == -9))]
    exponents = [sum((s[1].exponent + s[0].exponent for s in sides.values()), Const(0)),
                 pair.activation[1].exponent + pair.weight[1].exponent]
    signs = [pair.activation[i].sign ^ pair.weight[i].sign for i in range(2)]
    nans = [pair.activation[i].nan | pair.weight[i].nan for i in range(2)]

    # One cycle on, the products are there; two more, and so is the sum.
    def past(value: Value, name: str) -> Value:
        return delayed(m, value, pair.latency + 1, name)

    was_fp8 = past(pair.is_fp8, "is_fp8")
    zero_at_products = [delayed(m, zero, 1, f"zero_{i}") for i, zero in enumerate(is_zero)]
    fp8_at_products = delayed(m, pair.is_fp8, 1, "is_fp8_at_products")
    for i in range(2):
        product = pair.products[i][:PRODUCT_BITS]
        m.d.comb += Assume(~fp8_at_products | Mux(zero_at_products[i], product == 0,
                                                  (product >= 64) & (product <= 225)))
    m.d.comb += Assume(fp8_at_products | (pair.products[0] >= LEAST_PRODUCT)
                       & (pair.products[0] <= LARGEST_PRODUCT))
    is_zero = [past(zero, f"was_zero_{i}") for i, zero in enumerate(is_zero)]
    exponents = [past(x, f"exponent_{i}") for i, x in enumerate(exponents)]
    signs = [past(x, f"sign_{i}") for i, x in enumerate(signs)]
    nans = [past(x, f"nan_{i}") for i, x in enumerate(nans)]
    products = [delayed(m, pair.products[i], pair.latency, f"product_{i}") for i in range(2)]

    # The definition: both cut to the last place that the one with the greater exponent has.
    greatest = Mux(is_zero[0], exponents[1], Mux(
        is_zero[1] | (exponents[1] < exponents[0]), exponents[0], exponents[1]))
    total: Value = Const(0)
    for i in range(2):
        below = (greatest - exponents[i]).as_unsigned()[:7]
        cut = (products[i][:PRODUCT_BITS] << fp8.PAIR_BITS) >> below
        cut = Mux(is_zero[i], 0, cut)
        total = total + Mux(signs[i], -cut, cut)
    total = Mux(was_fp8, total, Mux(signs[1], -products[0], products[0]))
    greatest = Mux(was_fp8, greatest, exponents[1])
    nothing = Mux(was_fp8, total == 0, is_zero[1])
    nan = nans[1] | was_fp8 & nans[0]

    product = pair.product
    magnitude = product.significand + product.carry
    m.d.comb += [
        Assert(product.nan == nan),
        Assert(product.zero == nothing),
        Assert(nothing | (Mux(product.sign, -magnitude, magnitude) == total)),
        Assert(nothing | (product.exponent == greatest)),
        Assert(within_contract(product)),
    ]
    return [pair.is_fp8, *(Value.cast(x) for x in (*sides.values(), pair.products))]


def within_contract(product: data.View) -> Value:
    """What `Product` promises."""
    magnitude = product.significand + product.carry
    return Mux(product.zero, (product.exponent >= -64)
               & (product.exponent <= Mux(magnitude == 0, 94, 63)),
               (product.exponent >= -64) & (magnitude >= 1 << 10) & (magnitude < 1 << 20))


def test_pairs_of_fp8_are_added_as_defined() -> None:
    m = Module()
    m.submodules.pair = pair = PairSum()
    inputs = pair_with_specification(m, pair)
    prove_pipeline(m, inputs, latency=PairSum.latency + 1)


def named(m: Module, name: str, value: Value) -> Signal:
    """An intermediate result, written once however often it is used."""
    signal = Signal(value.shape(), name=name)
    m.d.comb += signal.eq(value)
    return signal


def rounded_sum(m: Module, product: data.View, c: data.View, gap: Value) -> Value:
    """The code of product + c as defined: of the exact sum in fixed point, rounded once.

    The exponent of c (the lower 6 bits) is greater than the product's by `gap` - 127. So if the
    last place is worth 2^-105 of the product's last one, that of c's significand is worth 2^gap.
    """
    c_zero = c.none | (c.exponent < 0) | (c.exponent == 0) & (c.fraction == 0)
    c_nan = c.nan | (c.exponent > 63) | (c.exponent == 63) & (c.fraction == 511)
    terms = [Mux(product.zero, 0, (product.significand + product.carry) << 105),
             Mux(c_zero, 0, Cat(c.fraction, 1) << gap)]
    exact = named(m, "exact", sum((Mux(sign, -term, term) for sign, term in zip(
        (product.sign, c.sign), terms, strict=True)), Const(0)))
    negative = exact < 0
    magnitude = named(m, "exact_magnitude", Mux(negative, -exact, exact).as_unsigned())
    first = Const(0)
    for i in range(len(magnitude)):
        first = Mux(magnitude[i], i, first)
    first = named(m, "first", first)
    # One more bit than a significand has; a half is added to it and cut again.
    normalised = magnitude << (len(magnitude) - 1 - first).as_unsigned()
    normalised = normalised[:len(magnitude)][-SIGNIFICAND_BITS - 1:]
    significand = (normalised + 1) >> 1
    exponent = first + product.exponent + (dlfloat.BIAS - 62 - 105)
    number = named(m, "number", ((exponent - 1) << dlfloat.FRACTION_BITS) + significand)
    code = Mux(number >= dlfloat.NAN, dlfloat.NAN, Cat(number[:15], negative))
    code = Mux((magnitude == 0) | (number <= 0), 0, code)
    return Mux(product.nan | c_nan, dlfloat.NAN, code)


#: Gaps (see `rounded_sum`) that are proven together: where neither addend is far from the other,
#: each by itself.
RANGES = [range(0, 40), range(40, 70), range(70, 85), range(85, 95),
          *(range(gap, gap + 1) for gap in range(95, 128)), range(128, 160), range(160, 255)]


def sum_assumptions(product: data.View, c: data.View) -> list:
    """What comes: a product as promised, and any sum that a `ProductAdd` makes."""
    return [Assume(within_contract(product)), Assume(~c.none | (c.exponent <= 63))]


def prove_sums(stages: int, ranges: list[range], *, only: range | None = None) -> None:
    """Of all gaps, or of `only` some, range after range."""
    m = Module()
    m.submodules.add = add = ProductAdd(stages=stages, carries=True)
    gap = Signal(8)
    product, c = add.product, add.c
    m.d.comb += [
        *sum_assumptions(product, c),
        Assume(gap == c.exponent[:6] - product.exponent + 127),
    ]
    if only is not None:
        m.d.comb += Assume((gap >= only[0]) & (gap <= only[-1]))
    product, c, was = (delayed(m, value, stages, name) for value, name in (
        (Value.cast(product), "product"), (Value.cast(c), "c"), (gap, "gap")))
    m.d.comb += [
        Assert(add.result.encode() == rounded_sum(m, Product(product), Sum(c), was)),
        Assert(~add.result.none | (add.result.exponent <= 63)),
    ]
    prove_pipeline(m, [Value.cast(add.product), Value.cast(add.c), gap], latency=stages,
                   split=(gap, ranges))


def test_sums_where_they_cancel_most() -> None:
    """The full definition, where the places of a product of FP16 and of c coincide at the top."""
    prove_sums(2, [range(115, 116)], only=range(115, 116))


@pytest.mark.nightly
def test_sums_are_the_exact_ones_rounded_once() -> None:
    """The full definition, for everything that can come; for other numbers of stages see below."""
    prove_sums(2, RANGES)


@pytest.mark.parametrize(("stages", "carries"), [
    (stages, carries) for stages in CUTS for carries in (False, True)
    if (stages, carries) != (2, True)])
def test_any_number_of_stages_gives_the_same(stages: int, carries: bool) -> None:
    """As two stages and with carries, bit for bit, whatever comes in."""
    m = Module()
    m.submodules.two = two = ProductAdd(stages=2, carries=True)
    m.submodules.other = other = ProductAdd(stages=stages, carries=carries)
    product, c = Signal(Product), Signal(Sum)
    m.d.comb += [
        *(x.eq(product) for x in (two.product, other.product)),
        *(x.eq(c) for x in (two.c, other.c)),
        Assume(carries | ~product.carry),
        Assert(Value.cast(other.result)
               == delayed(m, Value.cast(two.result), stages - 2, "result")),
    ]
    prove_pipeline(m, [Value.cast(product), Value.cast(c)], latency=stages)


def test_rules_of_sums() -> None:
    """Stated without the definition, for two stages: what NaN-Inf and zero do, and signs."""
    m = Module()
    stages = 2
    m.submodules.add = add = ProductAdd(stages=stages, carries=True)
    m.d.comb += sum_assumptions(add.product, add.c)
    product = Product(delayed(m, Value.cast(add.product), stages, "product"))
    c = Sum(delayed(m, Value.cast(add.c), stages, "c"))
    result = add.result
    code = named(m, "code", result.encode())
    c_code = named(m, "c_code", c.encode())
    nan = product.nan | (c_code == dlfloat.NAN)
    # -c, place for place: of a product's last place c's last one is 2^`places`.
    places = named(m, "places", c.exponent[:6] - product.exponent + 22)
    cancels = ((product.sign != c.sign) & ~product.zero & (c_code != 0) & (places >= 0)
               & (places <= 10)
               & (product.significand + product.carry == Cat(c.fraction, 1) << places[:4]))
    m.d.comb += [
        # NaN-Inf stays, and has one code; so has zero.
        Assert(~nan | (code == dlfloat.NAN)),
        Assert(code != 0xFFFF),
        Assert(code != 0x8000),
        # A product of zero changes nothing.
        Assert(nan | ~product.zero | (code == c_code)),
        # product + c where c = -product is zero, exactly; and `none` is said of nothing else.
        Assert(nan | ~cancels | (code == 0) & result.none),
        Assert(nan | ~result.none | cancels | product.zero & (c_code == 0)),
        # Of two of a sign the sum has that sign, and is not less than c.
        Assert(nan | product.zero | (c_code == 0) | (product.sign != c.sign)
               | (code[:15] >= c_code[:15])
               & ((code[15] == c.sign) | (code == dlfloat.NAN))),
        # Of two of different signs the sum is nothing beyond them: with c it is no greater than c
        # or has the product's sign.
        Assert(nan | product.zero | (c_code == 0) | (product.sign == c.sign)
               | (code[:15] <= c_code[:15]) | (code == dlfloat.NAN) | (code[15] == product.sign)),
    ]
    prove_pipeline(m, [Value.cast(add.product), Value.cast(add.c)], latency=stages)


def test_operands_give_the_products_that_are_promised() -> None:
    """For any two codes, and any product that two significands can have."""
    m = Module()
    codes = [Signal(16, name=name) for name in SIDES]
    a, b = (Operand.decode(code) for code in codes)
    significand = Signal(20)
    m.d.comb += Assume((significand >= LEAST_PRODUCT) & (significand <= LARGEST_PRODUCT))
    product = Product.of(a, b, significand)
    magnitudes = [code[:15] for code in codes]
    is_zero = [x == 0 for x in magnitudes]
    m.d.comb += [
        *(Assert(x.significand == Cat(code[:9], 1)) for x, code in zip((a, b), codes, strict=True)),
        Assert(product.exponent == sum((x[9:] - 9 for x in magnitudes), Const(0))),
        Assert(product.sign == codes[0][15] ^ codes[1][15]),
        Assert(product.zero == Cat(is_zero).any()),
        Assert(product.nan == Cat(x == dlfloat.NAN for x in magnitudes).any()),
        Assert(product.nan | within_contract(product)),
    ]
    prove_pipeline(m, [*codes, significand], latency=0)


def test_a_wrong_claim_about_a_pipeline_is_refuted() -> None:
    """That a zero product leaves the code of c as it is, even of minus zero or of NaN-Inf."""
    m = Module()
    m.submodules.add = add = ProductAdd(stages=2)
    m.d.comb += sum_assumptions(add.product, add.c)
    code = Signal(16)
    m.d.comb += add.c.eq(Sum.decode(code))
    was, zero = delayed(m, code, 2, "code"), delayed(m, add.product.zero, 2, "zero")
    nan = delayed(m, add.product.nan, 2, "nan")
    m.d.comb += Assert(nan | ~zero | (add.result.encode() == was))
    with pytest.raises(AssertionError, match="an assertion fails:"):
        prove_pipeline(m, [Value.cast(add.product), code], latency=2)
    # Nor does what was earlier than the latency count, or what cannot be.
    with pytest.raises(AssertionError, match="an assertion fails:"):
        prove_pipeline(m, [Value.cast(add.product), code], latency=1)
