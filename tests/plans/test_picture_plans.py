"""The picture plans, by their messages, with cameras that are no hardware."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.protocols import StreamAsset
from bluesky.simulators import RunEngineSimulator, assert_message_and_return_remaining
from bluesky.utils import RunEngineInterrupted
from ophyd.sim import NullStatus
from ophyd.status import Status
from support.fake_rows import FakeRows
from support.pausing import is_later_report, pause_once

from plans.pictures import take_pictures, watch_camera
from skywright.errors import ConfigError, HardwareError


class FakeCamera(FakeRows):
    """A camera by protocol only."""

    def __init__(self) -> None:
        super().__init__("fake_image", (4, 5), "|u1", "fake")
        self.calls: list[str] = []

    def stage(self) -> list[Any]:
        self.calls.append("stage")
        return [self]

    def unstage(self) -> list[Any]:
        self.calls.append("unstage")
        return [self]

    def trigger(self) -> NullStatus:
        self.rows += 1
        return NullStatus()

    def kickoff(self) -> NullStatus:
        self.calls.append("kickoff")
        return super().kickoff()

    def complete(self) -> NullStatus:
        self.calls.append("complete")
        return super().complete()

    def read(self) -> dict[str, Any]:
        return {}

    def describe(self) -> dict[str, Any]:
        return self.describe_collect()


def run(RE: RunEngine, plan: Any) -> tuple[Any, list[tuple[str, dict[str, Any]]]]:
    documents: list[tuple[str, dict[str, Any]]] = []
    result: Any = RE(plan, lambda *pair: documents.append(pair))
    return result, documents


def test_take_pictures_step_by_step(RE: RunEngine) -> None:
    camera = FakeCamera()
    result, documents = run(RE, take_pictures(camera, 3, md={"purpose": "look"}))
    start, stop = documents[0][1], documents[-1][1]
    assert result.plan_result == start["uid"] == result.run_start_uids[0]
    assert (start["plan_name"], start["purpose"]) == ("take_pictures", "look")
    assert (start["num_points"], start["detectors"]) == (3, ["fake"])
    assert stop["num_events"] == {"primary": 3}
    assert camera.calls == ["stage", "unstage"]


def test_watch_camera_flies(RE: RunEngine) -> None:
    camera = FakeCamera()
    result, documents = run(RE, watch_camera(camera, 0.6))
    start, stop = documents[0][1], documents[-1][1]
    assert result.plan_result == start["uid"]
    assert start["plan_args"] == {"camera": "fake", "seconds": 0.6}
    assert stop["num_events"] == {"primary": camera.rows}
    assert camera.rows == 9
    assert camera.calls == ["stage", "kickoff", "complete", "unstage"]


def test_numbers_of_numpy_are_numbers(RE: RunEngine) -> None:
    start = run(RE, take_pictures(FakeCamera(), np.int64(2)))[1][0][1]  # type: ignore[arg-type]
    assert (start["num_points"], start["plan_args"]["n"]) == (2, 2)
    assert {type(start["num_points"]), type(start["plan_args"]["n"])} == {int}
    start = run(RE, watch_camera(FakeCamera(), np.float32(0.25)))[1][0][1]  # type: ignore[arg-type]
    assert start["plan_args"]["seconds"] == 0.25
    assert type(start["plan_args"]["seconds"]) is float


def test_watching_goes_on_after_a_pause(RE: RunEngine) -> None:
    camera = FakeCamera()
    pause_once(RE, is_later_report)
    with pytest.raises(RunEngineInterrupted):
        RE(watch_camera(camera, 1.0))
    result: Any = RE.resume()
    assert result.exit_status == "success"
    assert camera.calls == ["stage", "kickoff", "complete", "unstage"]
    assert camera.told == camera.rows


def test_messages_of_take_pictures() -> None:
    messages = RunEngineSimulator().simulate_plan(take_pictures(FakeCamera(), 2))
    rest = messages
    for command in ("stage", "open_run"):
        rest = assert_message_and_return_remaining(rest, lambda m, c=command: m.command == c)
    for _ in range(2):
        for command in ("checkpoint", "trigger", "wait", "create", "read", "save"):
            rest = assert_message_and_return_remaining(rest, lambda m, c=command: m.command == c)
    for command in ("close_run", "unstage"):
        rest = assert_message_and_return_remaining(rest, lambda m, c=command: m.command == c)


def test_a_failed_picture_is_the_error_of_the_device(RE: RunEngine) -> None:
    camera, failed = FakeCamera(), Status()
    failed.set_exception(HardwareError("fake: no picture"))
    camera.trigger = camera.complete = lambda: failed  # type: ignore[method-assign]
    for plan in (take_pictures(camera, 1), watch_camera(camera, 0.01)):
        with pytest.raises(HardwareError, match=r"^fake: no picture$"):
            RE(plan)


def test_camera_is_stopped_and_unstaged_when_the_plan_fails(RE: RunEngine) -> None:
    camera = FakeCamera()

    def broken(index: int | None = None) -> Iterator[StreamAsset]:
        raise OSError("no disk")
        yield

    camera.collect_asset_docs = broken  # type: ignore[method-assign]
    with pytest.raises(OSError, match="no disk"):
        RE(watch_camera(camera, 1.0))
    assert camera.calls == ["stage", "kickoff", "unstage"]


@pytest.mark.parametrize("n", [0, -1, 1.5, "3", None, True])
def test_number_is_checked_before_anything_moves(n: Any) -> None:
    with pytest.raises(ConfigError, match=r"take_pictures: n = .*, expected a whole number"):
        next(take_pictures(FakeCamera(), n))


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan"), "1", None])
def test_time_is_checked_before_anything_moves(seconds: Any) -> None:
    with pytest.raises(ConfigError, match=r"watch_camera: seconds = .*, expected .* above 0"):
        next(watch_camera(FakeCamera(), seconds))
    with pytest.raises(ConfigError, match=r"seconds = 1e\+09, expected at most 86400, a day"):
        next(watch_camera(FakeCamera(), 1e9))


@pytest.mark.parametrize("camera", ["axis", None, object()])
def test_camera_is_checked_before_anything_moves(camera: Any) -> None:
    with pytest.raises(TypeError, match=r"take_pictures: camera = .*, expected a camera: it is"):
        next(take_pictures(camera, 1))
    with pytest.raises(TypeError, match=r"watch_camera: camera = .*, expected a camera that flies"):
        next(watch_camera(camera, 1.0))


def test_queue_server_accepts_the_plans() -> None:
    from bluesky_queueserver.manager.profile_ops import existing_plans_and_devices_from_nspace

    plans, *_ = existing_plans_and_devices_from_nspace(
        nspace={"take_pictures": take_pictures, "watch_camera": watch_camera}
    )
    kinds = {name: plan["parameters"][0] for name, plan in plans.items()}
    assert kinds["take_pictures"]["annotation"] == {"type": "__READABLE__"}
    assert kinds["watch_camera"]["annotation"] == {"type": "__FLYABLE__"}
    for camera in kinds.values():  # a name submitted becomes the device
        assert camera["convert_device_names"] is True
