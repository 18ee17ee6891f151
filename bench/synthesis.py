"""Area by block and routed clock frequency of a core on the ECP5-85F.

The whole core takes tens of minutes. With `--blocks` each block is placed and routed by itself,
between registers, which takes minutes and says which one limits the clock. With `--units` so are
the multiply-add and slots with INT8 alone and with every format; of slots with one format more at a
time the area says what each format costs. With `--router` it is a router of the network with five
ports, mapped for speed.
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from amaranth.lib import wiring
from record import record
from rich.console import Console
from ulpcore.accumulators import Accumulators
from ulpcore.array import Array
from ulpcore.core import Core
from ulpcore.execute import Execute
from ulpcore.interconnect.router import Router
from ulpcore.load import Load
from ulpcore.multiply_add import MultiplyAdd
from ulpcore.processing_element import ProcessingElement
from ulpcore.registers import Registers
from ulpcore.scratchpad import ActivationScratchpad
from ulpcore.sequencer import Sequencer
from ulpcore.special import Special
from ulpcore.store import Store
from ulpcore.synthesis import Registered, measure
from ulpsim.config import CoreConfig, load_config
from ulpsim.formats import Precision
from ulpsim.interconnect.topology import Torus

#: Blocks by name, in the order of the data. The array is apart: it takes as long as the core.
BLOCKS = {
    "registers": Registers,
    "sequencer": Sequencer,
    "load": Load,
    "activations": ActivationScratchpad,
    "execute": Execute,
    "element": ProcessingElement,
    "array": Array,
    "accumulators": Accumulators,
    "special": Special,
    "store": Store,
}


#: MHz that nextpnr aims at.
CORE_TARGET, UNIT_TARGET = 66.0, 130.0


def format_sets() -> Iterator[tuple[Precision, ...]]:
    """Floating point, then integers beside it; integers alone: one format more at a time."""
    floats = [p for p in Precision if p.is_float]
    integers = [p for p in Precision if not p.is_float]
    for formats in (floats + integers, integers):
        yield from (tuple(formats[:count]) for count in range(1, len(formats) + 1))


def units(config: CoreConfig) -> Iterator[tuple[str, wiring.Component, bool]]:
    """Multiply-adds by their stages and slots by their formats, with the sizes of `config`, and
    whether their clock frequency is of interest and not the area alone."""
    for stages in (4, 5):
        yield f"multiply_add, {stages} stages", MultiplyAdd(stages=stages), True
    for formats in format_sets():
        slot = dataclasses.replace(config, columns=config.column_lanes, lanes=1, formats=formats,
                                   special_functions=False)
        yield (f"slot, {' '.join(p.name for p in formats)}", ProcessingElement(config=slot),
               formats == (Precision.INT8,) or len(formats) == len(Precision))


def measure_apart(component: wiring.Component, title: str, seeds: list[int], target: float,
                  progress: Callable[[str], None], *, for_speed: bool = False) -> dict[str, Any]:
    """Area of a component itself; area and clock frequency of it between registers.

    Mapped for speed the whole is in one piece, so the area has the registers around it as well.
    """
    figures = measure(Registered(component), name="top", seeds=seeds, target_mhz=target,
                      for_speed=for_speed,
                      progress=lambda text: progress(text.replace("top", title)))
    return {"area": figures["areas"]["top" if for_speed else "top.inner"],
            "fmax": [timing["fmax"] for timing in figures["routed"]],
            "routed": figures["routed"]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="edge", help="a named core or a TOML file")
    parser.add_argument("--seeds", type=int, nargs="*", default=[1], help="nextpnr's seeds")
    parser.add_argument("--target", type=float, metavar="MHZ",
                        help=f"what nextpnr aims at: {CORE_TARGET}, for units {UNIT_TARGET}")
    parser.add_argument("--blocks", nargs="*", metavar="BLOCK", choices=BLOCKS,
                        help=f"by themselves, of {', '.join(BLOCKS)}; all but the array by default")
    parser.add_argument("--units", action="store_true",
                        help="the multiply-add and the slot by themselves, by formats")
    parser.add_argument("--router", action="store_true", help="a router with five ports")
    parser.add_argument("--logs", type=Path, metavar="FOLDER",
                        help="keep there what nextpnr prints for the whole core")
    parser.add_argument("--no-keep", action="store_true", help="do not keep the figures")
    options = parser.parse_args()
    config = load_config(options.config)
    target = options.target or (
        UNIT_TARGET if options.units or options.router else CORE_TARGET)
    with Console(stderr=True).status("") as status:
        if options.units:
            figures = {name: measure_apart(unit, name, options.seeds if routed else [], target,
                                           status.update)
                       for name, unit, routed in units(config)}
            record(f"synthesis-{config.name}-units", figures, keep=not options.no_keep)
        elif options.router:
            router = Router(topology=Torus(4, 4), place=(1, 2))
            record("synthesis-router", measure_apart(
                router, "router", options.seeds, target, status.update, for_speed=True),
                keep=not options.no_keep)
        elif options.blocks is not None:
            names = options.blocks or [name for name in BLOCKS if name != "array"]
            figures = {name: measure_apart(BLOCKS[name](config=config), name, options.seeds,
                                           target, status.update) for name in names}
            record(f"synthesis-{config.name}-blocks", figures, keep=not options.no_keep)
        else:
            figures = measure(Core(config=config), name=config.name, seeds=options.seeds,
                              target_mhz=target, logs=options.logs, progress=status.update)
            record(f"synthesis-{config.name}", figures, keep=not options.no_keep)
    return 0


if __name__ == "__main__":
    sys.exit(main())
