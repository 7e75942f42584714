"""What the IOC of a watched EPU directory posts, without a network."""

import asyncio
import json

import pytest

from iocs.epu.ioc import JSON_BYTES, OVERVIEW_BYTES, EpuIOC, grids_text, overview_text
from skywright.errors import DataError


def grid(number: int, waiting: bool) -> dict[str, object]:
    return {"uuid": f"{number:036}", "name": "n" * 60, "data_dir": "d" * 60, "waiting": waiting}


def test_grids_that_wait_are_posted_where_all_are_too_many() -> None:
    grids = [grid(number, number % 100 == 99) for number in range(1000)]
    text = grids_text(grids)
    assert len(text) <= JSON_BYTES
    posted = json.loads(text)
    assert [each["uuid"] for each in posted[:10]] == [
        f"{number:036}" for number in range(99, 1000, 100)
    ]
    assert len(posted) > 200
    assert json.loads(grids_text([])) == []
    assert json.loads(grids_text(grids[:3])) == grids[:3]


@pytest.mark.parametrize(
    ("long", "left_out"),
    [
        ((), ()),
        (("holes",), ("holes",)),
        (("squares",), ("holes", "squares")),
        (("states",), ("holes", "squares", "newest", "states")),
    ],
)
def test_an_overview_that_is_too_long_is_readable_without_its_lists(
    long: tuple[str, ...], left_out: tuple[str, ...]
) -> None:
    rows = {"holes": [["1", 2.0, 3.0, 4, None]], "squares": [["1", 2.0, 3.0, 4, 0.5]]}
    found = {"name": "g", **rows, "newest": [["m"]], "states": {"None": 1}, "micrographs": 4}
    for key in long:
        part = found[key]
        found[key] = part * 9000 if isinstance(part, list) else {"x" * OVERVIEW_BYTES: 1}
    text = overview_text(found)
    assert len(text) < OVERVIEW_BYTES
    assert json.loads(text) == found | {key: type(found[key])() for key in left_out}


def test_a_session_says_of_many_runs_that_it_lives() -> None:
    """Thirty-six characters a run; a PV that is too short would end them all."""
    assert EpuIOC("EPU:", None).alive.max_length >= 37 * 400


@pytest.mark.parametrize(
    "wrong",
    [
        "grid",
        "[]",
        '{"grid": "g", "run": "r"}',
        '{"grid": "g", "run": "r", "directory": 3}',
        '{"grid": ["g"], "run": "r", "directory": "/d"}',
        '{"grid": "g", "run": 5, "directory": "/d"}',
    ],
)
def test_a_begin_of_another_form_is_refused(wrong: str) -> None:
    ioc = EpuIOC("EPU:", None)
    with pytest.raises(DataError, match=r"EPU:BEGIN: .*; expected \{"):
        asyncio.run(ioc.begin.putter(None, wrong))
