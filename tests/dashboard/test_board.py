"""What the page knows of the state of the beamline."""

import asyncio
import os
from collections.abc import Iterable
from pathlib import Path

from dashboard.board import Board, Checks
from skywright.checks import Check
from skywright.processes.locks import hold_lock
from skywright.processes.stack import UP_LOCK


def test_a_beamline_that_starts_is_not_called_absent(tmp_path: Path) -> None:
    board = Board(tmp_path, Checks(quick=list, examine=list))
    asyncio.run(board.refresh())
    assert board.absent == "No skywright up runs on this store"
    hold_lock(tmp_path / UP_LOCK, "skywright up")
    asyncio.run(board.refresh())
    assert board.absent == f"skywright up, process {os.getpid()}, starts or stops"


def test_a_state_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    directory = tmp_path / "file"
    board = Board(directory, Checks(quick=list, examine=list))
    directory.touch()
    asyncio.run(board.refresh())
    error = f"[Errno 20] Not a directory: '{directory / UP_LOCK}'"
    assert (board.stack, board.absent) == (None, f"The state cannot be read: {error}")
    directory.unlink()
    asyncio.run(board.refresh())
    assert board.absent == "No skywright up runs on this store"


def test_an_examination_that_fails_is_the_report(tmp_path: Path) -> None:
    def fail() -> Iterable[Check]:
        raise ValueError("no such thing")

    async def examine() -> Board:
        board = Board(tmp_path, Checks(quick=list, examine=fail))
        board.examine()
        assert board.examining is not None
        await board.examining
        return board

    board = asyncio.run(examine())
    (check,) = board.report
    assert (check.name, check.status) == ("checks", "wrong")
    assert check.found == "the examination failed: ValueError: no such thing"
    assert board.reported_s > 0
    assert board.examining is None
