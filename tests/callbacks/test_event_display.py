"""The table of the session shows the events of one run, and none for rows that are in files."""

from typing import Any

import pytest
from bluesky.callbacks.best_effort import BestEffortCallback
from event_model import compose_run

from skywright.callbacks.event_display import events_only, newest_run_only

IN_EVENT = {"source": "test", "dtype": "number", "shape": []}
IN_FILE = {**IN_EVENT, "external": "STREAM:"}


@pytest.fixture
def display() -> Any:
    bec = BestEffortCallback()
    bec.disable_plots()
    return newest_run_only(events_only(bec))


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


@pytest.mark.parametrize(
    ("hints", "shown"),
    [
        (None, {}),
        ({"det": None}, {}),
        ({"det": {}}, {}),
        ({"det": {"fields": None}}, {"det": {"fields": []}}),
        ({"det": {"fields": ["n", "image"]}}, {"det": {"fields": ["n"]}}),
    ],
)
def test_hints_that_a_device_need_not_have(hints: Any, shown: Any) -> None:
    received: list[Any] = []
    keys = {"n": IN_EVENT, "image": IN_FILE}
    events_only(lambda *_: received.append(_))("descriptor", {"data_keys": keys, "hints": hints})
    assert received == [("descriptor", {"data_keys": keys, "hints": shown})]


def test_of_runs_that_are_open_side_by_side_the_newest_is_shown(
    display: Any, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    keys = {"data_keys": {"n": IN_EVENT}, "hints": {"det": {"fields": ["n"]}}}
    about = {"plan_type": "generator", "plan_name": "track_epu", "scan_id": 1}
    runs = [compose_run(metadata=about), compose_run(metadata=about)]
    streams = []
    for run in runs:
        display("start", run.start_doc)
        stream = run.compose_descriptor(name="primary", object_keys={"det": ["n"]}, **keys)
        display("descriptor", stream.descriptor_doc)
        streams.append(stream)
    for run, stream, value in reversed(list(zip(runs, streams, (17.0, 23.0), strict=True))):
        display("event", stream.compose_event(data={"n": value}, timestamps={"n": 0.0}))
        display("stop", run.compose_stop())
    printed = capsys.readouterr().out
    assert "23.000" in printed
    assert "17.000" not in printed
    assert not caplog.records  # bluesky logs what its callback raises
