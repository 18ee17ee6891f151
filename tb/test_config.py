"""Configurations: what is accepted, what is refused and in which words."""

import pytest
from ulpsim.config import EDGE, NAMED, NANO, RAPID, CoreConfig, load_config
from ulpsim.formats import FORMATS, Format, Precision


def test_named_configurations_are_loadable_by_name():
    assert set(NAMED) == {"edge", "nano", "rapid"}
    assert load_config("edge") is EDGE
    assert load_config("nano") is NANO
    assert load_config("rapid") is RAPID


def test_derived_values():
    assert (EDGE.column_lanes, EDGE.bus_slots, EDGE.banks) == (8, 2, 8)
    assert (RAPID.column_lanes, RAPID.bus_slots, RAPID.banks) == (64, 32, 128)
    assert RAPID.rows * RAPID.column_lanes == 512
    assert CoreConfig(columns=16, special_lanes=4).banks == 16
    assert [CoreConfig(special_lanes=n).special_vectors for n in (2, 4, 8)] == [1, 2, 4]
    assert EDGE.minimum_tile_period == 7 * 3 + 2
    # 8 rows of two unsigned 8-bit products need 20 bits and a sign.
    assert EDGE.partial_sum_bits == 21
    assert not NANO.has_float
    assert NANO.has_integer


@pytest.mark.parametrize(("changes", "message"), [
    ({"rows": 3}, "rows must be a power of two, not 3"),
    ({"rows": 16}, "rows must be from 2 to 8, the banks from which .*, not 16"),
    ({"rows": 0}, "rows must be at least 1, not 0"),
    ({"columns": 4}, r"columns \* lanes must be at least 8.*4 \* 1 = 4"),
    ({"formats": ()}, "formats must name at least one precision"),
    ({"formats": ("INT8",)}, "formats must hold members of Precision.*not 'INT8'"),
    ({"formats": (Precision.INT8, Precision.INT8)}, "formats must name each precision once"),
    ({"multiply_add_stages": 7}, "multiply_add_stages must be from 2 to 6, not 7"),
    ({"special_lanes": 16}, r"special_lanes must be 2, 4 or 8, .* of columns \* lanes, not 16"),
    ({"special_lanes": 1}, r"special_lanes must be 2, 4 or 8, .* of columns \* lanes, not 1"),
    ({"accumulator_depth": 32}, "accumulator_depth must be at least twice .* 46, not 32"),
    ({"instruction_memory": 8192}, "instruction_memory must be at most 4096.*not 8192"),
    ({"instruction_memory": 16}, "instruction_memory must be at least 32, not 16"),
    ({"bus_bytes": 2}, "bus_bytes must be from 4 to 8, .*, not 2"),
    ({"bus_bytes": 16}, "bus_bytes must be from 4 to 8, the outputs of the array .*, not 16"),
    ({"lanes": 16, "special_lanes": 32, "bus_bytes": 128},
     "bus_bytes must be from 4 to 64, .* the bytes of an instruction, not 128"),
    ({"burst_beats": 512}, "burst_beats must be at most AXI4's 256, not 512"),
    ({"weight_bytes": 512}, "weight_bytes must be at least 1024, not 512"),
    ({"special_functions": 1}, "special_functions must be True or False, not 1"),
    ({"special_functions": True, "formats": (Precision.INT8,)},
     "special_functions must be False without FP16 among the formats, not True"),
    ({"exchange": 2}, "exchange must be one of 0, 1, 4, 8, 16, not 2"),
    ({"largest_bin": 500}, "largest_bin must be a power of two, not 500"),
    ({"largest_bin": 1 << 15}, "largest_bin must be at most 16384, not 32768"),
    ({"name": "a b"}, "name must be a string and an identifier, not 'a b'"),
])
def test_bad_values_are_refused(changes, message):
    with pytest.raises((TypeError, ValueError), match=message):
        CoreConfig(**changes)


@pytest.mark.parametrize("value", [2.0, True, "8"])
def test_bad_types_are_refused(value):
    with pytest.raises(TypeError, match="rows must be an integer, not"):
        CoreConfig(rows=value)


def test_toml(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('base = "edge"\nrows = 4\nformats = ["INT8", "FP16"]\n')
    config = load_config(path)
    assert (config.name, config.rows) == ("mine", 4)
    assert config.formats == (Precision.FP16, Precision.INT8)


@pytest.mark.parametrize(("text", "message"), [
    ("row = 4", "there is no parameter 'row'"),
    ('base = "big"', "base must be one of edge, nano, rapid, not 'big'"),
    ('formats = ["INT3"]', "formats must be a list of FP16, INT8, INT4, INT2"),
    ("formats = 3", "formats must be a list"),
    ("rows = 5", "rows must be a power of two, not 5"),
    ("rows =", "is not TOML"),
])
def test_bad_toml_names_the_file(tmp_path, text, message):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"{path}.*{message}"):
        load_config(path)


def test_unreadable_files(tmp_path):
    with pytest.raises(ValueError, match="cannot be read"):
        load_config(tmp_path / "none.toml")
    with pytest.raises(ValueError,
                       match=r"must be one of edge, nano, rapid or a \.toml file, not 'big'"):
        load_config("big")


@pytest.mark.parametrize(("values", "message"), [
    ((Precision.FP16, False), "signed must be True with FP16, not False"),
    ((Precision.INT4, False, True), "odd must be False with UINT4, not True"),
    ((Precision.BINARY, True, True), "odd must be False with BINARY, not True"),
    ((Precision.E4M3, True, False, 16), "bias must be from 0 to 15, not 16")])
def test_formats_that_mean_nothing(values, message):
    with pytest.raises(ValueError, match=message):
        Format(*values)


def test_fp8_needs_fp16():
    with pytest.raises(ValueError, match="formats must name FP16 beside E5M2"):
        CoreConfig(formats=(Precision.E5M2, Precision.INT8))


def test_formats():
    ranges = {name: (f.lowest, f.highest) for name, f in FORMATS.items()
              if f.precision.is_integer and not f.odd}
    assert ranges == {"INT8": (-128, 127), "UINT8": (0, 255), "INT4": (-8, 7), "UINT4": (0, 15),
                      "INT2": (-2, 1), "UINT2": (0, 3)}
    assert FORMATS["ODD2"].precision is Precision.INT2 and FORMATS["ODD2"].odd
    assert [p.per_slot for p in Precision] == [1, 2, 4, 8, 2, 2, 16]
