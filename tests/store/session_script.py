"""A session for the kill tests: a scan with frames, then a fly run, in a process of its own.

``python session_script.py DIRECTORY POINTS DIE_AT``; DIE_AT is ``never`` or where it is to kill
itself: ``stage``, ``flush:N`` (before the N-th flush of a frame), ``document:N`` (after the N-th
document), ``torn:N`` (half of the N-th document written), ``stop:before`` and ``stop:after``,
``unstage``. What the session has seen after the journal goes to ``seen.jsonl``.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky import RunEngine
from ophyd.sim import det, motor
from support.streaming import StreamingCamera

from skywright.callbacks import journal as journal_module
from skywright.callbacks.journal import Journal
from skywright.processes.lifecycle import announce_ready, end_with_parent

directory, points, (kind, _, place) = (
    Path(sys.argv[1]),
    int(sys.argv[2]),
    sys.argv[3].partition(":"),
)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Camera(StreamingCamera):
    flushes = 0

    def stage(self) -> list[Any]:
        staged = super().stage()
        if kind == "stage":
            self._take()
            die()
        return staged

    def _take(self) -> None:
        Camera.flushes += 1
        if kind == "flush" and Camera.flushes == int(place):
            self.flush = False
            super()._take()
            die()
        super()._take()

    def unstage(self) -> list[Any]:
        if kind == "unstage":
            die()
        return super().unstage()


class Dying(Journal):
    documents = 0

    def __call__(self, name: str, doc: Any) -> None:
        Dying.documents += 1
        if kind == "torn" and Dying.documents == int(place):
            real_write = os.write

            def half(fd: int, data: Any) -> int:
                real_write(fd, bytes(data)[: len(data) // 2])
                die()
                return 0

            journal_module.os.write = half
        if (kind, place, name) == ("stop", "before", "stop"):
            die()
        super().__call__(name, doc)
        if (kind, place, name) == ("stop", "after", "stop"):
            die()


seen = os.open(directory / "seen.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def witness(name: str, doc: dict[str, Any]) -> None:
    if name in ("event", "stream_datum", "start", "stop"):
        os.write(seen, json.dumps([name, doc["uid"]]).encode() + b"\n")
    if kind == "document" and Dying.documents == int(place):
        die()


RE = RunEngine()
RE.subscribe(Dying(directory / "journal", RE))
RE.subscribe(witness)
camera = Camera("cam", directory / "assets", burst=10)


@bpp.stage_decorator([camera])
@bpp.run_decorator(md={"plan_name": "steps"})
def steps() -> Any:
    for point in range(points):
        yield from bps.checkpoint()
        yield from bps.mv(motor, point / points)
        yield from bps.trigger_and_read([det, camera, motor])
        yield from bps.sleep(0.01)


@bpp.stage_decorator([camera])
@bpp.run_decorator(md={"plan_name": "fly"})
def fly() -> Any:
    yield from bps.declare_stream(camera, name="primary", collect=True)
    for _ in range(3):
        yield from bps.kickoff(camera, wait=True)
        yield from bps.sleep(0.02)
        yield from bps.collect(camera, name="primary")
        yield from bps.complete(camera, wait=True)


announce_ready()
os.read(0, 3)  # the test says go
end_with_parent()
RE(steps())
RE(fly())
sys.stdout.write(json.dumps({"ended": True}) + "\n")
