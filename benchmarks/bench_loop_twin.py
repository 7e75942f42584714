"""Time of one simulated picture, 704x480 color, one core: ``python -m benchmarks.bench_loop_twin``.

Random scenes with a loop or mount, turning at 60 deg/s over an exposure of 1/60 s. The goal is that
of a 30 frames/s camera that shares two cores with what it feeds.
"""

import sys
import time

import numpy as np

from benchmarks.options import argument_parser
from benchmarks.rows import report
from skywright.instruments.loop.picture import encode_jpeg
from skywright.instruments.loop.twin.render import Pose, render, warm_up
from skywright.instruments.loop.twin.scene import random_scene

GOAL_MS = 15.0


def main() -> int:
    """Print the row; return 0."""
    argument_parser(__doc__).parse_args()
    warm_up()
    rng = np.random.default_rng(5)
    medians, encode = [], []
    for number in range(40):
        kind = ("nylon", "mitegen")[number % 2]
        scene = random_scene(rng, kind=kind, width_px=704, height_px=480, color=True)
        path = [Pose(phi_deg=phi) for phi in (40.0, 41.0)]
        render(scene, Pose(phi_deg=40.5), path=path)
        times = []
        for seed in range(5):
            start = time.perf_counter()
            frame = render(scene, Pose(phi_deg=40.5), path=path, frame_seed=seed)
            times.append(1e3 * (time.perf_counter() - start))
        medians.append(float(np.median(times)))
        start = time.perf_counter()
        encode_jpeg(frame.image, scene.optics.jpeg_quality)
        encode.append(1e3 * (time.perf_counter() - start))
    report(
        "loop twin, picture 704x480 color, one core",
        float(np.median(medians)),
        "ms",
        goal=GOAL_MS,
        p90=float(np.percentile(medians, 90)),
        jpeg_ms=float(np.median(encode)),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
