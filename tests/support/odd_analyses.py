"""Analyses that misbehave, for the worker and what looks after it."""

import math
import os
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from skywright.analysis import Batch
from skywright.analysis.picture_statistics import PictureStatistics
from skywright.errors import ConfigError
from skywright.files.columns import Column

PATH = "support.odd_analyses"


class Raises(PictureStatistics):
    """Fails at one frame."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.parameters = {"at": at}
        self.at = at

    def measure(self, batch: Batch) -> Mapping[str, Any]:
        if self.at in batch.identities:
            raise ZeroDivisionError(f"frame {self.at} is cursed")
        return super().measure(batch)


class Undrawn(PictureStatistics):
    """Its pictures fail."""

    pictures = 2

    def draw(self, batch: Batch) -> Mapping[str, bytes]:
        raise ConnectionError("no server draws")


class NumberedSettings(PictureStatistics):
    """Has an input for its settings numbers."""

    inputs = ("image", "settings")
    block_setting = "settings"

    def measure(self, batch: Batch) -> Mapping[str, Any]:
        return {**super().measure(batch), "settings": np.zeros(len(batch), np.int64)}


class Prints(PictureStatistics):
    """Prints what looks like a message, and what does not, from Python and from C."""

    def measure(self, batch: Batch) -> Mapping[str, Any]:
        print('["run_done", {}]', "\n5\ntext\n", flush=True)
        os.write(1, b"from a library in C\n")
        return super().measure(batch)


class Misconfigured(PictureStatistics):
    """Finds in the worker that its configuration is at fault."""

    def measure(self, batch: Batch) -> Mapping[str, Any]:
        raise ConfigError("there is no calibration")


class Dies(Raises):
    """Takes its process down at one frame, as a fault in compiled code would."""

    def measure(self, batch: Batch) -> Mapping[str, Any]:
        if self.at in batch.identities:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().measure(batch)


class LeavesAChild(PictureStatistics):
    """Dies once, and leaves a forked process, as one that uses a pool of processes may."""

    def __init__(self, file: str) -> None:
        super().__init__()
        self.parameters = {"file": file}
        self.file = Path(file)

    def measure(self, batch: Batch) -> Mapping[str, Any]:
        if not self.file.exists():
            child = os.fork()
            if not child:
                signal.pause()
            self.file.write_text(str(child))
            os.kill(os.getpid(), signal.SIGKILL)
        return super().measure(batch)


class Slow(PictureStatistics):
    """Takes its time over each frame."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.parameters = {"seconds": seconds}
        self.seconds = seconds

    def measure(self, batch: Batch) -> Mapping[str, Any]:
        threading.Event().wait(self.seconds * len(batch))
        return super().measure(batch)


class SlowAndWhole(Slow):
    """Needs each frame."""

    skips = False


class SaysMoreAtTheEnd(PictureStatistics):
    """Has two events only: after the first frame, and at the end."""

    scalar_period_s = array_period_s = math.inf


class Against(PictureStatistics):
    """Needs a picture and a motor: the input that comes in events."""

    inputs = ("image", "angle")
    columns = (*PictureStatistics.columns, Column("angle", "<f8", attrs={"units": "deg"}))

    def measure(self, batch: Batch) -> Mapping[str, Any]:
        return {**super().measure(batch), "angle": np.asarray(batch["angle"], np.float64)}


class Draws(PictureStatistics):
    """Keeps pictures."""

    pictures = 3

    def draw(self, batch: Batch) -> Mapping[str, bytes]:
        pictures = zip(batch.identities, batch["image"], strict=True)
        return {f"{number}.raw": picture.tobytes() for number, picture in pictures}


class DrawsAgainst(Draws, Against):
    """Keeps pictures; one of its inputs comes in events."""


class DrawsWhenTold(Draws):
    """Draws as soon as a file exists."""

    def __init__(self, gate: str) -> None:
        super().__init__()
        self.parameters = {"gate": gate}
        self.gate = Path(gate)

    def draw(self, batch: Batch) -> Mapping[str, bytes]:
        while not self.gate.exists():
            threading.Event().wait(0.02)
        return super().draw(batch)
