"""Kernels are ready before the first frame."""

import subprocess
import sys

from skywright.instruments.panoseti.warm import warm_up

SCRIPT = """
import sys
from pathlib import Path
import numpy as np
from skywright.instruments.panoseti import clock, coincidences, pff_kernels
from skywright.instruments.panoseti.live.publish import Publisher
from skywright.instruments.panoseti.live.slots import Slots
from skywright.instruments.panoseti.sources.replay import ReplaySource
from skywright.instruments.panoseti.warm import warm_up
from skywright.wire.daqdata import encode

kernels = [
    each
    for module in (clock, coincidences, pff_kernels, encode)
    for each in vars(module).values()
    if hasattr(each, "signatures")
]
warm_up()
before = {each.__name__: len(each.signatures) for each in kernels}
publisher, frames = Publisher(Slots()), 0
for run in Path(sys.argv[1]).glob("module_*/*.pffd"):
    source = ReplaySource(run, speed=0)
    source.open()
    while (block := source.next(0.0)) is not None:
        publisher.publish_newest(block.frames)
        frames += len(block.frames)
    source.close()
times = np.arange(10, dtype=np.int64)
coincidences.find_coincidences(times, times % 3, 2)
after = {each.__name__: len(each.signatures) for each in kernels}
assert frames == 250 + 800 + 250 + 242, frames
assert sum(count > 0 for count in before.values()) >= 7, before
print([name for name in before if after[name] != before[name]])
"""


def test_frames_of_real_files_need_no_further_compiling(test_data) -> None:
    command = [sys.executable, "-c", SCRIPT, str(test_data / "panoseti/data_dir")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_the_files_that_are_made_for_it_are_not_in_the_log(caplog) -> None:
    caplog.set_level("INFO", "skywright")
    warm_up()
    assert not caplog.records
