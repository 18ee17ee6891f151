"""`ulpcore explore`."""

import json

import pytest
from ulpcore.cli import main


def run(capsys, *arguments):
    code = main(["explore", *arguments])
    return code, capsys.readouterr()


def test_a_table_and_json(capsys):
    code, shown = run(capsys, "--n", "4", "8", "--compression", "fp32", "--processes", "1")
    assert code == 0 and "torus" in shown.out and "fat-tree" in shown.out
    code, shown = run(capsys, "--n", "4", "6", "--topology", "hypercube", "--compression", "fp32",
                      "--processes", "1", "--json")
    rows = json.loads(shown.out)
    assert code == 0 and rows[0]["efficiency"] < 1 and "nearest" in rows[1]["refused"]


def test_a_page(capsys, tmp_path):
    path = tmp_path / "page.html"
    assert run(capsys, "--n", "4", "16", "--processes", "1", "--html", str(path))[0] == 0
    text = path.read_text()
    assert text.count("<svg") == 3 and text.count("<polyline") == 9
    assert "http" not in text.replace('xmlns="http://www.w3.org/2000/svg"', "")


def test_a_graph_of_ones_own(capsys, tmp_path):
    path = tmp_path / "star.json"
    path.write_text(json.dumps({"accelerators": 4, "switches": 1, "links": [
        {"between": [i, 4], "gbs": 16, "ns": 100} for i in range(4)]}))
    code, shown = run(capsys, "--graph", str(path), "--compression", "fp32", "--json")
    row = json.loads(shown.out)[0]
    assert code == 0 and row["n"] == 4 and 0 < row["efficiency"] < 1


def test_the_cheapest(capsys):
    arguments = ["--cheapest", "--n", "16", "--compression", "fp32", "--link-gbs", "4"]
    code, shown = run(capsys, *arguments, "--efficiency", "0.9")
    assert code == 0 and "the cheapest that keeps 90%" in shown.out
    code, shown = run(capsys, *arguments, "--efficiency", "1.0", "--chip-tflops", "1500")
    assert code == 1 and "no topology keeps" in shown.out


@pytest.mark.parametrize(("arguments", "message"), [
    (["--network", "lenet"], "network must be one of"),
    (["--n", "13", "--topology", "hypercube"], "nearest number that it can have is"),
    (["--link-gbs", "0"], "bandwidth must be positive"),
    (["--graph", "graph.txt"], "must be a file .json"),
    (["--n", "64", "--scaling", "strong", "--batch", "8"], "cannot be shared by 64"),
    (["--cheapest", "--efficiency", "2"], "at most 1, not 2.0"),
])
def test_mistakes_are_one_line_on_stderr(arguments, message, capsys):
    assert main(["explore", "--processes", "1", *arguments]) == 2
    shown = capsys.readouterr()
    assert message in shown.err and shown.err.count("\n") == 1
