"""A small core whose port, bus and special unit are as much wider than `edge`'s as `rapid`'s are.

It has as many banks as twice its outputs, and several of them for each slot that is gathered.
"""

import dataclasses

from ulpsim.config import EDGE, NANO

WIDE = dataclasses.replace(EDGE, name="wide", columns=4, lanes=4, special_lanes=16,
                           bus_bytes=16)
#: With columns that can form groups; and such a core with integers alone.
FOLDED = dataclasses.replace(WIDE, name="folded", fold=4)
FOLDED_NANO = dataclasses.replace(NANO, name="folded_nano", lanes=4, special_lanes=16, bus_bytes=8,
                                  fold=4)
