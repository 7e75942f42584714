"""The goniometer as a device over its IOC: closed loop, documents, and ends of moves that fail."""

import contextlib
import itertools
import re
import threading
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import epics
import numpy as np
import pytest
from bluesky.plans import scan
from bluesky.protocols import Flyable, Movable, Preparable, Readable, WritesStreamAssets
from bluesky.utils import FailedStatus, RunEngineInterrupted
from epics import ca
from epics.ca import CASeverityException, ChannelAccessGetFailure
from ioc_process import IocProcess, running_ioc
from ophyd import Device, EpicsSignal
from ophyd.status import StatusBase
from ophyd.utils.errors import DisconnectedError, LimitError
from support.documents import Documents
from support.waiting import until

from devices.guarded import read_all_elements, run_ioc_task
from devices.loop.goniometer import Goniometer, MotorGoniometer
from devices.loop.oscillation import COLUMNS, ROW, OscillationFlyer, traced
from skywright.errors import ConfigError, HardwareError
from skywright.files.columns import ColumnReader
from skywright.instruments.loop.stages import StageSetup
from skywright.instruments.loop.sweep import Sweep
from skywright.instruments.loop.timing import Trace, angles_at

LIMIT_S = 120.0


@pytest.fixture(scope="module")
def ioc() -> Iterator[IocProcess]:
    with running_ioc("iocs.goniometer") as process:
        yield process


_devices: dict[tuple[Any, ...], Any] = {}


def device(kind: type[MotorGoniometer], prefix: str, assets: Path) -> MotorGoniometer:
    """Return a connected device; one a process, which is what a session has."""
    key = (kind, prefix)
    if key not in _devices:
        _devices[key] = kind(prefix, assets=assets, name="gonio")
        _devices[key].wait_for_connection(timeout=LIMIT_S)
    _devices[key].assets = assets
    return _devices[key]


@pytest.fixture
def gonio(ioc: IocProcess, tmp_path: Path) -> Iterator[MotorGoniometer]:
    """The device, at 0 and healthy before and after."""
    goniometer = device(Goniometer, ioc.prefix, tmp_path)
    yield goniometer
    heal(ioc, goniometer)


def heal(ioc: IocProcess, goniometer: MotorGoniometer) -> None:
    goniometer.setup = StageSetup()
    sim(ioc, "Matrix", np.eye(3).ravel().tolist())
    sim(ioc, "Mounting", "spindle")
    sim(ioc, "Silent", 0)
    for name in ("phi", "sx", "sy", "sz"):
        sim(ioc, f"{name}:Stuck", 0)
        sim(ioc, f"{name}:Slow", 1.0)
    sim(ioc, "sx:HighSwitch", 3.0)
    motors = (goniometer.phi, *goniometer.stages)
    for status in [motor.set(0.0) for motor in motors]:
        status.wait(LIMIT_S)


def sim(ioc: IocProcess, name: str, value: Any) -> None:
    signal(ioc, f"SIM:{name}")._write_pv.put(value, wait=True, timeout=LIMIT_S)


def signal(ioc: IocProcess, name: str) -> EpicsSignal:
    key = (ioc.prefix + name,)
    if key not in _devices:
        _devices[key] = EpicsSignal(*key, name="signal")
        _devices[key].wait_for_connection(timeout=LIMIT_S)
    return _devices[key]


def pose(ioc: IocProcess) -> np.ndarray:
    return np.asarray(read_all_elements(signal(ioc, "SIM:Pose_RBV")))


def test_an_array_is_read_whole_while_its_time_stamp_is_asked_for(ioc: IocProcess) -> None:
    here = signal(ioc, "SIM:Pose_RBV")
    channel_id, form = here._read_pv.chid, here._read_pv.ftype
    ca.get_with_metadata(channel_id, ftype=form, count=1, wait=False)  # as ophyd does on connection
    assert len(read_all_elements(here)) == 4


