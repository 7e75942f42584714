"""What the page knows of the state of the beamline."""

import asyncio
from collections.abc import Iterable
from pathlib import Path

from dashboard.board import Board, Check, Checks


def test_an_examination_that_fails_is_the_report(tmp_path: Path) -> None:
    def fail() -> Iterable[Check]:
        raise ValueError("no such thing")

    async def examine() -> Board:
        board = Board(tmp_path, Checks(glance=list, examine=fail))
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
