"""The live page over a store, in the test's process or as its users start it."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient
from store.stack import Child

from dashboard.app import make_app
from dashboard.board import Checks
from skywright.checks import Check, good
from skywright.config import IocSettings, Settings
from skywright.processes.ports import free_port

PATIENT = Path(__file__).parent / "patient_page.py"


def settings_of(directory: Path, uri: str, key: str, assets: Path, **more: object) -> Settings:
    """Return a configuration of a store that somebody else serves."""
    store = {"directory": directory, "tiled_uri": uri, "api_key": key, "readable": (assets,)}
    return Settings(store=store, **more)  # type: ignore[arg-type]


def settings_with(directory: Path, name: str, prefix: str) -> Settings:
    """Return a configuration without a store, with the IOC of an instrument."""
    made = settings_of(directory, "", "", directory)
    ioc = IocSettings(module=f"iocs.{name}", prefix=prefix)
    return made.model_copy(update={"iocs": {**made.iocs, name: ioc}})


@contextmanager
def client_of(settings: Settings, **options: Any) -> Iterator[TestClient]:
    """Return a client of a page in this process."""
    app = make_app(settings, fake_checks(), **options)
    with TestClient(app, "http://127.0.0.1") as client:
        yield client


def fake_checks(*lines: Check) -> Checks:
    """Return checks that find what they are told."""
    return Checks(quick=lambda: lines, examine=lambda: [*lines, good("PVs", "all answer")])


class LivePage:
    """A `skywright dashboard` that keeps its address; `patient` raises its time limit for tiled."""

    def __init__(self, config: Path, *arguments: str, patient: bool = False) -> None:
        program = (str(PATIENT),) if patient else ("-m", "skywright.cli")
        address = ("--port", str(free_port()))
        self._command = (*program, "dashboard", *address, "--config", str(config), *arguments)
        self.start()

    def start(self) -> None:
        self._child = Child(*self._command)
        self.uri = str(self._child.ready["uri"])

    def freeze(self) -> None:
        """Let it answer nothing while its connections stay: a line that has gone dead."""
        self._child.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._child.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it as a person does, whatever is open."""
        self._child.process.terminate()
        try:
            assert self._child.process.wait(timeout=90) == 0
        finally:
            self._child.kill()
            self._child.stop()


@contextmanager
def running_page(config: Path, *arguments: str, patient: bool = False) -> Iterator[LivePage]:
    """Run a `LivePage` for the time of a with block; the parameters are those of `LivePage`."""
    page = LivePage(config, *arguments, patient=patient)
    try:
        yield page
    finally:
        page.stop()
