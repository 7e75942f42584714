"""Spectra by pulse id through tiled: ``python -m benchmarks.bench_psss_catalog``.

20,000 spectra of 2560 columns, float64, in a file of `skywright.instruments.psss.layouts`, referred
to as the device does and stored by the ingester; a tiled server in a process of its own. 100
neighbours are asked for by pulse id, each time others. Floor: the same rows of the same file by
h5py, ids looked up alike. Reference: run and ids looked up through tiled for each question.
All take turns. Asked for the first time, a run is looked up too (``first``).
"""

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from event_model import compose_run, compose_stream_resource

from benchmarks.bench_store import store
from benchmarks.options import argument_parser
from benchmarks.rows import report
from devices.file_stream import StreamColumn
from devices.psss.columns import spectra_columns
from skywright.callbacks.journal import Journal
from skywright.files.columns import Column, ColumnWriter
from skywright.instruments.psss import layouts
from skywright.store.client import RAW
from skywright.store.pulses import PulseRows

SPECTRA, WIDTH, WANTED, ROUNDS = 20_000, 2560, 100, 40
GOAL_MS = 50.0
FIRST_ID = 179_518_950_000


def write_file(path: Path) -> None:
    """Write the spectra, with every thousandth pulse id left out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    columns = spectra_columns(WIDTH)
    written = [
        Column(each.dataset, each.dtype, each.shape, each.rows_per_chunk)
        for each in columns
        if each.dataset != layouts.PULSE_ID
    ]
    writer = ColumnWriter(path, written, Column(layouts.PULSE_ID, "<i8"))
    ids = FIRST_ID + np.arange(SPECTRA) + np.arange(SPECTRA) // 1000
    pool = rng.normal(1e5, 1e3, (1000, WIDTH))
    for start in range(0, SPECTRA, 1000):
        rows: dict[str, Any] = {
            each.path: np.full((1000, *each.shape), 1, each.dtype) for each in written
        }
        rows[layouts.SPECTRUM] = pool + start
        writer.append(ids[start : start + 1000], rows)
        writer.flush()
    writer.close()


def tell(
    journal: Journal,
    path: Path,
    columns: Sequence[StreamColumn],
    rows: int,
    metadata: dict[str, Any],
    stream_name: str = "primary",
) -> str:
    """Emit a run over a file, as a device's documents are; return its uid."""
    run = compose_run(metadata=metadata)
    journal("start", run.start_doc)
    (device,) = metadata["detectors"]
    keys: dict[str, Any] = {
        f"{device}_{each.key}": {
            "source": "bench",
            "dtype": "array" if each.shape else "number",
            "shape": list(each.shape),
            "dtype_numpy": each.dtype,
            "external": "STREAM:",
        }
        for each in columns
    }
    stream = run.compose_descriptor(
        name=stream_name,
        data_keys=keys,
        object_keys={device: list(keys)},
        configuration={},
        hints={},
    )
    journal("descriptor", stream.descriptor_doc)
    for each in columns:
        bundle = compose_stream_resource(
            mimetype="application/x-hdf5",
            uri=f"file://localhost{path}",
            data_key=f"{device}_{each.key}",
            parameters={
                "dataset": each.dataset,
                "chunk_shape": [each.rows_per_chunk, *each.shape],
                "swmr": True,
            },
            start=run.start_doc,
        )
        journal("stream_resource", bundle.stream_resource_doc)
        datum = bundle.compose_stream_datum(
            {"start": 0, "stop": rows}, {"start": 1, "stop": rows + 1}, stream.descriptor_doc
        )
        journal("stream_datum", datum)
    journal("stop", run.compose_stop())
    return str(run.start_doc["uid"])


def by_h5py(path: Path) -> Callable[[int, int], np.ndarray]:
    """Return a look-up in the open file."""
    file = h5py.File(path, "r", libver="latest", swmr=True, locking=False)
    ids = file[layouts.PULSE_ID][:]

    def look_up(first: int, stop: int) -> np.ndarray:
        low, high = np.searchsorted(ids, (first, stop))
        found: np.ndarray = file[layouts.SPECTRUM][low:high]
        return found

    return look_up


def timed(look_up: Callable[[int, int], np.ndarray], first: int) -> tuple[float, np.ndarray]:
    """Return milliseconds, and the spectra."""
    begun = time.perf_counter()
    found = look_up(first, first + WANTED)
    return (time.perf_counter() - begun) * 1e3, found


def main() -> int:
    """Print the row; return 1 if the goal is missed."""
    argument_parser(__doc__).parse_args()
    with store() as running:
        path = running.directory / "assets" / "psss.h5"
        write_file(path)
        journal = Journal(running.directory / "journal")
        metadata = {"plan_name": "acquire_spectra", "detectors": ["psss"]}
        uid = tell(journal, path, spectra_columns(WIDTH), SPECTRA, metadata)
        journal.close()
        running.done(uid)

        def anew(first: int, stop: int) -> np.ndarray:
            return PulseRows(running.client[RAW][uid]).between(first, stop)["spectrum"]

        first_ms, _ = timed(anew, FIRST_ID)
        rows = PulseRows(running.client[RAW][uid])
        ways = {
            "tiled": lambda first, stop: rows.between(first, stop)["spectrum"],
            "reference": anew,
            "floor": by_h5py(path),
        }
        took: dict[str, list[float]] = {name: [] for name in ways}
        rng = np.random.default_rng(2)
        for _ in range(ROUNDS):
            first = FIRST_ID + int(rng.integers(SPECTRA - 2 * WANTED))
            results = []
            for name, way in ways.items():
                ms, found = timed(way, first)
                took[name].append(ms)
                results.append(found)
            assert all(np.array_equal(results[0], other) for other in results[1:])
    medians = {name: statistics.median(each) for name, each in took.items()}
    report(
        "psss: 100 of 20,000 spectra by pulse id through tiled",
        medians["tiled"],
        "ms",
        floor=medians["floor"],
        reference=medians["reference"],
        goal=GOAL_MS,
        p95=float(np.percentile(took["tiled"], 95)),
        first=first_ms,
    )
    return int(medians["tiled"] > GOAL_MS)


if __name__ == "__main__":
    sys.exit(main())
