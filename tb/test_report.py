"""The page of `ulpcore report --html`, and the energy model on a netlist of few cells."""

import json

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from ulpcore.activity import replay
from ulpcore.cells import LIBRARY, map_cells
from ulpcore.cli import main
from ulpcore.power import Model
from ulpcore.report import RESULTS
from ulpsim.config import EDGE


def test_page_holds_the_figures(tmp_path):
    target = tmp_path / "out.html"
    assert main(["report", "--config", EDGE.name, "--html", str(target)]) == 0
    text = target.read_text()
    assert text.startswith("<!doctype html>") and text.rstrip().endswith("</html>")
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    power = json.loads((RESULTS / "power.json").read_text())
    for run in power["formats"].values():
        assert f"<td>{run[power['element']]['pj_a_multiply_add']:.4g}</td>" in text
    for heading in ("Area by block", "standard cells", "Energy of an element", "lane of special"):
        assert heading in text


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
