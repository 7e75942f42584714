"""The double of the facility, in its process."""

import pytest
from facility_double import installed, served


@pytest.fixture(name="server", scope="module")
def serve():
    with served("--set", "manual=true", "--set", "shape=[12,10]", "--set", "pool=4") as socket:
        yield socket


@pytest.fixture(name="facility")
def make_facility(server):
    with installed(server) as control:
        yield control
