"""Standard cells: area and timing of a component on the 180 nm library of OSU.

Yosys maps to the library of Debian's package `qflow-tech-osu018` (1.8 V, 25 degrees, typical);
OpenSTA, Debian's `opensta`, gives the timing; for power see `power`. There are no wires: nothing
is placed, so the load of a net is that of the pins on it, and the clock has no tree. Areas are
those of the cells. The library has no memories: they become flip-flops, or are cut out.
"""

import dataclasses
import json
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from amaranth.lib import wiring

from .simulation import SimulationError, built
from .synthesis import yosys
from .verilog import generate

__all__ = ["LIBRARY", "OUTPUT_LOAD", "CutMemory", "Netlist", "map_cells", "measure_timing",
           "require_library"]

LIBRARY = Path("/usr/share/qflow/tech/osu018/osu018_stdcells.lib")

#: Load of an output, pF: three to four inputs.
OUTPUT_LOAD = 0.03
_CONSTRAINTS = f"set_driving_cell DFFPOSX1\nset_load {OUTPUT_LOAD}\n"

_MAP = """
read_liberty -lib -ignore_miss_func {library}
read_verilog design.v
hierarchy -check -top top{cut}
synth -top top -flatten -booth -noabc
dfflibmap -liberty {library}
abc -liberty {library} -constr constraints.txt -D {picoseconds}
setundef -zero
splitnets
opt_clean -purge
rename -enumerate -pattern u% top/t:*
tee -q -o statistics.json stat -json -liberty {library}
write_json mapped.json
write_verilog -noattr -noexpr mapped.v
design -reset
read_liberty -ignore_miss_func {library}
write_verilog -noattr cells.v
"""

#: Memories become ports of the top module, named after them.
_CUT = """
proc
flatten
opt
memory -nomap
opt
write_json memories.json
expose -evert t:$mem_v2"""


@dataclasses.dataclass(frozen=True)
class CutMemory:
    """A memory that is not in a netlist, whose ports are ports `NAME.RD_ADDR` and so on of it.

    One word is read: in the same cycle, or a cycle later if `clocked`. One is written, after it was
    read, with an enable for each bit.
    """

    name: str
    width: int
    depth: int
    clocked: bool


@dataclasses.dataclass(frozen=True)
class Netlist:
    """A component in standard cells.

    `folder` holds `mapped.v`, module `top`, and `cells.v`, what its cells do. `drivers` are the
    outputs of cells, (instance, pin, bit of the net), `registers` for the bit of a flip-flop's
    output the name that the register has in the component. `memories` are those cut out.
    """

    folder: Path
    area: float
    cells: int
    flip_flops: int
    drivers: tuple[tuple[str, str, int], ...]
    registers: Mapping[int, str]
    module: Mapping[str, Any]
    memories: tuple[CutMemory, ...] = ()

    @property
    def memory_bits(self) -> int:
        return sum(memory.width * memory.depth for memory in self.memories)


def require_library() -> Path:
    """Where the library is. Raises SimulationError, naming the Debian package, if it is missing."""
    if not LIBRARY.exists():
        raise SimulationError(f"standard cells need {LIBRARY}: apt-get install qflow-tech-osu018")
    return LIBRARY


def map_cells(component: wiring.Component, *, period_ns: float = 5.0,
              memories: bool = True) -> Netlist:
    """Map a component, in one piece, to standard cells (cached).

    `period_ns` is what the mapping aims at: shorter takes larger cells. Without `memories` these
    are cut out, and their ports become ports of the netlist. Raises SimulationError when the
    library is missing, RuntimeError with the end of Yosys's output when it fails, and ValueError
    for a memory to be cut that is no `CutMemory`.
    """
    require_library()
    text, _ = generate(component, name="top")
    script = _MAP.format(library=LIBRARY, picoseconds=round(period_ns * 1000),
                         cut="" if memories else _CUT)
    with built("cells", text, script, _CONSTRAINTS, LIBRARY.read_bytes()) as (folder, complete):
        if not complete:
            (folder / "design.v").write_text(text)
            (folder / "constraints.txt").write_text(_CONSTRAINTS)
            yosys(list(filter(None, script.splitlines())), folder)
            mapped = folder / "mapped.v"
            # OpenSTA does not know the word and goes on with wrong figures.
            mapped.write_text(re.sub(r"\bsigned\b ?", "", mapped.read_text()))
        return _read(folder)


