"""Scaling between technologies."""

import itertools

import pytest
from ulpsim.scaling import NODES, SOURCE, Node, scalings


def test_energies_are_those_of_the_authors_example():
    """32 nm at 0.9 V and 65 nm at 1.3 V, from the authors' page."""
    assert Node(32, 1, 0.8, 1.0, (), (0.8367, -0.4341, 0.1701)).energy(0.9) == pytest.approx(
        0.4571, abs=5e-5)
    assert Node(65, 1, 1.0, 1.3, (), (3.755, -4.398, 1.975)).energy(1.3) == pytest.approx(
        2.604, abs=5e-4)


@pytest.mark.parametrize("name", NODES)
def test_polynomials_are_sane_where_they_are_used(name):
    node = NODES[name]
    volts = [node.lowest + (node.highest - node.lowest) * i / 50 for i in range(51)]
    volts[-1] = node.highest
    for low, high in itertools.pairwise(volts):
        assert node.delay(low) > node.delay(high) > 0
        assert node.energy(high) > node.energy(low) > 0


def test_voltages_beyond_are_refused():
    with pytest.raises(ValueError, match=r"voltage at 14 nm must be from 0.7 to 0.9 V, not 1.2"):
        NODES["HP14"].delay(1.2)
    with pytest.raises(ValueError, match="nanometres must be 180, 14 or 7, not 10"):
        scalings(10)


def test_180_nm_stays_what_it_is():
    one, = scalings(180)
    assert (one.volts, one.area, one.delay, one.energy, one.by_length) == (SOURCE, 1, 1, 1, 1)


@pytest.mark.parametrize("nanometres", [14, 7])
def test_finer_nodes_are_smaller_faster_and_take_less(nanometres):
    found = scalings(nanometres)
    assert {s.node for s in found} == {f"HP{nanometres}", f"LP{nanometres}"}
    for scaling in found:
        assert 0 < scaling.energy < scaling.by_length < 0.05
        assert 0 < scaling.delay < 0.2 and scaling.area in (1 / 110, 1 / 320)
    assert NODES["180"].highest == SOURCE
    # 14 nm, high performance, 0.8 V, by hand: 4.510 / 79.01 and 0.0962 / 26.37.
    if nanometres == 14:
        one = next(s for s in found if (s.node, s.volts) == ("HP14", 0.8))
        assert one.delay == pytest.approx(0.05708, rel=1e-3)
        assert one.energy == pytest.approx(0.003649, rel=1e-3)
        assert one.by_length == pytest.approx(14 / 180 * (0.8 / 1.8) ** 2)
