"""Once warm, no picture waits for a compiler."""

import subprocess
import sys

WARM = """
import sys

import numpy as np
from numba.core.registry import CPUDispatcher

from skywright.instruments.loop.detect import find_loop, warm_up
from skywright.instruments.loop.twin.render import render
from skywright.instruments.loop.twin.scene import random_scene
from skywright.instruments.loop.twin.trajectory import Pose


def signatures():
    prefix = "skywright.instruments.loop"
    modules = [module for name, module in sys.modules.items() if name.startswith(prefix)]
    kernels = {k for m in modules for k in vars(m).values() if isinstance(k, CPUDispatcher)}
    return {(k.py_func.__qualname__, str(s)) for k in kernels for s in k.signatures}


def pictures():
    for seed in range(24):
        scene = random_scene(np.random.default_rng(seed), width_px=352, height_px=240)
        image = render(scene, Pose(phi_deg=15.0 * seed), frame_seed=seed).image
        gray = np.ascontiguousarray(image if image.ndim == 2 else image[:, :, 1])
        for picture in (gray, gray[::-1], gray.T, gray.T[::-1], np.pad(gray, 4)):
            yield picture
        gray.flags.writeable = False
        yield gray


shown = list(pictures())  # the twin has kernels of its own
warm_up()
before = signatures()
for picture in shown:
    find_loop(picture)
print(len(before) > 50, sorted(signatures() - before))
"""


def test_once_warm_no_picture_waits_for_a_compiler() -> None:
    # In a process of its own: other tests have used the kernels of this one.
    done = subprocess.run([sys.executable, "-c", WARM], capture_output=True, text=True, check=True)
    assert done.stdout == "True []\n"
