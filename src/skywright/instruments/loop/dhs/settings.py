"""What differs between beamlines, beside addresses."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DhsSettings:
    """Numbers and directories of a DHS.

    Attributes
    ----------
    osci_delta_deg, osci_time_s
        Turn of the spindle during a series, and its duration; 0 if unknown.
    expected
        Pictures of one turn, by default of 3 s at 30 pictures/s; 0 if unknown.
    end_by_count
        Whether a series ends as soon as `expected` pictures have come, without a stop.
    fps
        Pictures per second of the camera, as ``initializeCamera`` reports it.
    axis_row
        Row of the rotation axis as a fraction of the height.
    save_directory
        Where pictures of series are saved one by one; None saves none.
    workers
        Pictures of a series searched at a time.
    """

    osci_delta_deg: float = 0.0
    osci_time_s: float = 3.0
    expected: int = 90
    end_by_count: bool = False
    fps: float = 30.0
    axis_row: float = 0.5
    save_directory: Path | None = None
    workers: int = 1