def test_a_timeout_is_that_of_the_whole_move(
    gonio: MotorGoniometer, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = []
    await_motion = gonio.phi.await_motion

    def note_limit(ended: Any, limit_s: float, doing: str) -> None:
        limits.append(limit_s)
        await_motion(ended, limit_s, doing)

    monkeypatch.setattr(gonio.phi, "await_motion", note_limit)
    gonio.phi.move(1.0, timeout=LIMIT_S)
    assert sum(limits) <= LIMIT_S


def reason(status: StatusBase) -> str:
    """Return why a status failed, which must be the fault of the hardware."""
    with pytest.raises(HardwareError) as caught:
        status.wait(LIMIT_S)
    assert str(caught.value) in repr(status)  # the stop document shows it
    return str(caught.value)


# ---- what it is


def test_it_says_what_it_reads_and_in_which_units(gonio: MotorGoniometer) -> None:
    motors = [f"gonio_{name}{end}" for name in ("phi", "sx", "sy", "sz") for end in MOTOR_KEYS]
    sample = ["gonio_sample_x", "gonio_sample_y", "gonio_sample_z"]
    times = [f"gonio_oscillation_{key}" for key in ("motor_start", "window_start", "window_end")]
    assert list(gonio.read()) == [*motors, *sample, *times]
    described = gonio.describe()
    assert list(described) == list(gonio.read())
    units = {key: described[key]["units"] for key in [*motors, *sample, *times]}
    assert units["gonio_phi"] == "deg"
    assert units["gonio_sx"] == "mm"
    assert units["gonio_sample_x"] == "um"
    assert units["gonio_oscillation_window_start"] == "s"
    configuration = gonio.read_configuration()
    assert configuration["gonio_stage_matrix"]["value"] == [1, 0, 0, 0, 1, 0, 0, 0, 1]
    assert configuration["gonio_mounting"]["value"] == "spindle"
    assert {"gonio_phi_velocity", "gonio_sx_motor_egu", "gonio_oscillation_time"} <= set(
        configuration
    )
    assert gonio.hints == {"fields": ["gonio_phi", "gonio_sx", "gonio_sy", "gonio_sz"]}


MOTOR_KEYS = ("", "_user_setpoint")


def test_it_follows_the_protocols_of_bluesky(gonio: MotorGoniometer) -> None:
    assert isinstance(gonio, Readable)
    assert isinstance(gonio.sample, Movable)
    assert isinstance(gonio.sample.by, Movable)
    assert isinstance(gonio.sample.x, Movable)
    assert isinstance(gonio.sample.x, Readable)
    for protocol in (Flyable, Preparable, WritesStreamAssets):
        assert isinstance(gonio.oscillation, protocol)


def test_three_stages_are_needed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="names of 3 records"):
        Goniometer("X:", assets=tmp_path, stages=("a", "b"), name="gonio")


# ---- closed loop


def signed_permutations() -> list[tuple[tuple[float, ...], ...]]:
    return [
        tuple(
            tuple(sign * float(column == place) for column in range(3))
            for place, sign in zip(order, signs, strict=True)
        )
        for order in itertools.permutations(range(3))
        for signs in itertools.product((1.0, -1.0), repeat=3)
    ]


@pytest.mark.parametrize("mounting", ["spindle", pytest.param("table", marks=pytest.mark.soak)])
def test_every_arrangement_of_the_stages_brings_the_sample_to_the_center(
    mounting: str, tmp_path: Path
) -> None:
    rng = np.random.default_rng(5)
    arguments = ("--mounting", mounting, "--speed", "20", "--phi-sign", "-1")
    with running_ioc("iocs.goniometer", *arguments) as ioc:
        goniometer = device(Goniometer, ioc.prefix, tmp_path)
        goniometer.phi.set(35.0).wait(LIMIT_S)
        for matrix in signed_permutations():
            sim(ioc, "Matrix", np.ravel(matrix).tolist())
            goniometer.setup = StageSetup(matrix, mounting, -1)
            offset = rng.uniform(-400.0, 400.0, 3)
            seen = offset + pose(ioc)[:3]  # where the sample is, as centering finds it
            goniometer.sample.by.set(-seen).wait(LIMIT_S)
            assert offset + pose(ioc)[:3] == pytest.approx(np.zeros(3), abs=1e-3), matrix
            assert goniometer.sample.position == pytest.approx(-offset, abs=1e-3)


def test_a_wrong_sign_does_not_close_the_loop(ioc: IocProcess, gonio: MotorGoniometer) -> None:
    """So that the test above is known to be able to fail."""
    gonio.setup = StageSetup(((1, 0, 0), (0, -1, 0), (0, 0, 1)))
    gonio.sample.by.set((0.0, 100.0, 0.0)).wait(LIMIT_S)
    assert pose(ioc)[1] == pytest.approx(-100.0, abs=1e-3)


def test_the_sample_can_be_scanned_along_one_axis(
    ioc: IocProcess, gonio: MotorGoniometer, RE: Any
) -> None:
    gonio.setup = StageSetup(((0, 1, 0), (0, 0, 1), (1, 0, 0)))
    sim(ioc, "Matrix", np.ravel(gonio.setup.matrix).tolist())
    documents: Documents = []
    RE(scan([gonio.sample], gonio.sample.y, -50, 50, 3), lambda *pair: documents.append(pair))
    events = [doc["data"] for name, doc in documents if name == "event"]
    assert [e["gonio_sample_y"] for e in events] == pytest.approx([-50.0, 0.0, 50.0], abs=1e-3)
    assert [e["gonio_sample_z"] for e in events] == pytest.approx([0.0] * 3, abs=1e-3)
    assert gonio.sz.position == pytest.approx(0.05)


