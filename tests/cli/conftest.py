"""One simulated beamline for the tests of the commands that need it.

It has three of the IOCs: the others would cost processor time until its tests end. A session with
all of them is started once, in ``test_session.py``.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.stack import running_up

CONFIG = """
[metadata]
instrument = "test bench"
[iocs.axis]
[iocs.goniometer]
[iocs.psss]
"""


@pytest.fixture(scope="package")  # it ends when its worker goes on to other tests
def beamline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Environment of a process that uses a running simulated beamline with a store of its own."""
    directory: Path = tmp_path_factory.mktemp("beamline")
    environment = {
        "SKYWRIGHT_STORE__DIRECTORY": str(directory / "store"),
        "SKYWRIGHT_CONFIG": str(directory / "skywright.toml"),
        "SKYWRIGHT_PREFIX": "TEST:{user}:",
    }
    (directory / "skywright.toml").write_text(CONFIG)
    with running_up(**environment):
        yield environment
