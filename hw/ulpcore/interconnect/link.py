"""What routers are connected with."""

from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from ulpsim.interconnect.packets import WIDTHS

__all__ = ["FlitLayout", "HeaderLayout", "Link", "flit_stream"]

AddressLayout = data.StructLayout({"x": 6, "y": 6, "terminal": 4})
#: The lowest 64 bits of a packet's first flit: `ulpsim.interconnect.packets.Header`.
HeaderLayout = data.StructLayout({
    "destination": AddressLayout, "source": AddressLayout, "bytes": 16, "multicast": 1, "tag": 15})


class FlitLayout(data.StructLayout):
    """A flit: `width` bits, whether it is the first of its packet, and the last.

    Raises ValueError for a width that is none of `ulpsim.interconnect.packets.WIDTHS`.
    """

    def __init__(self, width: int) -> None:
        if width not in WIDTHS:
            raise ValueError(f"width must be one of {', '.join(map(str, WIDTHS))}, not {width!r}")
        super().__init__({"data": width, "first": 1, "last": 1})


class Link(wiring.Signature):
    """One way from router to router; at most one bit of `valid` is high.

    A channel's `ready` says that the receiver has room for the flit that may be in the sender's
    register and for one more, so what is sent is always taken.
    """

    def __init__(self, *, width: int, channels: int) -> None:
        super().__init__({"flit": Out(FlitLayout(width)), "valid": Out(channels),
                          "ready": In(channels)})


def flit_stream(width: int) -> stream.Signature:
    """What a terminal gives and takes: packets, flit by flit."""
    return stream.Signature(FlitLayout(width))
