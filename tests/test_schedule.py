"""The order of the tests names files that exist, each once; what is imported ahead is found."""

from importlib.util import find_spec

from schedule import LONGEST_FIRST, TESTS, ranks, unit_of
from support.forked import PRELOAD


def test_files_of_the_schedule_exist() -> None:
    files = [file for unit in LONGEST_FIRST for file in unit]
    assert len(set(files)) == len(files)
    assert [file for file in files if not (TESTS / file).is_file()] == []


def test_units_are_ordered_by_what_was_measured() -> None:
    one, two = LONGEST_FIRST[0][:2]
    rank = ranks({one: 10.0, two: 15.0, "a.py": 20.0, "b.py": 30.0})
    assert sorted(rank, key=lambda unit: rank[unit]) == [("b.py",), unit_of(one), ("a.py",)]


def test_without_measurements_the_list_is_the_order() -> None:
    rank = ranks({})
    assert sorted(rank, key=lambda unit: rank[unit]) == list(LONGEST_FIRST)


def test_what_forked_processes_have_ahead_is_found() -> None:
    assert [name for name in PRELOAD if find_spec(name) is None] == []
