"""Benchmarks: goals of times and rates are scaled by the speed of the machine; their options."""

import json
import runpy

import pytest

from benchmarks import yardstick
from benchmarks.__main__ import FOLDER, main
from benchmarks.rows import report


@pytest.mark.parametrize(
    ("unit", "here"),
    [("ms", 30.0), ("s", 30.0), ("1/s", 7.5), ("events/s", 7.5), ("MiB", None), ("", None)],
)
def test_goals_are_scaled_by_the_speed_of_the_machine(unit, here, monkeypatch, capsys):
    monkeypatch.setenv(yardstick.VARIABLE, "2.0")
    yardstick.slowdown.cache_clear()
    report("row", 12.0, unit, goal=15.0, floor=6.0)
    yardstick.slowdown.cache_clear()
    row = json.loads(capsys.readouterr().out)
    assert (row["goal"], row.get("goal_here"), row["ratio"]) == (15.0, here, 2.0)


def test_goals_that_were_measured_in_the_same_run_are_not_scaled(monkeypatch, capsys):
    monkeypatch.setenv(yardstick.VARIABLE, "2.0")
    yardstick.slowdown.cache_clear()
    report("row", 12.0, "ms", goal_here=15.0)
    yardstick.slowdown.cache_clear()
    assert json.loads(capsys.readouterr().out)["goal_here"] == 15.0


def test_a_machine_as_fast_as_that_of_the_goals_has_the_factor_one():
    assert yardstick.slowdown_of(0.27, 24_000) == pytest.approx(1.0)
    assert yardstick.slowdown_of(0.54, 12_000) == pytest.approx(2.0)


@pytest.mark.parametrize(("arguments", "status"), [(["--help"], 0), (["nonsense"], 2)])
def test_benchmarks_that_may_be_run_are_named(arguments, status, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == status
    assert "loop_centering, loop_detect" in " ".join("".join(capsys.readouterr()).split())


@pytest.mark.parametrize("path", sorted(FOLDER.glob("bench_*.py")), ids=lambda path: path.stem)
def test_a_benchmark_that_is_asked_for_help_does_not_begin(path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [str(path), "--help"])
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")  # one of them sets it
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(f"benchmarks.{path.stem}", run_name="__main__")
    assert not ended.value.code
    assert f"python -m benchmarks.{path.stem}" in " ".join(capsys.readouterr().out.split())
