"""EPU's entity database: bulk insert and look-up, ``python -m benchmarks.bench_epu_database``.

Floors, in the same run: the driver's own ``executemany`` of the same rows into a table with the
same columns and a primary key only, and the driver's own look-up by primary key. PostgreSQL is
measured where a server answers at 127.0.0.1:5432.
"""

import socket
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import text

from benchmarks.options import argument_parser
from benchmarks.rows import report
from skywright.instruments.epu.database import (
    Database,
    acquisition_uuid,
    foilhole_uuid,
    grid_uuid,
    gridsquare_uuid,
    open_database,
    read,
    record,
    schema,
)

MICROGRAPHS = 50_000
PER_HOLE, HOLES_PER_SQUARE = 7, 200
BATCH = 1000
LOOKUPS = 200
SESSION = acquisition_uuid("visit/session")
GRID = grid_uuid(SESSION)


def make_rows() -> list[dict[str, Any]]:
    """Make micrographs with the columns that a manifest gives."""
    start = datetime(2025, 1, 8, tzinfo=UTC)
    rows = []
    for number in range(MICROGRAPHS):
        hole = number // PER_HOLE
        square = str(hole // HOLES_PER_SQUARE)
        rows.append(
            {
                "uuid": str(uuid.UUID(int=number)),
                "grid_uuid": GRID,
                "gridsquare_uuid": gridsquare_uuid(GRID, square),
                "foilhole_uuid": foilhole_uuid(GRID, square, str(hole)),
                "gridsquare_id": square,
                "foilhole_id": str(hole),
                "location_id": str(number % PER_HOLE),
                "manifest_file": f"Images-Disc1/GridSquare_{square}/Data/{number}.xml",
                "manifest_stamp": "20250108_154915",
                "acquisition_datetime": start + timedelta(seconds=4 * number),
                "defocus": -1e-6 * (number % 17),
                "applied_defocus": -1e-6 * (number % 17),
                "magnification": 165000.0,
                "pixel_size": 1.05588e-10,
                "detector_name": "BioQuantum K3",
                "energy_filter": True,
                "phase_plate": False,
                "image_size_x": 2880,
                "image_size_y": 2046,
                "binning_x": 2,
                "binning_y": 2,
                "fractions": 50,
                "exposure_time": 0.89,
                "dose": 1.44e21,
                "high_tension": 300000.0,
                "stage_x": 1e-4,
                "stage_y": 2e-4,
                "stage_z": 9e-5,
                "beam_shift_x": 0.0609,
                "beam_shift_y": -0.1542,
            }
        )
    return rows


def floor_insert(database: Database, rows: list[dict[str, Any]]) -> float:
    """Rows/s of the driver alone, in transactions of the same size."""
    names = list(rows[0])
    mark = "?" if database.dialect == "sqlite" else "%s"
    values = [[str(row[name]) for name in names] for row in rows]
    with database.engine.begin() as connection:
        columns = ", ".join(f"{name} TEXT" for name in names[1:])
        connection.execute(text(f"CREATE TABLE floor (uuid TEXT PRIMARY KEY, {columns})"))
    command = f"INSERT INTO floor VALUES ({', '.join([mark] * len(names))})"
    begun = time.perf_counter()
    for start in range(0, len(values), BATCH):
        with database.engine.connect().execution_options(writes=True) as connection:
            driver: Any = connection.connection.cursor()
            connection.begin()
            driver.executemany(command, values[start : start + BATCH])
            connection.commit()
    return len(values) / (time.perf_counter() - begun)


def insert(database: Database, rows: list[dict[str, Any]]) -> float:
    """Rows/s of `record`, in transactions of a thousand."""
    begun = time.perf_counter()
    for start in range(0, len(rows), BATCH):
        with database.write() as connection:
            record(connection, "micrograph", rows[start : start + BATCH])
    return len(rows) / (time.perf_counter() - begun)


def p95_ms(work: Callable[[int], None]) -> float:
    """Time of one look-up, 95th percentile of many."""
    times = []
    for number in range(LOOKUPS):
        begun = time.perf_counter()
        work(number)
        times.append(time.perf_counter() - begun)
    return 1e3 * statistics.quantiles(times, n=20)[-1]


def measure(database: Database, rows: list[dict[str, Any]]) -> None:
    """Print the rows of one kind of database."""
    kind = database.dialect
    with database.write() as connection:
        record(connection, "acquisition", [{"uuid": SESSION, "name": "session"}])
        record(connection, "grid", [{"uuid": GRID, "acquisition_uuid": SESSION, "name": "grid"}])
    floor = floor_insert(database, rows)
    rate = insert(database, rows)
    report(f"epu: micrographs into {kind}", rate, "1/s", floor=floor, goal=2000.0)
    step = MICROGRAPHS // LOOKUPS

    def by_hole(number: int) -> None:
        hole = rows[number * step]["foilhole_uuid"]
        with database.read() as connection:
            assert read.page(connection, "micrograph", foilhole_uuid=hole)

    def by_key(number: int) -> None:
        command = text("SELECT * FROM floor WHERE uuid = :uuid")
        with database.read() as connection:
            connection.execute(command, {"uuid": rows[number * step]["uuid"]}).all()

    least = p95_ms(by_key)
    report(
        f"epu: micrographs of a hole at {MICROGRAPHS}, {kind}, p95",
        p95_ms(by_hole),
        "ms",
        floor=least,
        goal=10.0,
    )

    def page(number: int) -> None:
        where = read.within(schema.micrograph.c.defocus, -8e-6, -3e-6)
        options = {"limit": 100, "offset": number, "order_by": "defocus"}
        with database.read() as connection:
            assert read.page(connection, "micrograph", *where, grid_uuid=GRID, **options)

    report(f"epu: page of 100 by defocus, {kind}, p95", p95_ms(page), "ms")


@contextmanager
def postgres() -> Iterator[str | None]:
    """Give the URL of a new PostgreSQL database; None where there is no server."""
    try:
        socket.create_connection(("127.0.0.1", 5432), timeout=1).close()
    except OSError:
        yield None
        return
    import psycopg

    name = f"bench_{uuid.uuid4().hex}"
    server = "postgresql://127.0.0.1:5432"
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
        try:
            yield f"{server}/{name}"
        finally:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def main() -> None:
    """Measure each kind of database that is there."""
    argument_parser(__doc__).parse_args()
    rows = make_rows()
    with tempfile.TemporaryDirectory() as directory, postgres() as server:
        for url in (f"sqlite:///{Path(directory) / 'epu.sqlite'}", server):
            if url is not None:
                database = open_database(url)
                measure(database, rows)
                database.close()


if __name__ == "__main__":
    main()
