"""Settings that survive a restart, when that is wanted."""

from pathlib import Path

import numpy as np
import pytest
from support.limits import full_disk
from support.psss_scripted import COLUMNS, PICTURE, ScriptedSource, running_service
from support.waiting import until

from skywright.instruments.psss.background import uploaded
from skywright.instruments.psss.endpoints import autosave as psss_autosave

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
