"""What the IOC of a watched EPU directory posts, without a network."""

import json

from iocs.epu.ioc import JSON_BYTES, EpuIOC, grids_text


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


def test_a_session_says_of_many_runs_that_it_lives() -> None:
    """Thirty-six characters a run; a PV that is too short would end them all."""
    assert EpuIOC("EPU:", None).alive.max_length >= 37 * 400
