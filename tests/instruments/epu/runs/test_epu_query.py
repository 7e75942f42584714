"""Micrographs out of the catalog by hole, square, session, defocus and time, at 50,000 rows."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from skywright.instruments.epu.runs.query import find_micrographs, last_rows

ROWS, PER_HOLE, HOLES = 50_000, 7, 100
START = datetime(2025, 1, 8, tzinfo=UTC)


class Array:
    """A column that counts the values that are read of it."""

    structure_family = "array"

    def __init__(self, values: NDArray[Any]) -> None:
        self.values = values
        self.dtype, self.shape = values.dtype, values.shape
        self.count = 0

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        found = self.values[rows]
        self.count += len(found)
        return found

    def read(self) -> NDArray[Any]:
        return self[:]


class Stream(dict[str, Array]):
    """A stream with an array of each column."""

    metadata: Mapping[str, Any] = {}

    @property
    def base(self) -> "Stream":
        return self


class Run(Mapping[str, Any]):
    """Stands for a tiled client of a run with a stream of micrographs."""

    def __init__(self, columns: dict[str, NDArray[Any]], device: str = "epu") -> None:
        self.metadata = {"start": {"detectors": [device]}}
        self.columns = {name: Array(values) for name, values in columns.items()}
        keys = {f"{device}_micrograph_{name}": each for name, each in self.columns.items()}
        self._streams = {"micrographs": Stream(keys), "primary": Stream()}

    def __getitem__(self, key: str) -> Any:
        return self._streams[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._streams)

    def __len__(self) -> int:
        return len(self._streams)


def columns_of(numbers: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Return rows of micrographs of these numbers."""
    holes = numbers // PER_HOLE
    defocus = -1e-7 * (numbers % 17)
    return {
        "row": np.arange(len(numbers)),
        "uuid": np.array([f"u{number}".encode() for number in numbers], dtype="S36"),
        "gridsquare_id": np.array([str(hole // HOLES).encode() for hole in holes], dtype="S20"),
        "foilhole_id": np.array([str(hole).encode() for hole in holes], dtype="S20"),
        "defocus": np.where(numbers % 100 == 99, np.nan, defocus),
        "acquisition_datetime": START.timestamp() + 4.0 * numbers,
        "exposure_time": np.full(len(numbers), 0.89),
        "manifest_file": np.array([f"{number}.xml".encode() for number in numbers], dtype="S512"),
    }


@pytest.fixture(scope="module")
def columns() -> dict[str, NDArray[Any]]:
    return columns_of(np.arange(ROWS))


@pytest.fixture
def run(columns: dict[str, NDArray[Any]]) -> Run:
    return Run(columns)


def numbers(found: dict[str, NDArray[Any]]) -> list[int]:
    return [int(name[1:]) for name in found["uuid"]]


def test_by_hole_square_defocus_and_time(run: Run) -> None:
    assert numbers(find_micrographs(run, hole="3000")) == list(range(21_000, 21_007))
    square = find_micrographs(run, square="12")
    assert numbers(square) == list(range(12 * 700, 13 * 700))
    assert set(square["gridsquare_id"]) == {b"12"}
    low, high = -8.05e-7, -2.95e-7
    with_defocus = [n for n in range(ROWS) if 3 <= n % 17 <= 8 and n % 100 != 99]
    assert numbers(find_micrographs(run, defocus=(low, high))) == with_defocus
    assert numbers(find_micrographs(run, defocus=(low, None), square="0")) == [
        n for n in range(700) if n % 17 <= 8 and n % 100 != 99
    ]
    hour = (START + timedelta(hours=1), START + timedelta(hours=2))
    assert numbers(find_micrographs(run, time=hour)) == list(range(900, 1801))
    naive = (None, datetime(2025, 1, 8, 0, 0, 8))
    assert numbers(find_micrographs(run, time=naive)) == [0, 1, 2]
    assert numbers(find_micrographs(run, hole="none")) == []
    assert len(find_micrographs(run)["uuid"]) == ROWS


def test_a_page_reads_its_rows_only(run: Run) -> None:
    every = numbers(
        find_micrographs(Run(columns_of(np.arange(ROWS))), defocus=(-8.05e-7, -2.95e-7))
    )
    pages = [
        find_micrographs(run, defocus=(-8.05e-7, -2.95e-7), limit=100, offset=offset)
        for offset in (200, 300)
    ]
    assert [numbers(page) for page in pages] == [every[200:300], every[300:400]]
    span = every[299] - every[200] + every[399] - every[300] + 2
    read = {name: each.count for name, each in run.columns.items()}
    whole = {"uuid", "defocus"}
    assert {name for name, count in read.items() if count == 2 * ROWS} == whole
    assert {count for name, count in read.items() if name not in whole} == {span}
    short = find_micrographs(run, hole="3", names=("uuid", "exposure_time"))
    assert set(short) == {"uuid", "exposure_time"}
    assert find_micrographs(run, limit=100, offset=ROWS)["uuid"].size == 0


def test_the_last_row_of_a_micrograph_holds_over_all_runs_of_a_session(
    columns: dict[str, NDArray[Any]],
) -> None:
    first = Run(columns)
    again = columns_of(np.array([5, 70, 5, ROWS]))
    again["exposure_time"] = np.array([1.0, 2.0, 3.0, 4.0])
    amending = Run({**again, "cluster_path": np.full(4, b"/dls")}, device="other")
    found = find_micrographs([first, amending], time=(None, START + timedelta(seconds=4 * 9)))
    assert numbers(found) == [0, 1, 2, 3, 4, 6, 7, 8, 9, 5]
    assert found["exposure_time"][-1] == 3.0
    assert "cluster_path" not in found  # the first run has no such column
    whole = find_micrographs([first, amending])
    assert len(whole["uuid"]) == ROWS + 1
    assert numbers(last_rows(amending, "micrograph")) == [70, 5, ROWS]
    assert find_micrographs([]) == {}


def test_a_run_may_have_no_micrographs(columns: dict[str, NDArray[Any]]) -> None:
    """As an amending run to which only results of processing came: its stream has no columns."""
    only_results = Run({})
    found = find_micrographs([Run(columns), only_results], hole="3000")
    assert numbers(found) == list(range(21_000, 21_007))
    assert len(found["exposure_time"]) == 7
    for none in (
        last_rows(only_results, "micrograph"),
        find_micrographs(only_results, defocus=(None, -1e-7)),
    ):
        assert {len(column) for column in none.values()} == {0}
        assert none["uuid"].dtype == "S36"
        assert none["row"].dtype == np.int64
    names = ("exposure_time", "uuid")
    assert tuple(find_micrographs(only_results, names=names)) == names
