"""The order of the tests names files that exist, each once."""

from schedule import LONGEST_FIRST, TESTS


def test_files_of_the_schedule_exist() -> None:
    files = [file for unit in LONGEST_FIRST for file in unit]
    assert len(set(files)) == len(files)
    assert [file for file in files if not (TESTS / file).is_file()] == []
