"""PANOSETI on the page: ``python -m dashboard.panoseti.pano_worker --prefix P``, a process.

It reads the PVs every `PERIOD_S` and writes a message: the facts, then the pixels of the images as
int32, one after the other.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict

import numpy as np

from dashboard.worker_process import argument_parser, each_period, encode, write_messages
from devices.panoseti.view import PanosetiFacts, PanosetiView

PERIOD_S = 1.0


def pointing_text(pointing_deg: tuple[float, float, float]) -> str:
    """Return where a telescope points, for people; empty if its elevation is not known."""
    azimuth, elevation, angle = pointing_deg
    if math.isnan(elevation):
        return ""
    return f"az {azimuth:.3f}°, el {elevation:.3f}°, PA {angle:.3f}°"


def encode_facts(facts: PanosetiFacts) -> bytes:
    """Return a message: the facts as a JSON line, then the pixels."""
    pixels = b"".join(np.ascontiguousarray(each.pixels, "<i4").tobytes() for each in facts.images)
    header = {"connected": True, **asdict(facts)}
    for image in header["images"]:
        image["pointing"] = pointing_text(image.pop("pointing_deg"))
        image["side"] = len(image.pop("pixels"))
    return encode(header, pixels)


def main() -> None:
    """Run the worker."""
    parser = argument_parser(__doc__)
    parser.add_argument("--modules", type=int, required=True, help="slots of the IOC")
    options = parser.parse_args()

    def messages() -> Iterator[bytes]:
        view = PanosetiView(options.prefix, slots=options.modules)
        return each_period(lambda: encode_facts(view.facts()), PERIOD_S)

    write_messages(messages)


if __name__ == "__main__":
    main()
