"""What goes into and out of blocks of the core, cycle by cycle, while a network runs in RTL."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from amaranth.lib import wiring
from ulpsim.compiler import Compiled
from ulpsim.isa import Cause

from .comparison import lay_out
from .rtl import MemoryModel, run_jobs
from .simulation import SimulationError, port_widths
from .verilog import mark_used

__all__ = ["record", "recorder"]

_WORD = 32


def recorder(blocks: Mapping[str, wiring.Component]) -> str:
    """Verilog, bound to the core's harness, that writes a line of hexadecimal words each cycle to
    the file of the plusarg `record`, from cycle `record_first` on, for `record_cycles`.

    `blocks` are components by where they stand in the core, for example `array.element_3_3`. Their
    ports stand in the line in the order of `port_widths`, inputs then outputs, the last one first.
    """
    values = []
    for path, component in blocks.items():
        mark_used(component)
        inputs, outputs = port_widths(component)
        for name, width in (*inputs.items(), *outputs.items()):
            spare = -width % _WORD
            # Escaped: a port may have the name of a keyword.
            value = f"harness.core.{path}.\\{name} "
            values.append(f"{{{spare}'d0, {value}}}" if spare else value)
    joined = ",\n            ".join(reversed(values))
    return f"""module recorder (input wire clk);
    integer file, first, cycles, cycle;
    reg [1023:0] name;
    initial begin
        file = 0;
        cycle = 0;
        if (!$value$plusargs("record_first=%d", first)) first = 0;
        if (!$value$plusargs("record_cycles=%d", cycles)) cycles = 0;
        if ($value$plusargs("record=%s", name)) file = $fopen(name, "w");
    end
    always @(posedge clk) begin
        cycle <= cycle + 1;
        if (file != 0 && cycle >= first && cycle < first + cycles)
            $fwrite(file, "%h\\n", {{
            {joined}}});
    end
endmodule
bind harness recorder recorder (.clk(clk));
"""


def record(compiled: Compiled, inputs: Sequence[bytes], blocks: Mapping[str, wiring.Component], *,
           first: int = 0, cycles: int, progress: Callable[[int], None] = lambda runs: None
           ) -> dict[str, dict[str, np.ndarray]]:
    """Run a compiled network in RTL and record ports of blocks.

    Parameters
    ----------
    inputs
        A run's segment INPUT each.
    blocks
        As for `recorder`.
    first, cycles
        Cycles of the simulation that are recorded.

    Returns for each block, by its place, the words of each port in each cycle, uint32
    [cycles, words]. Raises SimulationError when a run faults or has fewer cycles.
    """
    memory, jobs = lay_out(compiled, inputs)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "record"
        results, _ = run_jobs(
            compiled.config, memory, jobs, model=MemoryModel(), progress=progress,
            extra={"recorder.v": recorder(blocks)},
            plusargs=[f"+record={path}", f"+record_first={first}", f"+record_cycles={cycles}"])
        lines = path.read_text().split()
    for result in results:
        if result.cause is not Cause.NONE:
            raise SimulationError(f"{compiled.network.name} must run to its end to be recorded; it "
                                  f"ended with {result.cause.name}")
    if len(lines) < cycles:
        raise SimulationError(f"{compiled.network.name} must run for {first + cycles} cycles to be "
                              f"recorded, not {first + len(lines)}")
    flat = np.frombuffer(bytes.fromhex("".join(lines)), ">u4").reshape(len(lines), -1)[:, ::-1]
    found: dict[str, dict[str, np.ndarray]] = {}
    place = 0
    for path_, component in blocks.items():
        ports = found[path_] = {}
        for side in port_widths(component):
            for name, width in side.items():
                words = -(-width // _WORD)
                ports[name] = flat[:, place:place + words].astype(np.uint32)
                place += words
    return found