# ---- what ends a move


def test_a_limit_that_is_moved_holds_whatever_a_late_value_brings(gonio: MotorGoniometer) -> None:
    motor, limit = gonio.sy, gonio.sy.low_limit_travel
    before = limit.get()
    limit.set(-0.5).wait(90)
    # What ophyd does with a value of VAL that left before, and comes after, the limit.
    motor.user_setpoint._metadata.update(lower_ctrl_limit=before)
    assert motor.limits == (-0.5, 2.5)
    with pytest.raises(LimitError, match=r"-0\.6 mm is beyond its limits -0\.5\.\.2\.5"):
        motor.set(-0.6)
    limit.set(before).wait(90)
    motor.user_setpoint._metadata.update(lower_ctrl_limit=-0.5)
    motor.set(-0.6).wait(90)
    motor.set(0.0).wait(90)


def test_beyond_the_limits_nothing_moves(gonio: MotorGoniometer) -> None:
    with pytest.raises(
        HardwareError, match=r"sample cannot go to \(100\.0, 5000\.0, 0\.0\) um.*sy"
    ):
        gonio.sample.by.set((100.0, 5000.0, 0.0))
    with pytest.raises(LimitError, match=r"gonio_sx: 3 mm is beyond its limits -2\.5\.\.2\.5"):
        gonio.sx.set(3.0)
    with pytest.raises(LimitError):
        gonio.sample.y.check_value(5000.0)
    with pytest.raises(HardwareError, match="all finite"):
        gonio.sample.by.set((np.nan, 0.0, 0.0))
    assert gonio.sx.position == 0.0


def test_a_second_move_of_the_sample_is_refused_until_the_first_is_over(
    gonio: MotorGoniometer,
) -> None:
    first = gonio.sample.x.set(500.0)
    with pytest.raises(HardwareError, match="on its way already"):
        gonio.sample.y.set(100.0)
    first.wait(LIMIT_S)
    gonio.sample.set((0.0, 100.0, 0.0)).wait(LIMIT_S)
    assert gonio.sample.position == pytest.approx([0.0, 100.0, 0.0], abs=1e-3)


def test_a_stuck_stage_fails_in_time_and_stops_the_others(
    ioc: IocProcess, gonio: MotorGoniometer
) -> None:
    sim(ioc, "sy:Stuck", 1)
    sim(ioc, "sx:Slow", 0.1)
    status = gonio.sample.by.set((2000.0, 100.0, 0.0))
    said = reason(status)
    assert "gonio_sy: stands still at 0 " in said
    assert "MOVN = 1" in said
    until(lambda: not gonio.sx.moving)
    assert gonio.sx.position < 1.5


def test_a_limit_switch_an_alarm_and_a_stop_are_told_apart(
    ioc: IocProcess, gonio: MotorGoniometer
) -> None:
    sim(ioc, "sx:HighSwitch", 0.2)
    assert "its high limit switch" in reason(gonio.sx.set(1.0))
    gonio.sx.set(0.0).wait(LIMIT_S)
    status = gonio.sx.set(-2.0)
    until(lambda: gonio.sx.position < -0.1)
    gonio.stop()
    assert "somebody stopped it" in reason(status)
    sim(ioc, "Silent", 1)
    assert "alarm COMM INVALID" in reason(gonio.sy.set(1.0))


@pytest.fixture
def pausable(ioc: IocProcess, gonio: MotorGoniometer) -> Iterator[EpicsSignal]:
    """SPMG of the stage sx."""
    mode = signal(ioc, "sx.SPMG")
    yield mode
    mode.set(2).wait(LIMIT_S)  # without a resumed move
    mode.set(3).wait(LIMIT_S)


def paused_move(gonio: MotorGoniometer, mode: EpicsSignal, **more: Any) -> StatusBase:
    """Start a move of sx to 2 and pause it on its way."""
    status = gonio.sx.move(2.0, wait=False, **more)
    until(lambda: gonio.sx.position > 0.1)
    mode.set(1).wait(LIMIT_S)
    until(lambda: gonio.sx.motor_done_move.get(use_monitor=False) == 1)
    return status


