"""`--scheduler`: a sweep's points on the workers of a Dask cluster."""

import json

import pytest
from distributed import LocalCluster
from ulpcore.cli import main
from ulpsim.explorer.sweep import Point, sweep

POINTS = [Point(n=n, compression=scheme) for n in (2, 4, 6) for scheme in ("fp32", "adacomp")]


@pytest.fixture(scope="module")
def scheduler():
    """Address of the scheduler of two workers, each a process."""
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        yield cluster.scheduler_address


def test_a_cluster_finds_the_same(scheduler, tmp_path):
    # A hypercube of 6 is refused, which must come back as such.
    points = [*POINTS, Point(n=6, topology="hypercube")]
    path = tmp_path / "sweep.jsonl"
    rows = sweep(points, path, scheduler=scheduler)
    assert rows == sweep(points, processes=1)
    assert "refused" in rows[-1] and not any("refused" in row for row in rows[:-1])
    kept = [json.loads(line)["row"] for line in path.read_text().splitlines()]
    assert sorted(kept, key=json.dumps) == sorted(rows, key=json.dumps)


def test_the_command_takes_its_address(scheduler, capsys):
    arguments = ["explore", "--n", "2", "4", "--topology", "ring", "--compression", "fp32",
                 "--json"]
    assert main([*arguments, "--scheduler", scheduler]) == 0
    there = json.loads(capsys.readouterr().out)
    assert main(arguments) == 0
    assert there == json.loads(capsys.readouterr().out)


def test_no_scheduler_is_one_line(capsys):
    assert main(["explore", "--n", "2", "--scheduler", "tcp://127.0.0.1:9"]) == 2
    error = capsys.readouterr().err
    assert "tcp://127.0.0.1:9" in error and "Traceback" not in error
