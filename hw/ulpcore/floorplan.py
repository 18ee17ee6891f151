"""Where the multipliers of the array go on a device: in the order of the array.

nextpnr moves multipliers to their sites one by one, each to the nearest that is still free. With
nine of ten sites taken the two of an element end up at opposite ends of the device, and all that
hangs on them is torn apart. So those of the array are given their sites beforehand: its columns
side by side, its rows in as many bands as the device has rows of multipliers.
"""

import re
from typing import Any

__all__ = ["SITES", "place_multipliers"]

# Columns of the device in which a block of four multipliers begins, and their places in it.
_BLOCKS = (4, 13, 22, 31, 40, 49, 58, 69, 78, 87, 96, 105, 114)
_PLACES = (0, 1, 4, 5)

#: By nextpnr's name of the device: for each row of multipliers, from north to south, its sites from
#: west to east.
SITES = {"85k": [[f"X{block + place}/Y{y}/MULT18_{place}" for block in _BLOCKS for place in _PLACES]
                 for y in (10, 34, 58)]}

_ELEMENT = re.compile(r"(?:^|\.)element_(\d+)_(\d+)\.")


def place_multipliers(module: dict[str, Any], *, device: str = "85k") -> int:
    """Give the multipliers of an array's elements their sites; how many were given one.

    `module` is the flattened top module of a netlist in Yosys' JSON, changed in place. None is
    given a site if the device's are not known or too few for whole columns of the array.
    """
    elements: dict[tuple[int, int], list[str]] = {}
    for name in sorted(module["cells"]):
        found = _ELEMENT.search(name)
        if found and module["cells"][name]["type"] == "MULT18X18D":
            elements.setdefault((int(found[1]), int(found[2])), []).append(name)
    if not elements or device not in SITES:
        return 0
    bands = SITES[device]
    rows, columns = (1 + max(place[axis] for place in elements) for axis in (0, 1))
    rows_a_band = -(-rows // len(bands))
    largest = max(map(len, elements.values()))
    width = len(bands[0]) // columns
    if rows_a_band * largest > width:
        return 0
    for (row, column), names in elements.items():
        band, place = divmod(row, rows_a_band)
        first = column * width + place * largest
        for name, site in zip(names, bands[band][first:], strict=False):
            module["cells"][name].setdefault("attributes", {})["BEL"] = site
    return sum(map(len, elements.values()))
