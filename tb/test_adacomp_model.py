"""AdaComp's golden model: the scalar reference, its twin for arrays, words, packets, the receiver.

Exact rationals are the independent truth: a second statement of the paper's algorithm over them.
"""

import doctest
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from ulpsim import dlfloat, float32
from ulpsim.compression import words as coding
from ulpsim.compression.adacomp import (
    LARGEST_BIN,
    Compressed,
    Settings,
    compress,
    compress_array,
    point_for,
    quantise,
    quantise_array,
    scale_of_mean,
    scale_to_units,
)
from ulpsim.compression.packets import (
    LARGEST_PACKET,
    Header,
    PacketCause,
    Round,
    checksum,
    packets_of,
    parse,
    split,
)

BIN_SIZES = (1, 2, 7, 50, 63, 64, 65, 500, 512, 4096, 16384)


def gradient_like(rng: np.random.Generator, count: int, kind: str) -> np.ndarray:
    """Gradients as networks have them, and as they should not have them."""
    g = rng.standard_normal(count).astype(np.float32)
    if kind == "heavy":
        g *= np.exp(2 * rng.standard_normal(count)).astype(np.float32)
    elif kind == "sparse":
        g *= rng.random(count) < 0.002
    elif kind == "constant":
        g[:] = 0.5
    elif kind == "zero":
        g[:] = 0
    elif kind == "coarse":                                # ties everywhere
        g = np.rint(g).astype(np.float32)
    elif kind == "bad":
        at = rng.integers(0, count, max(count // 9, 1))
        g[at] = rng.choice(np.array([np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45, 2.0 ** 31],
                                    np.float32), len(at))
    return g


KINDS = ("normal", "heavy", "sparse", "constant", "zero", "coarse", "bad")


def same(a: Compressed, b: Compressed) -> None:
    np.testing.assert_array_equal(a.positions, b.positions)
    np.testing.assert_array_equal(a.negative, b.negative)
    np.testing.assert_array_equal(a.residue, b.residue)
    assert (a.scale, a.mean, a.refused) == (b.scale, b.mean, b.refused)


@pytest.mark.parametrize("kind", KINDS)
def test_array_twin_equals_the_definition(kind: str, rng: np.random.Generator) -> None:
    for bin_size in BIN_SIZES:
        for count in {1, bin_size - 1, bin_size, bin_size + 1, 3 * bin_size + 5, 700} - {0}:
            if count > 20000:
                continue
            settings = Settings(bin_size, Fraction(int(rng.integers(1, 32)), 4), 16)
            residue = rng.integers(-1 << 17, 1 << 17, count).astype(np.int32)
            g = gradient_like(rng, count, kind)
            for scale in (None, float32.encode(0.75)):
                fast = compress_array(residue, g, settings, scale)
                same(fast, compress(residue.tolist(), g.view(np.uint32).tolist(), settings, scale))


def test_gradients_in_dlfloat16(rng: np.random.Generator) -> None:
    """Every code is what its exact value is; NaN-Inf is not taken."""
    codes = rng.permutation(np.arange(1 << 16, dtype=np.uint16))
    settings, residue = Settings(50, 2, 12), rng.integers(-999, 999, len(codes)).astype(np.int32)
    ours = compress_array(residue, codes, settings)
    same(ours, compress(residue.tolist(), codes.tolist(), settings, dlfloat16=True))
    taken = []
    for before, code in zip(residue.tolist(), codes.tolist(), strict=True):
        value = dlfloat.decode_exact(code)
        total = before + (0 if value is None else round(value * 2 ** 12))
        taken.append(total if -2 ** 31 <= total < 2 ** 31 else before)
    sent = np.rint(ours.sent.astype(np.float64) * 2 ** 12).astype(np.int64)
    np.testing.assert_array_equal(ours.residue + sent, taken)


def test_extremes_of_the_residue(rng: np.random.Generator) -> None:
    """Sums that just fit and just do not, scales up to 2^31 units."""
    values = np.array([-2 ** 31, -2 ** 31 + 1, -2 ** 30, -1, 0, 1, 2 ** 30, 2 ** 31 - 1])
    grads = np.array([-2.0 ** 31, -2.0 ** 30, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2.0 ** 31,
                      2.0 ** 31 - 128], np.float32)
    residue, g = (x.ravel() for x in np.meshgrid(values.astype(np.int32), grads))
    for bin_size in (1, 3, 88):
        for factor in (0.25, 2, 7.75):
            for scale in (None, float32.encode(2.0 ** 31), 0):
                settings = Settings(bin_size, factor, 0)
                same(compress_array(residue, g, settings, scale),
                     compress(residue.tolist(), g.view(np.uint32).tolist(), settings, scale))


def test_quantise_twin(rng: np.random.Generator) -> None:
    bits = rng.integers(0, 1 << 32, 4000, dtype=np.uint64).astype(np.uint32)
    small = np.array([0, 1, 0x7FFFFF, 0x800000, 0x800001, 0x80000001, 0x7F800000, 0xFFC00000,
                      0x7F7FFFFF], np.uint32)
    for point in (-96, -31, -1, 0, 24, 30, 96, 97, 125, 126):
        near = (rng.integers(127 - 3, 127 + 34, 4000) - point).clip(0, 255) << 23
        all_bits = np.concatenate([bits, small, (near | bits[:4000] & 0x807FFFFF
                                                 & ~rng.choice([0, 0x3FFFFF], 4000)
                                                 ).astype(np.uint32)])
        units, none = quantise_array(all_bits.view(np.float32), point)
        none = np.zeros(len(units), bool) if none is None else none
        for i, b in enumerate(all_bits.tolist()):
            exact = quantise(b, point)
            assert none[i] == (exact is None) and units[i] == (exact or 0), (hex(b), point)


def paper(residue: list[Fraction], gradient: list[Fraction], bin_size: int, factor: Fraction
          ) -> tuple[dict[int, int], Fraction, list[Fraction]]:
    """Algorithm 2 of the paper over exact rationals, nothing rounded."""
    g = [r + w for r, w in zip(residue, gradient, strict=True)]
    h = [r + factor * w for r, w in zip(residue, gradient, strict=True)]
    firsts = range(0, len(g), bin_size)
    largest = [max(abs(x) for x in g[i:i + bin_size]) for i in firsts]
    scale = sum(largest, Fraction(0)) / len(largest)
    sent = {j: (1 if g[j] > 0 else -1) for j in range(len(g))
            if largest[j // bin_size] > 0 and abs(h[j]) >= largest[j // bin_size] and g[j]}
    return sent, scale, [x - sent.get(j, 0) * scale for j, x in enumerate(g)]


@pytest.mark.parametrize("bin_size", [1, 4, 50])
def test_exact_rationals(bin_size: int, rng: np.random.Generator) -> None:
    """On the grid the sent sets are the paper's over several steps; the scale is the paper's where
    it is on the grid, else within half a unit (and half of FP32's last bit) of it."""
    settings = Settings(bin_size, 2, 20)
    count, unit = 203, Fraction(1, 1 << 20)
    residue = np.zeros(count, np.int32)
    for _ in range(6):
        g = np.ldexp(rng.integers(-1 << 18, 1 << 18, count).astype(np.float32), -20)
        sent, scale, left = paper([r * unit for r in residue.tolist()],
                                  [Fraction(float(x)) for x in g], bin_size, Fraction(2))
        ours = compress_array(residue, g, settings)
        assert dict(zip(ours.positions.tolist(), np.where(ours.negative, -1, 1).tolist(),
                        strict=True)) == sent
        got = float32.decode_exact(ours.scale)
        assert abs(got - scale) <= max(unit / 2, scale / 2 ** 24)
        if (scale / unit).denominator == 1 and scale / unit < 1 << 24:
            assert got == scale
        assert all(abs(r * unit - x) <= abs(got - scale)
                   for r, x in zip(ours.residue.tolist(), left, strict=True))
        residue = ours.residue


@pytest.mark.parametrize("kind", KINDS)
def test_conservation(kind: str, rng: np.random.Generator) -> None:
    """Residue + sent == the sum of the gradients taken, exactly, after every step."""
    for bin_size in (1, 7, 50, 500):
        settings, count = Settings(bin_size, 2, 18), 1203
        residue, given, sent = np.zeros(count, np.int32), np.zeros(count, int), np.zeros(count, int)
        scale = None
        for step in range(8):
            g = gradient_like(rng, count, kind)
            before = residue
            ours = compress_array(residue, g, settings, scale)
            units, none = quantise_array(g, settings.point)
            taken = np.ones(count, bool) if none is None else ~none
            total = before.astype(int) + units
            taken &= (total >= -2 ** 31) & (total < 2 ** 31)
            assert ours.refused == np.count_nonzero(~taken)
            given += np.where(taken, units, 0)
            signs = np.where(ours.negative, -1, 1)
            sent[ours.positions] += signs * scale_to_units(ours.scale, settings.point)
            residue = ours.residue
            np.testing.assert_array_equal(residue + sent, given)
            scale = ours.mean if step % 2 else None        # one pass in every other step


def test_nothing_of_nothing() -> None:
    for scale in (None, float32.encode(1.0)):
        ours = compress_array(np.zeros(130, np.int32), np.zeros(130, np.float32), Settings(50),
                              scale)
        assert len(ours.positions) == 0 and not ours.residue.any() and ours.mean == 0
    half = np.concatenate([np.zeros(50), np.ones(50)]).astype(np.float32)
    assert compress_array(np.zeros(100, np.int32), half, Settings(50)).positions.min() == 50


def test_scale_of_mean() -> None:
    assert [scale_of_mean(*x) for x in ((0, 5), (1, 1000), (3, 2), (5, 2), (7, 2))] \
        == [0, 1, 2, 2, 4]
    assert scale_of_mean((1 << 24) + 1, 1) == 1 << 24             # ties to even, 24 bits
    assert scale_of_mean((1 << 24) + 3, 1) == (1 << 24) + 4
    assert scale_of_mean((1 << 31) * 7, 7) == 1 << 31
    assert scale_of_mean((1 << 31) - 1, 1) == 1 << 31


def test_cost_against_float64(rng: np.random.Generator) -> None:
    """The bound of the documentation: each gradient within half a unit, 2^-19 of the largest."""
    g = gradient_like(rng, 50_000, "heavy")
    point = point_for(g)
    units, none = quantise_array(g, point)
    assert none is None
    error = np.abs(np.ldexp(units.astype(float), -point) - g).max()
    assert error <= 2.0 ** (-point - 1) <= float(np.abs(g).max()) * 2.0 ** -19


@pytest.mark.parametrize("bin_size", [1, 2, 5, 16, 50, 63, 64, 65, 500, 16384])
@pytest.mark.parametrize("density", [0.0, 0.0003, 0.004, 0.1, 0.6, 1.0])
def test_words(bin_size: int, density: float, rng: np.random.Generator) -> None:
    for count in (1, bin_size, 70 * bin_size + 3 if bin_size < 600 else 3 * bin_size, 12_345):
        positions = np.flatnonzero(rng.random(count) < density)
        negative = rng.random(len(positions)) < 0.5
        scalar = coding.encode(positions.tolist(), negative.tolist(), bin_size, count)
        words, current = coding.encode_array(positions, negative, bin_size, count)
        assert list(zip(words.tolist(), current.tolist(), strict=True)) == scalar
        assert not len(words) or words.max() < 1 << coding.word_bits(bin_size)
        # From any word on, as a packet does.
        for first in {0, len(words) // 2, max(len(words) - 1, 0)}:
            rest = words[first:]
            start = int(current[first]) if len(rest) else 0
            expected = positions[len(positions) - np.count_nonzero(rest & 3):]
            found, signs = coding.decode_array(rest, bin_size, start)
            np.testing.assert_array_equal(found, expected)
            assert coding.decode(rest.tolist(), bin_size, start) \
                == list(zip(found.tolist(), signs.tolist(), strict=True))


def test_long_skips() -> None:
    """64 bins of nothing take a word, 63 bins the same, 65 two; none at the end of the layer."""
    def words(position: int, elements: int) -> list[int]:
        return [w for w, _ in coding.encode([position], [False], 50, elements)]

    assert words(63 * 50, 10_000)[0] == 62 << 2
    assert words(64 * 50, 64 * 50 + 1) == [63 << 2, coding.PLUS]
    assert words(65 * 50, 65 * 50 + 1) == [63 << 2, 0, coding.PLUS]
    assert coding.encode([], [], 50, 64 * 50) == []
    assert coding.encode([], [], 50, 64 * 50 + 1) == [(63 << 2, 0)]


def some_packets(rng: np.random.Generator, count: int = 9000, bin_size: int = 7,
                 learner: int = 0, kind: str = "normal") -> tuple[Compressed, list[bytes]]:
    ours = compress_array(np.zeros(count, np.int32), gradient_like(rng, count, kind),
                          Settings(bin_size))
    return ours, packets_of(ours, bin_size, layer=3, learner=learner, step=77)


@pytest.mark.parametrize("bin_size", [1, 7, 64, 65, 500])
def test_packets_come_back(bin_size: int, rng: np.random.Generator) -> None:
    ours, packets = some_packets(rng, 20_000, bin_size)
    assert list(split(b"".join(packets))) == packets
    positions = []
    for i, packet in enumerate(packets):
        header, words = parse(packet)
        assert (header.learner, header.layer, header.step, header.part) == (0, 3, 77, i % 4)
        assert header.bin_size == bin_size and header.scale == ours.scale
        assert header.last == (i == len(packets) - 1) and header.continued == (i > 0)
        assert header.count == LARGEST_PACKET or header.last
        positions.append(coding.decode_array(words, bin_size, header.first_bin)[0])
    np.testing.assert_array_equal(np.concatenate(positions), ours.positions)


def test_incomplete_is_said(rng: np.random.Generator) -> None:
    ours, packets = some_packets(rng, kind="bad")
    assert ours.refused and parse(packets[-1])[0].incomplete


def test_a_layer_of_nothing_takes_16_bytes(rng: np.random.Generator) -> None:
    _, packets = some_packets(rng, 300, 50, kind="zero")
    assert [len(p) for p in packets] == [16]


@pytest.mark.parametrize("bin_size", [7, 500])
def test_round(bin_size: int, rng: np.random.Generator) -> None:
    """Learners in order, the sum bit for bit that of FP32 additions in that order."""
    gradient = np.zeros(9000, np.uint32)
    expected = gradient.copy()
    round_ = Round(gradient, layer=3, step=77, learners=5)
    for learner in range(5):
        ours, packets = some_packets(rng, 9000, bin_size, learner)
        for packet in packets:
            assert not round_.done
            assert round_.add(packet) is PacketCause.NONE
            assert round_.add(packet) is PacketCause.REPLAYED
        expected = float32.add_array(expected, float32.from_values(ours.sent))
    assert round_.done
    np.testing.assert_array_equal(gradient, expected)


def reframe(packet: bytes, payload: bytes | None = None, **changes) -> bytes:
    header, _ = parse(packet)
    fields = {**header.__dict__, **changes}
    head = Header(**fields).encode()
    payload = packet[4 * header.numbers:-4] if payload is None else payload
    return head + payload + checksum(head, payload).to_bytes(4, "little")


def bad_packets(rng: np.random.Generator, elements: int, bin_size: int
                ) -> list[tuple[bytes, PacketCause]]:
    """Packets that a round of layer 3, step 77, three learners refuses at its beginning."""
    _, packets = some_packets(rng, elements, bin_size)
    first = packets[0]
    at = int(rng.integers(0, 8 * len(first)))
    flipped = bytearray(first)
    flipped[at // 8] ^= 1 << at % 8
    found = [
        (first[:-4], PacketCause.LENGTH), (first[:4], PacketCause.LENGTH),
        (first + bytes(4), PacketCause.LENGTH), (b"", PacketCause.LENGTH),
        (first[:-4] + bytes(4), PacketCause.CHECKSUM),
        (reframe(first, layer=4), PacketCause.LAYER),
        (reframe(first, step=76), PacketCause.REPLAYED),
        (reframe(first, step=(77 + 600) % 1024), PacketCause.REPLAYED),
        (reframe(first, step=78), PacketCause.ORDER),
        (reframe(first, learner=1), PacketCause.ORDER),
        (reframe(first, learner=1023), PacketCause.ORDER),
        (reframe(first, scale=0x80000000 | 0x3F800000), PacketCause.SCALE),
        (reframe(first, scale=float32.NAN), PacketCause.SCALE)]
    if len(packets) > 1:
        found.append((packets[1], PacketCause.ORDER))
    size = coding.word_bits(bin_size) // 8
    head = 4 * parse(first)[0].numbers
    words = np.frombuffer(first, f"<u{size}", parse(first)[0].count, head).copy()
    reserved = words.copy()
    reserved[rng.integers(0, len(words))] = 0b10
    found.append((reframe(first, _padded(reserved)), PacketCause.WORD))
    if bin_size & bin_size - 1:
        beyond = words.copy()
        beyond[rng.integers(0, len(words))] = bin_size << 2 | 1
        found.append((reframe(first, _padded(beyond)), PacketCause.RANGE))
    far = words.copy()
    far[-1:] = (elements // bin_size + 1) << 2 if elements // bin_size < 60 else 63 << 2
    if elements // bin_size < 60:
        found.append((reframe(first, _padded(far)), PacketCause.RANGE))
    return [*found, (bytes(flipped), PacketCause.NONE)]


def _padded(words: np.ndarray) -> bytes:
    data = words.tobytes()
    return data + bytes(-len(data) % 4)


@pytest.mark.parametrize(("elements", "bin_size"), [(9000, 7), (3001, 500), (64, 64), (999, 50)])
def test_bad_packets_change_nothing(elements: int, bin_size: int, rng: np.random.Generator) -> None:
    gradient = rng.standard_normal(elements).astype(np.float32).view(np.uint32)
    before = gradient.copy()
    for packet, cause in bad_packets(rng, elements, bin_size):
        got = Round(gradient, layer=3, step=77, learners=3).add(packet)
        # A flipped bit is a wrong CRC, or in the header a length that is wrong.
        assert got is cause or (cause is PacketCause.NONE
                                and got in (PacketCause.LENGTH, PacketCause.CHECKSUM))
        np.testing.assert_array_equal(gradient, before)


def test_every_flipped_bit_is_found(rng: np.random.Generator) -> None:
    _, packets = some_packets(rng, 120, 7)
    for at in range(8 * len(packets[0])):
        flipped = bytearray(packets[0])
        flipped[at // 8] ^= 1 << at % 8
        assert Round(np.zeros(120, np.uint32), layer=3, step=77, learners=1).add(bytes(flipped)) \
            in (PacketCause.LENGTH, PacketCause.CHECKSUM)


@pytest.mark.parametrize(("arguments", "message"), [
    ({"bin_size": 0}, "bin_size must be an integer from 1 to 16384, not 0"),
    ({"bin_size": LARGEST_BIN + 1}, "bin_size must be"),
    ({"bin_size": 2.0}, "bin_size must be"),
    ({"factor": 0}, "factor must be a multiple of 1/4 from 1/4 to 31/4, not 0"),
    ({"factor": 1.1}, "factor must be"), ({"factor": 8}, "factor must be"),
    ({"factor": float("nan")}, "factor must be"),
    ({"point": 127}, "point must be an integer from -96 to 126, not 127"),
])
def test_bad_settings(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(**arguments)


def test_bad_arguments() -> None:
    zeros = np.zeros(4, np.int32), np.zeros(4, np.float32)
    with pytest.raises(ValueError, match="same length, at least 1, not 4 and 3"):
        compress_array(zeros[0], zeros[1][:3], Settings())
    with pytest.raises(ValueError, match="same length, at least 1, not 0 and 0"):
        compress([], [], Settings())
    with pytest.raises(ValueError, match="int32 and of float32 or uint16, not int32"):
        compress_array(zeros[0], zeros[1].astype(np.float64), Settings())
    for scale in (float32.encode(2.0 ** -25), float32.encode(-1.0), float32.NAN,
                  float32.encode(256.0)):
        with pytest.raises(ValueError, match="scale must be a multiple of"):
            compress_array(*zeros, Settings(point=24), scale)
    with pytest.raises(ValueError, match="learner must be from 0 to 1023, not 1024"):
        packets_of(compress_array(*zeros, Settings()), 50, layer=0, learner=1024, step=0)


def test_the_examples_of_the_documentation() -> None:
    document = Path(__file__).parents[1] / "docs" / "compression.md"
    result = doctest.testfile(str(document), module_relative=False, encoding="utf-8")
    assert result.attempted and not result.failed
