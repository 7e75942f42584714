"""One simulated beamline for the tests of the commands that need it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.stack import running_up


@pytest.fixture(scope="package")  # it ends when its worker goes on to other tests
def beamline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Environment of a process that uses a running simulated beamline with a store of its own."""
    directory: Path = tmp_path_factory.mktemp("beamline")
    environment = {
        "SKYWRIGHT_STORE__DIRECTORY": str(directory / "store"),
        "SKYWRIGHT_CONFIG": str(directory / "skywright.toml"),
        "SKYWRIGHT_PREFIX": "TEST:{user}:",
    }
    (directory / "skywright.toml").write_text('[metadata]\ninstrument = "test bench"\n')
    with running_up(**environment):
        yield environment