def test_a_paused_move_is_not_over_until_go_or_its_limit(
    gonio: MotorGoniometer, pausable: EpicsSignal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gonio.sx, "stall_s", 0.5)
    status = paused_move(gonio, pausable)
    assert not threading.Event().wait(1.0)
    assert not status.done
    pausable.set(3).wait(LIMIT_S)
    status.wait(LIMIT_S)
    assert gonio.sx.position == pytest.approx(2.0)
    gonio.sx.set(0.0).wait(LIMIT_S)
    said = reason(paused_move(gonio, pausable, timeout=2.0))
    assert "gonio_sx: paused at" in said
    assert "(SPMG is Pause)" in said


def test_a_paused_move_ends_when_it_is_stopped(
    gonio: MotorGoniometer, pausable: EpicsSignal
) -> None:
    status = paused_move(gonio, pausable, timeout=LIMIT_S)
    gonio.sx.stop()
    assert "somebody stopped it" in reason(status)


@pytest.mark.parametrize(
    ("part", "target"), [("sx", 2.0), ("sample", (2000.0, 0.0, 0.0)), ("sample.x", 2000.0)]
)
def test_a_plan_that_is_paused_in_a_move_makes_it_again(
    gonio: MotorGoniometer, RE: Any, part: str, target: Any
) -> None:
    documents: Documents = []

    def plan() -> Any:
        yield from bps.open_run()
        yield from bps.checkpoint()
        yield from bps.mv(attrgetter(part)(gonio), target)
        yield from bps.close_run()

    def pause_soon() -> None:
        until(lambda: gonio.sx.position > 0.1)
        RE.request_pause()

    thread = threading.Thread(target=pause_soon)
    thread.start()
    with pytest.raises(RunEngineInterrupted):
        RE(plan(), lambda *pair: documents.append(pair))
    thread.join()
    assert gonio.sx.position < 1.5
    RE.resume()
    assert gonio.sx.position == pytest.approx(2.0)
    assert documents[-1][1]["exit_status"] == "success"


def test_a_move_that_ends_elsewhere_has_failed(
    gonio: MotorGoniometer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gonio.sx, "tolerance", -1.0)
    monkeypatch.setattr(gonio.sx.deadband, "get", lambda: -1.0)
    assert "further away than RDBD" in reason(gonio.sx.set(0.5))


def test_a_move_that_is_replaced_fails_and_leaves_the_motor_moving(
    gonio: MotorGoniometer, ioc: IocProcess
) -> None:
    sim(ioc, "sx:Slow", 0.1)
    first = gonio.sx.move(1.0, wait=False, timeout=4.0)
    until(lambda: gonio.sx.position > 0.02)
    second = gonio.sx.move(1.5, wait=False)  # takes longer than the limit of the first
    assert "replaced by one to 1.5" in reason(first)
    second.wait(LIMIT_S)
    assert gonio.sx.position == pytest.approx(1.5)


def test_a_failed_move_fails_the_plan_with_the_reason(
    ioc: IocProcess, gonio: MotorGoniometer, RE: Any
) -> None:
    sim(ioc, "sx:HighSwitch", 0.2)
    documents: Documents = []

    def plan() -> Any:
        yield from bps.open_run()
        yield from bps.mv(gonio.sample, (1000.0, 0.0, 0.0))

    with pytest.raises(FailedStatus):
        RE(plan(), lambda *pair: documents.append(pair))
    name, stop = documents[-1]
    assert (name, stop["exit_status"]) == ("stop", "fail")
    assert "high limit switch" in stop["reason"]


