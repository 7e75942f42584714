"""The end of a session has a limit, whatever the devices do."""

import atexit
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import bluesky.plan_stubs as bps
import pytest
from bluesky import Msg, RunEngine
from bluesky.utils import RunEngineInterrupted
from IPython.terminal.interactiveshell import TerminalInteractiveShell
from support.waiting import until
from traitlets.config import Config

from skywright.session import ending

READY = Path(__file__).parents[1] / "profile_collection" / "startup" / "90-ready.py"


class Hanging:
    """A device that does not come to rest, in a pause or while a plan cleans up."""

    def __init__(self, hangs_in: str) -> None:
        self.hangs_in, self.at_rest = hangs_in, threading.Event()

    def pause(self) -> None:
        if self.hangs_in == "pausing":
            self.at_rest.wait()

    def resume(self) -> None: ...

    def plan(self) -> Iterator[Msg]:
        yield Msg("null", self)  # from now on the engine knows it
        yield from bps.checkpoint()
        try:
            yield from bps.pause()
        finally:
            self.at_rest.wait()


@pytest.mark.parametrize("state", ["pausing", "paused"])
def test_a_device_that_hangs_does_not_hold_up_the_end(
    state: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ending, "QUIET_S", 0.01)
    monkeypatch.setattr(ending, "CLEANUP_LIMIT_S", 0.01)
    RE = RunEngine({}, context_managers=[])  # those are for the main thread
    device = Hanging(state)

    def run() -> None:
        with suppress(RunEngineInterrupted):
            RE(device.plan())

    threading.Thread(target=run, daemon=True).start()
    until(lambda: RE.state == state)
    try:
        ending.finish_runs(RE, [])
        assert "the plan has not cleaned up" in caplog.text
    finally:
        device.at_rest.set()
    until(lambda: RE.state == "idle")


def test_after_a_signal_that_ends_the_waiting_it_is_waited_again_and_no_worker_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    closed, waited, not_repeated = threading.Event(), [], []

    def end(limit_s: float) -> bool:
        assert not closed.is_set()
        waited.append(limit_s)
        if len(waited) == 1:
            raise SystemExit
        return True

    analysis = SimpleNamespace(name="slow", unfinished=[], wait_for_all=end, close=closed.set)
    monkeypatch.setattr(atexit, "unregister", not_repeated.append)
    with pytest.raises(SystemExit):
        ending.end_session(SimpleNamespace(state="idle"), [analysis])
    assert len(waited) == 2
    assert closed.is_set()
    assert not_repeated == [ending.finish_runs]


def test_an_error_of_a_plan_that_cleans_up_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody else gets it: the call that runs the plan has returned at the pause."""

    def plan() -> Iterator[Msg]:
        yield from bps.checkpoint()
        try:
            yield from bps.pause()
        finally:
            raise OSError("the shutter is stuck")

    RE = RunEngine({})
    with suppress(RunEngineInterrupted):
        RE(plan())
    ending.finish_runs(RE, [])
    ours = [each.getMessage() for each in caplog.records if each.name == ending.__name__]
    assert ours == ["the plan failed while it cleaned up: the shutter is stuck"]


@pytest.mark.parametrize("name", ["_abort_coro", "_run_permit", "_task"])
def test_the_private_names_of_the_engine_are_still_there(RE: RunEngine, name: str) -> None:
    """When this fails, bluesky has changed; look at `_abort` in session/ending.py."""
    assert hasattr(RE, name)


def test_a_console_that_is_left_keeps_the_names_that_a_plan_needs_to_clean_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])  # the shell replaces it
    without_history = Config(HistoryAccessor={"enabled": False})
    shell = TerminalInteractiveShell(simple_prompt=True, config=without_history)
    monkeypatch.setattr(shell, "prompt_for_code", lambda: "exit")
    names = shell.user_ns
    names |= {"RE": SimpleNamespace(state="idle"), "of_a_plan": 1}
    exec(compile(READY.read_text(), READY, "exec"), names)
    shell.mainloop()
    assert names["of_a_plan"] == 1
