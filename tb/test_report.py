"""The page of `ulpcore report --html`, and the energy model on a netlist of few cells."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from ulpcore import report_utilisation
from ulpcore.activity import replay
from ulpcore.cells import LIBRARY, map_cells
from ulpcore.cli import main
from ulpcore.estimate import fpga, scaled
from ulpcore.power import Model
from ulpcore.recording import record_streams
from ulpcore.report import RESULTS
from ulpcore.simulation import SimulationError
from ulpsim.config import EDGE, RAPID
from ulpsim.explorer.data import load
from ulpsim.page import bars, plot
from ulpsim.scaling import scalings

BROWSER = next(filter(None, map(shutil.which, (
    "chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"))), None)

HEADINGS = ("What is measured", "Beside IBM", "Energy of an element", "lane of special",
            "array slice, encoder and router", "standard cells", "Area by block",
            "Multiply-add units on the FPGA", "Integer arrays", "Peak and power of the FPGA",
            "at 180 nm", "Utilisation by layer", "Utilisation by workload", "Roofline")


class _Page(HTMLParser):
    """Tags that are closed as they were opened, rows as wide as their heads, text by heading."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sections: dict[str, str] = {}
        self.widths: list[list[int]] = []
        self.svgs = 0

    def handle_starttag(self, tag, attrs):
        if tag in ("table", "tr"):
            self.widths.append([]) if tag == "table" else self.widths[-1].append(0)
        if tag in ("td", "th"):
            self.widths[-1][-1] += 1
        self.svgs += tag == "svg"
        if tag not in ("meta", "line", "circle", "rect", "polyline"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in ("line", "circle", "rect", "polyline"):
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "h2":
            self.sections[data] = ""
        elif self.sections:
            last = next(reversed(self.sections))
            self.sections[last] += data + "\n"

    def section(self, heading: str) -> str:
        return next(text for name, text in self.sections.items() if heading in name)


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    target = tmp_path_factory.mktemp("report") / "out.html"
    assert main(["report", "--config", EDGE.name, "--html", str(target)]) == 0
    return target.read_text()


@pytest.fixture(scope="module")
def parsed(html):
    found = _Page()
    found.feed(html)
    found.close()
    assert found.open == ["html"] or not found.open
    return found


def _power():
    return json.loads((RESULTS / "power.json").read_text())


def test_page_holds_the_figures(html):
    assert html.startswith("<!doctype html>") and html.rstrip().endswith("</html>")
    assert "http" not in html.replace("http://www.w3.org/2000/svg", "")
    power = _power()
    for run in power["formats"].values():
        assert f"<td>{run[power['element']]['pj_a_multiply_add']:.4g}</td>" in html
    assert f"<td>{power['units']['encoder']['pj_a_element']:.4g}</td>" in html
    for run in power["units"]["router"]["loads"].values():
        assert f"<td>{run['pj_a_bit']:.4g}</td>" in html


def test_page_is_well_formed(parsed):
    assert len(parsed.widths) >= len(HEADINGS)
    for widths in parsed.widths:
        assert len(widths) > 1 and len(set(widths)) == 1
    assert parsed.svgs >= 10
    assert "nan" not in " ".join(parsed.sections.values()).split()
    for heading in HEADINGS:
        assert parsed.section(heading).strip()


def test_page_says_what_is_measured_scaled_and_published(parsed):
    text = parsed.section("Beside IBM")
    for word in ("Not in it", "scaled", "published", "16.5", "3.5", "0.73", "ternary", "BINARY"):
        assert word in text
    assert "axis-systolic-array" in parsed.section("Integer arrays")
    for name in ("FPnew", "HardFloat", "tt06"):
        assert name in parsed.section("Multiply-add units")
    assert "estimated; nothing was measured" in parsed.section("Peak and power of the FPGA")
    assert "res5_2_branch2c" in parsed.section("Utilisation by layer")


#: What is wider than the page, and what of a plot is outside it.
_LAYOUT = """<script>
const out = [];
const wide = document.documentElement.scrollWidth - window.innerWidth;
if (wide > 0) out.push(`the page is ${wide} too wide`);
for (const svg of document.querySelectorAll("svg")) {
  const all = svg.getBoundingClientRect();
  for (const part of svg.querySelectorAll("*")) {
    const box = part.getBoundingClientRect();
    if (box.left < all.left - 1 || box.right > all.right + 1 || box.top < all.top - 1
        || box.bottom > all.bottom + 1) out.push(part.outerHTML);
  }
}
document.body.dataset.layout = `${document.querySelectorAll("svg").length} plots` + out.join("|");
</script>"""


@pytest.mark.skipif(BROWSER is None, reason="needs a Chromium")
def test_page_fits_in_a_browser(html, parsed, tmp_path):
    """Nothing of a plot is outside it, and no table wider than a window of 1150 pixels."""
    path = tmp_path / "page.html"
    path.write_text(html.replace("</html>", _LAYOUT + "</html>"))
    result = subprocess.run(
        [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1150,1400",
         "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'data-layout="([^"]*)"', result.stdout)
    assert found and found[1] == f"{parsed.svgs} plots"


def test_scaled_figures_follow_from_the_measured():
    """FP16 at 14 nm, by hand: 512 elements and 64 special lanes."""
    power = _power()
    rows = {row["format"]: row for row in scaled(RAPID, power, 14)}
    element, lane = power["blocks"][power["element"]], power["blocks"][power["lane"]]
    assert rows["FP16"]["mm2"] == pytest.approx(
        (512 * element["area_um2"] + 64 * lane["area_um2"]) / 110e6)
    tops = rows["FP16"]["tops"]
    # Low power at 0.7 V and high performance at 0.9 V: delays 10.662 and 4.191 of 79.01.
    assert tops.low == pytest.approx(1.024e-3 * element["fmax_mhz"] * 79.01 / 10.662, rel=1e-3)
    assert tops.high == pytest.approx(1.024e-3 * element["fmax_mhz"] * 79.01 / 4.191, rel=1e-3)
    run = power["formats"]["FP16"]
    pj = 512 * run[power["element"]]["pj_a_cycle"] + 64 * run[power["lane"]]["pj_a_cycle"]
    assert rows["FP16"]["tops_w"].low == pytest.approx(1024 / pj / (14 / 180 / 4), rel=1e-6)
    for name, faster in (("FP8", 2), ("INT4", 4), ("INT2", 8)):
        assert rows[name]["tops"].high == pytest.approx(faster * tops.high)
    run = power["formats"]["INT2"]
    pj = 512 * run[power["element"]]["pj_a_cycle"] + 64 * run[power["lane"]]["pj_a_cycle"]
    assert rows["INT2"]["tops_w"].low == pytest.approx(
        8 * 1024 * run["busy"] / pj / (14 / 180 / 4), rel=1e-6)
    with pytest.raises(ValueError, match="nanometres must be 180, 14 or 7, not 28"):
        scaled(RAPID, power, 28)


def test_the_fpga_is_estimated_as_is_said():
    """FP16 on 64 elements and 2 lanes at 100 MHz, by hand."""
    power = _power()
    method = {"static": {"volts": 0.9, "milliamperes": 100}, "gap": {"low": 2, "high": 4},
              "nanometres": 90}
    row = {row["format"]: row for row in fpga(EDGE, power, method, 100.0)}["FP16"]
    run = power["formats"]["FP16"]
    pj = 64 * run[power["element"]]["pj_a_cycle"] + 2 * run[power["lane"]]["pj_a_cycle"]
    watts = pj * 1e-12 * 100e6 / 2 / 4
    assert row["gops"] == pytest.approx(12.8) and row["static"] == pytest.approx(0.09)
    assert (row["dynamic"].low, row["dynamic"].high) == pytest.approx((2 * watts, 4 * watts))
    assert row["gops_w"].low == pytest.approx(12.8 / (0.09 + 4 * watts))


def test_the_explorers_router_is_the_one_that_was_measured():
    """Energy at full load, to 14 nm with the length and 0.8 V squared; areas at 7 nm beside a
    lane's of 113 Gb/s, for 5 x 5 crosspoints and 5 inputs of 8 GB/s."""
    prices = {name: row["value"] for name, row in load("costs").items()}
    power = _power()
    at_180 = power["units"]["router"]["loads"]["1.0"]["pj_a_bit"]
    factor = next(s.by_length for s in scalings(14) if s.volts == 0.8)
    assert prices["router, pJ a bit"] == pytest.approx(at_180 * factor, rel=0.05)
    whole, without = (power["blocks"][name]["area_um2"] * 1e-6 / 320
                      for name in ("router", "router without buffers"))
    port = 0.22 / (113 / 8)
    assert prices["crosspoint, per GB/s"] == pytest.approx(without / (25 * 8) / port, rel=0.1)
    assert prices["router port, per GB/s"] == pytest.approx((whole - without) / 40 / port, rel=0.1)


def test_layers_are_below_the_roof_and_none_is_bound_by_the_bus(monkeypatch):
    """As the page says."""
    rows = []
    monkeypatch.setattr(report_utilisation, "table", lambda found, _: rows.extend(found) or "")
    resnet = json.loads((RESULTS / "resnet50-rapid.json").read_text())
    layers = json.loads((RESULTS.parent / "resnet50_layers.json").read_text())["layers"]
    report_utilisation.roofline(resnet, layers)
    assert len(rows) == 2 * len(layers)
    for row in rows:
        peak = 1024 * (8 if row["format"] == "INT2" and row["layer"] != "conv1" else 1)
        assert row["achieved"] <= row["roof"] == peak
        percent = resnet[row["format"]]["batch 1"]["layers"][row["layer"]]["utilisation_percent"]
        assert row["achieved"] / peak * 100 == pytest.approx(percent, abs=0.01)


def test_plots_draw_what_they_are_given():
    text = plot("a < b", {"line": [(1, 1), (10, 100)], "points": [(2, 3), (4, 5)]}, "x", "y",
                log_y=True, dots=["points"])
    assert text.count("<circle") == 2 and text.count("<polyline") == 1 and "a &lt; b" in text
    # Linear: the middle of the line is in the middle.
    text = plot("", {"line": [(0, 0), (5, 1), (10, 2)]}, "x", "y", log_x=False, top=2.0)
    xs = [float(pair.split(",")[0]) for pair in text.split('points="')[1].split('"')[0].split()]
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.11)
    drawn = bars("", {"one": {"p": 3.0, "q": 1.0}, "two x three": {"p": 2.0}}, "y")
    tall = [float(part.split('"')[0]) for part in drawn.split("height=\"")[2:5]]
    assert tall[0] == pytest.approx(3 * tall[1], rel=0.01) and drawn.count("<rect") == 3
    assert bars("", {}, "y") == plot("", {}, "x", "y") == ""


def test_page_of_an_unmeasured_core_is_refused(tmp_path, capsys):
    assert main(["report", "--config", "nano", "--html", str(tmp_path / "out.html")]) == 2
    assert "synthesis-nano.json" in capsys.readouterr().err


class _Xor(wiring.Component):
    a: In(8)
    b: In(8)
    y: Out(8)

    def elaborate(self, platform):
        m = Module()
        m.d.sync += self.y.eq(self.a ^ self.b)
        return m


@pytest.mark.skipif(not LIBRARY.exists(), reason="needs Debian's qflow-tech-osu018")
def test_energy_counts_the_toggles(seed):
    rng = np.random.default_rng(seed)
    netlist = map_cells(_Xor())
    a, b = (rng.integers(0, 256, (50, 1)).astype(np.uint32) for _ in range(2))
    y = np.concatenate([np.zeros((1, 1), np.uint32), (a ^ b)[:-1]])
    model = Model(netlist)
    activity = replay(netlist, _Xor(), {"a": a, "b": b, "y": y}, first=0)
    assert activity.agree and netlist.flip_flops == 8
    still = replay(netlist, _Xor(), {"a": a * 0, "b": b * 0, "y": y * 0}, first=2)
    assert model.energy(still.toggles).total == model.energy({}).clock > 0
    assert model.energy(activity.toggles).total > model.energy(still.toggles).total
    y[10] ^= 1
    assert not replay(netlist, _Xor(), {"a": a, "b": b, "y": y}, first=0).agree


class _Table(wiring.Component):
    """Words that come out a cycle after their address, or with it."""

    def __init__(self, domain: str) -> None:
        self.domain = domain
        super().__init__({"address": In(3), "data": In(6), "write": In(1), "y": Out(6)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.table = table = Memory(shape=6, depth=8, init=[])
        write, read = table.write_port(), table.read_port(domain=self.domain)
        m.d.comb += [write.addr.eq(self.address), write.data.eq(self.data),
                     write.en.eq(self.write), read.addr.eq(self.address), self.y.eq(~read.data)]
        return m


@pytest.mark.skipif(not LIBRARY.exists(), reason="needs Debian's qflow-tech-osu018")
@pytest.mark.parametrize("domain", ["sync", "comb"])
def test_a_netlist_without_its_memory_does_the_same(domain, seed):
    rng = np.random.default_rng(seed)
    ports = {name: rng.integers(0, 1 << width, (300, 1)).astype(np.uint32)
             for name, width in (("address", 3), ("data", 6), ("write", 1))}
    words, out = [0] * 8, []
    for address, data, write in zip(*(p[:, 0] for p in ports.values()), strict=True):
        out.append(~words[address] & 63)
        words[address] = data if write else words[address]
    y = np.array([[~0 & 63, *out[:-1]] if domain == "sync" else out], np.uint32).T
    netlist = map_cells(_Table(domain), memories=False)
    assert netlist.flip_flops == 0 and netlist.memory_bits == 48
    assert replay(netlist, _Table(domain), ports | {"y": y}, first=1).agree
    y[200] ^= 1
    assert not replay(netlist, _Table(domain), ports | {"y": y}, first=1).agree


class _Inner(wiring.Component):
    """The stream, increased by one, a cycle later."""

    i: In(stream.Signature(8))
    o: Out(stream.Signature(8))

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.i.ready.eq(~self.o.valid | self.o.ready)
        with m.If(self.i.ready):
            m.d.sync += [self.o.valid.eq(self.i.valid), self.o.payload.eq(self.i.payload + 1)]
        return m


class _Outer(wiring.Component):
    i: In(stream.Signature(8))
    o: Out(stream.Signature(8))

    def elaborate(self, platform):
        m = Module()
        m.submodules.inner = inner = _Inner()
        wiring.connect(m, wiring.flipped(self.i), inner.i)
        wiring.connect(m, inner.o, wiring.flipped(self.o))
        return m


@pytest.mark.skipif(not LIBRARY.exists(), reason="needs Debian's qflow-tech-osu018")
def test_what_is_recorded_of_streams_is_what_a_netlist_does(seed):
    rng = np.random.default_rng(seed)
    given = rng.integers(0, 256, (200, 1)).astype(np.uint32)
    ports, run = record_streams(_Outer(), {"i": given}, "inner", _Inner(), cycles=300,
                                stalls={"i": 0.2, "o": 0.3}, seed=seed)
    assert np.array_equal(run.outputs["o"], (given + 1) % 256)
    passed = (ports["o__valid"] & ports["o__ready"])[:, 0] == 1
    assert passed.sum() > 100
    assert np.array_equal(ports["o__payload"][passed], run.outputs["o"][:passed.sum()])
    assert np.array_equal(np.flatnonzero(passed), run.times["o"][:passed.sum()])
    assert replay(map_cells(_Inner()), _Inner(), ports, first=0).agree
    with pytest.raises(SimulationError, match="streams must pass for 100000 cycles"):
        record_streams(_Outer(), {"i": given}, "inner", _Inner(), cycles=100_000)
