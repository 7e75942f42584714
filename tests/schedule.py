"""Which tests run together, and in what order, when several workers share them.

What costs is the start of processes. Files that use one server stay in one worker, so that it
starts once; what takes long starts first, so that no worker is left with it at the end. Within a
unit the order stays random.

Every worker imports every file of tests. So what is slow to import (tiled's server, alembic,
pexpect) is imported by the test that needs it.

``pytest --write-durations`` measures how long each file takes and writes ``durations.json`` beside
this module. Files are ordered by it; without it, by the list below.
"""

import json
import os
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

TESTS = Path(__file__).parent
LONGEST_FIRST = (
    (  # one beamline
        "cli/test_session.py",
        "cli/test_doctor.py",
        "cli/test_queueserver.py",
        "cli/test_tutorials.py",
    ),
    ("store/test_kill.py",),
    ("plans/test_loop_centering_ioc.py",),
    ("plans/test_spectrum_store.py",),
    ("store/test_reprocess.py",),
    ("dashboard/test_browser.py",),
    ("loop/twin/test_twin_truth.py",),
    ("loop/test_other_scenes.py",),
    (  # one server
        "store/test_client.py",
        "store/test_dead_writer.py",
        "store/test_ingest.py",
        "store/test_ingester.py",
        "store/test_pulses.py",
        "store/test_recovery.py",
        "store/test_resume.py",
        "store/test_server.py",
        "store/test_traps.py",
    ),
    (  # one server with sample runs
        "cli/test_catalog.py",
        "dashboard/test_pages.py",
        "dashboard/test_plots.py",
        "store/test_export.py",
        "store/test_export_csv_zarr.py",
        "store/test_export_nexus.py",
        "store/test_export_output.py",
        "store/test_lookup.py",
        "store/test_show.py",
    ),
    ("iocs/goniometer/test_goniometer_motor.py",),
    ("iocs/goniometer/test_goniometer_oscillation.py",),
    ("devices/test_goniometer_device.py",),
    ("devices/test_axis_kill.py",),
    ("devices/test_axis_device.py",),
    ("iocs/test_axis_ioc.py",),
    ("callbacks/test_live.py",),
    ("callbacks/test_live_worker.py",),
    ("devices/test_psss_device.py",),
    ("services/test_psss_faults.py",),
    ("iocs/test_psss_ioc.py",),
    ("cli/test_psss_serve.py",),
)
"""Files that stay together; all others follow, each by itself."""

DURATIONS = TESTS / "durations.json"
_UNIT = {file: unit for unit in LONGEST_FIRST for file in unit}
_measured: dict[str, float] = defaultdict(float)


def unit_of(file: str) -> tuple[str, ...]:
    """Return the files that stay with `file` in one worker."""
    return _UNIT.get(file, (file,))


def ranks(durations: dict[str, float]) -> dict[tuple[str, ...], float]:
    """Return a number for each unit; units with smaller numbers start first.

    Parameters
    ----------
    durations
        Seconds of each file. Without any, units have the order of `LONGEST_FIRST`.
    """
    if not durations:
        return {unit: float(place) for place, unit in enumerate(LONGEST_FIRST)}
    seconds: dict[tuple[str, ...], float] = defaultdict(float)
    for file, duration in durations.items():
        seconds[unit_of(file)] -= duration
    return dict(seconds)


def read_durations() -> dict[str, float]:
    """Return the seconds of each file as they were measured; empty if they were not."""
    return json.loads(DURATIONS.read_text()) if DURATIONS.is_file() else {}


class TogetherScheduling(LoadFileScheduling):
    """``--dist loadfile``, with the units of `LONGEST_FIRST`."""

    def _split_scope(self, nodeid: str) -> str:
        path = super()._split_scope(nodeid)
        file = path.removeprefix(f"{TESTS.name}/")
        return unit_of(file)[0] if file in _UNIT else path


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Take our scheduler for ``--dist loadfile``."""
    if config.getoption("dist") != "loadfile":
        return None
    config.option.loadscopereorder = False
    return TogetherScheduling(config, log)


def import_own_share_first(session: pytest.Session) -> None:
    """Let each worker import other files of tests first, if all are collected.

    Pytest rewrites the assertions of a file when it is first imported and keeps the result, which
    the other workers then find. If all began with the same file, each would rewrite every file.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
    if not worker or session.config.args != session.config.getini("testpaths"):
        return
    count = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    for path in sorted(TESTS.rglob("test_*.py"))[int(worker) :: count]:
        # What is wrong with a file is reported when it is collected.
        with suppress(Exception, pytest.skip.Exception):
            pytest.Module.from_parent(session, path=path).obj  # noqa: B018


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put what takes long first; what was never measured comes last."""
    rank = ranks(read_durations())
    last = max(rank.values(), default=0.0) + 1.0
    items.sort(key=lambda item: rank.get(unit_of(item.path.relative_to(TESTS).as_posix()), last))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--write-durations``."""
    parser.addoption(
        "--write-durations", action="store_true", help=f"measure files and write {DURATIONS.name}"
    )


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add up the seconds of a file: set-up, tests, tear-down."""
    _measured[report.nodeid.partition("::")[0].removeprefix(f"{TESTS.name}/")] += report.duration


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the durations of all files, at the end of a run that was to measure them."""
    if session.config.getoption("write_durations") and not hasattr(session.config, "workerinput"):
        rounded = {file: round(seconds, 1) for file, seconds in sorted(_measured.items())}
        DURATIONS.write_text(json.dumps(rounded, indent=0) + "\n")
