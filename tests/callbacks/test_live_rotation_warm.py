"""The kernels of the fit of a rotation are there before the first one."""

import subprocess
import sys
from pathlib import Path

WARM = """
import sys
from pathlib import Path
from unittest.mock import Mock

sys.path.insert(0, sys.argv[1])
from support.seen_rotation import CALIBRATION, analysis, rotation

from skywright.instruments.loop.live_rotation import LiveRotation
from skywright.instruments.loop import harmonic

kernels = [harmonic._consensus, harmonic._refine]
store = Path(sys.argv[2])
live = LiveRotation(Mock(), Mock(return_value=CALIBRATION), journal=store, assets=store)
live.close()
warm = [len(kernel.signatures) for kernel in kernels]
made = analysis()
made.update(rotation())
print(made.result()["ok"], warm, [len(kernel.signatures) for kernel in kernels])
"""


def test_the_first_rotation_of_a_session_waits_for_no_compiler(tmp_path: Path) -> None:
    # In a process of its own: other tests have used the kernels of this one.
    tests = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", WARM, tests, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "True [1, 1] [1, 1]\n"
