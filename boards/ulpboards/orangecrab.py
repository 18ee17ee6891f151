"""OrangeCrab r0.2 with the ECP5-25F: `crab`, a core of integers that fits its multipliers.

It has no serial bridge: an adapter (3.3 V) goes to its pins 0 (the board receives) and 1 (it
sends).
"""

from pathlib import Path

from amaranth.build import Attrs
from amaranth_boards.orangecrab_r0_2 import OrangeCrabR0_2_25FPlatform
from amaranth_boards.resources import UARTResource
from ulpcore.devices import ECP5, Device

from .board import Board

__all__ = ["ORANGECRAB"]


def _platform() -> OrangeCrabR0_2_25FPlatform:
    platform = OrangeCrabR0_2_25FPlatform()
    platform.add_resources([UARTResource(0, rx="0", tx="1", conn=("io", 0),
                                         attrs=Attrs(IO_TYPE="LVCMOS33"))])
    return platform


ORANGECRAB = Board(
    name="orangecrab", title="OrangeCrab r0.2 25F", platform=_platform,
    device=Device(family=ECP5, title="LFE5U-25F-8MG285C",
                  options=("--25k", "--package", "CSFBGA285", "--speed", "8"),
                  sizes=(24288, 24288, 28, 56), packing=("--compress",)),
    core=str(Path(__file__).parent / "crab.toml"), memory_bytes=48 * 1024, clock_hz=48_000_000,
    baud=1_000_000, programmer="orangeCrab")
