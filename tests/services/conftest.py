"""A PSSS service in this process, over a source that a test feeds, its clients; a DHS."""

from collections.abc import Iterator
from typing import Any

import httpx
import psss_processing
import pytest
from support.dhs import Bench, bench
from support.dhs_pictures import pictures
from support.psss_old_client import PsssProcessingClient
from support.psss_scripted import ScriptedSource, running_service

from skywright.instruments.psss import Client
from skywright.instruments.psss.endpoints.service import Service


@pytest.fixture(scope="module")
def source() -> ScriptedSource:
    return ScriptedSource()


@pytest.fixture(scope="module")
def service(source: ScriptedSource, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    directory = tmp_path_factory.mktemp("backgrounds")
    with running_service(source, "--output-kind", "pub", directory=directory) as service:
        yield service


@pytest.fixture
def address(service: Service) -> Iterator[str]:
    yield f"http://127.0.0.1:{service.facts['rest_port']}"
    service.processor.stop()
    service.processor.change(background=None, background_name="", roi=(0, 0), axis=None)
    service.parameters._kept.clear()
    service.parameters._given.clear()


@pytest.fixture
def http(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, timeout=90) as client:
        yield client


@pytest.fixture(params=["old", "ours", "old name"])
def client(request: pytest.FixtureRequest, address: str) -> Iterator[Any]:
    if request.param == "old":
        yield PsssProcessingClient(address + "/")
        return
    kind = Client if request.param == "ours" else psss_processing.PsssProcessingClient
    with kind(address) as ours:
        yield ours


@pytest.fixture(scope="session")
def dhs_pictures() -> None:
    """Draw the pictures of a DHS before a series: it waits 14 s for its first one."""
    pictures()


@pytest.fixture
def face() -> Iterator[Bench]:
    with bench() as made:
        yield made
