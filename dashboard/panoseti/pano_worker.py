"""PANOSETI on the page: ``python -m dashboard.panoseti.pano_worker --prefix P``, a process.

It reads the PVs every `PERIOD_S` and writes a message: the facts, then the pixels of the images as
int32, one after the other.
"""

import math
from collections.abc import Iterator

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
    header = {
        "connected": True,
        "run": facts.run,
        "state": facts.state,
        "message": facts.message,
        "events": facts.events,
        "images": [
            {
                "slot": each.slot,
                "module": each.module,
                "product": each.product,
                "seconds": each.seconds,
                "flags": each.flags,
                "rows": each.rows,
                "rate_hz": each.rate_hz,
                "packets_lost": each.packets_lost,
                "clock": each.clock,
                "pointing": pointing_text(each.pointing_deg),
                "sequence": each.sequence,
                "side": len(each.pixels),
            }
            for each in facts.images
        ],
    }
    return encode(header, pixels)


def main() -> None:
    """Run the worker."""
    options = argument_parser(__doc__).parse_args()

    def messages() -> Iterator[bytes]:
        view = PanosetiView(options.prefix)
        return each_period(lambda: encode_facts(view.facts()), PERIOD_S)

    write_messages(messages)


if __name__ == "__main__":
    main()
