"""Ports, log levels, and children that end with their parent."""

import argparse
import logging
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from skywright.errors import ConfigError
from skywright.processes.logs import log_to_stderr
from skywright.processes.ports import free_port, http_url, port_is_free, port_number
from skywright.rooms import PACKAGES


def test_free_ports_are_free_and_outside_the_ephemeral_range() -> None:
    ports = {free_port() for _ in range(20)}
    assert all(port_is_free(port) for port in ports)
    kernel = Path("/proc/sys/net/ipv4/ip_local_port_range")
    if kernel.is_file():
        low, high = map(int, kernel.read_text().split())
        assert not [port for port in ports if low <= port <= high]


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_port_that_one_protocol_has_is_not_free(kind: socket.SocketKind) -> None:
    with socket.socket(type=kind) as taken:
        taken.bind(("127.0.0.1", 0))
        assert not port_is_free(taken.getsockname()[1])


def test_a_port_that_is_promised_to_others_is_not_given() -> None:
    with pytest.raises(OSError, match="no port is free"):
        free_port(taken=range(65536))


def test_a_host_of_another_machine_has_no_free_port() -> None:
    with pytest.raises(ConfigError, match=r"host 192\.0\.2\.1: .* expected an address of this"):
        free_port("192.0.2.1")


@pytest.mark.parametrize("text", ["65536", "-1", "1.5", "http", ""])
def test_what_is_no_port_is_refused(text: str) -> None:
    assert (port_number("0"), port_number("65535")) == (0, 65535)
    with pytest.raises(argparse.ArgumentTypeError, match="expected a port, 0 to 65535"):
        port_number(text)


def test_an_address_has_brackets_around_an_ipv6_host() -> None:
    assert http_url("camera7", 80) == "http://camera7:80"
    assert http_url("::1", 80) == http_url("[::1]", 80) == "http://[::1]:80"


@pytest.mark.parametrize(
    ("verbosity", "variable", "level"),
    [
        (0, "", logging.ERROR),
        (1, "", logging.INFO),
        (2, "", logging.DEBUG),
        (5, "", logging.DEBUG),
        (0, "warning", logging.WARNING),
        (1, "WARNING", logging.INFO),
        (0, "loud", logging.ERROR),
    ],
)
def test_log_levels(
    monkeypatch: pytest.MonkeyPatch, verbosity: int, variable: str, level: int
) -> None:
    monkeypatch.setenv("SKYWRIGHT_LOG_LEVEL", variable)
    before = {name: logging.getLogger(name).level for name in ("", *PACKAGES)}
    try:
        log_to_stderr(verbosity)
        assert {logging.getLogger(name).level for name in PACKAGES} == {level}
    finally:
        for name, value in before.items():
            logging.getLogger(name).setLevel(value)


ENDING = """
import atexit, sys, threading
from concurrent.futures import ThreadPoolExecutor
from skywright.processes.lifecycle import end_process

ThreadPoolExecutor(1).submit(threading.Event().wait)
atexit.register(lambda: print("closed"))
print("no new line yet", end=" ")
end_process()
"""


def test_the_end_of_a_process_does_not_wait_for_its_threads() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ENDING], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "no new line yet closed\n")


LIFELINE = """
import signal, sys
from skywright.processes import lifecycle
lifecycle.STOP_LIMIT_S = 0.2
{first}
lifecycle.end_with_parent()
lifecycle.announce_ready(port=1)
while True:
    signal.pause()
"""


