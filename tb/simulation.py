"""cocotb benches of components: generate, build, run."""

from collections.abc import Mapping
from pathlib import Path

from amaranth.lib import wiring
from ulpcore.simulation import build_cocotb, run_cocotb
from ulpcore.verilog import generate

__all__ = ["run_bench"]


def run_bench(component: wiring.Component, module: str, *, testcase: str | None = None,
              environment: Mapping[str, str] | None = None) -> int:
    """Run the cocotb tests of `module` (a file of this folder) on `component` as module `top`.

    The clock is `dut.clk`, the reset `dut.rst`; ports are flattened with `__`. The bench starts
    its own `Clock`. Returns the number of tests that ran; raises SimulationError if one failed.
    """
    text, elements = generate(component, name="top")
    model = build_cocotb({"top.v": text}, top="top", elements=elements)
    return run_cocotb(model, top="top", module=module, testcase=testcase,
                      environment=environment, search=[Path(__file__).parent])
