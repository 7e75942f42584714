"""The page of rotations, while the catalog writes the run that it shows."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from starlette.testclient import TestClient
from support.page import fake_checks, settings_of
from support.seen_rotation import CALIBRATION

from dashboard.app import make_app
from dashboard.loop import view
from dashboard.loop.view import CURVE_COLUMNS, has_points, read_curves
from dashboard.site import PAGES
from skywright.errors import DataError
from skywright.instruments.loop.calibration import as_json
from skywright.store.export.contents import Column, RunContents, Stream

RESULTS = {
    "axis_row": 244.0, "face_on": 25.0, "width": 220.0, "thickness": 60.0,
    "tip_y": 90.0, "tip_z": -60.0, "middle_y": 80.0, "middle_z": -40.0,
}  # fmt: skip


def contents(**rows: int) -> RunContents:
    """A run whose stream `pictures` has columns of these numbers of rows."""
    columns = []
    for name, count in rows.items():
        values = np.linspace(1.0, 90.0, count)
        columns.append(Column(name, values.shape, values.dtype, {}, values.__getitem__))
    start: Any = {"uid": "12345678-0000"}
    return RunContents(start, None, "running", (Stream("pictures", {}, tuple(columns), {}),), ())


def test_columns_that_grow_one_after_another_are_read_to_their_common_row() -> None:
    rows = {name: 60 - k for k, name in enumerate(CURVE_COLUMNS)}
    curves = read_curves(contents(**rows), RESULTS, CALIBRATION)
    assert len(curves.phi_deg) == len(curves.seen["tip"]) == len(curves.width) == min(rows.values())
    assert has_points(curves)


def test_an_empty_column_gives_no_points() -> None:
    rows = dict.fromkeys(CURVE_COLUMNS, 60) | {"phi": 0}
    assert not has_points(read_curves(contents(**rows), RESULTS, CALIBRATION))


def test_missing_columns_are_named_with_the_state_of_the_run() -> None:
    rows = {name: 60 for name in CURVE_COLUMNS if name != "phi"}
    with pytest.raises(DataError, match="it is running and has no column phi in pictures"):
        read_curves(contents(**rows), RESULTS, CALIBRATION)


def test_a_rotation_that_is_stored_while_it_is_read_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uid = "12345678-0000"
    journal = tmp_path / f"{uid}.jsonl"
    journal.touch()
    analysis = {"parameters": {"calibration": as_json(CALIBRATION)}}
    metadata = {"start": {"uid": uid, "analysis": analysis}}

    class Run:
        item: ClassVar = {"attributes": {"metadata": metadata}}
        base: ClassVar[dict[str, Any]] = {}  # no stream yet

        def new_variation(self, **_: Any) -> Any:
            return self

    def found(*_: Any) -> Any:
        journal.unlink()  # the ingester is done with it
        return Run()

    monkeypatch.setattr(view, "find_run", found)
    with pytest.raises(DataError, match="it is storing and has no column"):
        view.read_rotation(object(), uid, tmp_path)  # type: ignore[arg-type]


def test_a_series_that_cannot_be_read_says_so_under_its_heading_beside_the_rotation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = SimpleNamespace(uid="1234", raw_uid="5678", time_s=0.0, status="success", sample="")
    results = dict.fromkeys(("kind", "tip_used", "rms", "arc", "delay"), 7.0)

    def fail(client: Any, journals: Path) -> Any:
        raise DataError("pictures/tip_y (/gone.h5): the tiled server cannot read it")

    monkeypatch.setattr(view, "newest_series", fail)
    monkeypatch.setattr(view, "newest_results", lambda *_: [summary])
    monkeypatch.setattr(
        view, "read_rotation", lambda *_: view.Rotation(summary, "the face is at 25", [], results)
    )
    monkeypatch.setattr("dashboard.catalog.connect", lambda **_: None)
    app = make_app(settings_of(tmp_path, "", "", tmp_path), fake_checks(), views=[view.VIEW])
    text = TestClient(app, "http://127.0.0.1").get("/loop").text
    series, rotation = text.split('id="series"')[1].split('id="rotation"')
    assert "(/gone.h5): the tiled server cannot read it" in series
    assert "the face is at 25" in rotation
    assert "gone.h5" not in rotation


def test_each_figure_has_a_word_of_explanation_on_hover() -> None:
    summary = {"uid": "1234", "raw_uid": "5678", "time_s": 0.0, "status": "success"}
    seen = {"results": {"kind": "nylon", "n_found": 88}, "pictures": 90, "summary": summary}
    fitted = {"results": dict.fromkeys(("kind", "tip_used", "rms", "arc", "delay"), 7.0)}
    text = PAGES.get_template("dashboard.loop:loop.html").render(
        catalog_version=1, series=seen, rotation={**fitted, "summary": summary}
    )
    assert 'title="range of spindle angles in which the tip is seen"><dt>arc</dt>' in text
    assert text.count("<dt>") == 8
    assert "<div><dt>" not in text
