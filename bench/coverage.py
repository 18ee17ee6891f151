"""Functional coverage of the programs with which the core is tested.

Prints, for each core, how many bins of `ulpsim.coverage` there are in each group, and how many of
them the programs of the test suite hit: the covering programs, which `tb/test_core.py` compares
with the RTL, and for comparison random programs alone. Exits 1 if the covering programs miss one.
"""

import argparse
import sys

from record import record
from ulpsim.config import NAMED
from ulpsim.coverage import summary
from ulpsim.programs import covering_programs, random_program


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--random", type=int, default=120,
                        help="random programs for comparison (default: 120)")
    parser.add_argument("--configs", nargs="+", choices=NAMED, default=list(NAMED), metavar="NAME",
                        help=f"cores, of {', '.join(NAMED)} (default: all)")
    parser.add_argument("--no-keep", action="store_true", help="do not keep the figures")
    options = parser.parse_args()
    figures: dict = {"seed": options.seed}
    missing = 0
    for name in options.configs:
        config = NAMED[name]
        programs = covering_programs(options.seed, config)
        groups = summary(config, set().union(*(p.bins(config) for p in programs)))
        by_chance = summary(config, set().union(*(
            random_program(10_000 * options.seed + i, config).bins(config)
            for i in range(options.random))))
        print(f"{name}: {len(programs)} covering programs")
        for group, counts in groups.items():
            print(f"  {counts['hit']:4} of {counts['bins']:4}  {group}  "
                  f"({by_chance[group]['hit']} by {options.random} random programs)")
            missing += len(counts["missing"])
        figures[name] = {
            "covering_programs": len(programs), "random_programs": options.random,
            "bins": sum(counts["bins"] for counts in groups.values()),
            "hit": sum(counts["hit"] for counts in groups.values()),
            "hit_by_random_programs": sum(counts["hit"] for counts in by_chance.values()),
            "groups": {group: {"bins": counts["bins"], "hit": counts["hit"],
                               "hit_by_random_programs": by_chance[group]["hit"]}
                       for group, counts in groups.items()}}
    record("coverage", figures, keep=not options.no_keep)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
