"""Rows of files by sequence number."""

from dataclasses import dataclass

from skywright.files.segments import Segment, append, between, supersede


@dataclass(frozen=True)
class Rows(Segment):
    file: str
    start: int
    stop: int
    sequence: int


def test_rows_that_continue_the_last_ones_become_part_of_them() -> None:
    segments: list[Rows] = []
    append(segments, Rows("a", 0, 3, 1))
    append(segments, Rows("a", 3, 5, 4))
    assert segments == [Rows("a", 0, 5, 1)]
    append(segments, Rows("a", 6, 7, 6))  # a row of the file is left out
    append(segments, Rows("b", 7, 8, 7))
    append(segments, Rows("b", 8, 9, 9))  # a sequence number is left out
    append(segments, Rows("b", 9, 10, 9))  # taken again
    assert segments == [
        Rows("a", 0, 5, 1),
        Rows("a", 6, 7, 6),
        Rows("b", 7, 8, 7),
        Rows("b", 8, 9, 9),
        Rows("b", 9, 10, 9),
    ]


def test_rows_between_sequence_numbers() -> None:
    segments = [Rows("a", 10, 15, 1), Rows("b", 0, 2, 6)]
    assert between(segments, 3, 7) == [Rows("a", 12, 15, 3), Rows("b", 0, 1, 6)]
    assert between(segments, 3, 6) == [Rows("a", 12, 15, 3)]
    assert between(segments, 8, 9) == []


def test_rows_that_are_taken_again_replace_those_of_their_numbers_only() -> None:
    segments = [Rows("a", 10, 15, 1), Rows("b", 0, 2, 6)]
    new = Rows("b", 2, 4, 3)
    assert supersede(segments, new) == [
        Rows("a", 10, 12, 1),
        new,
        Rows("a", 14, 15, 5),
        Rows("b", 0, 2, 6),
    ]
    assert supersede(segments, Rows("b", 2, 9, 1)) == [Rows("b", 2, 9, 1)]
