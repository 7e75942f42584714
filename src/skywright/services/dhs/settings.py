"""What differs between beamlines, beside addresses."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DhsSettings:
    """Numbers and directories of a DHS.

    Attributes
    ----------
    expected
        Pictures of one turn; 0 if unknown.
    fps
        Pictures per second of the camera, as ``initializeCamera`` reports it.
    axis_row
        Row of the rotation axis as a fraction of the height.
    save_directory
        Where pictures of series are saved one by one; None saves none.
    workers
        Pictures of a series searched at a time.
    """

    expected: int = 0
    fps: float = 30.0
    axis_row: float = 0.5
    save_directory: Path | None = None
    workers: int = 1
