"""The demos' process: a demo that fails, ends its process or is too slow costs only itself."""

import io
import json
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from skywright.cli import demo as module
from skywright.cli.demo import StepLines
from skywright.cli.demos import DemoResult, RunSteps, __main__, append_results, failed_demo
from skywright.config import IocSettings, load_settings
from skywright.errors import ConfigError, SampleError

CHILD = """
import json, signal, sys, threading
file, *names = sys.argv[1:]
for name in names:
    if name == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print(json.dumps({"demo": name, "title": "run 1", "seconds": 0.1, "detail": ""}), flush=True)
    if name == "dies":
        sys.exit(3)
    if name == "leaves":
        sys.exit(0)
    if name == "hangs":
        threading.Event().wait(60)
    if name == "deaf":
        sys.stdin.read()
    with open(file, "a") as lines:
        lines.write(json.dumps([{"plan": name, "ok": True}]) + "\\n")
"""


def good(plan: str) -> DemoResult:
    return DemoResult(plan=plan, raw_uid="uid", truth={}, result={}, ok=True)


@pytest.fixture
def run_demos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run demos whose process is a script of few lines; return plan and reason of each."""
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}

    def start(name: str, *arguments: str, **options: Any) -> Any:
        assert name == "skywright.cli.demos"
        return subprocess.Popen([sys.executable, str(script), *arguments], **pipes, **options)

    monkeypatch.setattr(module, "start_module", start)

    def run(*names: str) -> list[tuple[str, str]]:
        console = Console(file=(tmp_path / "console").open("w"))
        steps = StepLines(console)
        results = module._run_demos(names, tmp_path / "skywright.toml", steps)
        return [(each["plan"], each.get("result", {}).get("why", "")) for each in results]

    return run


def test_the_step_of_a_run_names_its_newest_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "steps").open("wb") as file:
        monkeypatch.setattr("skywright.cli.demos._step_outputs", [file])
        steps = RunSteps()
        steps("start", {"uid": "a", "scan_id": 2, "plan_name": "track_epu"})
        steps("descriptor", {"uid": "d", "run_start": "a"})
        steps("event", {"descriptor": "d", "seq_num": 1})
    begun, event = map(json.loads, (tmp_path / "steps").read_text().splitlines())
    assert (begun["title"], begun["detail"]) == ("run 2: track_epu", "")
    assert event["detail"] == "event 1"


def test_the_step_of_a_run_without_events_names_its_newest_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "steps").open("wb") as file:
        monkeypatch.setattr("skywright.cli.demos._step_outputs", [file])
        steps = RunSteps()
        steps("start", {"uid": "a", "scan_id": 2, "plan_name": "acquire_shots"})
        for stream, stop in (("d", 15), ("e", 3)):
            steps("descriptor", {"uid": stream, "run_start": "a"})
            steps("stream_datum", {"descriptor": stream, "seq_nums": {"start": 1, "stop": stop}})
        steps("event", {"descriptor": "d", "seq_num": 1})
        steps("stream_datum", {"descriptor": "d", "seq_nums": {"start": 15, "stop": 31}})
    lines = map(json.loads, (tmp_path / "steps").read_text().splitlines())
    assert [line["detail"] for line in lines] == ["", "row 14", "row 14", "event 1"]


def test_a_demo_that_ends_its_process_does_not_end_the_others(
    run_demos: Callable[..., Any],
) -> None:
    first, dead, left, last = run_demos("first", "dies", "leaves", "last")
    assert (first, last) == (("first", ""), ("last", ""))
    assert (dead[0], left[0]) == ("dies", "leaves")
    assert dead[1].startswith("ended with exit status 3; look at ")
    assert left[1].startswith("ended with exit status 0; look at ")


def test_a_demo_that_hangs_is_ended_and_the_others_run(
    run_demos: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LIMIT_S", 2.0)
    first, late, last = run_demos("first", "hangs", "last")
    assert (first, last) == (("first", ""), ("last", ""))
    assert late[0] == "hangs"
    assert late[1].startswith("not done within 2 s; look at ")


def test_a_demo_that_does_not_end_when_it_is_told_to_is_killed(
    run_demos: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LIMIT_S", 2.0)
    monkeypatch.setattr(module, "END_LIMIT_S", 0.1)
    first, deaf, last = run_demos("first", "deaf", "last")
    assert (first, last) == (("first", ""), ("last", ""))
    assert deaf[0] == "deaf"
    assert deaf[1].startswith("not done within 2 s; look at ")


def test_the_settings_of_a_beamline_are_none_of_the_demo(
    run_demos: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    start, given = module.start_module, {}

    def record(*arguments: str, **options: Any) -> Any:
        given.update(options["env"])
        return start(*arguments, **options)

    monkeypatch.setattr(module, "start_module", record)
    of_a_beamline = {
        "SKYWRIGHT_STORE__DIRECTORY": str(tmp_path),
        "SKYWRIGHT_IOCS__AXIS__ARGS": '["--source", "mjpeg", "--url", "http://camera7"]',
        "SKYWRIGHT_PREFIX": "BL7:",
    }
    for name, value in {**of_a_beamline, "SKYWRIGHT_LOG_LEVEL": "INFO"}.items():
        monkeypatch.setenv(name, value)
    run_demos("first")
    assert given["SKYWRIGHT_CONFIG"] == str(tmp_path / "skywright.toml")
    assert given["SKYWRIGHT_LOG_LEVEL"] == "INFO"
    assert of_a_beamline.keys() & given.keys() == set()


def test_without_a_terminal_the_step_that_goes_on_is_printed_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "QUIET_S", 0.05)
    seen, begun = threading.Event(), []

    class Lines(io.StringIO):
        def write(self, text: str) -> int:
            if "run 1: 3 events ..." in text:
                seen.set()
            return super().write(text)

    def steps() -> Iterator[str]:
        going_on = {"demo": "loop", "title": "run 1", "seconds": None, "detail": "3 events"}
        yield json.dumps(going_on)
        assert seen.wait(90)
        yield json.dumps({**going_on, "seconds": 1.5, "detail": ""})

    lines = Lines()
    StepLines(Console(file=lines)).show(steps(), lambda: begun.append(1))
    assert begun == [1]
    assert lines.getvalue().splitlines()[-1] == "loop       run 1  (1.5 s)"


def test_the_time_of_the_demos_is_without_the_start_and_the_end_of_the_beamline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = types.SimpleNamespace(monotonic=lambda: clock.now, now=100.0)
    monkeypatch.setattr(module, "time", clock)

    def steps() -> Iterator[str]:
        for now, demo in (
            (110.0, "beamline"),
            (130.0, "beamline"),
            (131.0, "loop"),  # the first second of the demo has no step
            (150.0, "psss"),
            (160.0, "psss"),
            (163.0, "beamline"),
            (190.0, "beamline"),
        ):
            clock.now = now
            yield json.dumps({"demo": demo, "title": "a step", "seconds": 1.0, "detail": ""})

    lines = StepLines(Console(file=io.StringIO(), force_terminal=True))
    lines.show(steps(), lambda: None)
    assert lines.demos_s == 33.0


def test_a_demo_that_raises_has_a_result_that_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(session: Any) -> list[DemoResult]:
        raise SampleError("no pin")

    def break_down(session: Any) -> list[DemoResult]:
        raise ZeroDivisionError("one by zero")

    def use_a_plan(session: Any) -> list[DemoResult]:
        return session["center_loop"]()

    runs = {"refuses": refuse, "breaks": break_down, "lacks": use_a_plan}
    for name, run in runs.items():
        made = types.ModuleType(f"demo_that_{name}")
        made.run = run  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, made.__name__, made)
    monkeypatch.setattr(__main__, "demos", lambda: {name: f"demo_that_{name}" for name in runs})
    (refused,) = __main__.run_demo("refuses", {})
    (broken,) = __main__.run_demo("breaks", {})
    (lacking,) = __main__.run_demo("lacks", __main__.SessionNames())
    assert "the session has no center_loop; logs/demo.log " in lacking.result["why"]
    assert not refused.ok
    assert refused.result["why"] == "SampleError: no pin"
    assert broken.result["why"] == "ZeroDivisionError: one by zero"


def test_results_are_a_line_for_each_demo(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    append_results([good("a"), good("b")], file)
    append_results([good("c")], file)
    assert [[each["plan"] for each in json.loads(line)] for line in file.open()] == [
        ["a", "b"],
        ["c"],
    ]


def test_all_demos_have_one_beamline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = module.write_configuration(list(module.demos()), tmp_path)
    iocs = load_settings(config).iocs
    assert {"axis", "goniometer", "psss", "panoseti", "epu", "sacla"} <= set(iocs)
    prefixes = [ioc.prefix for ioc in iocs.values()]
    assert len(set(prefixes)) == len(prefixes)


def test_a_directory_may_have_any_name(tmp_path: Path) -> None:
    directory = tmp_path / 'Größe "\N{GRINNING FACE}"'
    assert load_settings(module.write_configuration(["sacla"], directory)).directory == directory


def test_two_demos_with_an_ioc_of_one_name_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = types.ModuleType("demo_with_lamp")
    made.iocs = lambda: {"lamp": IocSettings(module="iocs.axis", prefix="L:")}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, made.__name__, made)
    monkeypatch.setattr(module, "demos", lambda: {"a": made.__name__, "b": made.__name__})
    with pytest.raises(ConfigError, match="demos a and b both have an IOC 'lamp'"):
        module.write_configuration(["a", "b"], tmp_path)


def test_the_configuration_of_a_beamline_is_not_replaced(tmp_path: Path) -> None:
    """`skywright demo --directory .` in the directory of a beamline."""
    own = tmp_path / "skywright.toml"
    own.write_text('prefix = "BL7:"\n')
    with pytest.raises(ConfigError, match=r"skywright.toml: .* has not written this file"):
        module.write_configuration(["sacla"], tmp_path)
    assert own.read_text() == 'prefix = "BL7:"\n'
    own.unlink()
    for _ in range(2):  # its own one it replaces
        module.write_configuration(["sacla"], tmp_path)


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=f"--directory {tmp_path}/file/demo: Not a directory"):
        module.write_configuration(["sacla"], tmp_path / "file" / "demo")


@pytest.mark.parametrize("only", [["axis", "axis"], ["axis,axis"]])
def test_a_demo_that_is_named_twice_runs_once(
    only: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(
        module, "_run_demos", lambda names, *_: asked.append(names) or [{"ok": True}]
    )
    module.demo(tmp_path, only=only, as_json=True)
    assert asked == [["axis"]]


def test_the_command_that_looks_around_is_the_one_of_this_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = failed_demo("axis", "no light")
    monkeypatch.setattr(module, "_run_demos", lambda *_: [asdict(result) | {"ok": True}])
    monkeypatch.setattr(sys, "executable", str(tmp_path / "elsewhere" / "bin" / "python"))
    monkeypatch.chdir(tmp_path)
    module.demo(tmp_path, only=["axis"])
    said = capsys.readouterr().out
    assert "elsewhere/bin/skywright session --config skywright.toml" in said
    assert ".venv" not in said
