"""The table of the session shows events, and no empty table for rows that are in files."""

from typing import Any

import pytest
from bluesky.callbacks.best_effort import BestEffortCallback
from event_model import compose_run

from skywright.callbacks.event_display import events_only

IN_EVENT = {"source": "test", "dtype": "number", "shape": []}
IN_FILE = {**IN_EVENT, "external": "STREAM:"}


@pytest.fixture
def display() -> Any:
    bec = BestEffortCallback()
    bec.disable_plots()
    return events_only(bec)


def show(display: Any, data_keys: dict[str, Any], events: list[dict[str, float]]) -> None:
    run = compose_run()
    display("start", run.start_doc)
    fields = {"det": {"fields": list(data_keys)}}
    made = run.compose_descriptor(
        name="primary", data_keys=data_keys, object_keys={"det": list(data_keys)}, hints=fields
    )
    display("descriptor", made.descriptor_doc)
    assert made.descriptor_doc["hints"] == fields
    for data in events:
        display("event", made.compose_event(data=data, timestamps=dict.fromkeys(data, 0.0)))
    display("stop", run.compose_stop())


def test_a_stream_of_files_has_no_table(display: Any, capsys: pytest.CaptureFixture[str]) -> None:
    show(display, {"det_center": IN_FILE, "det_fwhm": IN_FILE}, [])
    printed = capsys.readouterr().out
    assert "Transient Scan ID" in printed
    assert "seq_num" not in printed


def test_the_table_of_events_leaves_out_fields_in_files(
    display: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    show(display, {"det_n": IN_EVENT, "det_fwhm": IN_FILE}, [{"det_n": 3.0}, {"det_n": 4.0}])
    printed = capsys.readouterr().out
    assert "4.000" in printed
    assert "det_fwhm" not in printed
