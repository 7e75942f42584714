"""Steps of plans as the console shows them."""

import logging
import re

import pytest

from skywright.session.steps import STEP_LOG, show_steps


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
