"""The IOC is killed at any point of a run: clear failure, whole file, session usable."""

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import pytest
from bluesky.utils import FailedStatus
from ioc_process import IocProcess, running_ioc
from support.documents import Documents

from devices.loop.axis import AxisCamera
from plans.pictures import take_pictures, watch_camera
from skywright.errors import HardwareError
from skywright.files import areadetector
from skywright.files.columns import ColumnReader
from skywright.instruments.loop import layouts as layout

ARGUMENTS = ("--fps", "60", "--size", "352x240")


def assert_whole(documents: Documents) -> None:
    """What documents tell of is in the file, and nothing in the file is made up."""
    resources = [doc for name, doc in documents if name == "stream_resource"]
    told = [doc["indices"]["stop"] for name, doc in documents if name == "stream_datum"]
    if resources:
        path = Path(urlparse(resources[0]["uri"]).path)
        with ColumnReader(path, layout.IDENTITY) as reader:
            assert reader.count() >= max(told)
            pictures = reader.read(areadetector.IMAGE)
            assert (np.ptp(pictures, axis=(1, 2)) > 5).all()
            assert (np.diff(reader.read(layout.IDENTITY)) > 0).all()


def kill_in_run(
    RE: Any, ioc: IocProcess, camera: AxisCamera, plan: Callable[[], Any], after_s: float
) -> IocProcess:
    """Run a plan, kill the IOC after a while, start it again, and run another plan."""
    documents: Documents = []
    token = RE.subscribe(lambda *pair: documents.append(pair))
    killer = threading.Timer(after_s, ioc.kill)
    killer.start()
    began = time.monotonic()
    error: Exception | None = None
    try:
        RE(plan())
    except (HardwareError, FailedStatus) as caught:
        error = caught
    took = time.monotonic() - began
    killer.join()
    assert RE.state == "idle"
    assert took < after_s + 60.0, f"killed after {after_s:.2f} s, the run went on for {took:.1f} s"
    stops = [doc for name, doc in documents if name == "stop"]
    if error is not None and stops:
        assert stops[0]["exit_status"] == "fail"
        assert "axis: " in stops[0]["reason"], stops[0]["reason"]
    assert_whole(documents)
    again = ioc.again()
    try:
        camera.wait_for_connection(timeout=60)
        documents.clear()
        RE(take_pictures(camera, 2))
        assert documents[-1][1]["num_events"] == {"primary": 2}
        assert_whole(documents)
    except BaseException:
        again.terminate()
        raise
    RE.unsubscribe(token)
    return again


def kill_at(RE: Any, directory: Path, moments: list[tuple[str, float]]) -> None:
    with running_ioc("iocs.axis", *ARGUMENTS) as first:
        ioc = first
        camera = AxisCamera(ioc.prefix, assets=directory, name="axis")
        camera.wait_for_connection(timeout=60)
        plans = {
            "fly": lambda: watch_camera(camera, 1.0),
            "step": lambda: take_pictures(camera, 10),
        }
        try:
            for kind, after_s in moments:
                ioc = kill_in_run(RE, ioc, camera, plans[kind], after_s)
        finally:
            ioc.terminate()


@pytest.mark.timeout(240)
def test_killed_while_it_flies_and_while_it_steps(RE: Any, tmp_path: Path) -> None:
    moments = random.Random(int(time.time()))
    kill_at(RE, tmp_path, [("fly", moments.uniform(0.0, 1.3)), ("step", moments.uniform(0.0, 0.6))])


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_killed_at_twenty_points(RE: Any, tmp_path: Path) -> None:
    moments = [("fly", 0.13 * n) for n in range(10)] + [("step", 0.07 * n) for n in range(10)]
    kill_at(RE, tmp_path, moments)
