"""Pictures of a series for people: saved one by one, and some of them on a sheet."""

import logging
from concurrent.futures import Executor
from pathlib import Path

import numpy as np

from skywright.analysis.display import contact_sheet
from skywright.errors import DataError
from skywright.instruments.loop.backends.boxes import find_pin_box
from skywright.instruments.loop.dhs.collection import Finding
from skywright.instruments.loop.dhs.recording import Recording
from skywright.instruments.loop.draw import annotate
from skywright.instruments.loop.picture import encode_jpeg, encode_png, to_gray
from skywright.instruments.loop.rotation_pictures import places_on_sheet
from skywright.instruments.loop.sources import SourceFrame

logger = logging.getLogger(__name__)


def draw_sheet(series: Recording) -> dict[str, bytes]:
    """Draw what was found into some pictures of a series, and put them on a contact sheet.

    Returns
    -------
    dict
        File name to contents; empty if nothing was found.
    """
    seen = [finding for finding in series.findings if finding.found is not None]
    drawn = []
    for finding in (seen[row] for row in places_on_sheet(np.zeros(len(seen)))):
        try:
            gray = series.picture(finding.index)
        except DataError as error:
            logger.warning("%s", error)
            continue
        assert finding.found is not None
        drawn.append(annotate(gray, finding.found, str(finding.index)))
    if not drawn:
        return {}
    return {"contact_sheet.png": encode_png(contact_sheet(drawn))}


class Saver:
    """Saves each picture of a series as it came, and with what was found drawn into it.

    The names are those of the loopDHS: ``loop_0000.jpeg`` and ``bboxes/automl_loop_0000.jpeg``, in
    a directory for each series, named by the key of its operation.

    Parameters
    ----------
    directory
        In which it makes its own.
    key
        Of the operation.
    later
        Executor of `save_later`, of one thread.
    """

    def __init__(self, directory: Path, key: str, later: Executor) -> None:
        self.directory = directory / key.replace(":", "").replace(".", "_")
        self._failed = False
        self._later = later

    def choose_directory(self) -> None:
        """Take a name that no series has yet: DCSS counts handles anew when it starts."""
        wanted = self.directory
        for again in range(2, 10_000):
            if not self.directory.exists():
                break
            self.directory = wanted.with_name(f"{wanted.name}_{again}")

    def save_later(self, index: int, frame: SourceFrame) -> None:
        """Save a picture as it came, on a thread for this; returns at once."""
        self._later.submit(self.save, index, frame)

    def save(self, index: int, frame: SourceFrame) -> None:
        """Save a picture as it came; an error of the disk is logged, once a series."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            (self.directory / _file_name(index)).write_bytes(frame.data or b"")
        except OSError as error:
            self._report(error)

    def save_drawn(self, frame: SourceFrame, finding: Finding) -> None:
        """Save a picture that was searched with what was found drawn into it."""
        if finding.found is None:
            return
        try:
            picture = frame.pixels(color=True)
            pin_box = find_pin_box(to_gray(picture), finding.found)
            drawn = annotate(picture, finding.found, _figures(finding), pin_box)
            path = self.directory / "bboxes" / f"automl_{_file_name(finding.index)}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode_jpeg(drawn, 90, "444"))
        except (OSError, DataError) as error:
            self._report(error)

    def _report(self, error: Exception) -> None:
        if not self._failed:
            logger.error("%s: pictures cannot be saved: %s", self.directory, error)
        self._failed = True


def _file_name(index: int) -> str:
    return f"loop_{index:04d}.jpeg"


def _figures(finding: Finding) -> str:
    """Return index and the main numbers of a finding, px, for the text on its picture."""
    found = finding.found
    assert found is not None
    words = [f"{finding.index}"]
    if found.tip_in_view:
        words.append(f"tip {found.tip_x:.0f},{found.tip_y:.0f}")
    if found.bbox is not None:
        xmin, ymin, xmax, ymax = found.bbox
        words.append(f"box {xmax - xmin:.0f}x{ymax - ymin:.0f}")
    if np.isfinite(found.pin_base_x):
        words.append(f"pin {found.pin_base_x:.0f},{found.pin_base_y:.0f}")
    return " ".join(words)
