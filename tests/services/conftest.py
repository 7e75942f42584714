"""A PSSS service in this process, over a source that a test feeds, and its clients."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from support.psss_old_client import PsssProcessingClient
from support.psss_scripted import ScriptedSource, running_service

from skywright.psss import Client
from skywright.services.psss_service import Service


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
    service.parameters._shown.clear()


@pytest.fixture
def http(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, timeout=30) as client:
        yield client


@pytest.fixture(params=["old", "ours"])
def client(request: pytest.FixtureRequest, address: str) -> Iterator[Any]:
    if request.param == "old":
        yield PsssProcessingClient(address + "/")
        return
    with Client(address) as ours:
        yield ours
