"""From Verilog and pins to a bitstream, with tools from pip packages alone; all steps cached."""

import dataclasses
import hashlib
import importlib.metadata
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .devices import ECP5, GOWIN, ICE40, Device
from .floorplan import place_multipliers
from .simulation import built
from .synthesis import Area, critical_path, followed, map_verilog

__all__ = ["Build", "BuildError", "Routed", "build_bitstream", "synthesise_for",
           "write_files"]


class BuildError(RuntimeError):
    """A step failed: the message says which and what can be done."""


@dataclasses.dataclass(frozen=True)
class Routed:
    """One place and route.

    `fmax` and `target` are MHz, `used` and `available` count nextpnr's kinds of cells; `path` are
    the cells at the ends of the slowest path, `logic_ns` and `routing_ns` what it is made of.
    """

    seed: int
    fmax: float
    target: float
    used: dict[str, int]
    available: dict[str, int]
    path: tuple[str, str]
    logic_ns: float
    routing_ns: float

    @property
    def meets(self) -> bool:
        return self.fmax >= self.target


@dataclasses.dataclass(frozen=True)
class Build:
    """A bitstream, that of the fastest seed: its bytes, the areas by module, all seeds."""

    bitstream: bytes
    areas: Mapping[str, Area]
    routed: tuple[Routed, ...]

    @property
    def best(self) -> Routed:
        return max(self.routed, key=lambda routed: routed.fmax)


def synthesise_for(device: Device, verilog: str, top: str) -> tuple[bytes, dict[str, Area]]:
    """The netlist for nextpnr, as JSON, and the area of each module. Cached.

    Where an ECP5 has too few multipliers those of the array's elements are made of lookup tables.
    """
    _require("pyosys")
    recipe = hashlib.sha256()
    for name in ("synthesis.py", "carry_chains.py", "multiplier_registers.py", "devices.py"):
        recipe.update((Path(__file__).parent / name).read_bytes())
    with built("netlist", verilog, top, device.family.name, str(device.sizes[2]), recipe.digest(),
               importlib.metadata.version("pyosys")) as (folder, complete):
        if not complete:
            (folder / "design.v").write_text(verilog)
            netlist = folder / "netlist.json"
            try:
                areas = map_verilog(folder, top=top, family=device.family, netlist=netlist)
                if device.family is ECP5 and areas[top].multipliers > device.sizes[2]:
                    areas = map_verilog(folder, top=top, family=ECP5, netlist=netlist,
                                        soft_elements=True)
            except RuntimeError as error:
                raise BuildError(str(error)) from error
            (folder / "areas.json").write_text(json.dumps(
                {name: dataclasses.asdict(area) for name, area in areas.items()}))
        areas = json.loads((folder / "areas.json").read_text())
        return ((folder / "netlist.json").read_bytes(),
                {name: Area(**area) for name, area in areas.items()})


def build_bitstream(device: Device, verilog: str, constraints: str, *, top: str = "top",
                    clock_hz: float, seeds: Sequence[int] = (1,), jobs: int = 1,
                    progress: Callable[[str], None] = lambda text: None) -> Build:
    """Synthesise, place and route with each seed, and pack what is fastest.

    Parameters
    ----------
    verilog
        All modules.
    constraints
        Places of the pins, in the family's own form.
    clock_hz
        What the design must reach.
    seeds, jobs
        nextpnr's seeds, and how many are tried at a time.
    progress
        Is told what is going on.

    Every result is kept under a hash of all that it came from, so that only what changed is done
    anew. Raises BuildError when a package is missing, a step fails, or the design does not fit:
    the message then says of what there is too little.
    """
    _require(device.family.package)
    if device.family is GOWIN:
        _require("apycula")
    progress("synthesis")
    netlist, areas = synthesise_for(device, verilog, top)
    _require_room(device, areas[top])

    def route(seed: int) -> tuple[Routed, bytes]:
        return _route(device, netlist, constraints, clock_hz / 1e6, seed,
                      lambda text: progress(f"seed {seed}: {text}"))

    with ThreadPoolExecutor(max(1, jobs)) as pool:
        results = list(pool.map(route, seeds))
    routed = tuple(result[0] for result in results)
    best = max(results, key=lambda result: result[0].fmax)
    return Build(best[1], areas, routed)


def _require(package: str) -> None:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError as error:
        raise BuildError(f"a bitstream needs the package {package}: "
                         "pip install ulpcore[synth]") from error


