"""Micrographs out of the catalog: ``python -m benchmarks.bench_epu_catalog``.

A run of 50,000 micrographs as `track_epu` records it, stored by the ingester, asked over HTTP of a
tiled server in a process of its own. Floor: the same rows of the same file by h5py.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from benchmarks.bench_epu_database import GRID, MICROGRAPHS, PER_HOLE, make_rows
from benchmarks.bench_psss_catalog import tell
from benchmarks.bench_store import store
from benchmarks.options import argument_parser
from benchmarks.rows import report
from devices.epu.watcher import stream_columns
from skywright.callbacks.journal import Journal
from skywright.files.columns import ColumnWriter
from skywright.instruments.epu.runs.layouts import (
    COLUMNS,
    IDENTITY,
    blocks,
    file_columns,
)
from skywright.instruments.epu.runs.query import find_micrographs
from skywright.store.client import RAW

KIND, ROUNDS = "micrograph", 5
PAGE = 100
NAMES = ("uuid", "manifest_file", "defocus")
"""Columns that are asked for."""


def write_file(path: Path) -> None:
    """Write the rows of micrographs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    missing = dict.fromkeys((each.name for each in COLUMNS[KIND]), None)
    rows = [missing | row for row in make_rows()]
    writer = ColumnWriter(path, file_columns(KIND), IDENTITY)
    for start in range(0, MICROGRAPHS, 5000):
        part = rows[start : start + 5000]
        writer.append(np.arange(start, start + len(part)), blocks(KIND, part))
        writer.flush()
    writer.close()


def typical_ms(work: Callable[[int], Any]) -> tuple[float, float]:
    """Return the median and the 95th percentile of the times of some rounds, ms."""
    times = []
    for number in range(ROUNDS):
        begun = time.perf_counter()
        work(number)
        times.append(1e3 * (time.perf_counter() - begun))
    return float(np.median(times)), float(np.percentile(times, 95))


def main() -> int:
    """Print the rows."""
    argument_parser(__doc__).parse_args()
    with store() as running:
        path = running.directory / "assets" / "micrographs.h5"
        write_file(path)
        journal = Journal(running.directory / "journal")
        metadata = {"plan_name": "track_epu", "detectors": ["epu"], "epu_grid": GRID}
        uid = tell(journal, path, stream_columns(KIND), MICROGRAPHS, metadata, "micrographs")
        journal.close()
        running.done(uid)
        run = running.client[RAW][uid]

        def by_hole(number: int) -> None:
            hole = str(number * (MICROGRAPHS // PER_HOLE // ROUNDS))
            assert len(find_micrographs(run, hole=hole, names=NAMES)["uuid"]) == PER_HOLE

        def by_defocus(number: int) -> None:
            ends = (-8e-6, -3e-6)
            found = find_micrographs(
                run, defocus=ends, limit=PAGE, offset=PAGE * number, names=NAMES
            )
            assert len(found["uuid"]) == PAGE

        def whole_page(number: int) -> None:
            found = find_micrographs(run, limit=PAGE, offset=PAGE * number)
            assert len(found["uuid"]) == PAGE
            assert len(found) == len(stream_columns(KIND))

        def by_h5py(number: int) -> None:
            with h5py.File(path, "r", libver="latest", swmr=True, locking=False) as file:
                for name in NAMES:
                    file[f"/entry/{name}"][PAGE * number : PAGE * (number + 1)]

        floor, _ = typical_ms(by_h5py)
        for what, work in (
            ("of a hole", by_hole),
            (f"page of {PAGE} by defocus", by_defocus),
            (f"page of {PAGE}, all columns", whole_page),
        ):
            median, p95 = typical_ms(work)
            name = f"epu: micrographs in the catalog, {what} at {MICROGRAPHS}"
            report(name, median, "ms", floor=floor, p95=p95)
    return 0


if __name__ == "__main__":
    sys.exit(main())
