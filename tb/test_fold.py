"""Groups of columns: the definition, its twin for matrices, and the sums of groups in RTL."""

import dataclasses
import gc
from fractions import Fraction

import numpy as np
import pytest
from test_matmul import PAIRS, _accumulators, _slots
from ulpcore.fold import GroupSums
from ulpcore.simulation import run_vectors
from ulpsim import float32, fold, matmul
from ulpsim.config import NANO, RAPID
from ulpsim.formats import FORMATS, Format, Precision
from ulpsim.isa import Fold
from ulpsim.matmul import weight_ratio
from wide import FOLDED

FP16 = FORMATS["FP16"]
CONFIGS = {
    "folded": FOLDED,
    "two": dataclasses.replace(FOLDED, name="two", fold=2, formats=(Precision.FP16,)),
    "integers": dataclasses.replace(NANO, name="integers", lanes=4, special_lanes=8, fold=4),
}


def test_every_slot_belongs_to_one_group() -> None:
    for groups in Fold:
        for rows in (2, 4, 8):
            for depth in range(1, 100):
                slots = fold.group_slots(depth, rows, groups)
                assert sorted(np.concatenate(slots)) == list(range(depth))
                assert len(slots[0]) == max(map(len, slots)) == fold.group_depth(
                    depth, rows, groups)
                for group, part in enumerate(slots):
                    assert all(k // rows % groups.groups == group for k in part)


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair[0]}x{pair[1]}")
def test_the_twin_equals_the_definition(pair: tuple[Format, Format], rng: np.random.Generator
                                        ) -> None:
    activation, weight = pair
    precision = activation.precision
    ratio = weight_ratio(precision, weight.precision)
    for groups in Fold:
        rows, outputs = int(rng.choice([2, 4, 8])), 2
        for depth in (1, rows, int(rng.integers(1, 4 * groups.groups * rows))):
            left = _slots(rng, precision, (3, depth))
            lines = -(-fold.group_depth(depth, rows, groups) // ratio)
            right = _slots(rng, weight.precision, (lines, outputs * groups.groups))
            start = _accumulators(rng, precision, (3, outputs * groups.groups))
            found = fold.matmul(left, right, activation, weight, rows, groups, start)
            total = fold.add_groups(found, groups, precision.is_float)
            slots = fold.group_slots(depth, rows, groups)
            for m in range(len(left)):
                for n in range(outputs):
                    columns = n + outputs * np.arange(groups.groups)
                    sums = fold.dot(
                        left[m].tolist(), [right[:-(-len(part) // ratio), column].tolist()
                                           for part, column in zip(slots, columns, strict=True)],
                        activation, weight, rows, groups, start[m, columns].tolist())
                    assert found[m, columns].tolist() == sums
                    assert total[m, n] == fold.add(sums, precision.is_float)


def test_integers_are_exact_and_one_group_is_no_fold(rng: np.random.Generator) -> None:
    int8 = FORMATS["INT8"]
    left, right = _slots(rng, Precision.INT8, (5, 40)), _slots(rng, Precision.INT8, (40, 3))
    whole = matmul.matmul(left, right, int8, int8, 4)
    assert (fold.matmul(left, right, int8, int8, 4, Fold.ONE) == whole).all()
    for groups in (Fold.TWO, Fold.FOUR):
        lines = np.zeros((fold.group_depth(40, 4, groups), 3 * groups.groups), np.uint16)
        for group, slots in enumerate(fold.group_slots(40, 4, groups)):
            lines[:len(slots), 3 * group:3 * group + 3] = right[slots]
        sums = fold.matmul(left, lines, int8, int8, 4, groups)
        assert (fold.add_groups(sums, groups, False) == whole).all()


def test_four_groups_are_added_in_halves() -> None:
    """(s0 + s2) + (s1 + s3), each sum rounded."""
    values = [2.0 ** 24, -2.0 ** 24, 1.0, 1.0]
    sums = [float32.encode(Fraction(value)) for value in values]
    assert float32.decode(fold.add(sums, True)) == 1.0     # not 2
    values = [2.0 ** 24, 1.0, -2.0 ** 24, 1.0]
    sums = [float32.encode(Fraction(value)) for value in values]
    assert float32.decode(fold.add(sums, True)) == 2.0
    assert fold.add([0xFFFFFFFF, 1, 2, 3], False) == 5


def test_weights_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"weights must be \[4, a multiple of 2\], not \[8, 2\]"):
        fold.matmul(np.zeros((1, 8)), np.zeros((8, 2)), FP16, FP16, 4, Fold.TWO)


@pytest.mark.parametrize("name", CONFIGS)
def test_sums_of_groups(name: str, rng: np.random.Generator) -> None:
    """A new vector every turn; the sums stand for a whole turn."""
    config = CONFIGS[name]
    turns, columns = 400, config.column_lanes
    for groups in config.folds:
        sums = rng.integers(0, 1 << 32, (turns, columns), dtype=np.uint32)
        near = rng.normal(size=(turns, columns)).astype(np.float32).view(np.uint32)
        sums = np.where(rng.random((turns, 1)) < 0.7, near, sums)
        kinds = [kind for kind, there in ((True, config.has_float), (False, config.has_integer))
                 if there]
        for is_float in kinds:
            cycles = 4 * turns
            outputs = run_vectors(GroupSums(config=config), {
                "phase": np.arange(cycles) % 4, "fold": np.full(cycles, groups.value),
                "is_float": np.full(cycles, is_float), "sums": np.repeat(sums, 4, axis=0)})
            folded = np.ascontiguousarray(outputs["folded"]).view(np.uint32)
            folded = folded.reshape(-1, 4, columns)[:, :, :columns // groups.groups]
            expected = fold.add_groups(sums, groups, is_float)
            late = {Fold.ONE: 0, Fold.TWO: 2, Fold.FOUR: 3}[groups]
            assert (folded[late:turns] == expected[:turns - late, None]).all()


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
def test_configurations_are_checked() -> None:
    with pytest.raises(TypeError, match="config must be a CoreConfig, not 4"):
        GroupSums(config=4)  # type: ignore[arg-type]  # that it is refused is the test
    gc.collect()
    for values, message in (
            ({"fold": 3}, "fold must be a power of two, not 3"),
            ({"fold": 8}, "fold must be at most 4: 4, the 8 columns, and the rounds over 8 slots "
                          "that 128 banks give, not 8"),
            ({"fold": 4, "columns": 2, "lanes": 32}, "fold must be at most 2: 4, the 2 columns")):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(RAPID, **values)
