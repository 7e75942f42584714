"""A number that an IOC does not know, NaN, is a dash on the page of its instrument."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, fields, replace
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient
from support.page import client_of, settings_of

from dashboard.epu.view import IOC as EPU
from dashboard.live_board import LiveIoc
from dashboard.panoseti.pano_worker import encode_facts as encode_images
from dashboard.panoseti.view import IOC as PANOSETI
from dashboard.psss.view import IOC as PSSS
from dashboard.sacla.shots_worker import encode_facts as encode_shots
from dashboard.sacla.view import IOC as SACLA
from dashboard.worker_process import encode
from devices.epu.view import EpuFacts
from devices.panoseti.view import PanosetiFacts, PanosetiImage
from devices.psss.view import SpectrumFacts
from devices.sacla.view import ShotFacts
from skywright.config import IocSettings

NAN = float("nan")
IMAGE = PanosetiImage(
    1, 254, "ph256", 1.7e9, "", 1.0, 10.0, 0.0, "", (NAN,) * 3, 3.0, np.zeros((16, 16), np.int32)
)


def message(facts: Any) -> bytes:
    return encode({"connected": True, **asdict(facts)})


def images(facts: PanosetiImage) -> bytes:
    return encode_images(PanosetiFacts(events=NAN, images=(facts,)))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    directory = tmp_path_factory.mktemp("page")
    iocs = {
        ioc.name: IocSettings(module=f"iocs.{ioc.name}", prefix=f"{ioc.name}:")
        for ioc in (PSSS, EPU, SACLA, PANOSETI)
    }
    settings = settings_of(directory, "", "", directory, iocs=iocs)
    with client_of(settings) as client:
        yield client


@pytest.mark.parametrize(
    ("ioc", "facts", "encoded"),
    [
        (PSSS, SpectrumFacts(), message),
        (EPU, EpuFacts(), message),
        (SACLA, ShotFacts(), lambda facts: encode_shots(facts, 10)),
        (PANOSETI, IMAGE, images),
    ],
)
def test_a_number_that_is_not_known_is_a_dash(
    page: TestClient, ioc: LiveIoc[Any], facts: Any, encoded: Callable[[Any], bytes]
) -> None:
    board = ioc.board_of(page.app.state.site)  # type: ignore[attr-defined]
    floats = [each.name for each in fields(facts) if isinstance(getattr(facts, each.name), float)]
    assert floats
    for name in floats:
        if name != "sequence":  # it is never absent: without it there is no image
            board.take(encoded(replace(facts, **{name: NAN})))
            answer = page.get(f"/{ioc.name}")
            assert answer.status_code == 200, name
            assert "nan" not in answer.text.casefold(), name
