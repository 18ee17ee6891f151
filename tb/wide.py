"""A small core whose port, bus and special unit are as much wider than `edge`'s as `rapid`'s are.

It has as many banks as twice its outputs, and several of them for each slot that is gathered.
"""

import dataclasses

from ulpsim.config import EDGE, NANO
from ulpsim.formats import Precision

WIDE = dataclasses.replace(EDGE, name="wide", columns=4, lanes=4, special_lanes=16,
                           bus_bytes=16)
#: The same with every format there is.
EVERY = dataclasses.replace(WIDE, name="every", formats=tuple(Precision))
#: With columns that can form groups; and such a core with integers alone.
FOLDED = dataclasses.replace(WIDE, name="folded", fold=4)
FOLDED_NANO = dataclasses.replace(NANO, name="folded_nano", lanes=4, special_lanes=16, bus_bytes=8,
                                  fold=4)
