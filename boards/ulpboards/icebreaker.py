"""iCEBreaker with the iCE40 UP5K; UART over its FT2232H."""

from pathlib import Path

from amaranth_boards.icebreaker import ICEBreakerPlatform
from ulpcore.devices import ICE40, Device

from .board import Board

__all__ = ["ICEBREAKER"]

ICEBREAKER = Board(
    name="icebreaker", title="iCEBreaker", platform=ICEBreakerPlatform,
    device=Device(family=ICE40, title="iCE40UP5K-SG48", options=("--up5k", "--package", "sg48"),
                  sizes=(5280, 5280, 8, 30)),
    core=str(Path(__file__).parent / "small.toml"), memory_bytes=64 * 1024,
    clock_hz=12_000_000, baud=1_000_000, programmer="ice40_generic")
