"""Loop detection over pictures that have been searched already."""

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from skywright.analysis import Batch
from skywright.instruments.loop.analysis import COLUMNS, LoopDetection


class LoopsFound(LoopDetection):
    """`LoopDetection` whose members bring their columns with them.

    For faces that must answer with what was found at once, and keep just that. Results and columns
    are those of the analysis in a session, with the same parameters.
    """

    inputs = tuple(column.name for column in COLUMNS)
    pictures = 0

    def measure(self, batch: Batch) -> Mapping[str, NDArray[Any]]:
        """Return the columns as they came."""
        return batch.data

    def draw(self, batch: Batch) -> Mapping[str, bytes]:
        """Draw nothing: who has searched has the pictures."""
        return {}
