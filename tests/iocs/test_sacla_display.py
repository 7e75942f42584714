"""What the IOC of shots posts for display: whole arrays, at their own pace, whatever the rate."""

import sys
import threading
import time

import epics
import numpy as np
import pytest
from ioc_process import running_ioc
from support.waiting import until

from iocs.sacla import ioc as sacla_ioc
from iocs.sacla.ioc import DISPLAY_PERIOD_S, POST_PAUSE_S
from iocs.sacla.pvs import IMAGE_PIXELS, thinned, thinning
from skywright.errors import ConfigError

MONITOR_LIMIT = 65_536
"""By default, pyepics does not monitor arrays of this length."""


def test_images_of_any_detector_are_monitored_by_every_client():
    for shape in ((1024, 512), (8192, 512), (2399, 2399), (40, 30)):
        step = thinning(shape)
        small = thinned(np.ones(shape, np.float32), step)
        assert small.size <= IMAGE_PIXELS < MONITOR_LIMIT
        assert small.dtype == np.dtype("<f4")
        assert (small == 1).all()


def test_display_has_its_own_pace_and_a_client_that_sleeps_costs_no_shot():
    size = ("--rows", "256", "--columns", "128", "--pool", "16")
    with running_ioc(
        "iocs.sacla", "--source", "sim", "--rate", "120", "--auto-start", *size
    ) as ioc:
        seen: dict[str, list[float]] = {"Curve": [], "Mean": []}

        def note(group: str, *, sleeps: bool) -> object:
            def take(**_: object) -> None:
                seen[group].append(time.monotonic())
                if sleeps:
                    threading.Event().wait(0.5)

            return take

        sequences = [
            epics.PV(f"{ioc.prefix}{group}:sequence_RBV", callback=note(group, sleeps=sleeps))
            for group, sleeps in (("Curve", False), ("Mean", True))
        ]
        pixels = epics.PV(f"{ioc.prefix}Mean:pixels_RBV", auto_monitor=None)
        accepted = epics.PV(f"{ioc.prefix}Count:accepted_RBV")
        until(lambda: (accepted.get() or 0) > 100, 120, "shots are analyzed")
        started, before = time.monotonic(), accepted.get(use_monitor=False)
        until(lambda: (accepted.get() or 0) > before + 480, 120, "more shots are analyzed")
        elapsed = time.monotonic() - started
        # Some shots share an update: display follows its own clock, and not the shots.
        for group, period in (("Curve", POST_PAUSE_S), ("Mean", DISPLAY_PERIOD_S)):
            updates = sum(at > started for at in seen[group])
            assert 1 <= updates <= elapsed / period + 2
        shape = [epics.caget(f"{ioc.prefix}Mean:{key}_RBV") for key in ("rows", "columns")]
        assert pixels.auto_monitor
        assert len(pixels.get()) == shape[0] * shape[1]
        assert epics.caget(f"{ioc.prefix}Lost_RBV") == 0
        for each in (*sequences, pixels, accepted):
            each.disconnect()


@pytest.mark.parametrize(
    ("option", "value", "why"),
    [
        ("--workers", "0", "'0': expected a whole number, 1 to 1,000"),
        ("--window", "-200", "'-200': expected a whole number, 0 to 1,000,000"),
        ("--image-period", "nan", "'nan': expected a number, 0.2 to 1,000,000"),
        ("--frames-gb", "x", "'x': expected a number, 0 to 1,000,000"),
    ],
)
def test_numbers_that_make_no_sense_are_refused_at_the_start(
    monkeypatch, capsys, option, value, why
):
    monkeypatch.setattr(sacla_ioc, "run", lambda _, parser: parser.parse_args())
    monkeypatch.setattr(sys, "argv", ["iocs.sacla", f"{option}={value}"])
    with pytest.raises(SystemExit) as ended:
        sacla_ioc.main()
    assert ended.value.code == 2
    assert f"argument {option}: {why} (" in capsys.readouterr().err


def test_bins_for_which_the_pvs_have_no_room_are_refused_at_the_start(monkeypatch):
    size = ("--rows", "8", "--columns", "8", "--pool", "1")
    monkeypatch.setattr(sacla_ioc, "run", lambda build, parser: build(parser.parse_args()))
    monkeypatch.setattr(sys, "argv", ["iocs.sacla", "--bins=-2:3:1000", *size])
    with pytest.raises(ConfigError, match=r"bins '-2:3:1000': expected N <= 400"):
        sacla_ioc.main()


def test_a_region_beside_its_detector_is_refused_at_the_start(monkeypatch):
    """Its sums would be 0 for ever."""
    size = ("--rows", "8", "--columns", "8", "--pool", "1")
    monkeypatch.setattr(sacla_ioc, "run", lambda build, parser: build(parser.parse_args()))
    region = "--roi=spot:MPCCD-1N0-M06-004:80,0;84,0;84,4"
    monkeypatch.setattr(sacla_ioc, "AnalyzedShots", None)  # it is refused before shots are taken
    monkeypatch.setattr(sys, "argv", ["iocs.sacla", region, *size])
    with pytest.raises(ConfigError, match="ROI spot: no pixel of MPCCD-1N0-M06-004 is inside"):
        sacla_ioc.main()


def test_a_region_whose_name_has_a_blank_is_refused_at_the_start(monkeypatch):
    """`Regions` has blanks between regions: no client could put them back."""
    size = ("--rows", "8", "--columns", "8", "--pool", "1")
    monkeypatch.setattr(sacla_ioc, "run", lambda build, parser: build(parser.parse_args()))
    region = "--roi=my spot:MPCCD-1N0-M06-004:0,0;4,0;4,4"
    monkeypatch.setattr(sacla_ioc, "AnalyzedShots", None)  # it is refused before shots are taken
    monkeypatch.setattr(sys, "argv", ["iocs.sacla", region, *size])
    with pytest.raises(ConfigError, match="ROI 'my spot': expected a name without blanks"):
        sacla_ioc.main()


@pytest.mark.parametrize("count", [0, 17])
def test_a_file_without_detectors_or_with_too_many_is_refused_at_the_start(count):
    """The command line replays it; the PVs and the columns of the IOC are of detectors."""
    with pytest.raises(ConfigError, match=f"source replay: {count} detectors, .* 1 to 16"):
        sacla_ioc.check_detectors("replay", count)


def test_more_detectors_than_the_pvs_hold_are_refused_also_if_some_are_away(monkeypatch, tmp_path):
    """In the run in which the last one came, nothing was posted any more."""
    settings = tmp_path / "beamtime.toml"
    settings.write_text(f"detectors = {[f'CAMERA-{number}' for number in range(17)]}")
    monkeypatch.setattr(sacla_ioc, "run", lambda build, parser: build(parser.parse_args()))
    monkeypatch.setattr(sys, "argv", ["iocs.sacla", "--source", "sacla", "--online", str(settings)])
    with pytest.raises(ConfigError, match="source sacla: 17 detectors, the IOC takes 1 to 16"):
        sacla_ioc.main()
