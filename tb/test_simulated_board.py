"""A board in simulation behind the driver that a real one has: networks, damage, unplugging."""

import dataclasses
import json
import random
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from ulpboards.board import Board
from ulpboards.catalogue import find_board
from ulpboards.run import compare_on_bus, prepare
from ulpboards.serial_port import open_port
from ulpcore.cli import main
from ulpcore.link.coreless import Coreless
from ulpcore.link.simulated_board import DIVISOR, SimulatedBoard
from ulpsim.config import NANO, load_config
from ulpsim.link.client import LinkBus, LinkError
from ulpsim.link.exercise import Tally, exercise
from ulpsim.network import Network, save_network
from ulpsim.programs import random_codes

BOARD: Board = find_board("tang-nano-20k")
CONFIG = load_config(BOARD.core)
SYSTEM = BOARD.system()


def small_network(rng: np.random.Generator) -> Network:
    """An INT8 layer and one in two bits."""
    return Network.from_description({
        "name": "small",
        "input": {"name": "image", "height": 6, "width": 6, "channels": 4, "format": "UINT8",
                  "step": 1 / 255},
        "layers": [
            {"name": "first", "op": "convolution", "input": "image",
             "weights": rng.integers(-128, 128, (8, 3, 3, 4)), "weight_format": "INT8",
             "weight_step": 0.01},
            {"name": "relu", "op": "relu", "input": "first",
             "output": {"format": "UINT2", "step": 1.0}},
            {"name": "second", "op": "convolution", "input": "relu",
             "weights": rng.integers(-2, 2, (8, 3, 3, 8)), "weight_format": "INT2",
             "output": {"format": "INT8", "step": 0.5}}]})


@pytest.fixture
def network(rng) -> Network:
    return small_network(rng)


def compared(board: SimulatedBoard, network: Network, rng, *, timeout: float = 10.0):
    """The run of two images on the board, and the link that it ran over."""
    with open_port(board.port, SYSTEM.baud) as transport:
        bus = LinkBus(transport, timeout=timeout, patience=60)
        prepare(bus, CONFIG)
        assert bus.identity.memory_bytes == SYSTEM.memory_bytes
        codes = random_codes(rng, network.input.format, (2, *network.input_shape))
        return compare_on_bus(network, CONFIG, codes, bus,
                              memory_bytes=SYSTEM.memory_bytes), bus


def test_a_network_agrees_in_every_word_and_cycle(network, rng):
    with SimulatedBoard(SYSTEM) as board:
        run, bus = compared(board, network, rng)
        again, _ = compared(board, network, rng)
        counts = board.close()
    assert run.comparison.agree and again.comparison.agree
    assert np.array_equal(run.outputs_rtl, run.outputs_golden)
    assert len(np.unique(run.outputs_golden)) > 10
    assert run.cycles == run.predicted
    assert bus.repeated == 0
    assert counts["bytes"] > 2000 and sum(counts.values()) == counts["bytes"]


def test_damaged_bytes_change_nothing_but_the_time(network, rng, seed):
    with SimulatedBoard(SYSTEM, one_damaged_of=500, seed=seed) as board:
        run, bus = compared(board, network, rng, timeout=0.1)
        counts = board.close()
    assert run.comparison.agree
    assert bus.repeated > 5
    assert sum(counts.values()) - counts["bytes"] > 10


