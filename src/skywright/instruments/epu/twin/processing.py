"""Stands for the processing services of a simulated visit, whose results come late.

They are written into the entity database as the services' messages are.
"""

import heapq
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

from sqlalchemy import select

from skywright.instruments.epu.database import Database, schema
from skywright.instruments.epu.database.write import set_values, take_changes
from skywright.instruments.epu.twin.visit import TwinMicrograph, TwinVisit

LOOK_S = 0.2


def processing_of(visit: TwinVisit, speed: float) -> Callable[[Database, threading.Event], None]:
    """Return what writes the results of `visit`, delays divided by `speed`."""
    truth = {micrograph.id: micrograph for micrograph in visit.micrographs()}

    def work(database: Database, stopped: threading.Event) -> None:
        table = schema.micrograph
        last = 0
        due: list[tuple[float, str]] = []
        while not stopped.wait(LOOK_S):
            query = select(table.c.number, table.c.uuid, table.c.total_motion)
            with database.read() as connection:
                found = connection.execute(query.where(table.c.number > last)).all()
            now = time.monotonic()
            for number, uuid, motion in found:
                last = max(last, number)
                if uuid in truth and motion is None:
                    heapq.heappush(due, (now + truth[uuid].delay / speed, uuid))
            ready = []
            while due and due[0][0] <= now:
                ready.append(heapq.heappop(due)[1])
            if ready:
                _write(database, [truth[uuid] for uuid in ready])

    return work


def _write(database: Database, found: list[TwinMicrograph]) -> None:
    table = schema.micrograph
    now = datetime.now(UTC)
    with database.write() as connection:
        for micrograph, number in zip(found, take_changes(connection, len(found)), strict=True):
            set_values(
                connection,
                table,
                table.c.uuid == micrograph.id,
                total_motion=micrograph.motion,
                average_motion=micrograph.motion / 50,
                ctf_max_resolution_estimate=micrograph.resolution,
                number_of_particles_picked=micrograph.particles_picked,
                number_of_particles_selected=micrograph.particles_kept,
                status=schema.MicrographStatus.PARTICLE_SELECTION_COMPLETED,
                updated_at=now,
                change=number,
            )
