"""The example for DCSS's side, run by Tcl itself against the DHS, over commands in Python."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
from support.dhs import Bench, bench
from support.loop_pictures import turned

SCRIPT = Path(__file__).parents[2] / "examples" / "dcss" / "loopTurn.tcl"
COUNT = 30


class Scripts:
    """What DCSS offers its scripts, as far as the example needs it."""

    def __init__(self, face: Bench, turn: Callable[[], None]) -> None:
        tkinter = pytest.importorskip("tkinter")
        self.tcl = tkinter.Tcl()
        self.warnings: list[str] = []
        self._link = face.link
        self._handles = (f"9.{n}" for n in itertools.count(1))
        self._fetched: dict[str, int] = {}
        commands: dict[str, Callable[..., str]] = {
            "start_waitable_operation": self.start,
            "wait_for_operation": self.wait,
            "wait_for_operation_to_finish": self.finish,
            "start_oscillation": lambda *arguments: turn() or "",
            "wait_for_devices": lambda *devices: "",
            "log_warning": lambda *words: self.warnings.append(" ".join(words)) or "",
        }
        for name, command in commands.items():
            self.tcl.createcommand(name, command)
        self.tcl.eval(SCRIPT.read_text())

    def start(self, operation: str, *arguments: str) -> str:
        handle = next(self._handles)
        self._link.start(operation, handle, *arguments)
        return handle

    def wait(self, handle: str, *limit: str) -> str:
        """Return the next update, ``update {text}``, or the end, ``normal results``."""
        done = self._fetched.setdefault(handle, 0)
        updates, completions = self._link.updates, self._link.completions
        self._link.until(lambda: len(updates(handle)) > done or completions(handle))
        if len(updates(handle)) > done:
            self._fetched[handle] += 1
            return f"update {{{updates(handle)[done]}}}"
        if not completions(handle)[0].startswith("normal"):
            raise RuntimeError(completions(handle)[0])
        return completions(handle)[0]

    def finish(self, handle: str) -> str:
        while (result := self.wait(handle)).startswith("update"):
            pass
        return result


def test_loop_turn_finds_face_and_edge() -> None:
    pictures = [turned(i * 6.0 - 60.0).jpeg() for i in range(COUNT)]
    with bench() as face:
        scripts = Scripts(face, lambda: face.push(*pictures))
        scripts.tcl.eval("loopTurn_initialize")
        found = list(map(float, scripts.tcl.eval("loopTurn_start 180 1.0 30").split()))
    face_deg, tip_x, tip_y, top, bottom, edge_deg, edge_top, edge_bottom, count, failed = found
    assert face_deg == pytest.approx(63.0, abs=12)  # a flat loop changes little about its face
    assert abs(abs(edge_deg - face_deg) - 90.0) < 4
    assert tip_x * 704 == pytest.approx(450, abs=3)
    assert tip_y * 480 == pytest.approx(turned(0.0).row, abs=3)
    assert (bottom - top) * 480 == pytest.approx(120, abs=4)
    assert (edge_bottom - edge_top) * 480 == pytest.approx(30, abs=6)
    assert (count, failed) == (COUNT, 0)
    assert scripts.warnings == []


def test_loop_turn_with_lost_pictures_and_with_none() -> None:
    pictures = [turned(i * 6.0 - 60.0).jpeg() for i in range(0, COUNT, 3)]
    pictures[2] = pictures[2][:1000]
    with bench() as face:
        scripts = Scripts(face, lambda: face.push(*pictures))
        words = scripts.tcl.eval("loopTurn_start 180 1.0 30").split()
        assert words[-2:] == ["10", "1"]
        assert scripts.warnings == ["loopTurn: 10 pictures of 30"]
        pictures.clear()
        with pytest.raises(Exception, match="no loop in 0 pictures"):
            scripts.tcl.eval("loopTurn_start 180 1.0 30")
