"""The loop analyses without pictures for people, which cost as much as the analyses do."""

from collections.abc import Mapping
from typing import Any

from skywright.instruments.loop.analysis import LoopDetection
from skywright.instruments.loop.live_rotation import LiveRotation

DETECTION = "support.undrawn:Undrawn"


class Undrawn(LoopDetection):
    """The detection."""

    pictures = 0


class UndrawnRotation(LiveRotation):
    """The rotation; with `draws` it is as it always is."""

    draws = False

    def _draw(self, *args: Any) -> Mapping[str, bytes]:
        return super()._draw(*args) if self.draws else {}
