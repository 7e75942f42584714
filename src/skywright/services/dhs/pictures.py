"""Pictures of a series for people: saved one by one, and some of them on a sheet."""

import io
import logging
from pathlib import Path

import numpy as np
from PIL import Image

from skywright.display import contact_sheet
from skywright.errors import DataError
from skywright.loop.draw import annotate, write_picture
from skywright.loop.frames import pixels
from skywright.loop.sources import SourceFrame
from skywright.services.dhs.collection import Finding
from skywright.services.dhs.recording import Series

logger = logging.getLogger(__name__)

SHEET_PICTURES = 12


def draw_sheet(series: Series) -> dict[str, bytes]:
    """Draw what was found into some pictures of a series, and put them on a contact sheet.

    Returns
    -------
    dict
        File name to contents; empty if nothing was found.
    """
    seen = [finding for finding in series.findings if finding.found is not None]
    places = np.unique(np.linspace(0, len(seen) - 1, min(len(seen), SHEET_PICTURES)).astype(int))
    drawn = []
    for finding in (seen[place] for place in places):
        try:
            gray = series.picture(finding.index)
        except DataError as error:
            logger.warning("%s", error)
            continue
        assert finding.found is not None
        drawn.append(annotate(gray, finding.found, str(finding.index)))
    if not drawn:
        return {}
    buffer = io.BytesIO()
    Image.fromarray(contact_sheet(drawn)).save(buffer, "PNG")
    return {"contact_sheet.png": buffer.getvalue()}


class Saver:
    """Saves each picture of a series as it came, and with what was found drawn into it.

    The names are those of the loopDHS: ``loop_0000.jpeg`` and ``bboxes/automl_loop_0000.jpeg``.

    Parameters
    ----------
    directory
        Of all series; each gets one of its own.
    key
        Of the operation.
    """

    def __init__(self, directory: Path, key: str) -> None:
        name = key.replace(":", "").replace(".", "_")
        self.directory = directory / name
        for again in range(2, 10_000):  # DCSS counts handles anew when it starts
            if not self.directory.exists():
                break
            self.directory = directory / f"{name}_{again}"
        self._failed = False

    def __call__(self, frame: SourceFrame, finding: Finding) -> None:
        """Save a picture; a disk that refuses is said once."""
        name = f"loop_{finding.index:04d}.jpeg"
        try:
            (self.directory / "bboxes").mkdir(parents=True, exist_ok=True)
            (self.directory / name).write_bytes(frame.data or b"")
            if finding.found is not None:
                drawn = annotate(pixels(frame, color=True), finding.found, str(finding.index))
                write_picture(drawn, self.directory / "bboxes" / f"automl_{name}")
        except (OSError, DataError) as error:
            if not self._failed:
                logger.error("%s: pictures cannot be saved: %s", self.directory, error)
            self._failed = True
