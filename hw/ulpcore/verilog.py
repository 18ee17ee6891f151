"""Verilog from components, with each distinct element standing in it once.

Amaranth emits one module for each instance of a component. Components that are repeated many
times (processing elements, banks) are instead handed to `Generator.once`, which places an
`Instance` and converts the component itself a single time.
"""

import os
from typing import Any

from amaranth.back import verilog
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

__all__ = ["Generator", "generate", "once"]


class Generator:
    """The platform with which `generate` elaborates a design."""

    def __init__(self) -> None:
        self.elements: dict[str, wiring.Component] = {}

    def once(self, component: wiring.Component, name: str) -> Instance:
        """A submodule that stands for `component`, emitted as one Verilog module `name`.

        `component` must be in the `sync` domain only. All components given the same name must
        be built from the same parameters; ValueError if their classes or ports differ.
        """
        _mark_used(component)
        first = self.elements.setdefault(name, component)
        if type(first) is not type(component) or first.signature != component.signature:
            raise ValueError(f"elements named {name!r} must be alike, not {first!r} and "
                             f"{component!r}")
        connections = {
            f"{'i' if flow == wiring.In else 'o'}_{port}": value
            for port, flow, value in _ports(component)
        }
        return Instance(name, i_clk=ClockSignal(), i_rst=ResetSignal(), **connections)


def _mark_used(component: wiring.Component) -> None:
    """Amaranth warns of components that nothing elaborates; this one, and those it has been given
    as attributes, stand in for their like."""
    component._MustUse__used = True
    for value in vars(component).values():
        for inner in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(inner, wiring.Component):
                _mark_used(inner)


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
    texts = [_convert(component, name, platform)]
    done: set[str] = set()
    while pending := [n for n in platform.elements if n not in done]:
        for element in pending:
            texts.append(_convert(platform.elements[element], element, platform))
            done.add(element)
    return "\n".join(texts), sorted(platform.elements)


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
    return verilog.convert(fragment, name=name, platform=platform, ports=ports, emit_src=False,
                           strip_internal_attrs=True)
