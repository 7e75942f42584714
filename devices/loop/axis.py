"""The AXIS video camera as an ophyd device, step and fly, over areaDetector's PVs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from devices.recording_camera import RecordingCamera
from skywright.files.stream_columns import StreamColumn
from skywright.instruments.loop.layouts import stream_columns


class AxisCamera(RecordingCamera):
    """The video camera that looks at the sample; see `RecordingCamera`.

    Data keys, all external (``STREAM:``): ``NAME_image`` (H, W) uint8, or (H, W, 3) in color;
    ``NAME_frame_number``; ``NAME_frame_time``, Unix s.

    Parameters
    ----------
    prefix
        Prefix of the PVs, with its colon.
    assets
        Directory below which the IOC writes; a dated directory in it is made for each day.
    name
        Name of the device.
    """

    def __init__(self, prefix: str, *, assets: Path, name: str = "axis", **kwargs: Any) -> None:
        super().__init__(prefix, assets=assets, name=name, **kwargs)

    def columns(self, shape: tuple[int, ...]) -> Sequence[StreamColumn]:
        """Return the columns of the file, for pictures of this shape."""
        return stream_columns(shape)
