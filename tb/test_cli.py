"""The command `ulpcore`."""

import json
from pathlib import Path

import pytest
from ulpcore.cli import main
from ulpsim.isa import decode_program

PARAMETERS = Path(__file__).parents[1] / "examples" / "fashion_mnist" / "parameters"


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for command in ("generate", "compile", "run", "compress", "explore", "instructions",
                    "registers", "lint", "report"):
        assert command in text


def test_compile_writes_a_program(tmp_path, capsys):
    network = PARAMETERS / "fashion-int8.json"
    assert main(["compile", str(network), "--batch", "2", "--output", str(tmp_path),
                 "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["batch"] == 2
    program = decode_program((tmp_path / "fashion-int8.program").read_bytes())
    assert len(program) == summary["instructions"]
    assert program[-1].name == "HALT"
    spent = sum(sum(row.values()) for row in summary["breakdown"].values())
    assert spent == summary["cycles"]


def test_compile_prints_where_the_cycles_go(tmp_path, capsys):
    assert main(["compile", str(PARAMETERS / "fashion-int8.json"), "--output",
                 str(tmp_path)]) == 0
    assert "conv5" in capsys.readouterr().out


def test_compile_takes_networks_over_sequences(tmp_path, capsys):
    network = PARAMETERS.parents[1] / "kjv" / "parameters" / "kjv-attention.json"
    assert main(["compile", str(network), "--batch", "1", "--output", str(tmp_path)]) == 0
    assert "for 1 sequences," in capsys.readouterr().out
    assert decode_program((tmp_path / "kjv-attention.program").read_bytes())[-1].name == "HALT"


@pytest.mark.parametrize(("arguments", "message"), [
    (["compile", "none.json"], "none.json"),
    (["compile", str(PARAMETERS / "fashion-fp16.json"), "--config", "nano"], "INT8, INT4, INT2"),
    (["generate", "--config", "big"], "configuration must be one of edge, nano"),
    (["run", "--images", "0"], "images must be from 1 to the 256"),
])
def test_mistakes_are_one_line_on_stderr(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_generate(tmp_path, capsys):
    assert main(["generate", "--config", "nano", "--output", str(tmp_path), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    text = (tmp_path / "nano.v").read_text()
    assert len(text) == summary["bytes"]
    assert "\nmodule nano(" in text


def test_instructions_and_registers_are_printed(capsys):
    assert main(["instructions"]) == 0
    assert capsys.readouterr().out.startswith("# Instruction set")
    assert main(["registers"]) == 0
    text = capsys.readouterr().out
    assert text == (Path(__file__).parents[1] / "docs" / "registers.md").read_text(), \
        "run: ulpcore registers > docs/registers.md"
    assert main(["instructions", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["HALT"]["opcode"] == 0
