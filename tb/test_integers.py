"""Elements in slots: the layout, both ways, over every format."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ulpsim.formats import FORMATS, Format, Precision
from ulpsim.integers import pack, unpack, unpack_codes

DTYPES = {"INT8": np.int8, "UINT8": np.uint8, "INT4": ml_dtypes.int4, "UINT4": ml_dtypes.uint4,
          "INT2": ml_dtypes.int2, "UINT2": ml_dtypes.uint2}


def test_the_first_element_is_in_the_lowest_bits() -> None:
    assert pack([0x12, 0x34], Precision.INT8).tolist() == [0x3412]
    assert pack([1, 2, 3, 4], Precision.INT4).tolist() == [0x4321]
    assert pack([1, 0, 0, 0, 0, 0, 0, 2], Precision.INT2).tolist() == [0x8001]
    assert pack([-1, -128, 255], Precision.INT8).tolist() == [0x80FF, 0x00FF]
    assert pack([0xABCD], Precision.FP16).tolist() == [0xABCD]


@pytest.mark.parametrize("name", DTYPES)
def test_every_code_means_what_others_say(name: str) -> None:
    source = FORMATS[name]
    codes = np.arange(1 << source.precision.bits, dtype=np.uint8)
    values = unpack(pack(codes, source.precision), source)
    others = codes.astype(DTYPES[name]).astype(np.int64)
    np.testing.assert_array_equal(values[:len(codes)], others)


@given(st.data(), st.sampled_from([f for f in FORMATS.values() if not f.precision.is_float]))
def test_round_trip(data: st.DataObject, source: Format) -> None:
    values = data.draw(st.lists(st.integers(source.lowest, source.highest), min_size=1))
    slots = pack(values, source.precision)
    assert slots.dtype == np.uint16
    assert len(slots) == -(-len(values) // source.precision.per_slot)
    back = unpack(slots, source).tolist()
    assert back[:len(values)] == values
    assert not any(back[len(values):])


@pytest.mark.parametrize("source", FORMATS.values(), ids=str)
def test_arrays(rng: np.random.Generator, source: Format) -> None:
    slots = rng.integers(0, 1 << 16, (3, 4, 5)).astype(np.uint16)
    values = unpack(slots, source)
    assert values.shape == (3, 4, 5 * source.precision.per_slot)
    np.testing.assert_array_equal(pack(values, source.precision), slots)
    codes = unpack_codes(slots, source.precision)
    for i in range(source.precision.per_slot):
        shifted = slots >> (i * source.precision.bits) & ((1 << source.precision.bits) - 1)
        np.testing.assert_array_equal(codes[..., i::source.precision.per_slot], shifted)


@pytest.mark.parametrize(("values", "precision", "message"), [
    ([256], Precision.INT8, "elements of INT8 must be from -128 to 255, not 256"),
    ([0, -9], Precision.INT4, "elements of INT4 must be from -8 to 15, not -9"),
    ([-1], Precision.FP16, "elements of FP16 must be from 0 to 65535, not -1"),
    ([0.5], Precision.INT8, "elements must be integers, not float64"),
    (3, Precision.INT8, "elements must have an axis to pack"),
])
def test_what_does_not_fit(values: object, precision: Precision, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pack(values, precision)
