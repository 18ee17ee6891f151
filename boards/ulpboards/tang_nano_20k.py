"""Tang Nano 20K with the GW2AR-18C: the smallest core; UART over its BL616."""

from pathlib import Path

from amaranth.build import Attrs, Clock, Pins, Resource
from amaranth.vendor import GowinPlatform
from amaranth_boards.resources import ButtonResources, LEDResources, UARTResource
from ulpcore.devices import GOWIN, Device

from .board import Board

__all__ = ["TANG_NANO_20K", "TangNano20kPlatform"]


class TangNano20kPlatform(GowinPlatform):
    """What of the board is used here; pins of Sipeed's schematic."""

    part = "GW2AR-LV18QN88C8/I7"
    family = "GW2AR-18C"
    default_clk = "clk27"
    resources = [
        Resource("clk27", 0, Pins("4", dir="i"), Clock(27e6), Attrs(IO_TYPE="LVCMOS33")),
        *ButtonResources(pins="88 87", attrs=Attrs(IO_TYPE="LVCMOS33")),
        *LEDResources(pins="15 16 17 18 19 20", invert=True, attrs=Attrs(IO_TYPE="LVCMOS33")),
        UARTResource(0, rx="70", tx="69", attrs=Attrs(PULL_MODE="UP", IO_TYPE="LVCMOS33")),
    ]
    connectors = []


TANG_NANO_20K = Board(
    name="tang-nano-20k", title="Tang Nano 20K", platform=TangNano20kPlatform,
    device=Device(family=GOWIN, title="GW2AR-LV18QN88C8/I7",
                  options=("--device", "GW2AR-LV18QN88C8/I7", "--vopt", "family=GW2A-18C"),
                  sizes=(20736, 15552, 48, 46), packing=("-d", "GW2A-18C")),
    core=str(Path(__file__).parent / "small.toml"), memory_bytes=48 * 1024,
    clock_hz=27_000_000, baud=1_000_000, programmer="tangnano20k")
