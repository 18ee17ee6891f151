"""Simulation of components with streams at their ends, at Verilator's own speed.

`ulpcore.simulation.run_vectors` is for pipelines that take a vector in every cycle; here each
stream goes on when both of its sides are ready, and each side can be made to stall at random.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from amaranth.hdl import Value
from amaranth.lib import stream, wiring
from numpy.typing import NDArray

from .simulation import SimulationError, _run, build_driver
from .verilog import generate

__all__ = ["StreamModel", "StreamRun"]

#: Cycles without any transfer after which nothing is expected any more.
QUIET = 4096

_DRIVER = """
#include "Vtop.h"
#include "verilated.h"
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>
static std::vector<uint32_t> load(const std::string& name) {{
    std::vector<uint32_t> words;
    FILE* file = fopen(name.c_str(), "rb");
    if (!file) {{ fprintf(stderr, "cannot open %s\\n", name.c_str()); exit(1); }}
    fseek(file, 0, SEEK_END);
    words.resize(ftell(file) / 4);
    rewind(file);
    if (fread(words.data(), 4, words.size(), file) != words.size()) exit(1);
    fclose(file);
    return words;
}}
struct Side {{
    std::vector<uint32_t> data;
    std::vector<uint64_t> times;
    size_t next = 0;
    uint32_t stall = 0;
    uint64_t state;
    bool active = false;
    bool goes() {{
        if (!stall) return true;
        state ^= state << 13; state ^= state >> 7; state ^= state << 17;
        return ((state >> 20) & 255) >= stall;
    }}
}};
static void save(const std::string& name, const void* data, size_t bytes) {{
    FILE* file = fopen(name.c_str(), "wb");
    if (!file || fwrite(data, 1, bytes, file) != bytes) exit(3);
    fclose(file);
}}
int main(int argc, char** argv) {{
    const uint64_t quiet = atol(argv[1]), limit = atol(argv[2]);
    Verilated::commandArgs(argc, argv);
    Vtop top;
    Side sides[{sides}];
    for (int i = 0; i < {sides}; i++) {{
        sides[i].stall = atol(argv[3 + 2 * i]);
        sides[i].state = atol(argv[4 + 2 * i]) * 0x9E3779B97F4A7C15ull + 1;
    }}
{load}
    top.rst = 1;
    for (int i = 0; i < 4; i++) {{ top.clk = i & 1; top.eval(); }}
    top.rst = 0;
    uint64_t cycle = 0, last = 0;
    for (; cycle - last < quiet && cycle < limit; cycle++) {{
        top.clk = 0;
{drive}
        top.eval();
{sample}
        top.clk = 1;
        top.eval();
    }}
{finish}
    top.clk = 0;
    top.eval();
{save}
    save("cycle", &cycle, sizeof cycle);
    return cycle == limit ? 4 : 0;
}}
"""


@dataclass(frozen=True)
class StreamRun:
    """What came out of a run.

    Attributes
    ----------
    outputs
        For each output stream its payloads, uint32 of shape (transfers, words), lowest word first.
    times
        For each stream, input or output, the cycle of every transfer, from 0 after the reset.
    status
        The other outputs, at the end.
    files
        What the model has written to the files that were asked for.
    """

    outputs: dict[str, NDArray[np.uint32]]
    times: dict[str, NDArray[np.uint64]]
    status: dict[str, int]
    files: dict[str, bytes]


class StreamModel:
    """A component built for simulation, to be run as often as wanted.

    Parameters
    ----------
    component
        In the `sync` domain; its members are streams, or outputs that are no streams. An input
        `finish` is raised in one cycle at the end.
    sources
        Verilog of modules that it instantiates.

    Raises ValueError for a component with other members, SimulationError when the model cannot be
    built.
    """

    def __init__(self, component: wiring.Component, *, sources: str = "") -> None:
        #: Of each stream whether it is an input, and the bits and 32-bit words of its payload.
        self.streams: dict[str, tuple[bool, int, int]] = {}
        self.status: list[str] = []
        self._finishes = False
        for name, member in component.signature.members.items():
            if member.is_signature and isinstance(member.signature, stream.Signature):
                width = len(Value.cast(getattr(component, name).payload))
                self.streams[name] = (member.flow == wiring.In, width, -(-width // 32))
            elif member.flow == wiring.Out and member.is_port:
                self.status.append(name)
            elif name == "finish":
                self._finishes = True
            else:
                raise ValueError(f"members must be streams and outputs, not {name!r}")
        text, elements = generate(component, name="top")
        self._binary = build_driver(text + sources, self._driver(), elements)

    def _driver(self) -> str:
        load, drive, sample, save = [], [], [], []
        for i, (name, (is_input, width, words)) in enumerate(self.streams.items()):
            port = f"top.{name}___05F"
            side = f"sides[{i}]"
            if is_input:
                load.append(f'    {side}.data = load("{name}.in");')
                value = f"&{side}.data[{side}.next * {words}]"
                drive += [f"        if (!{side}.active && {side}.next * {words} < "
                          f"{side}.data.size() && {side}.goes()) {{",
                          f"            {side}.active = true;",
                          f"            memcpy(&{port}payload, {value}, sizeof {port}payload);"
                          if width > 16 else
                          f"            {port}payload = *({value});",
                          "        }", f"        {port}valid = {side}.active;"]
                sample += [f"        if ({side}.active && {port}ready) {{",
                           f"            {side}.times.push_back(cycle); {side}.next++;"
                           f" {side}.active = false; last = cycle;", "        }"]
            else:
                drive.append(f"        {port}ready = {side}.goes();")
                sample += [f"        if ({port}valid && {port}ready) {{",
                           f"            uint32_t words[{words}] = {{}};",
                           f"            memcpy(words, &{port}payload, sizeof {port}payload);",
                           f"            {side}.data.insert({side}.data.end(), words, "
                           f"words + {words});",
                           f"            {side}.times.push_back(cycle); last = cycle;", "        }"]
                save.append(f'    save("{name}.out", {side}.data.data(), {side}.data.size() * 4);')
            save.append(f'    save("{name}.times", {side}.times.data(), {side}.times.size() * 8);')
        for name in self.status:
            save += [f'    {{ uint64_t value = top.{name}; save("{name}.status", &value, 8); }}']
        finish = ["    for (int i = 0; i < 2; i++) { top.finish = 1; top.clk = i; top.eval(); }"]
        return _DRIVER.format(finish="\n".join(finish if self._finishes else []),
                              sides=len(self.streams), load="\n".join(load),
                              drive="\n".join(drive), sample="\n".join(sample),
                              save="\n".join(save))

    def run(self, inputs: Mapping[str, NDArray[np.uint32]], *,
            stalls: Mapping[str, float] | None = None, seed: int = 1, quiet: int = QUIET,
            limit: int = 100_000_000, plusargs: Sequence[str] = (),
            files: Mapping[str, bytes] | None = None, keep: Sequence[str] = ()) -> StreamRun:
        """Feed streams until nothing has moved for `quiet` cycles.

        Parameters
        ----------
        inputs
            For each input stream its payloads, uint32 (transfers, words); one left out has none.
        stalls
            For each stream the share of cycles, 0 to below 1, in which its outer side does not want
            to go on; an input that has been offered stays.
        seed
            Of the stalls.
        plusargs
            Arguments such as `+words=4` for the Verilog.
        files, keep
            Files that it finds where it runs, and the names of those that it leaves there.

        Raises ValueError for an unknown stream or a payload of another size, SimulationError when
        the model does not come to rest within `limit` cycles.
        """
        for name in (*inputs, *(stalls or {})):
            if name not in self.streams:
                raise ValueError(f"stream must be one of {', '.join(self.streams)}, not {name!r}")
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            for name, content in (files or {}).items():
                (folder / name).write_bytes(content)
            arguments = []
            for i, (name, (is_input, _, words)) in enumerate(self.streams.items()):
                share = (stalls or {}).get(name, 0.0)
                if not 0 <= share < 1:
                    raise ValueError(f"stalls of {name} must be from 0 to below 1, not {share!r}")
                arguments += [str(min(round(share * 256), 255)), str(seed * 64 + i + 1)]
                if is_input:
                    rows = np.asarray(inputs.get(name, np.zeros((0, words))))
                    if rows.ndim != 2 or rows.shape[1] != words:
                        raise ValueError(f"payloads of {name} must have the shape (transfers, "
                                         f"{words}), not {rows.shape}")
                    np.ascontiguousarray(rows, np.uint32).tofile(folder / f"{name}.in")
            try:
                _run([str(self._binary), str(quiet), str(limit), *arguments, *plusargs],
                     cwd=folder)
            except SimulationError as error:
                if (folder / "cycle").exists():
                    raise SimulationError(f"the simulation has not come to rest in {limit} cycles"
                                          ) from error
                raise
            outputs = {name: np.fromfile(folder / f"{name}.out", np.uint32).reshape(-1, words)
                       for name, (is_input, _, words) in self.streams.items() if not is_input}
            times = {name: np.fromfile(folder / f"{name}.times", np.uint64)
                     for name in self.streams}
            ends = {name: int(np.fromfile(folder / f"{name}.status", np.uint64)[0])
                    for name in self.status}
            kept = {name: (folder / name).read_bytes() for name in keep}
        return StreamRun(outputs, times, ends, kept)
