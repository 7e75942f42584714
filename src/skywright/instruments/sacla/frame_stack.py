"""Some frames of an array that is in memory, shared or mapped from a file; nothing is copied."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class FrameStack:
    """Frames that are chosen from an array.

    Parameters
    ----------
    frames
        (N, rows, columns) float32.
    chosen
        (n,) indices.
    """

    frames: NDArray[np.float32]
    chosen: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: Any) -> "FrameStack":
        """Return the frames that a slice, a mask or positions select."""
        return FrameStack(self.frames, self.chosen[index])

    @property
    def flat(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return (N, pixels) frames and the indices, as the kernels take them."""
        count, rows, columns = self.frames.shape
        return self.frames.reshape(count, rows * columns), self.chosen


def stack_of(images: Any) -> FrameStack:
    """Return (n, rows, columns) images, an array or a stack, as a stack."""
    if isinstance(images, FrameStack):
        return images
    frames = np.ascontiguousarray(images, np.float32)
    return FrameStack(frames, np.arange(len(frames)))
