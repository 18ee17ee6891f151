"""Area by block and routed clock frequency of a core on the ECP5-85F (tens of minutes)."""

import argparse
import sys

from record import record
from rich.console import Console
from ulpcore.core import Core
from ulpcore.synthesis import measure
from ulpsim.config import load_config


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="edge", help="a named core or a TOML file")
    parser.add_argument("--seeds", type=int, nargs="*", default=[1], help="nextpnr's seeds")
    parser.add_argument("--target", type=float, default=65.0, metavar="MHZ")
    parser.add_argument("--no-keep", action="store_true", help="do not keep the figures")
    options = parser.parse_args()
    config = load_config(options.config)
    with Console(stderr=True).status("") as status:
        figures = measure(Core(config=config), name=config.name, seeds=options.seeds,
                          target_mhz=options.target, progress=status.update)
    record(f"synthesis-{config.name}", figures, keep=not options.no_keep)
    return 0


if __name__ == "__main__":
    sys.exit(main())
