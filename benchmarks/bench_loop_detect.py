"""JPEG bytes to detection, 704x480, one core: ``python -m benchmarks.bench_loop_detect``.

One row; beside it, of the same run, what decoding the same bytes alone takes, and what onnxruntime
takes for the network, for this picture and its crops. The picture is drawn here: a nylon loop on a
stem and a pin, back light, noise.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import simplejpeg
from scipy.ndimage import gaussian_filter

from benchmarks.options import argument_parser
from benchmarks.rows import report
from skywright.instruments.loop.detect import find_loop, finder, warm_up
from skywright.instruments.loop.picture import decode

GOAL_MS = 6.0
RUNS, CALLS = 9, 20


def picture_bytes() -> bytes:
    """Return a 704x480 JPEG of quality 85."""
    y, x = np.mgrid[0:480, 0:704]
    ring = np.abs(np.hypot((x - 420.0) / 1.4, y - 240.0) - 34) < 4
    stem = (np.abs(y - 240) < 4) & (x < 374)
    pin = (np.abs(y - 240) < 45) & (x < 150)
    light = 190 * (1 - 0.2 * ((x / 704 - 0.5) ** 2 + (y / 480 - 0.5) ** 2))
    seen = light * (1 - 0.8 * gaussian_filter((ring | stem | pin).astype(float), 0.9))
    noisy = seen + np.random.default_rng(1).normal(0, 2.0, seen.shape)
    gray = noisy.clip(0, 255).astype(np.uint8)[:, :, None]
    return simplejpeg.encode_jpeg(np.ascontiguousarray(gray), quality=85, colorspace="GRAY")


def medians_ms(*works: Callable[[], object]) -> list[float]:
    """Time each work in turn: medians over runs of the mean of some calls, ms.

    In turn, so that what else the machine does meets all of them alike.
    """
    means = np.empty((RUNS, len(works)))
    for run in range(RUNS):
        for place, work in enumerate(works):
            start = time.perf_counter()
            for _ in range(CALLS):
                work()
            means[run, place] = 1e3 * (time.perf_counter() - start) / CALLS
    return [float(value) for value in np.median(means, axis=0)]


def network_inputs(gray: np.ndarray) -> list[np.ndarray]:
    """Return the inputs of the network for a picture: itself and its crops."""
    fed: list[np.ndarray] = []
    model, asked = finder().model, finder().model.session

    class Listening:
        """The session, which keeps what it is fed."""

        def run(self, outputs: list[str], inputs: dict[str, np.ndarray]) -> Any:
            fed.append(inputs["gray"])
            return asked.run(outputs, inputs)

    model.session = Listening()
    find_loop(gray)
    model.session = asked
    return fed


def main() -> int:
    """Print the row; return 0."""
    argument_parser(__doc__).parse_args()
    warm_up()
    data = picture_bytes()
    gray = decode(data)
    found = find_loop(gray)
    if found.side != "left" or abs(found.tip_x - 471.5) > 3:
        raise SystemExit(f"the detector gave {found}, expected the tip at 471.5 from the left")
    session, fed = finder().model.session, network_inputs(gray)

    def network() -> None:
        for each in fed:
            session.run(None, {"gray": each})

    value, decoding, network_ms = medians_ms(
        lambda: find_loop(decode(data)), lambda: decode(data), network
    )
    report(
        "loop_detect_704x480",
        value,
        "ms",
        goal=GOAL_MS,
        floor=decoding + network_ms,
        floor_is="decoding and onnxruntime alone",
        decoding_ms=decoding,
        network_ms=network_ms,
        inputs=len(fed),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