@pytest.mark.parametrize(
    ("first", "status"),
    [
        ("", -signal.SIGTERM),
        ("signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))", 0),
        ("signal.signal(signal.SIGTERM, signal.SIG_IGN)", -signal.SIGKILL),
    ],
)
def test_a_child_ends_when_its_stdin_does(first: str, status: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", LIFELINE.format(first=first)],
        env={**os.environ, "SKYWRIGHT_SUPERVISED": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == '{"ready": {"port": 1}}\n'
        child.stdin.close()
        assert child.wait(90) == status


ENDED_WHILE_THE_MAIN_THREAD_HOLDS_A_LOCK = """
import signal, threading
from skywright.processes.lifecycle import call_on_end_signal
lock, called = threading.Lock(), threading.Event()

def end():
    print("call has the lock:", lock.acquire(timeout=60))
    called.set()

call_on_end_signal(end)
with lock:
    signal.raise_signal(signal.{name})
    print("handled")
called.wait()
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_to_end_does_not_wait_for_a_lock_of_the_main_thread(name: str) -> None:
    code = ENDED_WHILE_THE_MAIN_THREAD_HOLDS_A_LOCK.format(name=name)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "handled\ncall has the lock: True\n"


ENDED_TWICE = """
import signal
from skywright.processes.lifecycle import call_on_end_signal
call_on_end_signal(print, once=True)
signal.raise_signal(signal.SIGTERM)
try:
    signal.raise_signal(signal.{name})
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_second_signal_ends_what_hangs_at_the_first(name: str) -> None:
    code = ENDED_TWICE.format(name=name)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "interrupted" in done.stdout


def test_a_closed_terminal_does_not_end_what_nohup_has_started() -> None:
    code = "import asyncio, signal\n"
    code += "from skywright.processes.lifecycle import stop_event\n"
    code += "async def main(): stop_event()\n"
    code += "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    code += "asyncio.run(main())\n"
    code += "print(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_a_child_that_nobody_supervises_does_not_watch_its_stdin() -> None:
    code = "from skywright.processes.lifecycle import end_with_parent; import threading\n"
    code += "end_with_parent()\n"
    code += "print([thread.name for thread in threading.enumerate()])"
    environment = {name: value for name, value in os.environ.items() if "SUPERVISED" not in name}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "['MainThread']\n"


ARRAYS_THAT_COME_AND_GO = """
import os
import sys
from pathlib import Path

import numpy as np

from skywright.processes.memory import return_large_arrays

if sys.argv[1] == "returned":
    return_large_arrays()
page = os.sysconf("SC_PAGE_SIZE")
held = lambda: int(Path("/proc/self/statm").read_text().split()[1]) * page
first = np.ones(4_000_000, np.uint8)
del first
before, largest, stays = held(), 0, []
for _ in range(3):
    goes = []
    for _ in range(20):
        goes.append(np.ones(3_000_000, np.uint8))
        stays.append(np.ones(500_000, np.uint8))  # more than any hole that imports leave
    del goes
    largest = max(largest, held() - before - sum(each.nbytes for each in stays))
print(largest)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
@pytest.mark.parametrize(("how", "is_given_back"), [("returned", True), ("as it is", False)])
def test_large_arrays_that_are_freed_leave_no_holes(how: str, is_given_back: bool) -> None:
    command = [sys.executable, "-c", ARRAYS_THAT_COME_AND_GO, how]
    # A dask cluster of another test leaves MALLOC_TRIM_THRESHOLD_ in the environment.
    environment = {name: value for name, value in os.environ.items() if "MALLOC" not in name}
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert (int(result.stdout) < 10_000_000) == is_given_back


SMALL_ARRAYS_BETWEEN_OTHERS = """
import os
import sys
from pathlib import Path

from skywright.processes.memory import trim_heaps

page = os.sysconf("SC_PAGE_SIZE")
held = lambda: int(Path("/proc/self/statm").read_text().split()[1]) * page
goes, stays = [], []
for _ in range(1000):
    goes.append(bytearray(50_000))
    stays.append(bytearray(600))  # beyond Python's own allocator
full = held()
del goes
if sys.argv[1] == "trimmed":
    trim_heaps()
print(full - held())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
@pytest.mark.parametrize(("how", "is_given_back"), [("trimmed", True), ("as it is", False)])
def test_holes_in_the_heap_are_given_back(how: str, is_given_back: bool) -> None:
    command = [sys.executable, "-c", SMALL_ARRAYS_BETWEEN_OTHERS, how]
    environment = {name: value for name, value in os.environ.items() if "MALLOC" not in name}
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert (int(result.stdout) > 30_000_000) == is_given_back


CHILD_THAT_READS = """
import sys
print(sys.argv[1], flush=True)
sys.stdin.read()
"""

PARENT = """
import os, signal
from skywright.processes.child import start_module
child = start_module("reads", "hello", text=True)
forked = os.fork() if {forks} else 0
if forked or not {forks}:
    print(child.stdout.readline().strip(), child.pid, forked, flush=True)
signal.pause()
"""


@pytest.mark.parametrize("forks", [False, True])
def test_a_child_module_ends_with_its_parent_also_by_sigkill(tmp_path: Path, forks: bool) -> None:
    (tmp_path / "reads.py").write_text(CHILD_THAT_READS)
    with subprocess.Popen(
        [sys.executable, "-c", PARENT.format(forks=forks)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        said, pid, forked = parent.stdout.readline().split()
        assert said == "hello"
        child = psutil.Process(int(pid))
        parent.kill()
        psutil.wait_procs([child], timeout=60)
        has_ended = not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
        if forks:
            os.kill(int(forked), signal.SIGKILL)
        assert has_ended
