"""The IOC is killed while it tracks a run: the plan says so, and the next one has all frames."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bluesky import RunEngine
from ioc_process import IocProcess, ended_after, running_ioc
from store.stack import Stack
from support.pano_files import file_name, made_frames, run_directory
from support.waiting import until

from devices.panoseti.array import Panoseti
from plans.panoseti.calibration import dark_run, tune_threshold
from plans.panoseti.runs import observe, track_run
from skywright.callbacks.journal import Journal
from skywright.errors import HardwareError
from skywright.instruments.panoseti.pff_writer import encode_frames
from skywright.store.client import RAW

COUNT = 3000


@pytest.fixture
def session(RE: RunEngine, stack: Stack) -> Iterator[RunEngine]:
    journal = Journal(stack.journals)
    RE.subscribe(journal)
    with stack.ingester():
        yield RE
    journal.close()


def at_rows(RE: RunEngine, count: int, act: Any) -> None:
    """Call the action in a thread, one time, when documents announce `count` rows."""
    rows = threading.Event()

    def look(name: str, doc: dict[str, Any]) -> None:
        if name == "stream_datum" and doc["indices"]["stop"] >= count and not rows.is_set():
            rows.set()
            threading.Thread(target=act).start()

    RE.subscribe(look)


def check_frames(stack: Stack, uid: str, most: int) -> int:
    """Check that a run has the first frames of the file, each once; return their number."""
    stack.done(uid)
    stream = stack.client()[RAW][uid]["m1_img16"]
    numbers = np.asarray(stream["panoseti_m1_img16_frame"].read())
    assert len(numbers) <= most
    np.testing.assert_array_equal(numbers, np.arange(len(numbers)))
    images = stream["panoseti_m1_img16_image"]
    assert images.shape[0] == len(numbers)
    np.testing.assert_array_equal(
        images[len(numbers) - 10 :], made_frames("img16", COUNT).image[len(numbers) - 10 :][:10]
    )
    return len(numbers)


@pytest.mark.parametrize(
    "comes_back",
    [
        pytest.param(False, id="stays dead", marks=pytest.mark.soak),
        pytest.param(True, id="comes back"),
    ],
)
def test_a_killed_ioc_ends_the_run_and_the_next_one_has_each_frame_once(
    session: RunEngine, stack: Stack, tmp_path: Path, comes_back: bool
) -> None:
    run = run_directory(tmp_path / "data")
    data, half = encode_frames(made_frames("img16", COUNT)), COUNT // 2
    file = run / file_name("img16")
    file.write_bytes(data[: len(data) // 2])
    source = ("--source", "rundir", "--data-dir", str(tmp_path / "data"))
    second: list[IocProcess] = []
    with running_ioc("iocs.panoseti", *source) as ioc:
        panoseti = Panoseti(ioc.prefix, assets=stack.directory / "assets", name="panoseti")

        def kill() -> None:
            ioc.kill()
            if comes_back:
                second.append(ioc.again())

        at_rows(session, half, kill)
        uids: list[str] = []
        session.subscribe(lambda name, doc: uids.append(doc["uid"]), "start")
        with pytest.raises(HardwareError, match="panoseti: lost the IOC"):
            session(track_run(panoseti, 120.0))
        assert check_frames(stack, uids[0], COUNT) == half
        with file.open("ab") as out:
            out.write(data[len(data) // 2 :])
        (run / "recording_ended").write_text("2024-07-25T01:19:53")
        if not second:
            second.append(ioc.again())
        with ended_after(second[0]):
            panoseti.wait_for_connection(timeout=60)
            uid = session(track_run(panoseti, 120.0)).plan_result
        assert check_frames(stack, uid, COUNT) == COUNT


@pytest.mark.parametrize(
    "plan",
    [observe, *(pytest.param(each, marks=pytest.mark.soak) for each in (dark_run, tune_threshold))],
)
def test_a_killed_ioc_ends_a_simulated_run_with_the_reason(
    RE: RunEngine, tmp_path: Path, plan: Callable[..., Any]
) -> None:
    where = ("--data-dir", str(tmp_path / "data"), "--grpc-port", "0")
    stops: list[dict[str, Any]] = []
    RE.subscribe(lambda name, doc: stops.append(doc), "stop")
    with running_ioc("iocs.panoseti", "--source", "sim", *where) as ioc:
        panoseti = Panoseti(ioc.prefix, assets=tmp_path / "assets", name="panoseti")
        panoseti.wait_for_connection(timeout=60)
        at_rows(RE, 100, ioc.kill)
        with pytest.raises(HardwareError, match=r"panoseti: lost the IOC at .* \d+ frames were"):
            RE(plan(panoseti, 3600.0))
    (stop,) = stops
    assert stop["exit_status"] == "fail"
    assert "lost the IOC" in stop["reason"]


def test_an_ioc_that_hangs_for_a_while_does_not_keep_a_dark_run(
    RE: RunEngine, tmp_path: Path
) -> None:
    where = ("--data-dir", str(tmp_path / "data"), "--grpc-port", "0")
    with running_ioc("iocs.panoseti", "--source", "sim", *where) as ioc:
        panoseti = Panoseti(ioc.prefix, assets=tmp_path / "assets", name="panoseti")
        panoseti.wait_for_connection(timeout=60)

        def hang() -> None:
            os.kill(ioc.process.pid, signal.SIGSTOP)
            try:
                until(lambda: panoseti.is_lost)
            finally:
                os.kill(ioc.process.pid, signal.SIGCONT)

        at_rows(RE, 100, hang)
        with pytest.raises(HardwareError, match="panoseti: lost the IOC"):
            RE(dark_run(panoseti, 3600.0))
        until(lambda: panoseti.shutter.connected and panoseti.sim_running.connected)
        assert panoseti.shutter.get(use_monitor=False) == 1
        assert panoseti.sim_running.get(use_monitor=False) == 0
