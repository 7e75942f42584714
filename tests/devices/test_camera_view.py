"""What can be seen of a camera: also what came before anybody looked."""

from ioc_process import running_ioc
from support.waiting import until

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
