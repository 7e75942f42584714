"""A part of an instrument that cannot be imported is reported; the session has the others."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from skywright.analysis.picture_statistics import PictureStatistics
from skywright.config import Settings, StoreSettings, load_settings
from skywright.errors import ConfigError
from skywright.instruments import Instrument, NamedAnalysis
from skywright.session import context as module
from skywright.session.context import (
    SessionContext,
    configured_instruments,
    find_plans,
    make_analyses,
    make_devices,
)


def make_lamp(context: SessionContext) -> dict[str, Any]:
    return {"lamp": str(context.assets)}


def refuse(context: SessionContext) -> dict[str, Any]:
    raise ConfigError("lamp.color: no such color")


def plan() -> None:
    """Stand for a plan."""


GOOD = Instrument("good", "", devices=f"{__name__}:make_lamp", plans=(f"{__name__}:plan",))
BROKEN = Instrument(
    "broken",
    "",
    devices=f"{__name__}:no_such_function",
    plans=("no_such_module:plan", f"{__name__}:no_such_plan"),
    analyses={"broken": NamedAnalysis("no_such_module:Analysis", live=True)},
)


@pytest.fixture
def context(tmp_path: Path) -> SessionContext:
    return SessionContext(Settings(store=StoreSettings(directory=tmp_path)))


def test_the_others_work(
    context: SessionContext, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "instruments", lambda: {"broken": BROKEN, "good": GOOD})
    with caplog.at_level(logging.ERROR):
        assert make_devices(context) == {"lamp": str(context.assets)}
        assert find_plans(context.settings) == {"plan": plan}
        assert make_analyses(context.settings, engine=None) == {}
    assert len(caplog.messages) == 4
    assert all(message.startswith("instrument broken: ") for message in caplog.messages)


def test_a_wrong_configuration_is_an_error(
    context: SessionContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing = Instrument("refusing", "", devices=f"{__name__}:refuse")
    monkeypatch.setattr(module, "instruments", lambda: {"refusing": refusing})
    with pytest.raises(ConfigError, match="no such color"):
        make_devices(context)


@pytest.mark.parametrize(
    ("iocs", "used"),
    [
        ('[iocs.second_camera]\nmodule = "iocs.axis"\nprefix = "CAM2:"', ["loop"]),
        ('[iocs.psss]\nmodule = "site.psss"\nprefix = "SARFE10-PSSS059:"', ["psss"]),
        ('[iocs.lamp]\nmodule = "site.lamp"\nprefix = "LAMP:"', []),
    ],
)
def test_an_instrument_is_used_if_an_ioc_has_its_name_or_its_module(
    iocs: str, used: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "skywright.toml"
    file.write_text(iocs)
    assert list(configured_instruments(load_settings(file))) == used


def test_a_second_stage_analysis_that_cannot_be_imported_is_left_out(
    context: SessionContext, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first, stage = "picture_statistics", "no_such_module:Stage"
    later = NamedAnalysis(stage, live=True, after=first, stage=stage)
    kind = f"{PictureStatistics.__module__}:{PictureStatistics.__name__}"
    analyses = {first: NamedAnalysis(kind, live=True), stage: later}
    monkeypatch.setattr(
        module, "instruments", lambda: {"half": Instrument("half", "", analyses=analyses)}
    )
    engine = SimpleNamespace(subscribe=lambda live: None)
    assert list(make_analyses(context.settings, engine)) == [first]
    (message,) = caplog.messages
    assert message.startswith(f"instrument half: analysis {stage} is left out: ModuleNotFound")
