"""A refusal is a line; any other error keeps its traceback."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import bluesky.plan_stubs as bps
import httpx
import pytest
from bluesky import RunEngine
from bluesky.plans import count, scan
from bluesky.utils import RunEngineInterrupted
from bluesky_tiled_plugins.clients.catalog_of_bluesky_runs import CatalogOfBlueskyRuns
from IPython.core.interactiveshell import InteractiveShell
from ophyd import Device
from ophyd.sim import det, motor

from plans.pictures import take_pictures
from plans.run_stubs import begin_rewindable
from skywright.errors import SampleError
from skywright.session.plain_errors import shorten_engine_log, shorten_tracebacks


class Unconnected(CatalogOfBlueskyRuns):
    def __init__(self) -> None:
        pass


def run_without(column: str) -> object:
    """Return what raises for a column as tiled's client does."""
    of_tiled: dict[str, Any] = {"__name__": "tiled.client.composite"}
    exec(f"class Run:\n def __getitem__(self, key): raise KeyError('{column} not found')", of_tiled)
    return of_tiled["Run"]()


def raising(error: Exception) -> Iterator[object]:
    yield from bps.null()
    raise error


@pytest.mark.parametrize(
    ("error", "traced"), [(SampleError("no loop"), False), (ValueError("bug"), True)]
)
def test_engine_logs_a_refusal_in_one_line(
    error: Exception, traced: bool, RE: RunEngine, caplog: pytest.LogCaptureFixture
) -> None:
    shorten_engine_log()
    shorten_engine_log()
    with pytest.raises(type(error)):
        RE(raising(error))
    assert caplog.text.count(f"{type(error).__name__}: {error}") == 1
    assert ("Traceback" in caplog.text) == traced


@pytest.fixture
def shell() -> Iterator[InteractiveShell]:
    yield InteractiveShell.instance()
    InteractiveShell.clear_instance()


