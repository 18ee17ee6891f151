"""Proofs of larger modules, bit by bit: Yosys writes an and-inverter graph, ABC solves it.

For what `proof` is too slow for: whole networks. Registers begin with their initial values; a
module with a domain of its own that has no reset (`ClockDomain(reset_less=True)`) has no other
input than those that are told, its clock among them.
"""

import re
import subprocess
import tempfile
from pathlib import Path

import pyosys
from amaranth.hdl import Module, Value
from proof import convert

__all__ = ["first_failure", "prove_by_induction"]

_SCRIPT = ("read_rtlil design.il; prep -top top -flatten; memory_nordff; async2sync; "
           "chformal -lower; memory_map; dffunmap; opt -fast; techmap; opt -fast; simplemap; "
           "setundef -anyseq; opt_clean; dffunmap; aigmap; opt_clean; "
           "write_aiger -B -zinit -no-startoffset design.aig")


def prove_by_induction(module: Module, inputs: list[Value], *, timeout: int = 600) -> None:
    """Prove that no assertion of a module can fail, ever: they hold at the start and in the cycle
    after, and in any cycle that follows one in which all of them hold.

    Raises AssertionError if that is not so, or nothing has been found after `timeout` seconds.
    """
    told = _solve(module, inputs, "bmc3 -F 2; ind -F 2", timeout)
    assert "No output asserted in 2 frames" in told, f"an assertion fails at the start:\n{told}"
    assert "Networks are equivalent" in told, f"there is no proof by induction:\n{told}"


def first_failure(module: Module, inputs: list[Value], *, cycles: int, timeout: int = 600
                  ) -> int | None:
    """The first cycle, from 0 on, in which an assertion can fail while assumptions hold, among so
    many; or None.

    Raises AssertionError if nothing has been found after `timeout` seconds.
    """
    told = _solve(module, inputs, f"scorr; dc2; bmc3 -F {cycles}", timeout)
    if found := re.search(r"was asserted in frame (\d+)", told):
        return int(found[1])
    assert f"No output asserted in {cycles} frames" in told, f"nothing was found:\n{told}"
    return None


def _solve(module: Module, inputs: list[Value], commands: str, timeout: int) -> str:
    """What ABC says of all assertions together."""
    solver = Path(pyosys.__file__).parent / "yosys-abc"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        convert(module, inputs, _SCRIPT, folder)
        try:
            abc = subprocess.run(
                [solver, "-c", f"read_aiger design.aig; fold; orpos; strash; {commands}"],
                cwd=folder, check=False, capture_output=True, text=True, timeout=timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"nothing was found in {timeout} s") from None
    return abc.stdout + abc.stderr
