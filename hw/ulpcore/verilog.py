"""Verilog from components, with each distinct element standing in it once.

Amaranth emits one module for each instance of a component. Components that are repeated many
times (processing elements, banks) are instead handed to `Generator.once`, which places an
`Instance` and converts the component itself a single time.

Of memories that begin as zeros Yosys is given the first word alone, and the others are put into the
text afterwards: bit by bit they would take longer than all the rest of a large core.
"""

import gc
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any

from amaranth.back import rtlil, verilog
from amaranth.hdl import (
    ClockDomain,
    ClockSignal,
    Fragment,
    Instance,
    ResetSignal,
    Value,
)
from amaranth.hdl._ir import PortDirection
from amaranth.lib import wiring

__all__ = ["Generator", "generate", "mark_used", "once"]


class Generator:
    """The platform with which `generate` elaborates a design."""

    def __init__(self) -> None:
        self.elements: dict[str, wiring.Component] = {}

    def once(self, component: wiring.Component, name: str) -> Instance:
        """A submodule that stands for `component`, emitted as one Verilog module `name`.

        `component` must be in the `sync` domain only. All components given the same name must
        be built from the same parameters; ValueError if their classes or ports differ.
        """
        mark_used(component)
        first = self.elements.setdefault(name, component)
        if type(first) is not type(component) or first.signature != component.signature:
            raise ValueError(f"elements named {name!r} must be alike, not {first!r} and "
                             f"{component!r}")
        connections = {
            f"{'i' if flow == wiring.In else 'o'}_{port}": value
            for port, flow, value in _ports(component)
        }
        return Instance(name, i_clk=ClockSignal(), i_rst=ResetSignal(), **connections)


def mark_used(component: wiring.Component) -> None:
    """Amaranth warns of components that nothing elaborates; this one, and those it has been given
    as attributes, stand in for their like."""
    component._MustUse__used = True
    for value in vars(component).values():
        for inner in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(inner, wiring.Component):
                mark_used(inner)


def once(platform: Any, component: wiring.Component, name: str) -> wiring.Component | Instance:
    """`component` itself, or its single Verilog module when `platform` is a `Generator`."""
    return platform.once(component, name) if isinstance(platform, Generator) else component


def generate(component: wiring.Component, *, name: str) -> tuple[str, list[str]]:
    """The Verilog of `component` as module `name`, and the names of its repeated elements.

    Ports are flattened with `__`; the clock is `clk` and the synchronous reset `rst`. The text is
    the same for the same component, on every machine.
    """
    os.environ.setdefault("AMARANTH_USE_YOSYS", "builtin")
    platform = Generator()
    with _no_collection():
        texts = [_convert(component, name, platform)]
        done: set[str] = set()
        while pending := [n for n in platform.elements if n not in done]:
            for element in pending:
                texts.append(_convert(platform.elements[element], element, platform))
                done.add(element)
    return "\n".join(texts), sorted(platform.elements)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Without garbage collection, which would go through millions of live nodes again and again:
    half of the time of a large core."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _ports(component: wiring.Component) -> list[tuple[str, wiring.Flow, Value]]:
    return [("__".join(map(str, path)), member.flow, Value.cast(value))
            for path, member, value in component.signature.flatten(component)]


def _convert(component: wiring.Component, name: str, platform: Generator) -> str:
    domain = ClockDomain("sync")
    fragment = Fragment.get(component, platform)
    fragment.add_domains(domain)
    ports = {"clk": (domain.clk, PortDirection.Input), "rst": (domain.rst, PortDirection.Input)}
    for port, flow, value in _ports(component):
        direction = PortDirection.Input if flow == wiring.In else PortDirection.Output
        ports[port] = (value, direction)
    with _first_zeros_only():
        text = verilog.convert(fragment, name=name, platform=platform, ports=ports,
                               emit_src=False, strip_internal_attrs=True)
    return _FIRST_ZERO.sub(_all_zeros, text)


#: A memory of which only the first word is given: its name, its depth less 1, and the word.
_FIRST_ZERO = re.compile(r"(\S+) \[(\d+):0\];\n  initial begin\n    \1\[0\] = (\S+);\n(?=  end)")


def _all_zeros(first: re.Match) -> str:
    """The memory with a loop that gives every word, which tools read faster than its words."""
    name, last, zero = first.groups()
    return (f"{name} [{last}:0];\n  initial begin : {name}_zeros\n    integer i;\n"
            f"    for (i = 0; i <= {last}; i = i + 1)\n      {name}[i] = {zero};\n")


@contextmanager
def _first_zeros_only() -> Iterator[None]:
    """Within it Amaranth gives the first word alone of a memory that begins as zeros."""
    emit = rtlil.ModuleEmitter.emit_memory

    def emit_contents(emitter: Any, index: int, cell: Any) -> None:
        if not any(cell.init):
            cell = copy(cell)
            cell.init, cell.depth = cell.init[:1], 1
        emit(emitter, index, cell)

    rtlil.ModuleEmitter.emit_memory = emit_contents
    try:
        yield
    finally:
        rtlil.ModuleEmitter.emit_memory = emit
