"""FP8 in hardware, from a slot's codes to the rounded sum, against the exact definition.

Every pair of codes in every two formats; then pairs whose products nearly cancel, beside sums that
nearly cancel the pair, and sums of all sizes.
"""

import itertools

import numpy as np
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from ulpcore.multiply_add import ProductAdd, Sum
from ulpcore.packing import PRECISION_BITS, Packer, Packing
from ulpcore.pair import PRODUCT_BITS, PairSum
from ulpcore.simulation import run_vectors
from ulpsim import dlfloat, fp8
from ulpsim.formats import Format, Precision

FORMATS = (Precision.FP16, Precision.E4M3, Precision.E5M2)
STAGES = 4
LATENCY = 1 + PairSum.latency + STAGES


class Unit(wiring.Component):
    """r = c + the products of two slots, `LATENCY` cycles after the slots; c goes with them."""

    activation: In(16)
    weight: In(16)
    precision: In(PRECISION_BITS)
    weight_precision: In(PRECISION_BITS)
    forward_bias: In(4)
    c: In(16)
    r: Out(16)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        packing = Packing(FORMATS)
        m.submodules.pair = pair = PairSum()
        m.submodules.add = add = ProductAdd(stages=STAGES, carries=True)
        sides = []
        for name, slot, precision, weights, tags in (
                ("activations", self.activation, self.precision, False, pair.activation),
                ("weights", self.weight, self.weight_precision, True, pair.weight)):
            packer = Packer(formats=FORMATS, weights=weights)
            m.submodules[name] = packer
            m.d.comb += [packer.slot.eq(slot), packer.precision.eq(precision),
                         packer.forward_bias.eq(self.forward_bias),
                         *(tags[i].eq(packing.tags_of(packer.packed, i)) for i in range(2))]
            sides.append(packer.packed.factors)
        m.d.sync += [
            pair.products[0].eq(sides[0][0] * sides[1][0]),
            pair.products[1].eq((sides[0][1] * sides[1][1])[:PRODUCT_BITS]),
        ]
        c = self.c
        for i in range(1 + PairSum.latency):
            later = Signal(16, name=f"c_{i}")
            m.d.sync += later.eq(c)
            c = later
        m.d.comb += [
            pair.is_fp8.eq(self.precision != Precision.FP16.value),
            add.product.eq(pair.product), add.c.eq(Sum.decode(c)), self.r.eq(add.result.encode()),
        ]
        return m


def differences(rows: list[tuple[Format, Format, np.ndarray, np.ndarray, np.ndarray]]) -> list[int]:
    """For each (formats, slots a and w, c) how many results are not those of the definition."""
    columns = {name: [] for name in ("activation", "weight", "c", "precision", "weight_precision",
                                     "forward_bias")}
    expected = []
    for left, right, a, w, c in rows:
        values = [kind.decode_array(slots >> shift & 0xFF) for shift in (0, 8)
                  for kind, slots in ((fp8.of(left), a), (fp8.of(right), w))]
        expected.append(dlfloat.encode_array(
            fp8.fma2_values(*values, dlfloat.decode_array(c.astype(np.uint16)))))
        for name, column in (("activation", a), ("weight", w), ("c", c)):
            columns[name].append(column)
        for name, value in (("precision", left.precision.value),
                            ("weight_precision", right.precision.value),
                            ("forward_bias", left.bias)):
            columns[name].append(np.full(len(a), value))
    inputs = {name: np.concatenate([*parts, np.zeros(LATENCY, np.int64)]).astype(np.uint64)
              for name, parts in columns.items()}
    result = run_vectors(Unit(), inputs)["r"][LATENCY:]
    ends = np.cumsum([len(part) for part in expected])
    return [int(np.count_nonzero(found != part)) for found, part in zip(
        np.split(result, ends[:-1]), expected, strict=True)]


def kinds(bias: int) -> list[Format]:
    return [Format(Precision.E4M3, bias=bias), Format(Precision.E5M2, bias=bias)]


def test_every_product() -> None:
    """Of two codes, first and second in their slots, beside +0, and beside itself and its negative
    (each pair of codes then cancels itself, or doubles)."""
    a, w = (x.ravel() for x in np.meshgrid(np.arange(256), np.arange(256), indexing="ij"))
    zero = np.zeros(len(a), np.int64)
    rows = [(left, right, x, y, zero)
            for bias in (0, 7, 11, 15) for left, right in itertools.product(kinds(bias), repeat=2)
            for x, y in ((a, w), (a << 8, w << 8), (a | a << 8, w | w << 8),
                         (a | a << 8, w | (w ^ 0x80) << 8))]
    assert not any(differences(rows))


def test_pairs_and_sums(rng: np.random.Generator) -> None:
    """Random ones; pairs that nearly cancel; sums next to minus the pair, or to its size."""
    rows = []
    count = 100_000
    for bias in range(16):
        for left, right in itertools.product(kinds(bias), repeat=2):
            a, w = rng.integers(0, 256, (2, 2, count))
            near = rng.random(count) < 0.5
            a[1, near] = (a[0, near] ^ 0x80) + rng.integers(-4, 5, count)[near] & 0xFF
            w[1, near] = w[0, near] + rng.integers(-4, 5, count)[near] & 0xFF
            values = [fp8.of(kind).decode_array(codes[i]) for i in range(2)
                      for kind, codes in ((left, a), (right, w))]
            total = dlfloat.encode_array(fp8.pair_values(*values))
            steps = rng.choice([0, 1, -1, 3, 512, -512, 9 * 512, -10 * 512, 12 * 512], count)
            c = np.where(rng.random(count) < 0.7, (total ^ (rng.random(count) < 0.7) * 0x8000)
                         + steps & 0xFFFF, rng.integers(0, 1 << 16, count))
            rows.append((left, right, a[0] | a[1] << 8, w[0] | w[1] << 8, c))
    assert not any(differences(rows))


def test_fp16_passes_through(rng: np.random.Generator) -> None:
    """Next to FP8 in the cycles around it."""
    count = 200_000
    a, w, c = rng.integers(0, 1 << 16, (3, count)).astype(np.uint64)
    precision = np.where(rng.random(count) < 0.5, Precision.FP16.value, Precision.E5M2.value)
    out = run_vectors(Unit(), {
        "activation": a, "weight": w, "c": c, "precision": precision.astype(np.uint64),
        "weight_precision": precision.astype(np.uint64),
        "forward_bias": np.full(count, 7, np.uint64)})
    is_fp16 = precision[:-LATENCY] == Precision.FP16.value
    found = out["r"][LATENCY:][is_fp16]
    expected = dlfloat.fma_array(*(x[:-LATENCY][is_fp16].astype(np.uint16) for x in (a, w, c)))
    np.testing.assert_array_equal(found, expected)


def test_products_that_are_nothing() -> None:
    """A pair that cancels exactly, wherever its exponent, leaves c as it is, zero included."""
    left, right = kinds(7)
    codes = np.arange(1, 0x7F)
    a, w = (x.ravel() for x in np.meshgrid(codes, codes))
    rows = [(left, right, a | a << 8, w | (w ^ 0x80) << 8, np.full(len(a), c))
            for c in (0, 1, 0x8001, 0x3E00, 0x7FFE, 0xFFFE, 0x7FFF)]
    assert not any(differences(rows))
