"""While kernels compile, /health says so, a start waits, and signals end the process."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from support.psss_scripted import ScriptedSource, arguments
from support.waiting import until

from skywright.errors import HardwareError
from skywright.instruments.psss import processor as psss_processor
from skywright.instruments.psss.endpoints import service as psss_service
from skywright.instruments.psss.endpoints.service import Service
from skywright.processes.ports import free_port

SLOW = """
import ctypes, sys
import skywright.instruments.psss.endpoints.service as service
# As the compiler: C code that no Python signal handler can interrupt.
service.warm_up = lambda: ctypes.CDLL(None).sleep(600)
from skywright.cli import main
main(["psss", "serve", *sys.argv[1:]])
"""
LIMIT_S = 120.0


@pytest.fixture
def compiler() -> threading.Event:
    """Set it, and the kernels are compiled."""
    return threading.Event()


@pytest.fixture
def service(
    compiler: threading.Event, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Service]:
    source = ScriptedSource()
    monkeypatch.setattr(psss_service, "make_source", lambda args: source)
    monkeypatch.setattr(psss_service, "warm_up", lambda: compiler.wait(LIMIT_S))
    service = Service(arguments(directory=tmp_path))
    yield service
    compiler.set()
    service.close()


@pytest.fixture
def http(service: Service) -> Iterator[httpx.Client]:
    address = f"http://127.0.0.1:{service.facts['rest_port']}"
    with httpx.Client(base_url=address, timeout=LIMIT_S) as client:
        yield client


def test_a_start_waits_for_the_compiler(http: httpx.Client, compiler: threading.Event) -> None:
    assert http.get("/status").json()["status"] == "stopped"  # old clients know no third word
    health = http.get("/health").json()
    assert (health["message"].partition(":")[0], health["alarm"]) == ("warming up", False)
    answers = []
    starting = threading.Thread(target=lambda: answers.append(http.post("/start").json()))
    starting.start()
    assert http.get("/status").json()["status"] == "stopped"  # others are served meanwhile
    compiler.set()
    starting.join(LIMIT_S)
    assert answers == [{"state": "ok", "status": "processing"}]


def test_a_start_does_not_wait_for_ever_nor_beyond_the_end(
    service: Service, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(psss_processor, "WARM_LIMIT_S", 0.01)
        with pytest.raises(HardwareError, match="warming up"):
            service.processor.start()
    refused = []

    def start() -> None:
        with pytest.raises(HardwareError, match="it is closed") as caught:
            service.processor.start()
        refused.append(caught)

    starting = threading.Thread(target=start)
    starting.start()
    service.processor.close()
    starting.join(LIMIT_S)
    assert refused
    assert not service.processor.is_started


def test_a_compiler_that_fails_is_said(
    http: httpx.Client, compiler: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ScriptedSource, "prepare", None, raising=False)
    monkeypatch.setattr(psss_service, "SimSource", ScriptedSource)  # which cannot be prepared
    compiler.set()
    said = "kernels are not compiled"
    until(lambda: http.get("/health").json()["message"].startswith(said))
    assert http.get("/health").json()["alarm"]


@pytest.mark.parametrize("pvs", [["--no-ca"], ["--ca-port", "0"]], ids=["no PVs", "PVs"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_while_kernels_compile(
    pvs: list[str], number: signal.Signals, tmp_path: Path
) -> None:
    rest = free_port()
    given = ("--source", "sim", "--size", "64x32", "--rest-port", str(rest), "--output-port", "0")
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *given, *pvs, "--background-dir", str(tmp_path)],
        env=os.environ.copy(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:

        def message() -> str:
            try:
                return str(httpx.get(f"http://127.0.0.1:{rest}/health").json()["message"])
            except httpx.TransportError:
                return ""

        until(lambda: message().startswith("warming up"), LIMIT_S)
        process.send_signal(number)
        assert process.wait(LIMIT_S) == -number  # the compiler takes longer
        assert process.stdout is not None
        assert process.stdout.read() == b""  # it was never ready
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