def _read(folder: Path) -> Netlist:
    module = json.loads((folder / "mapped.json").read_text())["modules"]["top"]
    statistics = json.loads((folder / "statistics.json").read_text())["design"]
    drivers, flip_flops = [], set()
    for name, cell in module["cells"].items():
        for pin, bits in cell["connections"].items():
            if cell["port_directions"].get(pin) == "output":
                drivers.append((name, pin, bits[0]))
                if cell["type"].startswith(("DFF", "LATCH")):
                    flip_flops.add(bits[0])
    registers: dict[int, str] = {}
    for name, net in module["netnames"].items():
        for bit in net["bits"]:
            # A port that passes a register on has a name of its own: the register's is shorter.
            if bit in flip_flops and not net.get("hide_name") and (
                    bit not in registers or len(name) < len(registers[bit])):
                registers[bit] = name
    kinds = Counter(cell["type"] for cell in module["cells"].values())
    return Netlist(folder, float(statistics["area"]), sum(kinds.values()), len(flip_flops),
                   tuple(drivers), registers, module, tuple(_memories(folder / "memories.json")))


def _memories(path: Path) -> Iterator[CutMemory]:
    if not path.exists():
        return
    for name, cell in json.loads(path.read_text())["modules"]["top"]["cells"].items():
        if cell["type"] != "$mem_v2":
            continue
        of = {key: value if set(value) - {"0", "1"} else int(value, 2)
              for key, value in cell["parameters"].items()}
        if (of["RD_PORTS"], of["WR_PORTS"], of["OFFSET"], of["RD_TRANSPARENCY_MASK"]) != (
                1, 1, 0, 0):
            raise ValueError(f"memory {name} must have one port to read, which gives what was "
                             f"there before, and one to write, not {of['RD_PORTS']} and "
                             f"{of['WR_PORTS']}")
        yield CutMemory(name, of["WIDTH"], of["SIZE"], bool(of["RD_CLK_ENABLE"]))


def _sta(netlist: Netlist, period_ns: float, commands: Sequence[str]) -> str:
    """What OpenSTA prints; raises SimulationError if there is an error in it."""
    require_library()
    if shutil.which("sta") is None:
        raise SimulationError("timing of standard cells needs OpenSTA, sta on PATH: "
                              "apt-get install opensta")
    script = [f"read_liberty {LIBRARY}", f"read_verilog {netlist.folder / 'mapped.v'}",
              "link_design top", f"create_clock -name clk -period {period_ns} [get_ports clk]",
              "set_output_delay 0 -clock clk [all_outputs]",
              'foreach port [all_inputs] { if {[get_property $port full_name] ne "clk"} {'
              " set_input_delay 0 -clock clk $port; set_driving_cell -lib_cell DFFPOSX1 $port } }",
              f"set_load {OUTPUT_LOAD} [all_outputs]", *commands, "exit"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "script.tcl"
        path.write_text("\n".join(script) + "\n")
        result = subprocess.run(["sta", "-no_splash", "-exit", str(path)], capture_output=True,
                                text=True, check=False, cwd=folder)
    output = result.stdout + result.stderr
    # Some errors do not stop it, and some figures after them are wrong.
    faults = re.findall(r"^(?:Error|invalid).*", output, re.MULTILINE)
    if result.returncode or faults:
        raise SimulationError("OpenSTA failed:\n" + ("\n".join(faults[:10]) or output[-2000:]))
    return output


def measure_timing(netlist: Netlist, *, period_ns: float = 5.0) -> dict[str, Any]:
    """The longest path: `fmax_mhz`, `path_ns` and the instances at its ends, with their registers.

    Inputs come from a flip-flop at the clock's edge, outputs must be there at the next one.
    """
    output = _sta(netlist, period_ns, ["report_checks -path_delay max -digits 4"])
    slack = re.search(r"(-?[\d.]+)\s+slack", output)
    if slack is None:
        raise SimulationError(f"OpenSTA found no path:\n{output[-2000:]}")
    delay = period_ns - float(slack[1])

    def end(word: str) -> str:
        found = re.search(rf"{word}: (\S+)", output)
        name = found[1] if found else ""
        bit = next((b for n, pin, b in netlist.drivers if n == name and pin == "Q"), None)
        return netlist.registers.get(bit, name) if bit is not None else name

    return {"fmax_mhz": round(1000 / delay, 1), "path_ns": round(delay, 3),
            "path_from": end("Startpoint"), "path_to": end("Endpoint")}
