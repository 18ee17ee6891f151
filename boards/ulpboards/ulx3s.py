"""ULX3S with the ECP5-85F: the full `edge` core; UART over its FT231X."""

from amaranth_boards.ulx3s import ULX3S_85F_Platform
from ulpcore.devices import ECP5, Device

from .board import Board

__all__ = ["ULX3S"]

ULX3S = Board(
    name="ulx3s", title="ULX3S-85F", platform=ULX3S_85F_Platform,
    device=Device(family=ECP5, title="LFE5U-85F-6BG381C",
                  options=("--85k", "--package", "CABGA381", "--speed", "6"),
                  sizes=(83640, 83640, 156, 208), packing=("--compress",)),
    core="edge", memory_bytes=128 * 1024, clock_hz=60_000_000, baud=3_000_000, programmer="ulx3s")
