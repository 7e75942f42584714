"""SACLA's Python modules ``dbpy`` and ``olpy``: import, images as copies, causes of errors."""

import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial
from importlib import import_module
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from skywright.errors import ConfigError

T = TypeVar("T")


class Cause(Enum):
    """Why a call failed; all failures have the same exception type."""

    GONE = "gone"
    """The image is no longer in the ring buffer, or never was."""
    CONNECTION = "connection"
    """The detector or its server cannot be reached, or there is no such detector."""
    OTHER = "other"
    """Not there yet, no calibration, or unknown: asked again for a limited time."""


_CODE = re.compile(r"-1\d{4}\b")
_ABSENT = re.compile(r"no such detector|unknown detector|cannot connect", re.IGNORECASE)


def cause_of(error: Exception) -> Cause:
    """Find out why a call failed, by the code in the message."""
    text = str(error)
    found = _CODE.search(text)
    code = int(found[0]) if found else 0
    if code == -10000:
        return Cause.GONE
    if -10199 <= code <= -10100 or (not code and _ABSENT.search(text)):
        return Cause.CONNECTION
    return Cause.OTHER


@dataclass(frozen=True)
class OnlineApi:
    """The facility's modules."""

    dbpy: Any
    olpy: Any

    @property
    def newest(self) -> int:
        """The tag that stands for the newest image."""
        return int(getattr(self.olpy, "NEWESTTAG", -1))


def import_api() -> OnlineApi:
    """Import ``dbpy`` and ``olpy``.

    Raises
    ------
    ConfigError
        If they are not installed here.
    """
    try:
        return OnlineApi(import_module("dbpy"), import_module("olpy"))
    except ImportError as error:
        raise ConfigError(
            f"source sacla: SACLA's Python modules dbpy and olpy cannot be imported ({error}). "
            "They exist on the analysis hosts of a beamline; add their directory to PYTHONPATH. "
            "Elsewhere use the double: skywright sacla facility"
        ) from None


class TimedCaller:
    """Calls the facility, on one thread."""

    called_s = math.inf
    """When the call under way began, of `time.monotonic`; infinite when there is none."""

    def call(self, ask: Callable[..., T], *arguments: Any) -> T:
        """Call a function of the facility."""
        self.called_s = time.monotonic()
        try:
            return ask(*arguments)
        finally:
            self.called_s = math.inf


class TimedModule(TimedCaller):
    """A module whose functions one thread calls.

    Parameters
    ----------
    module
        For example ``dbpy``.
    """

    def __init__(self, module: Any) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return partial(self.call, getattr(self._module, name))


class ImageReader:
    """Reads images of one detector from the ring buffer.

    Parameters
    ----------
    api
        The modules.
    detector
        Its id.

    Raises
    ------
    Exception
        If the detector cannot be reached.
    """

    def __init__(self, api: OnlineApi, detector: str) -> None:
        self._newest = api.newest
        self._reader = api.olpy.StorageReader(detector)
        self._buffer = api.olpy.StorageBuffer(self._reader)

    def read(self, tag: int) -> tuple[int, NDArray[np.float32]]:
        """Return an image and its tag, which may be another one than `tag`.

        The array is a copy: that of the buffer changes at the next call.
        """
        found = int(self._reader.collect(self._buffer, tag))
        return found, np.array(self._buffer.read_det_data(0), np.float32)

    def newest_tag(self) -> int:
        """Return the tag of the newest image."""
        return int(self._reader.collect(self._buffer, self._newest))

    def facts(self) -> dict[str, Any]:
        """Return the properties of the detector, with the newest image."""
        self.newest_tag()
        facts = dict(self._buffer.read_det_info(0))
        rows, columns = self._buffer.read_det_data(0).shape
        return facts | {"xsize": columns, "ysize": rows}
