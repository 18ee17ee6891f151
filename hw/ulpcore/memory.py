"""The AXI4 memory of `memory.v`, for simulation beside whatever has a port for it."""

from pathlib import Path
from typing import Any

from amaranth.hdl import ClockSignal, Instance, ResetSignal, Value
from amaranth.lib.wiring import Out

__all__ = ["MEMORY_SOURCE", "simulated_memory"]

#: Verilog of the module `memory`.
MEMORY_SOURCE = Path(__file__).with_name("memory.v").read_text()


def simulated_memory(read: Any, write: Any, *, dump: Value, **parameters: int | str) -> Instance:
    """A memory in the domain `sync`, connected to both buses, which are a master's.

    `dump` writes its contents to a file when it rises; `parameters` are those of `memory.v`: WORDS,
    BUS_BYTES, IMAGE and FINAL.
    """
    pins: dict[str, Any] = {f"p_{name}": value for name, value in parameters.items()}
    for bus in (read, write):
        for (port,), member, value in bus.signature.flatten(bus):
            if port[2:] not in ("cache", "prot"):
                pins[f"{'i' if member.flow == Out else 'o'}_{port}"] = value
    return Instance("memory", i_clk=ClockSignal(), i_rst=ResetSignal(), i_dump=dump, **pins)
