"""AXI4 and AXI4-Lite as Amaranth signatures, with the names of the AXI specification.

A port `bus` of such a signature becomes `bus__araddr`, `bus__arlen`, ... in the Verilog.
"""

from amaranth.hdl import Const, Module
from amaranth.lib import enum, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

__all__ = ["AXI4Lite", "AXI4Read", "AXI4Write", "Response", "fixed_read", "fixed_write"]


class Response(enum.Enum, shape=2):
    """RRESP and BRESP."""

    OKAY = 0
    EXCLUSIVE_OKAY = 1
    SLAVE_ERROR = 2
    DECODE_ERROR = 3


class AXI4Read(wiring.Signature):
    """The read channels of an AXI4 master with 32-bit addresses and a 1-bit ID.

    Parameters
    ----------
    data_bytes
        Width of the data.
    """

    def __init__(self, *, data_bytes: int = 4) -> None:
        super().__init__({
            "arid": Out(1), "araddr": Out(32), "arlen": Out(8), "arsize": Out(3),
            "arburst": Out(2), "arcache": Out(4), "arprot": Out(3),
            "arvalid": Out(1), "arready": In(1),
            "rid": In(1), "rdata": In(8 * data_bytes), "rresp": In(2), "rlast": In(1),
            "rvalid": In(1), "rready": Out(1),
        })

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AXI4Read) and self.members == other.members


class AXI4Write(wiring.Signature):
    """The write channels of an AXI4 master with 32-bit addresses and a 1-bit ID.

    Parameters
    ----------
    data_bytes
        Width of the data.
    """

    def __init__(self, *, data_bytes: int = 4) -> None:
        super().__init__({
            "awid": Out(1), "awaddr": Out(32), "awlen": Out(8), "awsize": Out(3),
            "awburst": Out(2), "awcache": Out(4), "awprot": Out(3),
            "awvalid": Out(1), "awready": In(1),
            "wdata": Out(8 * data_bytes), "wstrb": Out(data_bytes), "wlast": Out(1),
            "wvalid": Out(1), "wready": In(1),
            "bid": In(1), "bresp": In(2), "bvalid": In(1), "bready": Out(1),
        })

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AXI4Write) and self.members == other.members


class AXI4Lite(wiring.Signature):
    """An AXI4-Lite master with 32-bit data.

    Parameters
    ----------
    address_width
        Bits of a byte address.
    """

    def __init__(self, *, address_width: int) -> None:
        if not isinstance(address_width, int) or not 2 <= address_width <= 64:
            raise ValueError(f"address_width must be from 2 to 64, not {address_width!r}")
        self.address_width = address_width
        super().__init__({
            "awaddr": Out(address_width), "awprot": Out(3), "awvalid": Out(1), "awready": In(1),
            "wdata": Out(32), "wstrb": Out(4), "wvalid": Out(1), "wready": In(1),
            "bresp": In(2), "bvalid": In(1), "bready": Out(1),
            "araddr": Out(address_width), "arprot": Out(3), "arvalid": Out(1), "arready": In(1),
            "rdata": In(32), "rresp": In(2), "rvalid": In(1), "rready": Out(1),
        })

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AXI4Lite) and self.members == other.members


def _fixed(m: Module, bus: wiring.PureInterface, prefix: str, data_bits: int) -> None:
    values = {"id": 0, "size": exact_log2(data_bits // 8), "burst": 1, "cache": 3, "prot": 0}
    for name, value in values.items():
        port = getattr(bus, f"a{prefix}{name}")
        m.d.comb += port.eq(Const(value, len(port)))


def fixed_read(m: Module, bus: wiring.PureInterface) -> None:
    """Drive what never changes on AR: ID 0, whole beats, INCR, normal non-cacheable memory."""
    _fixed(m, bus, "r", len(bus.rdata))


def fixed_write(m: Module, bus: wiring.PureInterface) -> None:
    """Drive what never changes on AW: ID 0, whole beats, INCR, normal non-cacheable memory."""
    _fixed(m, bus, "w", len(bus.wdata))
