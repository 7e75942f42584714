"""The loop analyses without pictures for people, which cost as much as the analyses do."""

from collections.abc import Iterator
from typing import Any

from skywright.analysis.second import Document
from skywright.instruments.loop.analysis import LoopDetection
from skywright.instruments.loop.rotation_stage import RotationRun, RotationStage

DETECTION = "support.undrawn:Undrawn"
ROTATION = "support.undrawn:UndrawnRotation"


class Undrawn(LoopDetection):
    """The detection."""

    pictures = 0


class UndrawnRun(RotationRun):
    """A fit that draws as it always does where the run's metadata has ``draws: "yes"``."""

    def draw(self, *args: Any) -> Iterator[tuple[str, bytes]]:
        draws = self.turn.start.get("draws")
        if draws == "fails":
            raise OSError("the file of the frames is gone")
        if draws == "yes":
            yield from super().draw(*args)


class UndrawnRotation(RotationStage):
    """The rotation."""

    def begin_run(self, start: Document) -> UndrawnRun:
        return UndrawnRun(start, self.calibrations)
