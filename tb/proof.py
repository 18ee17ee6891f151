"""Proofs of Amaranth modules: Yosys writes the transitions, z3 finds no way out.

By k-induction (`prove`), or for a pipeline, which forgets, over all that is in it
(`prove_pipeline`); or for the first cycles alone (`check`).
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import z3
from amaranth.back import rtlil
from amaranth.hdl import Fragment, Module, Signal, Value
from amaranth.lib import wiring

__all__ = ["check", "inside", "prove", "prove_pipeline"]

_SCRIPT = ("read_rtlil design.il; prep -top top -flatten; memory_nordff; async2sync; "
           "chformal -lower; dffunmap; write_smt2 {options} design.smt2")


def inside(component: wiring.Component) -> tuple[Fragment, dict[str, Signal]]:
    """The component to put among a module's submodules, and the signals within, by name.

    The names of signals in submodules of the component begin with the submodule's, and a dot.
    """
    fragment = Fragment.get(component, None)
    return fragment, _signals(fragment, "")


def _signals(fragment: Fragment, prefix: str) -> dict[str, Signal]:
    found = {}
    for statements in fragment.statements.values():
        for signal in statements._lhs_signals():
            found[prefix + signal.name] = signal
    for inner, name, _ in fragment.subfragments:
        found |= _signals(inner, f"{prefix}{name}.")
    return found


def prove(module: Module, inputs: list[Value], *, depth: int = 1, timeout: int = 600) -> None:
    """Prove that no assertion of a module can fail while its assumptions hold.

    They hold in the first `depth` cycles from the registers' initial values (which the reset
    brings too), and in any cycle that follows `depth` in which they and the assumptions hold.
    Raises AssertionError if either is not so, with the inputs and registers of a counterexample,
    or if z3 has found nothing after `timeout` seconds.
    """
    design = _translate(module, inputs)
    states = [f"s{i}" for i in range(depth + 1)]
    given = [line for i, s in enumerate(states) for line in (
        f"(declare-const {s} |top_s|)", f"(assert (|top_h| {s}))", f"(assert (|top_u| {s}))",
        *([f"(assert (|top_t| {states[i - 1]} {s}))"] if i else []))]
    some_failure = "(assert (or " + " ".join(f"(not (|top_a| {s}))" for s in states[:-1]) + "))"
    good = [f"(assert (|top_a| {s}))" for s in states[:-1]]
    failure_after = [*good, f"(assert (not (|top_a| {states[-1]})))"]
    for what, goal in (("from the start", ["(assert (|top_i| s0))", some_failure]),
                       ("in the induction step", failure_after)):
        solver = z3.Solver()
        solver.set("timeout", 1000 * timeout)
        solver.from_string("\n".join([design, *given, *goal]))
        answer = solver.check()
        assert answer != z3.sat, f"{what} an assertion fails:\n{_describe(design, solver.model())}"
        assert answer == z3.unsat, f"{what} z3 found neither a proof nor a failure"


def check(module: Module, inputs: list[Value], *, cycles: int, timeout: int = 600) -> None:
    """Show that no assertion of a module can fail in the first `cycles` cycles from the registers'
    initial values, while its assumptions hold: bounded model checking.

    Raises AssertionError if one can, with the counterexample, if the assumptions cannot all hold
    for so long, or if z3 has found nothing after `timeout` seconds.
    """
    design = _translate(module, inputs, options="-stbv")
    states = [f"s{i}" for i in range(cycles)]
    given = [line for i, s in enumerate(states) for line in (
        f"(declare-const {s} |top_s|)", f"(assert (|top_h| {s}))", f"(assert (|top_u| {s}))",
        *([f"(assert (|top_t| {states[i - 1]} {s}))"] if i else ["(assert (|top_i| s0))"]))]
    assert _solve(design, given, timeout).check() == z3.sat, "no input satisfies the assumptions"
    solver = _solve(design, [*given, "(assert (or " + " ".join(
        f"(not (|top_a| {s}))" for s in states) + "))"], timeout)
    answer = solver.check()
    assert answer != z3.sat, f"an assertion fails:\n{_describe(design, solver.model())}"
    assert answer == z3.unsat, f"z3 found neither a proof nor a failure in {timeout} s"


def prove_pipeline(module: Module, inputs: list[Value], *, latency: int,
                   split: tuple[Signal, Iterable[range]] | None = None,
                   timeout: int = 600) -> None:
    """Prove that no assertion fails `latency` cycles after any state whatever, while assumptions
    hold.

    So the assertions must be about what went in during these cycles alone. With `split`, an input
    and ranges of it, it is proven for one range after the other, of the input's value as an
    unsigned number in the first of these cycles, and that other values are against the assumptions.
    Registers that are to remember inputs must be without reset. Raises AssertionError if an
    assertion can fail, with the counterexample; if no input satisfies the assumptions; or if z3
    has found nothing after `timeout` seconds for a range.
    """
    design = _translate(module, inputs, options="-stbv")
    states = [f"s{i}" for i in range(latency + 1)]
    given = [line for i, s in enumerate(states) for line in (
        f"(declare-const {s} |top_s|)", f"(assert (|top_h| {s}))", f"(assert (|top_u| {s}))",
        *([f"(assert (|top_t| {states[i - 1]} {s}))"] if i else []))]
    for name, width in re.findall(r"^; yosys-smt2-(?:input|wire) (\S+) (\d+)", design, re.M):
        for s in states:
            sort = "Bool" if width == "1" else f"(_ BitVec {width})"
            given += [f"(declare-const |{name} in {s}| {sort})",
                      f"(assert (= |{name} in {s}| (|top_n {name}| {s})))"]
    fails = f"(assert (not (|top_a| {states[-1]})))"
    cases: list[tuple[str, list[str]]] = [("", [fails])]
    if split is not None:
        signal, ranges = split
        covered = []
        cases = []
        for r in ranges:
            low, high = (f"(_ bv{value} {len(signal)})" for value in (r[0], r[-1]))
            shown = f"(|top_n {signal.name}| s0)"
            covered.append(f"(= {shown} {low})" if len(r) == 1 else
                                 f"(and (bvule {low} {shown}) (bvule {shown} {high}))")
            cases.append((f" with {signal.name} in {r}", [f"(assert {covered[-1]})", fails]))
        cases.append((f" with {signal.name} outside of the ranges",
                      [f"(assert (not (or {' '.join(covered)})))"]))
    assert _solve(design, given, timeout).check() == z3.sat, "no input satisfies the assumptions"
    for what, goal in cases:
        solver = _solve(design, [*given, *goal], timeout)
        answer = solver.check()
        assert answer != z3.sat, f"an assertion fails{what}:\n{_describe(design, solver.model())}"
        assert answer == z3.unsat, f"z3 found neither a proof nor a failure{what}"


def _solve(design: str, assertions: list[str], timeout: int) -> z3.Solver:
    solver = z3.SolverFor("QF_BV")
    solver.set("timeout", 1000 * timeout)
    solver.from_string("\n".join([design, *assertions]))
    return solver


def convert(module: Module, inputs: list[Value], script: str, folder: Path) -> None:
    """Run Yosys's steps on the module, which is `design.il` in the folder."""
    (folder / "design.il").write_text(rtlil.convert(module, name="top", ports=inputs))
    # In a process of its own: Yosys prints what it does, and ends the process at an error.
    yosys = subprocess.run([sys.executable, "-c", "from pyosys import libyosys as yosys\n"
                            f"design = yosys.Design()\nfor step in {script!r}.split('; '):\n"
                            "    yosys.run_pass(step, design)"],
                           cwd=folder, check=False, capture_output=True, text=True)
    assert yosys.returncode == 0, f"Yosys failed:\n{(yosys.stdout + yosys.stderr)[-2000:]}"


def _translate(module: Module, inputs: list[Value], options: str = "") -> str:
    """The module's states and transitions in the SMT-LIB language."""
    script = _SCRIPT.format(options=options)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        convert(module, inputs, script, folder)
        design = (folder / "design.smt2").read_text()
    assert "; yosys-smt2-assert" in design, "a proof must have an assertion"
    return design


def _describe(design: str, model: z3.ModelRef) -> str:
    asserts = [line for line in design.splitlines() if line.startswith("; yosys-smt2-assert")]
    return "\n".join([*asserts, str(model)[:4000]])