def _require_room(device: Device, area: Area) -> None:
    names = ("lookup tables", "flip-flops", "multipliers", "block RAMs")
    lacking = [f"{needed} {name} of {there}" for name, needed, there in
               zip(names, dataclasses.astuple(area), device.sizes, strict=True) if needed > there]
    if lacking:
        raise BuildError(f"the design does not fit the {device.title}: it takes "
                         f"{', '.join(lacking)}; choose a smaller core (--config)")


def _route(device: Device, netlist: bytes, constraints: str, target: float, seed: int,
           progress: Callable[[str], None]) -> tuple[Routed, bytes]:
    family = device.family
    version = importlib.metadata.version(family.package)
    with built("route", netlist, constraints, repr(device), str(target), str(seed), version,
               ) as (folder, complete):
        if not complete:
            progress("packing")
            (folder / "pins").write_text(constraints)
            (folder / "netlist.json").write_bytes(_floorplanned(device, netlist))
            code, output = followed([*_command(family.router), *_arguments(device, target, seed)],
                                    folder, folder / "nextpnr.log", progress)
            if code:
                raise BuildError(f"nextpnr failed: {_reason(output)}")
            progress("bitstream")
            code, output = followed([*_command(family.packer), *_packing(device)], folder,
                                    folder / "pack.log", progress)
            if code:
                raise BuildError(f"packing failed: {_reason(output)}")
            (folder / "netlist.json").unlink()
        report = json.loads((folder / "report.json").read_text())
        return _routed(report, seed, target), (folder / "bitstream").read_bytes()


def _floorplanned(device: Device, netlist: bytes) -> bytes:
    if device.family is not ECP5:
        return netlist
    design = json.loads(netlist)
    for module in design["modules"].values():
        place_multipliers(module, device=device.options[0].lstrip("-"))
    return json.dumps(design).encode()


def _command(function: str) -> list[str]:
    """Python that calls `package:function` with the arguments that follow."""
    package, name = function.split(":")
    return [sys.executable, "-c", f"import sys, {package} as tool\n"
            f"sys.argv[0] = '{package}'\n"
            + (f"sys.exit(tool.{name}())" if name == "main" else
               f"sys.exit(tool.{name}(sys.argv[1:]))")]


def _arguments(device: Device, target: float, seed: int) -> list[str]:
    common = [*device.options, "--json", "netlist.json", "--seed", str(seed), "--freq",
              f"{target:.3f}", "--timing-allow-fail", "--report", "report.json"]
    if device.family is ECP5:
        return [*common, "--lpf", "pins", "--textcfg", "design.config", "--placer", "static",
                "--router", "router1"]
    if device.family is ICE40:
        return [*common, "--pcf", "pins", "--asc", "design.asc"]
    return [*common, "--vopt", "cst=pins", "--write", "routed.json"]


def _packing(device: Device) -> list[str]:
    if device.family is ECP5:
        return [*device.packing, "design.config", "bitstream"]
    if device.family is ICE40:
        return ["design.asc", "bitstream"]
    return [*device.packing, "-o", "bitstream", "routed.json"]


def _reason(output: str) -> str:
    """The lines that say what is wrong, or the last ones."""
    lines = output.strip().splitlines()
    errors = [line for line in lines if "ERROR" in line or "Error" in line]
    return "\n".join(errors[-5:] or lines[-5:])


def _routed(report: dict[str, Any], seed: int, target: float) -> Routed:
    clocks = [clock["achieved"] for clock in report["fmax"].values()]
    if not clocks:
        raise BuildError("nextpnr reported no clock")
    used = {kind: entry["used"] for kind, entry in report["utilization"].items() if entry["used"]}
    available = {kind: report["utilization"][kind]["available"] for kind in used}
    path_from, path_to, logic, routing = critical_path(report)
    return Routed(seed, round(min(clocks), 2), round(target, 3), used, available,
                  (path_from, path_to), logic, routing)


def write_files(build: Build, report: Mapping[str, Any], stem: Path, suffix: str) -> list[Path]:
    """Write bitstream and report as `stem` with their suffixes, each whole or not at all."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, content in ((f"{stem.name}{suffix}", build.bitstream),
                          (f"{stem.name}.json", json.dumps(report, indent=2).encode() + b"\n")):
        with tempfile.NamedTemporaryFile(dir=stem.parent, delete=False) as file:
            file.write(content)
        path = stem.parent / name
        shutil.move(file.name, path)
        paths.append(path)
    return paths
