"""What can be seen of a camera behind areaDetector's PVs: nothing is put."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_type_hints

import numpy as np
from numpy.typing import NDArray
from ophyd import Component as Cpt
from ophyd import Device, EpicsSignalRO

from devices.facts import as_fact
from devices.guarded import is_ioc_lost
from skywright.analysis.display import to_uint8

SILENCE_S, ANSWER_S = 2.0, 2.0
"""Time without a monitor, s, after which the IOC is asked for a value, and the time limit of its
answer. Channel Access itself notices only after 30 s that an IOC hangs."""


@dataclass(frozen=True)
class CameraFacts:
    """What the camera's IOC says at one moment; all 0 or empty while it does not answer.

    Parameters
    ----------
    connected
        Whether it answers.
    acquiring, recording
        Whether it takes pictures, and writes them to a file.
    frames, recorded, lost
        Pictures that acquisitions counted, rows of this or the last recording, and pictures lost
        since its start.
    message
        What it says for people.
    """

    connected: bool = False
    acquiring: bool = False
    recording: bool = False
    frames: int = 0
    recorded: int = 0
    lost: int = 0
    message: str = ""


FACTS = {name: kind for name, kind in get_type_hints(CameraFacts).items() if name != "connected"}
"""Signals of `CameraView` that are facts, and their types."""


class CameraView(Device):
    """The newest picture of a camera and the camera's counts.

    Parameters
    ----------
    prefix
        Prefix of the PVs, with its colon.
    """

    pixels = Cpt(EpicsSignalRO, "image1:ArrayData", auto_monitor=True)
    size_0 = Cpt(EpicsSignalRO, "image1:ArraySize0_RBV", auto_monitor=True)
    size_1 = Cpt(EpicsSignalRO, "image1:ArraySize1_RBV", auto_monitor=True)
    size_2 = Cpt(EpicsSignalRO, "image1:ArraySize2_RBV", auto_monitor=True)
    acquiring = Cpt(EpicsSignalRO, "cam1:Acquire_RBV", auto_monitor=True)
    frames = Cpt(EpicsSignalRO, "cam1:ArrayCounter_RBV", auto_monitor=True)
    message = Cpt(EpicsSignalRO, "cam1:StatusMessage_RBV", auto_monitor=True, string=True)
    recording = Cpt(EpicsSignalRO, "HDF1:Capture_RBV", auto_monitor=True)
    recorded = Cpt(EpicsSignalRO, "HDF1:NumCaptured_RBV", auto_monitor=True)
    lost = Cpt(EpicsSignalRO, "HDF1:DroppedArrays_RBV", auto_monitor=True)

    def __init__(self, prefix: str) -> None:
        super().__init__(prefix, name="camera_view")
        self._values: dict[str, Any] = {}
        self._heard_s = 0.0
        """When something came from the IOC, of `time.monotonic`."""

    def watch(self, on_picture: Callable[[], None]) -> None:
        """Start to follow the PVs; call `on_picture`, in another thread, at each new picture."""

        def keep(value: Any, obj: Any, **_: Any) -> None:
            self._values[obj.attr_name], self._heard_s = value, time.monotonic()
            if obj is self.pixels:
                on_picture()

        for attribute in self.component_names:  # `keep` is called at once where a value is known
            getattr(self, attribute).subscribe(keep)

    def picture(self) -> NDArray[np.uint8] | None:
        """Return the newest picture; None before the first, or if it is no gray or RGB picture."""
        values = self._values.get("pixels")
        sizes = [int(self._values.get(f"size_{i}", 0)) for i in range(3)]
        return None if values is None else picture_of(values, *sizes)

    def facts(self) -> CameraFacts:
        """Return what the camera says of itself; an IOC that is silent is asked."""
        is_known = self.acquiring.connected and self._values.keys() >= FACTS.keys()
        if not is_known or not self._answers():
            return CameraFacts()
        facts = {name: as_fact(kind, self._values[name]) for name, kind in FACTS.items()}
        return CameraFacts(connected=True, **facts)

    def _answers(self) -> bool:
        """Return whether the IOC has posted something lately, or answers."""
        if time.monotonic() - self._heard_s > SILENCE_S:
            limits = {"timeout": ANSWER_S, "connection_timeout": ANSWER_S}
            try:
                self.acquiring.get(use_monitor=False, **limits)
            except Exception as error:
                if not is_ioc_lost(error):
                    raise
                return False
            self._heard_s = time.monotonic()
        return True


def picture_of(values: Any, size_0: int, size_1: int, size_2: int) -> NDArray[np.uint8] | None:
    """Shape the values of ``ArrayData`` as its plugin's sizes say.

    Parameters
    ----------
    values : (n,) of integers
        Pixels of an 8-bit image; the control layer may give them in another integer type.
    size_0, size_1, size_2
        Width, height, 0; or 3, width, height of RGB pixels.

    Returns
    -------
    (H, W) or (H, W, 3) uint8 or None
        None if values and sizes do not belong together, as while the size changes.
    """
    shape = (size_2, size_1, size_0) if size_2 else (size_1, size_0)
    array = np.asarray(values)
    if array.size != np.prod(shape) or not array.size or (size_2 and size_0 != 3):
        return None
    if array.dtype in (np.int8, np.int16) and array.min(initial=0) >= -128 and array.max() < 256:
        array = array.astype(np.uint8)  # bytes, as caproto's or EPICS' signed CHAR shows them
    return to_uint8(array.reshape(shape))
