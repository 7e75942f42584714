"""Loop detection as the rest of skywright calls it: one network, loaded once in a process."""

import os
import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skywright.instruments.loop.detection import Detection
from skywright.instruments.loop.detector.readout import LoopFinder

NETWORK = Path(__file__).parent / "detector" / "loop_net.onnx"


class _Process:
    """What this process has loaded."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.finder: LoopFinder | None = None


_process = _Process()
# A child inherits neither the threads of onnxruntime nor who holds a lock: it loads its own.
os.register_at_fork(after_in_child=_process.__init__)  # type: ignore[misc]


def finder() -> LoopFinder:
    """Return the finder of this process; the first call, from whatever thread, loads the network.

    Raises
    ------
    ConfigError
        If onnxruntime is not installed, or the file of the network cannot be used.
    """
    with _process.lock:
        if _process.finder is None:
            _process.finder = LoopFinder(NETWORK)
        return _process.finder


def find_loop(gray: NDArray[np.uint8]) -> Detection:
    """Find the sample mount in a picture, whatever border it enters through.

    Parameters
    ----------
    gray
        (H, W) uint8 picture, at least 32 x 32.

    Raises
    ------
    DataError
        If `gray` is not such an array.
    ConfigError
        If the network cannot be loaded (`finder`).
    """
    return finder().find(gray)


def warm_up() -> None:
    """Load the network and let it look at a picture of a pin."""
    gray = np.full((240, 320), 200, np.uint8)
    gray[100:140, :160] = 40
    find_loop(gray)
