"""What goes into and out of blocks, cycle by cycle, while a network runs on the core in RTL, or
streams pass a component."""

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
from .streams import StreamModel, StreamRun
from .verilog import mark_used

__all__ = ["record", "record_streams", "recorder"]

_WORD = 32
#: Edges of the clock in the reset of `StreamModel`.
_RESET = 2


def recorder(blocks: Mapping[str, wiring.Component], *, module: str = "harness",
             inside: str = "harness.core") -> str:
    """Verilog, bound to the core's harness or another `module`, that writes a line of hexadecimal
    words each cycle to the file of the plusarg `record`, from cycle `record_first` on, for
    `record_cycles`.

    `blocks` are components by where they stand `inside` the core, for example `array.element_3_3`,
    or "" for what is there itself. Their ports stand in the line in the order of `port_widths`,
    inputs then outputs, the last one first.
    """
    values = []
    for path, component in blocks.items():
        mark_used(component)
        inputs, outputs = port_widths(component)
        for name, width in (*inputs.items(), *outputs.items()):
            spare = -width % _WORD
            # Escaped: a port may have the name of a keyword.
            value = f"{inside}{'.' if path else ''}{path}.\\{name} "
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
bind {module} recorder recorder (.clk(clk));
"""


def _split(lines: Sequence[str], blocks: Mapping[str, wiring.Component]
           ) -> dict[str, dict[str, np.ndarray]]:
    """For each block the words of each port, uint32 [cycles, words], from a recorder's lines."""
    flat = np.frombuffer(bytes.fromhex("".join(lines)), ">u4").reshape(len(lines), -1)[:, ::-1]
    found: dict[str, dict[str, np.ndarray]] = {}
    place = 0
    for path, component in blocks.items():
        ports = found[path] = {}
        for side in port_widths(component):
            for name, width in side.items():
                words = -(-width // _WORD)
                ports[name] = flat[:, place:place + words].astype(np.uint32)
                place += words
    return found


def record_streams(component: wiring.Component, inputs: Mapping[str, np.ndarray], path: str,
                   block: wiring.Component, *, first: int = 0, cycles: int,
                   stalls: Mapping[str, float] | None = None, seed: int = 1
                   ) -> tuple[dict[str, np.ndarray], StreamRun]:
    """Let streams pass a component in RTL (`StreamModel.run`) and record the ports of `block`,
    which stands at `path` in it, or is the component itself with "".

    Returns the words of each port, uint32 [cycles, words], from cycle `first` after the reset on,
    and the run. Raises SimulationError when the run has fewer cycles.
    """
    model = StreamModel(component, sources=recorder({path: block}, module="top", inside="top"))
    run = model.run(inputs, stalls=stalls, seed=seed, keep=["record"],
                    plusargs=["+record=record", f"+record_first={first + _RESET}",
                              f"+record_cycles={cycles}"])
    lines = run.files["record"].decode().split()
    if len(lines) < cycles:
        raise SimulationError(f"streams must pass for {first + cycles} cycles to be recorded, not "
                              f"{first + len(lines)}")
    return _split(lines, {path: block})[path], run


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
    return _split(lines, blocks)
