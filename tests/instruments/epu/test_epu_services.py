"""The commands of EPU's services: their options."""

import logging
import subprocess
import sys

import pytest

SCRIPT = """
import contextlib, logging, sys
from skywright.cli import main

with contextlib.suppress(SystemExit):
    main(sys.argv[1:])
print(logging.getLogger("skywright").level)
"""


@pytest.mark.parametrize(
    ("arguments", "level"),
    [
        ("epu simulate-events --list", logging.ERROR),
        ("-v epu simulate-events --list", logging.INFO),
        ("epu -v simulate-events --list", logging.INFO),
        ("epu simulate-events --list -v", logging.INFO),
        ("-v epu simulate-events --list -v", logging.DEBUG),
    ],
)
def test_verbose_may_stand_before_and_after_the_command(
    arguments: str, level: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SKYWRIGHT_LOG_LEVEL", raising=False)
    monkeypatch.delenv("SMARTEM_LOG_LEVEL", raising=False)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments.split()],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split()[-1] == str(level)