@pytest.mark.parametrize(
    "error",
    [
        CASeverityException("get", "Virtual circuit disconnect"),
        ChannelAccessGetFailure("get failed", 1, 192),
        DisconnectedError("not connected"),
        TimeoutError("no answer"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_channel_access_raises_the_lost_ioc_is_named(error: Exception) -> None:
    def read() -> None:
        raise error

    status = run_ioc_task(Device("NOT:THERE:", name="gonio"), read)
    assert reason(status).startswith("gonio: lost the IOC of NOT:THERE:")


def test_a_lost_ioc_fails_everything_in_time(tmp_path: Path) -> None:
    with running_ioc("iocs.goniometer") as ioc:
        goniometer = device(Goniometer, ioc.prefix, tmp_path)
        oscillation = goniometer.oscillation
        goniometer.stage()
        oscillation.prepare(Sweep(360.0, 6.0)).wait(LIMIT_S)
        oscillation.kickoff().wait(LIMIT_S)
        moving = goniometer.sx.set(2.0)
        sample = goniometer.sample.y.set(2000.0)
        until(lambda: goniometer.sx.position > 0.1)
        ioc.kill()
        assert "gonio_sx: lost the IOC" in reason(moving)
        assert "gonio_sy: lost the IOC" in reason(sample)
        assert re.search("lost (the|its) IOC|no answer", reason(oscillation.complete()))
        with pytest.raises(HardwareError, match="no answer from"):
            goniometer.sx.set(0.0)
        with pytest.raises(HardwareError, match="no answer from"):
            goniometer.sample.by.set((1.0, 1.0, 1.0))
        with pytest.raises(HardwareError, match="gonio_phi: lost the IOC"):
            goniometer.phi.read()
        assert "no answer from" in reason(oscillation.prepare(Sweep(10.0, 1.0)))
        goniometer.stop()  # nobody to tell
        goniometer.unstage()


def test_a_stop_that_fails_too_does_not_hide_why_a_sweep_ended(
    gonio: MotorGoniometer, monkeypatch: pytest.MonkeyPatch
) -> None:
    oscillation = gonio.oscillation

    def lose(*_: Any) -> None:
        raise HardwareError("gonio_phi: lost the IOC")

    def fail() -> None:  # as pyepics does for a channel whose circuit breaks now
        raise TypeError("object of type 'int' has no len()")

    with staged(oscillation):
        oscillation.prepare(Sweep(10.0, 0.5)).wait(LIMIT_S)
        with monkeypatch.context() as patched:
            patched.setattr(gonio.phi, "await_motion", lose)
            patched.setattr(oscillation, "stop", fail)
            oscillation.kickoff().wait(LIMIT_S)
            assert reason(oscillation.complete()) == "gonio_phi: lost the IOC"


# ---- oscillations


def turn(flyer: OscillationFlyer, *sweeps: Sweep) -> Any:
    """Plan: make sweeps one after the other in one run."""

    @bpp.stage_decorator([flyer])
    @bpp.run_decorator()
    def inner() -> Any:
        yield from bps.declare_stream(flyer, name="rotation", collect=True)
        for sweep in sweeps:
            yield from bps.prepare(flyer, sweep, wait=True)
            yield from bps.kickoff(flyer, wait=True)
            yield from bps.collect_while_completing(
                [flyer], [flyer], flush_period=0.1, stream_name="rotation"
            )

    yield from inner()


def columns(documents: Documents) -> dict[str, np.ndarray]:
    """Read what the documents refer to."""
    resources = [doc for name, doc in documents if name == "stream_resource"]
    ranges = [doc["indices"] for name, doc in documents if name == "stream_datum"]
    (uri,) = {doc["uri"] for doc in resources}
    path = uri.removeprefix("file://localhost")
    assert [doc["parameters"]["dataset"] for doc in resources] == [
        column.path for column in COLUMNS.values()
    ]
    reader = ColumnReader(Path(path), ROW.path)
    count = reader.count()
    read = {key: reader.read(column.path, 0, count) for key, column in COLUMNS.items()}
    reader.close()
    assert max(each["stop"] for each in ranges) == count
    return read


def test_sweeps_there_and_back_are_documents_and_a_file(
    gonio: MotorGoniometer, RE: Any, documents: Documents
) -> None:
    RE(turn(gonio.oscillation, Sweep(60.0, 0.6, start_deg=10.0), Sweep(-60.0, 0.6)))
    (descriptor,) = [doc for name, doc in documents if name == "descriptor"]
    keys = descriptor["data_keys"]
    assert set(keys) == {f"gonio_oscillation_{key}" for key in COLUMNS}
    assert all(key["external"] == "STREAM:" for key in keys.values())
    assert keys["gonio_oscillation_angle"]["units"] == "deg"
    assert keys["gonio_oscillation_time"]["units"] == "s"
    assert not [doc for name, doc in documents if name in ("event", "event_page")]
    read = columns(documents)
    for number, (begin, end) in enumerate([(10.0, 70.0), (70.0, 10.0)]):
        inside = (read["sweep"] == number) & (read["open"] == 1)
        time, angle = read["time"][inside], read["angle"][inside]
        assert angle[[0, -1]] == pytest.approx([begin, end], abs=1e-3)
        assert time[-1] - time[0] == pytest.approx(0.6, abs=1e-5)
    # and it is what the analysis takes for a trace
    first = read["sweep"] == 0
    trace = Trace(read["time"][first], read["angle"][first])
    middle = read["time"][first & (read["open"] == 1)].mean()
    angles, known = angles_at(trace, np.array([middle]))
    assert known.all()
    assert angles == pytest.approx([40.0], abs=0.1)


def test_any_motor_record_can_oscillate(
    ioc: IocProcess, tmp_path: Path, RE: Any, documents: Documents, gonio: MotorGoniometer
) -> None:
    goniometer = device(MotorGoniometer, ioc.prefix, tmp_path)
    RE(turn(goniometer.oscillation, Sweep(60.0, 0.6)))
    assert goniometer.phi.position == pytest.approx(60.0)
    assert goniometer.phi.velocity.get() == 120.0
    read = columns(documents)
    assert len(read["time"]) > 10
    last = goniometer.oscillation.last
    assert last is not None
    assert last.window_end - last.window_start == pytest.approx(0.6, abs=1e-3)
    speed = np.diff(read["angle"]) / np.diff(read["time"])
    inside = read["open"][1:] & read["open"][:-1] == 1
    assert speed[inside] == pytest.approx(np.full(inside.sum(), 100.0), rel=1e-2)


def test_the_window_of_a_record_that_posts_changes_alone_opens_with_the_motion() -> None:
    rest, begin, period_s, rate_deg_s = 0.0, 100.0, 0.1, 10.0
    polled = np.arange(1, 11)
    moving = zip(begin + period_s * polled, 10.0 + rate_deg_s * period_s * polled, strict=True)
    trace = traced([(rest, 10.0), *moving], 10.0, 20.0, 0.01)
    assert trace.window_start == pytest.approx(begin)
    assert trace.window_end == pytest.approx(begin + 1.0)
    angles, known = angles_at(Trace(trace.time, trace.angle), np.array([50.0, begin + 0.05]))
    assert known.all()
    assert angles == pytest.approx([10.0, 10.5], abs=0.2)


@pytest.mark.parametrize("off", [0.0002, -0.0002])
def test_the_window_of_a_motor_that_rests_a_little_off_is_known(off: float) -> None:
    moving = [(100.0 + second, 10.0 + second) for second in range(1, 10)]
    readings = [(0.0, 10.0 + off), *moving, (110.0, 20.0 + off)]
    trace = traced(readings, 10.0, 20.0, 0.01)
    assert (trace.window_start, trace.window_end) == pytest.approx((100.0, 110.0), abs=0.01)
    cut = traced(readings[:-1], 10.0, 20.0, 0.01)
    assert cut.window_start == pytest.approx(100.0, abs=0.01)
    assert np.isnan(cut.window_end)


def test_a_sweep_of_a_motor_with_an_offset_has_a_window(
    ioc: IocProcess, tmp_path: Path, RE: Any, documents: Documents, gonio: MotorGoniometer
) -> None:
    """In floating point it rests beside where it was to go."""
    goniometer = device(MotorGoniometer, ioc.prefix, tmp_path)
    goniometer.phi.user_offset.set(1.1).wait(LIMIT_S)
    try:
        RE(turn(goniometer.oscillation, Sweep(20.0, 0.4, 0.3, run_up=False)))
        assert columns(documents)["open"].sum() > 5
    finally:
        goniometer.phi.user_offset.set(0.0).wait(LIMIT_S)


def test_a_motor_that_cannot_turn_so_slowly_says_so(
    ioc: IocProcess, tmp_path: Path, gonio: MotorGoniometer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A motor record raises VELO to VBAS."""
    goniometer = device(MotorGoniometer, ioc.prefix, tmp_path)
    put_velocity = goniometer.phi.velocity.put

    def put_raised(velocity: float, **options: Any) -> None:
        put_velocity(max(velocity, 30.0), **options)

    monkeypatch.setattr(goniometer.phi.velocity, "put", put_raised)
    oscillation = goniometer.oscillation
    with staged(oscillation):
        oscillation.prepare(Sweep(1.0, 10.0)).wait(LIMIT_S)
        oscillation.kickoff().wait(LIMIT_S)
        assert "does not turn so slowly (VBAS), take less time" in reason(oscillation.complete())
    assert goniometer.phi.velocity.get() == 120.0


def test_a_motor_that_cannot_turn_so_fast_keeps_its_velocity(
    ioc: IocProcess, tmp_path: Path, gonio: MotorGoniometer
) -> None:
    goniometer = device(MotorGoniometer, ioc.prefix, tmp_path)
    oscillation = goniometer.oscillation
    with staged(oscillation):
        oscillation.prepare(Sweep(90.0, 0.2)).wait(LIMIT_S)
        oscillation.kickoff().wait(LIMIT_S)
        assert "take more time" in reason(oscillation.complete())
    assert goniometer.phi.velocity.get() == 120.0


def test_a_sweep_is_good_though_the_record_takes_its_velocity_of_before_no_more(
    ioc: IocProcess, tmp_path: Path, gonio: MotorGoniometer, caplog: pytest.LogCaptureFixture
) -> None:
    """VMAX was lowered, and VELO is still above it."""
    goniometer = device(MotorGoniometer, ioc.prefix, tmp_path)
    oscillation, most = goniometer.oscillation, f"{goniometer.phi.prefix}.VMAX"
    epics.caput(most, 100.0, wait=True)
    try:
        with staged(oscillation):
            oscillation.prepare(Sweep(30.0, 0.5)).wait(LIMIT_S)
            oscillation.kickoff().wait(LIMIT_S)
            oscillation.complete().wait(LIMIT_S)
        assert goniometer.phi.velocity.get(use_monitor=False) == 100.0
        assert "VELO was 120 deg/s before the sweep; the record takes 100 now" in caplog.text
    finally:
        epics.caput(most, 360.0, wait=True)
        goniometer.phi.velocity.put(120.0, wait=True)


def test_a_stop_between_the_moves_of_a_sweep_ends_it(
    ioc: IocProcess, tmp_path: Path, gonio: MotorGoniometer, monkeypatch: pytest.MonkeyPatch
) -> None:
    goniometer = device(MotorGoniometer, ioc.prefix, tmp_path)
    oscillation: Any = goniometer.oscillation
    set_velocity = oscillation._set_velocity

    def stop_first(velocity: float) -> None:  # between the run-up and the sweep
        oscillation.stop()
        set_velocity(velocity)

    monkeypatch.setattr(oscillation, "_set_velocity", stop_first)
    with staged(oscillation):
        oscillation.prepare(Sweep(60.0, 0.6)).wait(LIMIT_S)
        oscillation.kickoff().wait(LIMIT_S)
        assert "somebody stopped the sweep" in reason(oscillation.complete())
    assert goniometer.phi.position < 10.0
    assert goniometer.phi.velocity.get() == 120.0


def test_a_sweep_whose_spindle_is_stopped_for_a_pause_does_not_go_on(
    ioc: IocProcess, tmp_path: Path, gonio: MotorGoniometer
) -> None:
    goniometer = device(MotorGoniometer, ioc.prefix, tmp_path)
    oscillation = goniometer.oscillation
    with staged(oscillation):
        oscillation.prepare(Sweep(60.0, 1.0)).wait(LIMIT_S)
        oscillation.kickoff().wait(LIMIT_S)
        until(lambda: goniometer.phi.position > 10.0)
        goniometer.phi.stop(success=True)
        assert "somebody stopped the sweep" in reason(oscillation.complete())
    assert goniometer.phi.position < 60.0


@contextlib.contextmanager
def staged(flyer: OscillationFlyer) -> Iterator[None]:
    flyer.stage()
    try:
        yield
    finally:
        flyer.unstage()


@pytest.mark.parametrize("kind", [Goniometer, MotorGoniometer])
def test_a_plan_that_is_paused_in_a_sweep_makes_it_again(
    kind: type[MotorGoniometer],
    ioc: IocProcess,
    gonio: MotorGoniometer,
    tmp_path: Path,
    RE: Any,
    documents: Documents,
) -> None:
    goniometer = device(kind, ioc.prefix, tmp_path)
    oscillation = goniometer.oscillation

    @bpp.stage_decorator([oscillation])
    @bpp.run_decorator()
    def plan() -> Any:
        yield from bps.declare_stream(oscillation, name="rotation", collect=True)
        yield from bps.checkpoint()
        yield from bps.mv(goniometer.phi, 0.0)
        yield from bps.prepare(oscillation, Sweep(60.0, 0.6, start_deg=0.0), wait=True)
        yield from bps.kickoff(oscillation, wait=True)
        yield from bps.complete(oscillation, wait=True)
        yield from bps.collect(oscillation, name="rotation")

    def pause_soon() -> None:
        until(lambda: goniometer.phi.position > 10.0)
        RE.request_pause()

    thread = threading.Thread(target=pause_soon)
    thread.start()
    with pytest.raises(RunEngineInterrupted):
        RE(plan())
    thread.join()
    assert "a pause has ended the sweep" in reason(oscillation.complete())
    RE.resume()
    assert documents[-1][1]["exit_status"] == "success"
    read = columns(documents)
    angle = read["angle"][read["sweep"] == read["sweep"][-1]]
    # Run-up and slowing down are in the trace: it has both ends, however few its samples are.
    assert angle.min() <= 0.0
    assert angle.max() >= 60.0


def test_what_cannot_be_done_fails_at_kickoff_or_at_its_end(gonio: MotorGoniometer) -> None:
    oscillation = gonio.oscillation
    assert "stage it" in reason(oscillation.kickoff())
    with staged(oscillation):
        oscillation.prepare(Sweep(90.0, 0.1)).wait(LIMIT_S)
        # refused by the controller at once: either of the two tells
        oscillation.kickoff()
        assert "needs 900 deg/s" in reason(oscillation.complete())


def test_a_sweep_that_the_controller_does_not_take_is_refused(gonio: Goniometer) -> None:
    gonio.oscillation.prepare(Sweep(20.0, 0.5)).wait(LIMIT_S)
    status = gonio.oscillation.prepare(Sweep(40_000.0, 3000.0))
    with pytest.raises(HardwareError, match="Osc:Delta did not become 40000"):
        status.wait(LIMIT_S)


def test_a_sweep_whose_run_down_is_beyond_the_limits_is_found_before(gonio: Goniometer) -> None:
    limit = gonio.phi.limits[1]
    gonio.oscillation.check_value(Sweep(180.0, 3.0, start_deg=limit - 187.0))
    with pytest.raises(HardwareError, match="is beyond its limits"):
        gonio.oscillation.check_value(Sweep(180.0, 3.0, start_deg=limit - 185.0))


def test_a_stopped_sweep_ends_at_once_and_keeps_its_trace(
    gonio: MotorGoniometer, ioc: IocProcess
) -> None:
    oscillation = gonio.oscillation
    with staged(oscillation):
        oscillation.prepare(Sweep(360.0, 6.0)).wait(LIMIT_S)
        oscillation.kickoff().wait(LIMIT_S)
        until(lambda: gonio.phi.position > 20.0)
        assert signal(ioc, "VideoTrigger_RBV").get(use_monitor=False) == 1
        gonio.stop()
        assert "Aborted" in reason(oscillation.complete())
        assert signal(ioc, "VideoTrigger_RBV").get(use_monitor=False) == 0
        assert oscillation.last is not None
        assert 20.0 < oscillation.last.angle[-1] < 350.0
        assert oscillation.get_index() == oscillation.last.time.size  # it is in the file


def test_a_stop_before_the_controller_is_told_to_sweep_is_not_lost(
    gonio: MotorGoniometer, monkeypatch: pytest.MonkeyPatch
) -> None:
    oscillation: Any = gonio.oscillation
    carry_out = oscillation.carry_out

    def stop_first(sweep: Sweep) -> Any:
        oscillation.stop()
        return carry_out(sweep)

    monkeypatch.setattr(oscillation, "carry_out", stop_first)
    with staged(oscillation):
        oscillation.prepare(Sweep(60.0, 0.6)).wait(LIMIT_S)
        oscillation.kickoff()
        assert "somebody stopped the sweep" in reason(oscillation.complete())
    assert gonio.phi.position == 0.0


def test_a_stop_while_the_controller_is_told_to_sweep_is_not_lost(
    gonio: MotorGoniometer, monkeypatch: pytest.MonkeyPatch
) -> None:
    oscillation: Any = gonio.oscillation
    begin = oscillation.go.set

    def stop_first(value: int) -> Any:
        oscillation.stop()
        return begin(value)

    monkeypatch.setattr(oscillation.go, "set", stop_first)
    with staged(oscillation):
        oscillation.prepare(Sweep(360.0, 6.0)).wait(LIMIT_S)
        oscillation.kickoff()
        assert "Aborted" in reason(oscillation.complete())
    assert gonio.phi.position < 350.0


def test_a_stuck_spindle_fails_the_sweep_in_time(
    gonio: MotorGoniometer, ioc: IocProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gonio.phi, "stall_s", 1.0)
    oscillation = gonio.oscillation
    with staged(oscillation):
        oscillation.prepare(Sweep(180.0, 3.0)).wait(LIMIT_S)
        oscillation.kickoff().wait(LIMIT_S)
        until(lambda: gonio.phi.position > 20.0)
        sim(ioc, "phi:Stuck", 1)
        assert "gonio_phi: stands still at" in reason(oscillation.complete())


def test_an_aborted_plan_ends_the_sweep(
    gonio: MotorGoniometer, ioc: IocProcess, RE: Any, documents: Documents
) -> None:
    def stop_soon() -> None:
        until(lambda: gonio.phi.position > 20.0)
        RE.abort()

    thread = threading.Thread(target=stop_soon)
    thread.start()
    with pytest.raises((FailedStatus, RunEngineInterrupted)):
        RE(turn(gonio.oscillation, Sweep(360.0, 10.0)))
    thread.join()
    name, stop = documents[-1]
    assert (name, stop["exit_status"]) == ("stop", "abort")
    until(lambda: not gonio.phi.moving)
    assert gonio.phi.position < 350.0
    assert signal(ioc, "VideoTrigger_RBV").get(use_monitor=False) == 0
