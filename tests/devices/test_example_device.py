"""The device of examples/sixth_instrument, over its IOC."""

import signal
from pathlib import Path

import pytest
from epics import PV
from ioc_process import IocProcess, running_ioc
from support.ready_process import ended_after
from support.waiting import until

from skywright.errors import HardwareError

EXAMPLE = Path(__file__).parents[2] / "examples" / "sixth_instrument"
MODULE = "skywright_bpm.ioc"


def test_an_ioc_that_was_restarted_during_a_recording_fails_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(EXAMPLE)
    from skywright_bpm.device import BeamPositionMonitor

    own = {"PYTHONPATH": str(EXAMPLE)}
    with running_ioc(MODULE, **own) as ioc:
        bpm = BeamPositionMonitor(ioc.prefix, assets=tmp_path, name="bpm")
        bpm.stage()
        bpm.kickoff().wait(30)
        until(lambda: bpm.stream.rows > 100, what="samples are recorded")
        ioc.end(signal.SIGKILL)
        until(lambda: not bpm.connected, what="the IOC is lost")
        with ended_after(IocProcess(MODULE, prefix=ioc.prefix, port=ioc.port, **own)):
            until(lambda: bpm.connected, what="the IOC is back")
            with pytest.raises(HardwareError, match=r"lost the IOC .* has [0-9]{3,} samples"):
                bpm.complete().wait(30)
            bpm.unstage()


def test_the_reason_of_a_refused_put_is_there_when_the_put_times_out() -> None:
    with running_ioc(MODULE, PYTHONPATH=str(EXAMPLE)) as ioc:
        record, message, beats = (
            PV(ioc.prefix + name) for name in ("Record", "StatusMessage_RBV", "HEARTBEAT")
        )
        record.put(7, wait=True, timeout=30)
        begin = beats.get(use_monitor=False)
        until(lambda: beats.get(use_monitor=False) > begin + 2, what="the state is posted")
        assert "expected one of Done, Record" in message.get(as_string=True, use_monitor=False)
