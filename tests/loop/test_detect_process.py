"""The network of a process: its first user loads it, and a forked child loads it anew."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from skywright.errors import ConfigError
from skywright.instruments.loop import detect
from skywright.instruments.loop.detector.readout import LoopFinder

FORKED = """
import os
import threading

import numpy as np

from skywright.instruments.loop.detect import _process, find_loop

gray = np.full((240, 320), 200, np.uint8)
gray[100:140, :160] = 40
here = find_loop(gray)
held, over = threading.Event(), threading.Event()


def hold():  # as one that loads the network
    with _process.lock:
        held.set()
        over.wait()


thread = threading.Thread(target=hold)
thread.start()
held.wait()
child = os.fork()
if child == 0:
    os._exit(0 if find_loop(gray) == here else 1)
over.set()
thread.join()
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""

ABSENT = """
import sys

sys.modules["onnxruntime"] = None  # an import of it fails
import numpy as np

from skywright.errors import ConfigError
from skywright.instruments.loop.detect import find_loop

try:
    find_loop(np.zeros((64, 64), np.uint8))
except ConfigError as error:
    print(error)
"""


def test_threads_that_ask_at_the_same_time_load_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    together = threading.Barrier(4)

    def load(path):
        loaded.append(path)
        return LoopFinder(path)

    def ask(_):
        together.wait(60)
        return detect.finder()

    monkeypatch.setattr(detect, "LoopFinder", load)
    monkeypatch.setattr(detect._process, "finder", None)
    with ThreadPoolExecutor(4) as pool:
        finders = set(pool.map(ask, range(4)))
    assert loaded == [detect.NETWORK]
    assert len(finders) == 1


def test_a_forked_child_waits_for_no_lock_and_finds_the_same() -> None:
    done = subprocess.run([sys.executable, "-c", FORKED], timeout=120, check=False)
    assert done.returncode == 0


def test_without_onnxruntime_the_error_says_what_to_install() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ABSENT], capture_output=True, text=True, check=True
    )
    assert "skywright[loop]" in done.stdout


def test_onnxruntime_leaves_nothing_in_the_home_and_sends_nothing(tmp_path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    # Nothing else: onnxruntime sends nothing where it sees the variables of a test runner.
    environment = {"PATH": os.environ["PATH"], "HOME": str(home)}
    code = "from skywright.instruments.loop.detect import warm_up; warm_up()"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=120)
    assert list(home.iterdir()) == []


def test_a_network_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(detect, "NETWORK", tmp_path / "none.onnx")
    monkeypatch.setattr(detect._process, "finder", None)
    with pytest.raises(ConfigError, match=r"none\.onnx"):
        detect.find_loop(np.zeros((64, 64), np.uint8))


def test_warm_up_loads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detect._process, "finder", None)
    detect.warm_up()
    assert detect._process.finder is not None
