"""Which tests run together, and in what order, when several workers share them.

What costs is the start of processes. Files that use one server stay in one worker, so that it
starts once; what takes long starts first, so that no worker is left with it at the end. Within a
unit the order stays random.
"""

from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

TESTS = Path(__file__).parent
LONGEST_FIRST = (
    ("cli/test_session.py", "cli/test_doctor.py", "cli/test_queueserver.py"),  # one beamline
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
        "store/test_ingester.py",
        "store/test_pulses.py",
        "store/test_resume.py",
        "store/test_server.py",
        "store/test_traps.py",
    ),
    (  # one server with sample runs
        "cli/test_catalog.py",
        "dashboard/test_pages.py",
        "store/test_export.py",
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
    ("devices/test_psss_device.py",),
    ("services/test_psss_faults.py",),
    ("iocs/test_psss_ioc.py",),
    ("cli/test_psss_serve.py",),
)
"""Files that stay together; all others follow, each by itself."""

_PLACE = {file: place for place, unit in enumerate(LONGEST_FIRST) for file in unit}


def _place(file: str) -> int:
    return _PLACE.get(file, len(LONGEST_FIRST))


class TogetherScheduling(LoadFileScheduling):
    """``--dist loadfile``, with the units of `LONGEST_FIRST`."""

    def _split_scope(self, nodeid: str) -> str:
        path = super()._split_scope(nodeid)
        place = _PLACE.get(path.removeprefix(f"{TESTS.name}/"))
        return path if place is None else LONGEST_FIRST[place][0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Take our scheduler for ``--dist loadfile``."""
    if config.getoption("dist") != "loadfile":
        return None
    config.option.loadscopereorder = False
    return TogetherScheduling(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put what takes long first."""
    items.sort(key=lambda item: _place(item.path.relative_to(TESTS).as_posix()))
