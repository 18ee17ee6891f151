"""What a run of the suite came to, as JSON: counts, durations, and what tests record.

A test records with pytest's `record_property`: a dictionary by core under the name `fuzz` (how
often each cause came, by what was done to the programs; these are added up) or `coverage`.
"""

import collections
import datetime
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

__all__ = ["Results"]

_ROOT = Path(__file__).parents[1]


class Results:
    """A pytest plugin that writes `path` after each test, so that it survives whatever ends a run.

    `selection` is the expression of markers with which tests were chosen.
    """

    def __init__(self, path: Path, selection: str) -> None:
        self.path, self.selection = path, selection
        # Before `path` changes, which may itself be under version control.
        self.version = {
            "commit": _git("rev-parse", "--short", "HEAD"),
            "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no"))}
        self.begin = time.time()
        self.counts: collections.Counter[str] = collections.Counter()
        self.seconds: collections.Counter[str] = collections.Counter()
        self.failed: list[str] = []
        self.fuzz: dict[str, dict[str, collections.Counter[str]]] = {}
        self.coverage: dict[str, Any] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid.split("::")[0]] += report.duration
        if report.when == "call" or report.outcome != "passed":
            self.counts[report.outcome] += 1
            if report.failed:
                self.failed.append(report.nodeid)
        if report.when == "call":
            for name, value in report.user_properties:
                if name == "fuzz":
                    self._add_fuzz(value)
                if name == "coverage":
                    self.coverage |= value
        if report.when == "teardown":
            self.write(complete=False)

    def _add_fuzz(self, by_core: dict[str, dict[str, dict[str, int]]]) -> None:
        for core, kinds in by_core.items():
            for kind, causes in kinds.items():
                total = self.fuzz.setdefault(core, {}).setdefault(kind, collections.Counter())
                total.update(causes)

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        # All tests were run, whether they passed or not.
        self.write(complete=int(exitstatus) in (0, 1))

    def write(self, *, complete: bool) -> None:
        self.path.write_text(json.dumps(self.figures(complete), indent=2) + "\n")

    def figures(self, complete: bool) -> dict[str, Any]:
        """All that is written."""
        return {
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            **self.version,
            "selection": self.selection,
            "seed": int(os.environ.get("ULPCORE_SEED", "1")),
            "complete": complete,
            "tests": {name: self.counts[name] for name in ("passed", "failed", "skipped")},
            "failed": sorted(self.failed),
            "fuzz": {core: {
                "bad_programs": sum(sum(causes.values()) for causes in kinds.values()),
                "causes": {kind: dict(sorted(causes.items()))
                           for kind, causes in sorted(kinds.items())}}
                for core, kinds in sorted(self.fuzz.items())},
            "coverage": dict(sorted(self.coverage.items())),
            "seconds": {
                "all": round(time.time() - self.begin),
                **{file: round(seconds) for file, seconds in self.seconds.most_common()}},
        }


def _git(*arguments: str) -> str:
    try:
        result = subprocess.run(["git", *arguments], cwd=_ROOT, capture_output=True, text=True,
                                check=False)
    except OSError:
        return ""
    return result.stdout.strip()
