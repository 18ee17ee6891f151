"""`ulpcore compress`: gradients in files, packets, residues that go on, the RTL, and mistakes."""

import json
from pathlib import Path

import numpy as np
import pytest
from ulpcore.cli import main
from ulpsim import dlfloat
from ulpsim.compression.learner import Learner, layers_of
from ulpsim.compression.packets import parse, split


def network(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"conv1.weight": 1e-2 * rng.standard_normal((16, 3, 3, 3)).astype(np.float32),
            "conv1.bias": 1e-2 * rng.standard_normal(16).astype(np.float32),
            "fc.weight": 1e-3 * rng.standard_normal((70, 30)), "fc.bias": np.zeros(30),
            "scale": np.float16(rng.standard_normal(1))}


@pytest.fixture
def steps(tmp_path: Path, rng: np.random.Generator) -> list[str]:
    files = []
    for i in range(3):
        np.savez(tmp_path / f"step{i}.npz", **network(rng))
        files.append(str(tmp_path / f"step{i}.npz"))
    return files


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict:
    assert main(["compress", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_layers_rates_and_errors(steps: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    summary = run(steps, capsys)
    assert list(summary["layers"]) == ["conv1", "fc", "scale"]
    assert [f["bin_size"] for f in summary["layers"].values()] == [50, 500, 500]
    assert [f["elements"] for f in summary["layers"].values()] == [448, 2130, 1]
    for figures in summary["layers"].values():
        assert figures["dense_bytes"] == 3 * 4 * figures["elements"]
        assert figures["rate"] == figures["dense_bytes"] / figures["bytes"]
        assert figures["rounding"] <= figures["rounding_bound"]
        assert 0 <= figures["error"] < 2
    assert summary["all"]["bytes"] == sum(f["bytes"] for f in summary["layers"].values())


def test_packets_are_written_and_residues_go_on(steps: list[str], tmp_path: Path,
                                                capsys: pytest.CaptureFixture[str]) -> None:
    """Three steps in one call are three calls of a step each, packet for packet."""
    one, many = tmp_path / "one", tmp_path / "many"
    for scale in ("mean", "previous"):
        whole = run([*steps, "--scale", scale, "--output", str(one)], capsys)
        parts = []
        for i, step in enumerate(steps):
            further = ["--residues", str(many / "residues.npz")] if i else []
            parts.append(run([step, "--scale", scale, "--output", str(many), *further], capsys))
        for i in range(3):
            name = f"step{i}.packets"
            assert (one / name).read_bytes() == (many / name).read_bytes()
        packets = list(split((one / "step2.packets").read_bytes()))
        assert {parse(p)[0].layer for p in packets} == {0, 1, 2}
        assert {parse(p)[0].step for p in packets} == {2}
        assert whole["all"]["bytes"] == sum(part["all"]["bytes"] for part in parts)


def test_the_table(steps: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compress", *steps, "--learner", "2"]) == 0
    text = capsys.readouterr().out
    assert "conv1" in text and "given = sent + residue" in text


def test_bad_gradients_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    g = np.ones(100, np.float32)
    g[[3, 50]] = np.nan, np.inf
    np.save(tmp_path / "g.npy", g)
    summary = run([str(tmp_path / "g.npy")], capsys)
    assert summary["layers"]["g"]["refused"] == 2
    assert summary["layers"]["g"]["rounding"] <= summary["layers"]["g"]["rounding_bound"]


def test_rtl(steps: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Encoder and decoder in RTL come to the same packets, residues, means, gradients."""
    summary = run([*steps, "--rtl", "--learner", "1", "--scale", "previous"], capsys)
    assert set(summary["rtl"]["differing"].values()) == {0}
    assert summary["rtl"]["encoder_cycles"] > 0


def test_codes_of_dlfloat16(tmp_path: Path, rng: np.random.Generator,
                            capsys: pytest.CaptureFixture[str]) -> None:
    """What the core stores, as it is: the same as the numbers that it means."""
    values = {name: dlfloat.encode_array(array) for name, array in network(rng).items()}
    np.savez(tmp_path / "codes.npz", **values)
    np.savez(tmp_path / "numbers.npz", **{name: dlfloat.decode_array(codes).astype(np.float32)
                                          for name, codes in values.items()})
    codes, numbers = (run([str(tmp_path / f"{name}.npz"), "--rtl"], capsys)
                      for name in ("codes", "numbers"))
    assert codes == numbers and set(codes["rtl"]["differing"].values()) == {0}


def test_layers_of() -> None:
    assert layers_of(["a.w", "a.b", "c", "d.e.w", "d.w"]) == {
        "a": ["a.w", "a.b"], "c": ["c"], "d.e": ["d.e.w"], "d": ["d.w"]}


@pytest.mark.parametrize(("content", "arguments", "message"), [
    (np.zeros(3, np.int32), [], "or codes of DLFloat16 in uint16, not int32"),
    (np.zeros((0, 3), np.float32), [], "must have elements, its shape is (0, 3)"),
    (np.array(["x"], dtype=object), [], "cannot be read as gradients"),
    (np.ones(3), ["--bin-size", "0"], "bin_size must be an integer from 1 to 16384, not 0"),
    (np.ones(3), ["--bin-size", "16385"], "bin_size must be"),
    (np.ones(3), ["--factor", "1.1"], "factor must be a multiple of 1/4"),
    (np.ones(3), ["--point", "200"], "point must be an integer from -96 to 126, not 200"),
    (np.ones(3), ["--learner", "1024"], "learner must be from 0 to 1023, not 1024"),
    (np.ones(3), ["--rtl", "--lanes", "2"], "lanes must be one of 1, 4, 8, 16, not 2"),
    (np.ones(3), ["--residues", "none.npz"], "none.npz"),
    (np.ones(3), ["--residues", "none.txt"], "residues must be a .npy or .npz file, not none.txt"),
    (np.ones(3), ["--residues", "g.npy"], "state must have the array 'learner'"),
    (np.ones(3), ["--residues", "bad.npz"], "bad.npz cannot be read as residues"),
])
def test_mistakes_are_one_line_on_stderr(content: np.ndarray, arguments: list[str], message: str,
                                         tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                         capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("g.npy", content)
    Path("bad.npz").write_bytes(b"nonsense")
    assert main(["compress", "g.npy", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and not captured.out


@pytest.mark.parametrize(("name", "text", "message"), [
    ("g.txt", b"1", "must be a .npy or .npz file, not g.txt"),
    ("g.npz", b"nonsense", "cannot be read as gradients"),
    ("g.npy", b"", "cannot be read as gradients"),
])
def test_files_that_are_none(name: str, text: bytes, message: str, tmp_path: Path,
                             monkeypatch: pytest.MonkeyPatch,
                             capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(text)
    assert main(["compress", name]) == 2
    assert message in capsys.readouterr().err


def test_lengths_must_stay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, count in (("a", 5), ("b", 6)):
        np.savez(tmp_path / f"{name}.npz", w=np.ones(count))
    assert main(["compress", str(tmp_path / "a.npz"), str(tmp_path / "b.npz")]) == 2
    assert "gradient of w must have 5 elements as before, not 6" in capsys.readouterr().err


def test_state_that_is_none() -> None:
    learner = Learner()
    for state, message in (({}, "array 'learner'"),
                           ({"learner": np.array([0, 0]), "a/settings": np.zeros(5, int)},
                            "array 'a/residue'")):
        with pytest.raises(ValueError, match=message):
            learner.load(state)
