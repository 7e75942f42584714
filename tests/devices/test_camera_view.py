"""What can be seen of a camera: also what came before anybody looked."""

import signal

import pytest
from ioc_process import running_ioc
from support.waiting import until

from devices import camera_view
from devices.camera_view import CameraView


def test_values_that_came_before_the_view_is_watched_are_known() -> None:
    with running_ioc("iocs.axis", "--fps", "5") as ioc:
        view = CameraView(ioc.prefix)
        view.wait_for_connection(timeout=60)
        signals = [getattr(view, name) for name in view.component_names if name != "pixels"]
        # An idle camera posts each of them once.
        until(lambda: all(each._args_cache["value"] is not None for each in signals), 60, "all")
        view.watch(lambda: None)
        assert view.facts().connected
        view.destroy()


def test_a_camera_whose_ioc_hangs_is_not_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Channel Access notices it after 30 s only."""
    monkeypatch.setattr(camera_view, "SILENCE_S", 0.2)
    with running_ioc("iocs.axis", "--fps", "5") as ioc:
        view = CameraView(ioc.prefix)
        view.wait_for_connection(timeout=60)
        view.watch(lambda: None)
        until(lambda: view.facts().connected, 60, "the idle camera is connected")
        ioc.process.send_signal(signal.SIGSTOP)
        try:
            until(lambda: not view.facts().connected, 60, "it is noticed")
            assert view.acquiring.connected
        finally:
            ioc.process.send_signal(signal.SIGCONT)
        until(lambda: view.facts().connected, 60, "it is connected again")
        view.destroy()
