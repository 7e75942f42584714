"""Loop detection by one network: `model` runs it, `readout` turns its maps into a `Detection`."""

from skywright.instruments.loop.detector.model import LoopModel
from skywright.instruments.loop.detector.readout import LoopFinder

__all__ = ["LoopFinder", "LoopModel"]
