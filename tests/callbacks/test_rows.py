"""Rows of a file that this process writes, and of one that it has closed."""

import threading
from pathlib import Path

import numpy as np
import pytest

from skywright.callbacks.rows import read_rows
from skywright.errors import DataError
from skywright.files.columns import Column, ColumnWriter

VALUE, NUMBER = "/entry/value", "/entry/number"


def make_writer(path: Path) -> ColumnWriter:
    return ColumnWriter(path, [Column(VALUE, "<f8")], Column(NUMBER, "<i8"))


def test_rows_of_a_file_under_way_and_of_one_that_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    writer = make_writer(path)
    for first in (0, 50):
        writer.append(np.arange(first, first + 50), {VALUE: np.arange(first, first + 50) / 2.0})
        writer.flush()
        values, numbers = read_rows(path, NUMBER, [VALUE, NUMBER], first + 10, first + 12)
        assert numbers.tolist() == [first + 10, first + 11]
        assert values.tolist() == [first / 2.0 + 5.0, first / 2.0 + 5.5]
    writer.close()
    assert read_rows(path, NUMBER, [NUMBER], 98, 100)[0].tolist() == [98, 99]


def test_a_writer_may_close_in_the_middle_of_a_read(tmp_path: Path) -> None:
    for number in range(30):
        path = tmp_path / f"{number}.h5"
        writer = make_writer(path)
        writer.append(np.arange(1000), {VALUE: np.zeros(1000)})
        writer.flush()
        closer = threading.Timer(0.0002 * number, writer.close)
        closer.start()
        while closer.is_alive():
            assert len(read_rows(path, NUMBER, [VALUE, NUMBER], 0, 1000)[1]) == 1000
        closer.join()


def test_rows_that_are_not_there_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with make_writer(path) as writer:
        writer.append(np.arange(3), {VALUE: np.zeros(3)})
        writer.flush()
        with pytest.raises(DataError, match=r"a\.h5: has 3 rows, 4 were announced"):
            read_rows(path, NUMBER, [VALUE], 0, 4)
    with pytest.raises(DataError, match=r"a\.h5: has 3 rows, 4 were announced"):
        read_rows(path, NUMBER, [VALUE], 0, 4)
    with pytest.raises(DataError, match=r"b\.h5: cannot be read"):
        read_rows(tmp_path / "b.h5", NUMBER, [VALUE], 0, 1)
