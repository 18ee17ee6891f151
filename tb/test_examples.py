"""The examples of blocks in other designs run, and agree with the golden model; the public API."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import ulpcore
from ulpsim.config import CoreConfig

FOLDER = Path(__file__).parents[1] / "examples" / "blocks"


@pytest.mark.parametrize(("name", "output"), [
    ("polynomial", "201 values, 0 differ"),
    ("matrix_product", "INT4: 160 results of 32 products each, 0 differ"),
    ("accelerator", "cause 0, 0 of 65536 bytes differ"),
])
def test_example_agrees_with_the_golden_model(name, output):
    result = subprocess.run([sys.executable, FOLDER / f"{name}.py"], capture_output=True,
                            text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert output in result.stdout


def test_every_example_is_run_here():
    names = {path.stem for path in FOLDER.glob("*.py") if not path.stem.endswith("_bench")}
    assert names == {"polynomial", "matrix_product", "accelerator"}


def test_the_package_exports_the_core_and_its_blocks():
    from ulpcore import Core

    core = Core(config=CoreConfig(rows=4))
    assert set(core.signature.members) == {"registers", "read", "write", "interrupt"}
    assert ulpcore.CoreConfig is CoreConfig
    for name in ulpcore.__all__:
        assert getattr(ulpcore, name) is not None
    assert set(ulpcore.__all__) <= set(dir(ulpcore))
    with pytest.raises(AttributeError, match="'ulpcore' has no attribute 'Cores'"):
        _ = ulpcore.Cores


def test_the_documented_instance_has_the_ports_of_the_core():
    text = (FOLDER.parents[1] / "docs" / "integration.md").read_text(encoding="utf-8")
    core = ulpcore.Core(config=ulpcore.EDGE)
    ports = {"__".join(map(str, path)) for path, _, _ in core.signature.flatten(core)}
    assert set(re.findall(r"\.(\w+)\(", text[text.index("```verilog"):].split("```")[1])) == {
        "clk", "rst", *ports}


def test_nothing_is_imported_before_it_is_used():
    code = "import sys, ulpcore; sys.exit(any(m.startswith('amaranth') for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
