"""Readers and buffers of images, as ``olpy`` and ``stpy`` have them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from skywright.instruments.sacla.facility.link import NEWEST, APIError, Link

__all__ = ["NEWEST", "APIError", "StorageBuffer", "StorageReader"]


class StorageReader:
    """Reads images of one detector.

    Parameters
    ----------
    detector
        Its id.
    beamline, runs
        For stored images: the beamline and a tuple of run numbers. Without them the images are
        those in the online ring buffer.

    Raises
    ------
    APIError
        If there is no such detector, or no server.
    """

    def __init__(
        self, detector: str, beamline: int | None = None, runs: tuple[int, ...] = ()
    ) -> None:
        self._link = Link()
        self._call: tuple[str, tuple[Any, ...]] = ("collect", (detector,))
        if beamline is None:
            self._link.call("open_reader", detector)
        else:
            if not isinstance(runs, tuple):
                raise TypeError(f"runs: expected a tuple, not {type(runs).__name__}")
            self._call = ("collect_stored", (detector, beamline, list(runs)))
            self._link.call("open_stored", *self._call[1])

    def collect(self, buffer: "StorageBuffer", tag: int) -> int:
        """Read the image of a tag into a buffer.

        Returns
        -------
        int
            The tag of the image; it may differ from the one that was asked for.

        Raises
        ------
        APIError
            If there is no image of this tag: -10000 when it is gone.
        """
        name, arguments = self._call
        answer, buffer.array = self._link.call_for_image(buffer.array, name, *arguments, int(tag))
        buffer.info = answer["info"]
        return int(answer["tag"])


class StorageBuffer:
    """Takes an image of a reader. Its memory is used again at the next ``collect``.

    Parameters
    ----------
    reader
        Of the detector.
    """

    def __init__(self, reader: StorageReader) -> None:
        self.array: NDArray[np.float32] | None = None
        self.info: dict[str, Any] = {}

    def read_det_data(self, number: int) -> NDArray[np.float32]:
        """Return the image, (rows, columns) float32 ADU: the buffer's own memory, no copy."""
        if self.array is None or number != 0:
            raise APIError(f"-10001: read_det_data({number}): nothing was collected")
        return self.array

    def read_det_info(self, number: int) -> dict[str, Any]:
        """Return the properties of the detector."""
        if self.array is None or number != 0:
            raise APIError(f"-10001: read_det_info({number}): nothing was collected")
        return dict(self.info)
