"""Settings that survive a restart, when that is wanted."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from support.limits import full_disk
from support.psss_scripted import COLUMNS, PICTURE, ScriptedSource, running_service
from support.waiting import until

from skywright.instruments.psss.background import History, uploaded
from skywright.instruments.psss.endpoints import autosave as psss_autosave
from skywright.instruments.psss.endpoints.parameters import Parameters
from skywright.instruments.psss.processor import Processor

AXIS = np.linspace(9000, 8990, COLUMNS)


def test_settings_are_restored(tmp_path: Path) -> None:
    with running_service(ScriptedSource(), "--restore", directory=tmp_path) as service:
        assert service.parameters.as_json() == {"background": ""}
        dark = uploaded("dark", PICTURE)
        service.parameters.use(dark)
        service.history.keep(dark)
        service.processor.change(roi=(3, 9), axis=AXIS, background_mode="signed", fit="robust")
    with running_service(ScriptedSource(), "--restore", directory=tmp_path) as service:
        settings = service.processor.settings
        assert (settings.roi, settings.background_mode, settings.fit) == (
            (3, 9),
            "signed",
            "robust",
        )
        np.testing.assert_array_equal(settings.axis, AXIS)
        np.testing.assert_array_equal(settings.background, PICTURE)
        assert settings.background_name == "dark"
    with running_service(ScriptedSource(), directory=tmp_path) as service:
        assert service.processor.settings.roi == (0, 0)  # not wanted


def test_the_background_that_was_in_use_is_restored_and_no_other_of_its_name(
    tmp_path: Path,
) -> None:
    measured = np.full(PICTURE.shape, 100.4, np.float32)
    with running_service(ScriptedSource(), "--restore", directory=tmp_path) as service:
        for pixels in (measured, PICTURE):
            service.history.keep(uploaded("dark", pixels))
        service.processor.change(background=measured, background_name="dark")
    with running_service(ScriptedSource(), "--restore", directory=tmp_path) as service:
        settings = service.processor.settings
        np.testing.assert_array_equal(settings.background, measured)
        assert (settings.background_used == 100).all()
        service.processor.change(background=measured + 1, background_name="dark")  # not kept
    with running_service(ScriptedSource(), "--restore", directory=tmp_path) as service:
        assert service.processor.settings.background is None


def test_a_background_that_is_not_restored_is_kept_until_a_client_changes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its directory may only be absent for a while, as one of another computer."""
    monkeypatch.setattr(psss_autosave, "CHECK_PERIOD_S", 0.02)
    saved, away, history = tmp_path / "settings.json", tmp_path / "away", History(tmp_path)
    kept = tmp_path / history.keep(dark := uploaded("dark", PICTURE)).file

    @contextmanager
    def running() -> Iterator[Parameters]:
        processor = Processor(ScriptedSource())
        parameters = Parameters(processor, History(tmp_path))
        autosave = psss_autosave.Autosave(saved, processor, parameters)
        yield parameters
        autosave.close()
        processor.close()

    with running() as parameters:
        parameters.use(dark)
    kept.rename(away)
    with running() as parameters:
        assert "not restored" in parameters.processor.notes["background"]
        parameters.merge({"roi": (3, 9)})
    away.rename(kept)
    with running() as parameters:
        settings = parameters.processor.settings
        assert (settings.background_name, settings.roi) == ("dark", (3, 9))
    kept.rename(away)
    with running() as parameters:
        with full_disk():
            parameters.merge({"background": ""})
            until(lambda: "autosave" in parameters.processor.notes)
        until(lambda: json.loads(saved.read_bytes())["background"] == "")
    away.rename(kept)
    with running() as parameters:
        assert parameters.processor.settings.background is None


def test_what_could_not_be_saved_is_said_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psss_autosave, "CHECK_PERIOD_S", 0.02)
    with running_service(ScriptedSource(), "--restore", directory=tmp_path) as service:
        with full_disk():
            service.processor.change(roi=(3, 9))
            until(lambda: "not saved" in service.processor.state().message)
        until(lambda: (tmp_path / "settings.json").is_file())
        until(lambda: "autosave" not in service.processor.notes)


@pytest.mark.parametrize("text", ["no json", "[1]", '{"roi": [9, 3], "fit": "robust"}'])
def test_what_cannot_be_restored_is_left_out(tmp_path: Path, text: str) -> None:
    (tmp_path / "settings.json").write_text(text)
    with running_service(ScriptedSource(), "--restore", directory=tmp_path) as service:
        assert service.processor.settings.roi == (0, 0)
        assert (service.processor.settings.fit == "robust") == ("robust" in text)
        assert "not restored" in service.processor.state().message  # until it is set or saved
        service.processor.change(roi=(1, 2))
        assert "roi" not in service.processor.notes
