"""The double of the facility, in its process; an owner of shots that a test sends."""

from collections.abc import Iterator

import numpy as np
import pytest
from facility_double import installed, served
from sacla_hand import WHOLE, HandShots, run_info

from skywright.instruments.sacla.analyzed_source import AnalyzedShots
from skywright.instruments.sacla.owner import ShotOwner


@pytest.fixture(name="server", scope="module")
def serve():
    with served("--set", "manual=true", "--set", "shape=[12,10]", "--set", "pool=4") as socket:
        yield socket


@pytest.fixture(name="facility")
def make_facility(server):
    with installed(server) as control:
        yield control


@pytest.fixture
def source() -> HandShots:
    return HandShots(run_info())


@pytest.fixture
def owner(source: HandShots) -> Iterator[ShotOwner]:
    analyzed = AnalyzedShots(source, [WHOLE], np.linspace(-1.0, 1.0, 5), window=8)
    made = ShotOwner(analyzed)
    made.owner.start()
    yield made
    made.close()
