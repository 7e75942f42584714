"""Follows the camera for the page: ``python -m dashboard.loop.camera_worker --prefix P``.

It follows the camera's PVs, looks for a loop in the newest picture and writes a message, with the
picture as JPEG, at most every `PERIOD_S` and at least every `BEAT_S`. It takes the newest picture
only when the last one is written.
"""

import json
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dashboard.worker_process import argument_parser, encode, write_messages
from devices.camera_view import CameraFacts, CameraView
from skywright.instruments.loop.backends import Detector, make_detector
from skywright.instruments.loop.detection import Detection
from skywright.instruments.loop.draw import caption
from skywright.instruments.loop.picture import SIDE_MIN_PX, encode_jpeg
from skywright.waiting import pause
from skywright.words import local_time

BEAT_S = 1.0
PERIOD_S = 0.1
"""Pictures are shown this often at most, however fast the camera posts them."""
RATE_OVER_S = 3.0
QUALITY = 80

log = logging.getLogger(__name__)


class Rate:
    """Pictures per second, from the camera's count."""

    def __init__(self) -> None:
        self._counts: deque[tuple[float, int]] = deque()

    def __call__(self, frames: int, now: float) -> float:
        """Take in a count at a time (s), and return the rate over the last `RATE_OVER_S`."""
        if self._counts and frames < self._counts[-1][1]:  # the IOC has begun again
            self._counts.clear()
        self._counts.append((now, frames))
        while now - self._counts[0][0] > RATE_OVER_S:
            self._counts.popleft()
        (since, first), (until, last) = self._counts[0], self._counts[-1]
        return (last - first) / (until - since) if until - since > 0.5 * RATE_OVER_S else math.nan


def status_words(facts: CameraFacts, per_s: float) -> str:
    """Say in one line what the camera does."""
    if not facts.connected:
        return "the camera's IOC does not answer"
    words = ["taking pictures" if facts.acquiring else "idle"]
    if facts.acquiring and not math.isnan(per_s):
        words.append(f"{per_s:.1f} per s")
    if facts.recording:
        words.append(f"recording, {facts.recorded} in the file")
    words.append(f"{facts.lost} lost")
    if facts.message and facts.message not in words:
        words.append(facts.message)
    return " · ".join(words)


def describe(detection: Detection) -> dict[str, Any]:
    """Return what is drawn of a detection, px; null where there is nothing."""
    d = detection
    base = (d.pin_base_x, d.pin_base_y)
    return {
        "tip": [round(d.tip_x, 1), round(d.tip_y, 1)] if d.tip_in_view else None,
        "box": [round(float(value), 1) for value in d.bbox] if d.bbox else None,
        "pin": None if math.isnan(base[0]) else [round(float(value), 1) for value in base],
        "kind": d.kind,
        "caption": caption(d),
    }


def encode_picture(header: dict[str, Any], picture: NDArray[np.uint8] | None) -> bytes:
    """Return a message: the header, then the picture as JPEG."""
    jpeg = b""
    if picture is not None:
        jpeg = encode_jpeg(picture, QUALITY, "444")
        header |= {"width": picture.shape[1], "height": picture.shape[0]}
    return encode(header, jpeg)


class PictureAnalyzer:
    """Find the loop with the beamline's detector, which a thread loads meanwhile.

    Parameters
    ----------
    detection
        Arguments of `skywright.instruments.loop.backends.make_detector`.
    """

    def __init__(self, detection: dict[str, Any]) -> None:
        self._detector: Detector | None = None
        self._why = "the detector is being loaded"
        self.loading = threading.Thread(target=self._load, args=(detection,), daemon=True)
        self.loading.start()

    def __call__(self, picture: NDArray[np.uint8]) -> dict[str, Any]:
        """Return what is drawn of a picture, or in ``caption`` why nothing is."""
        if self._detector is None:
            return {"caption": self._why}
        if min(picture.shape[:2]) < SIDE_MIN_PX:
            return {"caption": "too small for the detector"}
        try:
            found = self._detector.find(picture)
        except Exception as error:  # the picture is shown all the same
            log.exception("the detector failed")
            return {"caption": f"the detector failed: {error}"}
        drawn = describe(found.detection)
        return drawn | {"caption": f"{drawn['caption']} · {found.why}"} if found.why else drawn

    def _load(self, detection: dict[str, Any]) -> None:
        try:
            detector = make_detector(**detection)
            detector.warm_up()
        except Exception as error:  # pictures are shown all the same
            log.exception("the detector cannot be loaded")
            self._why = f"the detector cannot be loaded: {error}"
        else:
            self._detector = detector


def pictures(view: CameraView, analyze: PictureAnalyzer) -> Iterator[bytes]:
    """Yield a message for the newest picture, at most every `PERIOD_S`, at least every `BEAT_S`.

    An idle camera sends its last picture once, perhaps before all its other PVs are connected or
    the detector is loaded; that picture is awaited and analyzed again. Each message has the
    newest picture, as it may be the first that somebody who opens the page gets.
    """
    changed = threading.Event()
    view.watch(changed.set)
    rate, number = Rate(), 0
    is_due, about, newest = True, dict[str, Any](), None
    while True:
        is_due |= changed.wait(BEAT_S)
        changed.clear()
        began = time.monotonic()
        facts = view.facts()
        picture = view.picture() if is_due and facts.connected else None
        header: dict[str, Any] = {
            "connected": facts.connected,
            "status": status_words(facts, rate(facts.frames, began)),
        }
        if picture is not None:
            number += 1
            is_due = analyze.loading.is_alive()
            received = local_time(time.time(), offset=True)
            about = {"number": number, "received": received, "found": analyze(picture)}
            newest = picture
        yield encode_picture(header | about, newest)
        pause(max(0.0, began + PERIOD_S - time.monotonic()))


def main() -> None:
    """Run the worker."""
    parser = argument_parser(__doc__)
    parser.add_argument(
        "--detection", type=json.loads, default={}, help="JSON: [loop.detection] of skywright.toml"
    )
    options = parser.parse_args()
    write_messages(lambda: pictures(CameraView(options.prefix), PictureAnalyzer(options.detection)))


if __name__ == "__main__":
    main()
