"""What `make nightly` keeps of a run."""

import json

import pytest
from results import Results


def report(nodeid: str, when: str, outcome: str, **properties) -> pytest.TestReport:
    return pytest.TestReport(nodeid, ("", 0, ""), {}, outcome, None, when,  # type: ignore[arg-type]
                             user_properties=list(properties.items()), duration=1.5)


def test_results_are_counted_and_added_up(tmp_path):
    path = tmp_path / "results.json"
    results = Results(path, "nightly")
    for name, outcome, properties in (
            ("tb/test_a.py::one", "passed", {"fuzz": {"nano": {"mutated": {"NONE": 2}}}}),
            ("tb/test_a.py::two", "passed", {"fuzz": {"nano": {
                "mutated": {"NONE": 1, "DEADLOCK": 3}, "other": {"NONE": 1}}}}),
            ("tb/test_b.py::three", "failed", {}),
            ("tb/test_b.py::four", "passed", {"coverage": {"edge": {"bins": 7, "hit": 7}}})):
        results.pytest_runtest_logreport(report(name, "setup", "passed"))
        results.pytest_runtest_logreport(report(name, "call", outcome, **properties))
        results.pytest_runtest_logreport(report(name, "teardown", "passed", **properties))
    results.pytest_runtest_logreport(report("tb/test_b.py::five", "setup", "skipped"))
    assert json.loads(path.read_text())["complete"] is False
    results.pytest_sessionfinish(1)
    figures = json.loads(path.read_text())
    assert figures["tests"] == {"passed": 3, "failed": 1, "skipped": 1}
    assert figures["failed"] == ["tb/test_b.py::three"]
    assert figures["complete"] and figures["selection"] == "nightly"
    assert figures["fuzz"] == {"nano": {"bad_programs": 7, "causes": {
        "mutated": {"DEADLOCK": 3, "NONE": 3}, "other": {"NONE": 1}}}}
    assert figures["coverage"] == {"edge": {"bins": 7, "hit": 7}}
    assert set(figures["seconds"]) == {"all", "tb/test_a.py", "tb/test_b.py"}
    assert {"date", "commit", "seed"} <= set(figures)


def test_an_interrupted_run_is_not_complete(tmp_path):
    results = Results(tmp_path / "results.json", "")
    results.pytest_sessionfinish(2)
    assert json.loads((tmp_path / "results.json").read_text())["complete"] is False
