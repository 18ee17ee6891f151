"""The sites of the array's multipliers: each its own, those of an element side by side."""

import re

import pytest
from ulpcore.floorplan import SITES, place_multipliers


def netlist(rows: int, columns: int, each: int) -> dict:
    """A netlist with an array of multipliers, and others beside it."""
    names = [f"core.array.element_{row}_{column}.${i}_MULT18X18D"
             for row in range(rows) for column in range(columns) for i in range(each)]
    cells = {name: {"type": "MULT18X18D", "attributes": {}} for name in names}
    cells["core.special.lane_0.multiply"] = {"type": "MULT18X18D", "attributes": {}}
    cells["core.array.element_0_0.sum"] = {"type": "LUT4", "attributes": {}}
    return {"cells": cells}


def sites_of(module: dict) -> dict[str, str]:
    return {name: cell["attributes"]["BEL"] for name, cell in module["cells"].items()
            if "BEL" in cell["attributes"]}


def place(site: str) -> tuple[int, int]:
    x, y = re.fullmatch(r"X(\d+)/Y(\d+)/MULT18_\d", site).groups()
    return int(x), int(y)


def test_the_device_has_the_sites_that_lattice_says():
    """156 in the LFE5U-85F (FPGA-DS-02012, table 1.1)."""
    sites = [site for band in SITES["85k"] for site in band]
    assert len(sites) == len(set(sites)) == 156


@pytest.mark.parametrize("rows, columns, each", [(8, 8, 2), (4, 8, 2), (2, 4, 1), (8, 4, 4)])
def test_elements_lie_in_the_order_of_the_array(rows, columns, each):
    module = netlist(rows, columns, each)
    assert place_multipliers(module) == rows * columns * each
    sites = sites_of(module)
    assert len(set(sites.values())) == len(sites) == rows * columns * each
    assert all("element" in name and "MULT" in name for name in sites)
    known = {site for band in SITES["85k"] for site in band}
    assert set(sites.values()) <= known
    of = {}
    for name, site in sites.items():
        row, column = map(int, re.search(r"element_(\d+)_(\d+)", name).groups())
        of.setdefault((row, column), []).append(place(site))
    for (row, column), places in of.items():
        xs, ys = zip(*places, strict=True)
        assert len(set(ys)) == 1 and max(xs) - min(xs) <= 9
        if column:
            west = of[row, column - 1]
            assert max(x for x, _ in west) < min(xs) and west[0][1] == ys[0]
        if row:
            assert of[row - 1, column][0][1] <= ys[0]


@pytest.mark.parametrize("rows, columns, each", [(8, 64, 2), (8, 8, 3), (30, 8, 2)])
def test_what_does_not_fit_is_left_to_the_placer(rows, columns, each):
    module = netlist(rows, columns, each)
    assert place_multipliers(module) == 0 and not sites_of(module)


def test_other_devices_and_other_designs_are_left_to_the_placer():
    module = netlist(8, 8, 2)
    assert place_multipliers(module, device="45k") == 0 and not sites_of(module)
    assert place_multipliers({"cells": {"a": {"type": "MULT18X18D"}}}) == 0
