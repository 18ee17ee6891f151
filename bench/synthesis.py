"""Area by block and routed clock frequency of a core on the ECP5-85F.

The whole core takes tens of minutes. With `--blocks` each block is placed and routed by itself,
between registers, which takes minutes and says which one limits the clock.
"""

import argparse
import sys

from record import record
from rich.console import Console
from ulpcore.accumulators import Accumulators
from ulpcore.array import Array
from ulpcore.core import Core
from ulpcore.execute import Execute
from ulpcore.load import Load
from ulpcore.processing_element import ProcessingElement
from ulpcore.registers import Registers
from ulpcore.scratchpad import ActivationScratchpad
from ulpcore.sequencer import Sequencer
from ulpcore.special import Special
from ulpcore.store import Store
from ulpcore.synthesis import Registered, measure
from ulpsim.config import load_config

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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="edge", help="a named core or a TOML file")
    parser.add_argument("--seeds", type=int, nargs="*", default=[1], help="nextpnr's seeds")
    parser.add_argument("--target", type=float, default=66.0, metavar="MHZ")
    parser.add_argument("--blocks", nargs="*", metavar="BLOCK", choices=BLOCKS,
                        help=f"by themselves, of {', '.join(BLOCKS)}; all but the array by default")
    parser.add_argument("--no-keep", action="store_true", help="do not keep the figures")
    options = parser.parse_args()
    config = load_config(options.config)
    with Console(stderr=True).status("") as status:
        if options.blocks is None:
            figures = measure(Core(config=config), name=config.name, seeds=options.seeds,
                              target_mhz=options.target, progress=status.update)
            record(f"synthesis-{config.name}", figures, keep=not options.no_keep)
            return 0
        names = options.blocks or [name for name in BLOCKS if name != "array"]
        figures = {}
        for name in names:
            measured = measure(Registered(BLOCKS[name](config=config)), name=name,
                               seeds=options.seeds, target_mhz=options.target,
                               progress=status.update)
            figures[name] = {"area": measured["areas"][f"{name}.inner"],
                             "routed": measured["routed"]}
    record(f"synthesis-{config.name}-blocks", figures, keep=not options.no_keep)
    return 0


if __name__ == "__main__":
    sys.exit(main())
