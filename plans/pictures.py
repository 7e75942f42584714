"""Plans that take pictures with a camera."""

from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.protocols import Collectable, Flyable, Readable
from bluesky.utils import MsgGenerator

from plans.checks import Needs, check_devices, described, finite, whole
from plans.run_stubs import PRIMARY, declare_streams, fly, start_metadata, with_device_errors
from skywright.errors import ConfigError

SECONDS_MAX = 24 * 3600.0


def take_pictures(
    camera: Readable, n: int, *, md: dict[str, Any] | None = None
) -> MsgGenerator[str]:
    """Take pictures one by one, one event per picture.

    Parameters
    ----------
    camera
        A detector.
    n
        Number of pictures, at least 1.
    md
        Metadata for the start document.

    Returns
    -------
    str
        The uid of the run.

    Raises
    ------
    ConfigError
        If `n` is no such number; raised before the run starts.
    TypeError
        If `camera` is no detector, or its readings are no pictures.
    """
    check_devices("take_pictures", camera=(camera, Needs("camera", (Readable,))))
    _check_has_pictures(camera)
    n = whole("take_pictures", "n", n)
    _md = start_metadata("take_pictures", {"camera": camera}, {"n": n}, md, num_points=n)

    @bpp.stage_decorator([camera])
    @bpp.run_decorator(md=_md)
    def inner() -> MsgGenerator[None]:
        for _ in range(n):
            yield from bps.checkpoint()
            yield from bps.trigger_and_read([camera])

    return (yield from with_device_errors(inner()))


def watch_camera(
    camera: Flyable, seconds: float, *, md: dict[str, Any] | None = None
) -> MsgGenerator[str]:
    """Record every picture of a camera for a time.

    Parameters
    ----------
    camera
        A detector with kickoff and complete, whose stream documents are collected.
    seconds
        How long, more than 0 and at most a day.
    md
        Metadata for the start document.

    Returns
    -------
    str
        The uid of the run.

    Raises
    ------
    ConfigError
        If `seconds` is not in its range; raised before the run starts.
    TypeError
        If `camera` does not fly.
    """
    flying = Needs("camera that flies", (Flyable, Collectable))
    check_devices("watch_camera", camera=(camera, flying))
    seconds = finite("watch_camera", "seconds", seconds, 0.0)
    if seconds > SECONDS_MAX:
        raise ConfigError(
            f"watch_camera: seconds = {seconds:g}, expected at most {SECONDS_MAX:g}, a day"
        )
    _md = start_metadata("watch_camera", {"camera": camera}, {"seconds": seconds}, md)

    @bpp.stage_decorator([camera])
    @bpp.run_decorator(md=_md)
    def inner() -> MsgGenerator[None]:
        streams = {PRIMARY: camera}
        yield from declare_streams(streams)
        yield from fly(camera, streams, seconds=seconds)

    return (yield from with_device_errors(inner()))


def _check_has_pictures(camera: Any) -> None:
    keys = described(camera)
    if keys is not None and not any(len(key["shape"]) >= 2 for key in keys.values()):
        read = ", ".join(list(keys)[:2]) + (" ..." if len(keys) > 2 else "") or "nothing"
        raise TypeError(
            f"take_pictures: camera = {camera.name}, expected a camera: it reads {read}, no picture"
        )
