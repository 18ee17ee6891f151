"""ECPIX-5 with the ECP5-85F: the full `edge` core; UART over its FT2232H."""

from amaranth_boards.ecpix5 import ECPIX585Platform
from ulpcore.devices import ECP5, Device

from .board import Board

__all__ = ["ECPIX5"]

ECPIX5 = Board(
    name="ecpix5", title="ECPIX-5-85F", platform=ECPIX585Platform,
    device=Device(family=ECP5, title="LFE5UM5G-85F-8BG554I",
                  options=("--um5g-85k", "--package", "CABGA554", "--speed", "8"),
                  sizes=(83640, 83640, 156, 208), packing=("--compress",)),
    core="edge", memory_bytes=128 * 1024, clock_hz=60_000_000, baud=3_000_000,
    programmer="ecpix5")
