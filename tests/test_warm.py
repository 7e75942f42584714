"""`python -m skywright.processes.warm` ends on signals while kernels compile."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from skywright.instruments import instruments
from skywright.processes import warm

SLOW = """
import logging, sys, time
import skywright.instruments as declared, skywright.processes.warm as warm
from dataclasses import replace
loop = declared.instruments()["loop"]
one = replace(loop, kernels=("slow_kernels:compile_one", "slow_kernels:compile_two"))
warm.instruments = lambda: {"loop": one}
warm.main()
"""
KERNELS = """
import ctypes, os
def compile_one():
    # As the compiler: C code that no Python signal handler can interrupt.
    os.write(1, b"one\\n")
    ctypes.CDLL(None).sleep(60)
def compile_two():
    os.write(1, b"two\\n")
    ctypes.CDLL(None).sleep(60)
"""


def test_kernels_that_cannot_be_compiled_are_an_exit_status(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    loop = replace(instruments()["loop"], kernels=("os:absent", "os:getpid"))
    monkeypatch.setattr(warm, "instruments", lambda: {"loop": loop})
    monkeypatch.setattr(warm, "END_SIGNALS", ())
    with pytest.raises(SystemExit) as ended:
        warm.main()
    assert ended.value.code == 1
    assert "os:absent: kernels are not compiled" in caplog.text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_while_kernels_compile(tmp_path: Path, number: int) -> None:
    (tmp_path / "slow_kernels.py").write_text(KERNELS)
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        assert {process.stdout.readline(), process.stdout.readline()} == {"one\n", "two\n"}
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= 2
        if number == signal.SIGINT:  # a terminal's Ctrl-C reaches all of them
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        assert process.wait(90) != 0
        assert psutil.wait_procs(children, timeout=5)[1] == []
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()
