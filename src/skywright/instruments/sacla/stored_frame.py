"""Frames as sources give them: arrays, or frames that are still in a replay file."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # who records frames needs no filter of compressed files
    from skywright.instruments.sacla.replay_file import ReplayFile


@dataclass(frozen=True, slots=True)
class StoredFrame:
    """A frame that is still in a replay file.

    Parameters
    ----------
    file
        Open; h5py lets one thread read at a time.
    detector, index
        Where it is.
    """

    file: "ReplayFile"
    detector: str
    index: int

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of the frame."""
        return self.file.info.shapes[self.detector]

    def read_into(self, out: NDArray[np.float32]) -> None:
        """Read the frame."""
        self.file.read_frame(self.detector, self.index, out)


def copy_frame(frame: Any, out: NDArray[np.float32]) -> None:
    """Copy what the source gave for a frame: an array, or one that is still in a file."""
    if isinstance(frame, StoredFrame):
        frame.read_into(out)
    else:
        out[...] = frame


def pixels_of(frame: Any) -> NDArray[np.float32]:
    """Return the (rows, columns) pixels of a frame; an array is not copied."""
    if isinstance(frame, np.ndarray):
        return frame
    pixels = np.empty(frame.shape, np.float32)
    copy_frame(frame, pixels)
    return pixels
