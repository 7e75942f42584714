"""What the demo of every instrument needs: a result to report, runs to wait for, steps to show.

A demo is a module that an instrument declares. It has ``iocs()``, the IOCs to start, and
``run(session)``, which gets the profile's namespace and returns a list of `DemoResult`.
"""

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from skywright.callbacks.run_ids import RunIds
from skywright.errors import DataError
from skywright.processes.child import keep_stdout
from skywright.waiting import wait_until

STORED_LIMIT_S = 120.0
BEAMLINE = "beamline"
"""Name of the demo for the steps before the first demo and after the last one."""
_running = [BEAMLINE]
"""The demo that the steps belong to."""
_step_outputs: list[IO[bytes]] = []
"""Pipes that steps are written to; empty if no `skywright demo` reads them."""


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """One plan that the demo ran: what was true, what was found, whether they agree."""

    plan: str
    raw_uid: str
    derived_uids: list[str] = field(default_factory=list)
    truth: Mapping[str, Any]
    result: Mapping[str, Any]
    ok: bool
    pictures: list[str] = field(default_factory=list)


def failed_demo(name: str, why: str) -> DemoResult:
    """Return the result of a demo that did not come to its end."""
    return DemoResult(plan=name, raw_uid="", truth={}, result={"why": why}, ok=False)


def append_results(results: list[DemoResult], file: Path) -> None:
    """Add the results of a demo to `file`, as a line with a JSON list."""
    with file.open("a") as lines:
        lines.write(json.dumps([asdict(result) for result in results]) + "\n")


def begin_demo(name: str) -> None:
    """Say which demo the next steps belong to."""
    _running[0] = name


@contextmanager
def step(title: str) -> Iterator[None]:
    """Report the start and the end of a step to `skywright demo`, which shows it to the user."""
    began = time.monotonic()
    report_step(title)
    yield
    report_step(title, seconds=time.monotonic() - began)


def report_step(title: str, seconds: float | None = None, detail: str = "") -> None:
    """Report a step of the demo, if a `skywright demo` reads it.

    Parameters
    ----------
    title
        What is done.
    seconds
        Time that it took; None while it goes on.
    detail
        The progress of the step, or how it ended.
    """
    report = {"demo": _running[0], "title": title, "seconds": seconds, "detail": detail}
    for output in _step_outputs:
        output.write(json.dumps(report).encode() + b"\n")
        output.flush()


class RunSteps:
    """A callback of the RunEngine: each run is a step of the demo."""

    def __init__(self) -> None:
        self._ids = RunIds()
        self._runs: dict[str, tuple[str, float]] = {}
        self._events: Counter[str] = Counter()
        self._rows: Counter[str] = Counter()
        """Rows of the longest stream of a run, by its uid."""

    def __call__(self, name: str, document: Mapping[str, Any]) -> None:
        """Take a document of the RunEngine."""
        uid = self._ids.of(name, document) or ""
        if name == "start":
            title = f"run {document['scan_id']}: {document.get('plan_name', '')}"
            self._runs[uid] = title, time.monotonic()
            report_step(title)
        elif name in ("event", "event_page"):
            new = document["seq_num"]
            self._events[uid] += len(new) if isinstance(new, list) else 1
            report_step(self._runs[uid][0], detail=f"event {self._events[uid]}")
        elif name == "stream_datum":
            self._rows[uid] = max(self._rows[uid], document["seq_nums"]["stop"] - 1)
            if not self._events[uid]:  # else the events show the progress
                report_step(self._runs[uid][0], detail=f"row {self._rows[uid]}")
        elif name == "stop":
            title, began = self._runs.pop(uid)
            status, reason = document["exit_status"], document.get("reason", "")
            ending = "" if status == "success" else f"{status}, {reason}".rstrip(", ")
            report_step(title, time.monotonic() - began, ending)


def wait_for_derived(tiled: Any, raw_uid: str, *analyses: str) -> list[Any]:
    """Return a finished derived run for each analysis, as soon as the catalog has them.

    Parameters
    ----------
    tiled
        Client of the root.
    raw_uid
        Start uid of the raw run.
    *analyses
        Names of analyses that work on this run.

    Raises
    ------
    DataError
        If they are not there within two minutes.
    """
    from skywright.store.lookup import derived_runs

    def runs_of_all() -> list[Any] | None:
        finished = {
            run.metadata["start"]["analysis"]["name"]: run
            for run in derived_runs(tiled, raw_uid)
            if run.metadata.get("stop")
        }
        return [finished[name] for name in analyses] if finished.keys() >= set(analyses) else None

    with step(f"analysis of run {raw_uid[:8]} in the catalog"):
        runs = wait_until(runs_of_all, STORED_LIMIT_S, 0.2)
    if runs is not None:
        return runs
    raise DataError(
        f"run {raw_uid[:8]}: finished runs of {', '.join(analyses)} expected in the catalog within "
        f"{STORED_LIMIT_S:g} s; look at `skywright doctor`"
    )


def steps_to_stdout() -> None:
    """Report steps on what is stdout now, and send all else that is printed to stderr."""
    _step_outputs.append(keep_stdout())
