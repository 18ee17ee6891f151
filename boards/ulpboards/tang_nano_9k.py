"""Tang Nano 9K with the GW1NR-9C; UART over its BL702."""

from pathlib import Path

from amaranth_boards.tang_nano_9k import TangNano9kPlatform
from ulpcore.devices import GOWIN, Device

from .board import Board

__all__ = ["TANG_NANO_9K"]

TANG_NANO_9K = Board(
    name="tang-nano-9k", title="Tang Nano 9K", platform=TangNano9kPlatform,
    device=Device(family=GOWIN, title="GW1NR-LV9QN88PC6/I5",
                  options=("--device", "GW1NR-LV9QN88PC6/I5", "--vopt", "family=GW1N-9C"),
                  sizes=(8640, 6480, 20, 26), packing=("-d", "GW1N-9C")),
    core=str(Path(__file__).parent / "small.toml"), memory_bytes=48 * 1024,
    clock_hz=27_000_000, baud=1_000_000, programmer="tangnano9k")