def test_registers_and_memory_under_many_faults(seed):
    """As `bench/link.py` does it for longer."""
    fast = dataclasses.replace(SYSTEM, baud=SYSTEM.clock_hz // DIVISOR)
    with SimulatedBoard(SYSTEM, one_damaged_of=150, seed=seed,
                        component=Coreless(config=fast)) as board, \
            open_port(board.port, SYSTEM.baud) as transport:
        bus, tally = LinkBus(transport, timeout=0.05, patience=60), Tally()
        size = 4096
        bus.write_memory(0, bytes(size))
        exercise(bus, random.Random(seed), 40, size, tally, bytearray(size))
        counts = board.close()
    assert (tally.accesses, tally.wrong) == (40, 0)
    assert bus.repeated > 10
    assert sum(counts.values()) - counts["bytes"] > 20


def image_network(rng: np.random.Generator) -> Network:
    """One for the images of Fashion-MNIST, of few bytes."""
    return Network.from_description({
        "name": "image",
        "input": {"name": "image", "height": 28, "width": 28, "channels": 1, "format": "UINT8",
                  "step": 1 / 255},
        "layers": [
            {"name": "first", "op": "convolution", "input": "image", "stride": 4,
             "weights": rng.integers(-128, 128, (8, 4, 4, 1)), "weight_format": "INT8",
             "weight_step": 0.01},
            {"name": "relu", "op": "relu", "input": "first",
             "output": {"format": "UINT2", "step": 1.0}},
            {"name": "class", "op": "fully_connected", "input": "relu",
             "weights": rng.integers(-2, 2, (10, 392)), "weight_format": "INT2",
             "output": {"format": "INT8", "step": 0.5}}]})


@pytest.mark.parametrize(("name", "unplugged", "later"), [
    ("", 3000, 40_000), pytest.param("fashion-int2", 20_000, 400_000, marks=pytest.mark.nightly)])
def test_the_command_on_a_board_and_with_one_that_is_unplugged(
        name, unplugged, later, rng, capsys, tmp_path, monkeypatch):
    """The simulated board as its command starts it, and networks on it as theirs does."""
    monkeypatch.chdir(tmp_path)
    if not name:
        name = "image.json"
        save_network(image_network(rng), Path(name))
    run = ["run", "--config", BOARD.core, "--images", "1", "--json", name, "--device"]
    ends: list[int] = []

    def simulate(*options: str) -> tuple[threading.Thread, str]:
        thread = threading.Thread(target=lambda: ends.append(main(
            ["simulate-board", "--board", BOARD.name, "--json", *options])))
        thread.start()
        text = ""
        while not text.endswith("\n"):
            assert thread.is_alive() or text
            time.sleep(0.05)
            text += capsys.readouterr().out
        return thread, json.loads(text)["port"]

    thread, port = simulate("--unplug-after", str(unplugged))
    assert main([*run, port]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "the board was unplugged" in captured.err
    assert "nothing of this run is kept" in captured.err
    thread.join(60)
    assert ends == [0] and not Path(port).exists()

    # Unplugged much later: the run is over by then.
    thread, port = simulate("--unplug-after", str(later), "--damage", "2000")
    assert main([*run, port]) == 0
    result = json.loads(capsys.readouterr().out)
    (row,) = result["networks"]
    assert (row["differing_words"], row["differing_cycles"]) == (0, 0)
    assert row["accuracy_rtl"] == row["accuracy_golden"]
    assert row["cycles_measured"] == row["cycles_predicted"] > 500
    assert result["clock_mhz"] == 27
    with open_port(port, SYSTEM.baud) as transport:
        bus = LinkBus(transport)
        with pytest.raises(LinkError, match="unplugged"):
            while True:
                bus.read_memory(0, 4096)
    thread.join(60)
    assert ends == [0, 0]


def test_another_core_than_the_programs_and_too_little_memory(rng):
    with SimulatedBoard(SYSTEM) as board, open_port(board.port, SYSTEM.baud) as transport:
        bus = LinkBus(transport)
        with pytest.raises(LinkError, match=rf"the board's core is {CONFIG.fingerprint:#x}, not "
                           rf"{NANO.fingerprint:#x} \(nano\) that the program is for: give its "
                           "--config, or flash"):
            prepare(bus, NANO)
        network = small_network(rng)
        codes = random_codes(rng, network.input.format, (1, *network.input_shape))
        with pytest.raises(LinkError, match=r"small needs \d+ bytes of memory, and the board has "
                           "1024: build it with more --memory"):
            compare_on_bus(network, CONFIG, codes, bus, memory_bytes=1024)
        with pytest.raises(LinkError, match="is busy: close the program that has it open"), \
                open_port(board.port, SYSTEM.baud):
            pass


def test_ports_that_are_none(tmp_path, capsys):
    with pytest.raises(LinkError, match="there is no port /dev/none: plug the board in; ports"), \
            open_port("/dev/none", 1_000_000):
        pass
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(LinkError, match="cannot be opened as a serial port"), \
            open_port(str(file), 1_000_000):
        pass
    assert main(["run", "--device", "/dev/none", "fashion-int8"]) == 2
    assert capsys.readouterr().err.startswith("ulpcore run: there is no port /dev/none")
