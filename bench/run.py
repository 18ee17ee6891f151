"""Run the benchmarks: `make bench`, or some by name: `python bench/run.py core arithmetic`.

Each is a program of this folder that prints JSON, compares it with the last figures in
`bench/results` and keeps the new ones. `synthesis` (tens of minutes) is `make synth`.
"""

import argparse
import subprocess
import sys
from pathlib import Path

BENCHMARKS = ("arithmetic", "multiply_add", "core", "coverage", "utilisation", "resnet50",
              "fold", "training", "accuracy", "sequences", "compression", "network",
              "collectives")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME",
                        help=f"benchmarks to run, of {', '.join(BENCHMARKS)}; all by default")
    names = parser.parse_args().names
    for name in names:
        if name not in BENCHMARKS:
            parser.error(f"NAME must be one of {', '.join(BENCHMARKS)}, not {name!r}")
    folder = Path(__file__).parent
    codes = [subprocess.run([sys.executable, folder / f"{name}.py"], check=False).returncode
             for name in names or BENCHMARKS]
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
