"""What every device must do whose IOC records, when the other side fails."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bluesky.utils import FailedStatus
from ioc_process import running_ioc
from support.documents import Documents, assembled, file_of, of

from devices.recording import RecordingDevice
from skywright.errors import HardwareError
from skywright.files.columns import ColumnReader

Plan = Callable[[Any], Any]
"""From the device to a plan."""


def failing(run: Callable[[], Any]) -> Exception:
    """Run what must fail, and return the error at the bottom of it."""
    with pytest.raises((HardwareError, FailedStatus)) as caught:
        run()
    error: Any = caught.value
    return error.__cause__ if isinstance(error, FailedStatus) else error


def check_bad_directory(RE: Any, device: RecordingDevice, plugin: str, plan: Plan) -> None:
    """The device's directory cannot be made: the plan fails and says which PV did not follow."""
    device.wait_for_connection(timeout=60)
    error = failing(lambda: RE(plan(device)))
    assert f"{plugin}:Capture did not become 1" in str(error)
    assert "does not exist" in str(error)


def check_absent(RE: Any, device: RecordingDevice, plan: Plan) -> None:
    """The device's IOC, NOBODY:, does not run."""
    error = failing(lambda: RE(plan(device)))
    assert "no answer from NOBODY:" in str(error)


def check_kill(
    RE: Any,
    documents: Documents,
    ioc: tuple[str, ...],
    make: Callable[[str, Path], RecordingDevice],
    assets: Path,
    *,
    fly: Plan,
    again: Plan,
    key: str,
    identity: str,
) -> int:
    """Kill the IOC in a flight, and start it again; return the rows of the run after that.

    Parameters
    ----------
    ioc
        Module and arguments.
    make
        Makes the device, of a prefix and a directory for files.
    fly, again
        A plan that the kill cuts off, and one for the same device afterwards.
    key, identity
        Data key, and dataset of the identity, of the recording.
    """
    with running_ioc(*ioc) as process:
        device = make(process.prefix, assets)
        device.wait_for_connection(timeout=60)

        recordings: list[str] = []  # of the key: other streams of the run may be ahead
        told: list[int] = []

        def kill_after_some(name: str, doc: dict[str, Any]) -> None:
            if name == "stream_resource" and doc["data_key"] == key:
                recordings.append(doc["uid"])
            elif name == "stream_datum" and doc["stream_resource"] in recordings:
                told.append(doc["indices"]["stop"])
                if process.process.poll() is None:
                    process.kill()

        token = RE.subscribe(kill_after_some)
        error = failing(lambda: RE(fly(device)))
        assert "lost the IOC" in str(error)
        (stop,) = of(documents, "stop")
        assert stop["exit_status"] == "fail"
        assert "lost the IOC" in stop["reason"]
        with ColumnReader(file_of(documents, key), identity) as reader:
            assert reader.count() >= max(told)
        RE.unsubscribe(token)
        documents.clear()
        restarted = process.again()
        try:
            device.wait_for_connection(timeout=90)
            RE(again(device))
            return len(assembled(documents)[key])
        finally:
            restarted.terminate()