@pytest.mark.parametrize(
    ("code", "traced"),
    [
        ("raise SampleError('no loop')", False),
        ("raise OSError('bug')", True),
        ("raise ValueError('bug')", True),
        ("next(take_pictures('no camera', 3))", False),
    ],
)
def test_console_shows_the_error_and_keeps_the_traceback(
    code: str, traced: bool, shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    shorten_tracebacks(shell)
    shell.user_ns |= {"SampleError": SampleError, "take_pictures": take_pictures}

    def said(run: Callable[[], object]) -> str:
        run()
        streams = capsys.readouterr()
        return streams.out + streams.err

    text = said(lambda: shell.run_cell(code))
    assert code.split("'")[1] in text
    assert ("Traceback" in text) == traced
    assert "Traceback" in said(lambda: shell.run_line_magic("tb", ""))


def test_a_wrong_call_of_a_builtin_leaves_later_refusals_short(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    shorten_tracebacks(shell)
    shell.user_ns |= {"SampleError": SampleError}
    shell.run_cell("from time import sleep")
    shell.run_cell("sleep()")
    assert "takes exactly one argument" in capsys.readouterr().out
    shell.run_cell("raise SampleError('no loop')")
    streams = capsys.readouterr()
    assert "no loop" in streams.out
    assert "Traceback" not in streams.out + streams.err


@pytest.mark.parametrize(
    ("line", "right"),
    [
        ("RE(take_pictures(axs, 3))", "name 'axs' is not defined\ndid you mean axis?"),
        ("take_pictures(axis, num=3)", "argument 'num'\ntake_pictures(camera, n, *"),
        ("RE(take_pictures)", "not iterable\ncall the plan: RE(take_pictures(...))"),
        ("RE(paused()); RE(paused())", "paused state\nRE.resume() continues"),
        ("RE.abort()", "idle.\nno plan runs or is paused"),
        ("RE.resume()", "\nno plan runs or is paused"),
    ],
)
def test_what_is_typed_wrongly_is_told_with_how_it_is_right(
    line: str,
    right: str,
    RE: RunEngine,
    shell: InteractiveShell,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shorten_tracebacks(shell, RunEngineInterrupted)

    def paused() -> Iterator[object]:
        return (yield from bps.pause())

    shell.user_ns |= {"RE": RE, "take_pictures": take_pictures, "axis": 1, "paused": paused}
    for part in line.split("; "):
        capsys.readouterr()
        shell.run_cell(part)
    streams = capsys.readouterr()
    text = re.sub(r"\x1b\[[0-9;]*m", "", streams.out + streams.err)
    assert right in text
    assert "Traceback" not in text
    if RE.state == "paused":
        RE.abort()


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("RE(count(det))", "a list or a tuple of Readable objects.\ncount(detectors, num=1"),
        ("RE(count([det], num='3'))", "count(detectors, num=1"),
        ("RE(count([det, 'x']))", "count(detectors, num=1"),
        ("RE(scan([det], motor, 0, '10', 3))", "scan(detectors, *args, num=None"),
        ("RE(scan([det], motor, 0, 10))", "scan(detectors, *args, num=None"),
        ("[RE(scan([det], motor, 0, 10)) for _ in 'ab']", "scan(detectors, *args, num=None"),
        ("RE(scan([det], device, 0, 10, 3))", "device is not Movable: scan(detectors, *args"),
        ("RE(bps.mv(device, 1))", "device is not Movable: mv(*args"),
        ("RE(bps.mv(motor))", "mv(*args"),
        ("RE(bps.mvr(motor, 'x'))", "mvr(*args"),
        ("RE(count([det], md='x'))", "md = 'x', expected a dictionary: count(detectors"),
        ("RE(count([det], md={'sample': ['a']}))", "md={'sample': 'NAME'} or"),
        ("RE(count([det]), md={1: 2})", "md={'sample': 'NAME'} or"),
        ("RE(bps.open_run(md={1: 2}))", "md={'sample': 'NAME'} or"),
        ("RE('count')", "call the plan: RE(plan(...))"),
        ("RE([device])", "call the plan: RE(plan(...))"),
        ("RE(count, [det])", "call the plan: RE(plan(...))"),
        ("RE()", "call the plan: RE(plan(...))"),
    ],
)
def test_wrong_arguments_of_a_plan_of_bluesky_are_told_without_a_traceback(
    code: str, says: str, RE: RunEngine, shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    shorten_tracebacks(shell)
    RE.preprocessors.append(begin_rewindable)  # as in a session
    device = Device(name="device")
    shell.user_ns |= {"RE": RE, "det": det, "motor": motor, "device": device}
    shell.user_ns |= {"count": count, "scan": scan, "bps": bps}
    shell.run_cell(code)
    streams = capsys.readouterr()
    text = re.sub(r"\x1b\[[\d;]*m", "", streams.out + streams.err)
    assert says in text
    assert "Traceback (most recent" not in text


def test_a_script_that_is_not_there_is_told_without_a_traceback(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    shorten_tracebacks(shell)
    shell.run_cell("%run nofile.py")
    streams = capsys.readouterr()
    assert "%run looks for the file in the directory of %pwd" in streams.out + streams.err
    assert "Traceback (most recent" not in streams.out + streams.err


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("cat['abc']", "[-1] is the newest run"),
        ("run['primary/axis_imag']", "list(cat[-1]) names the streams of a run"),
        ("httpx.get('http://127.0.0.1:1')", "tiled does not answer"),
    ],
)
def test_a_run_that_is_not_found_is_told_without_a_traceback(
    code: str, says: str, shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    shorten_tracebacks(shell)
    # A partial uid is checked before the server is asked.
    shell.user_ns |= {"cat": Unconnected(), "httpx": httpx, "run": run_without("axis_imag")}
    shell.run_cell(code)
    streams = capsys.readouterr()
    assert says in streams.out + streams.err
    assert "Traceback (most recent" not in streams.out + streams.err


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("RE(count([det], per_shot=per_shot))", "int('shot')"),
        ("RE(scan([det], motor, 0, 1, 2, per_step=per_step))", "None + 1"),
        ("RE(mine())", "bps.mv(motor)"),
        ("fetch()", "httpx.get('http://127.0.0.1:1')"),
    ],
)
def test_an_error_in_a_function_of_the_users_keeps_its_traceback(
    line: str, says: str, RE: RunEngine, shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    shorten_tracebacks(shell)
    shell.user_ns |= {"RE": RE, "det": det, "motor": motor}
    shell.user_ns |= {"count": count, "scan": scan, "bps": bps, "httpx": httpx}
    shell.run_cell(
        "def per_shot(detectors):\n    int('shot')\n    yield\n"
        "def per_step(detectors, motor, step):\n    None + 1\n    yield\n"
        "def mine():\n    yield from bps.mv(motor)\n"
        "def fetch():\n    httpx.get('http://127.0.0.1:1')\n"
    )
    shell.run_cell(line)
    streams = capsys.readouterr()
    text = re.sub(r"\x1b\[[\d;]*m", "", streams.out + streams.err)
    assert "Traceback (most recent" in text
    assert says in text


def test_an_error_of_a_device_in_a_plan_of_bluesky_keeps_its_traceback(
    RE: RunEngine, shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken(Device):
        def read(self) -> object:
            raise TypeError("bug")

    shorten_tracebacks(shell)
    shell.user_ns |= {"RE": RE, "broken": Broken(name="broken"), "count": count}
    shell.run_cell("RE(count([broken]))")
    streams = capsys.readouterr()
    assert "Traceback (most recent" in streams.out + streams.err


def test_console_tells_of_an_interrupted_plan_without_a_traceback(
    RE: RunEngine, shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    shorten_tracebacks(shell, RunEngineInterrupted)
    shell.user_ns |= {"RE": RE, "plan": lambda: (yield from bps.pause())}
    shell.run_cell("RE(plan())")
    streams = capsys.readouterr()
    text = streams.out + streams.err
    assert "RE.resume()" in text
    assert "Traceback" not in text
    RE.abort()


@pytest.mark.parametrize(
    ("cause", "line"),
    [(TimeoutError(), "\nTimeoutError\n"), (ValueError("why"), "ValueError: why")],
)
def test_console_tells_the_cause_once(
    cause: Exception, line: str, shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    shorten_tracebacks(shell, RunEngineInterrupted)
    error = RunEngineInterrupted("failed")
    error.__cause__ = cause
    shell.user_ns["error"] = error
    for _ in range(2):
        shell.run_cell("raise error")
        streams = capsys.readouterr()
        assert (streams.out + streams.err).count(line) == 1
