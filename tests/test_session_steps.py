"""Steps of plans as the console shows them."""

import logging
import re

import pytest

from skywright.session.steps import STEP_LOG, RowSteps, show_steps


def test_a_step_is_a_line_with_its_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(STEP_LOG, "handlers", [])
    monkeypatch.setattr(STEP_LOG, "propagate", True)
    monkeypatch.setattr(STEP_LOG, "level", logging.NOTSET)
    show_steps()
    show_steps()
    logging.getLogger("skywright.plans").info("pass %d: looking for the tip", 1)
    printed = capsys.readouterr().out
    assert re.fullmatch(r"\d\d:\d\d:\d\d  pass 1: looking for the tip\n", printed)


def test_a_run_without_events_has_a_line_with_its_rows_now_and_then(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = 0.0
    steps = RowSteps(lambda: now)

    def rows(stop: int, stream: str = "d") -> None:
        steps("stream_datum", {"descriptor": stream, "seq_nums": {"start": 1, "stop": stop}})

    with caplog.at_level(logging.INFO, STEP_LOG.name):
        steps("start", {"uid": "a", "plan_name": "acquire_shots"})
        steps("descriptor", {"uid": "d", "run_start": "a", "name": "primary"})
        for now in (1.0, 4.0, 5.0, 9.0, 11.0):
            rows(int(60 * now) + 1)
        steps("event", {"descriptor": "d", "seq_num": 1})
        for now in (15.0, 16.0):  # the live table has shown the event
            rows(int(60 * now) + 1)
        steps("stop", {"run_start": "a"})
    assert [each.getMessage() for each in caplog.records] == [
        f"acquire_shots: {count} rows in primary" for count in (300, 660, 960)
    ]
