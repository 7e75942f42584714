"""Stands for the processing services of a simulated visit, whose results come late.

They are applied to the entity database as the services' messages are.
"""

import heapq
import threading
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import select

from skywright.instruments.epu.broker.apply import apply_event
from skywright.instruments.epu.database import Database, schema
from skywright.instruments.epu.twin.visit import TwinMicrograph, TwinVisit

POLL_S = 0.2


def processing_of(visit: TwinVisit, speed: float) -> Callable[[Database, threading.Event], None]:
    """Return what writes the results of `visit`, delays divided by `speed`."""
    truth = {micrograph.id: micrograph for micrograph in visit.micrographs()}

    def work(database: Database, stopped: threading.Event) -> None:
        table = schema.micrograph
        last = 0
        due: list[tuple[float, str]] = []
        while not stopped.wait(POLL_S):
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
    with database.write() as connection:
        for each in found:
            particles = {
                "number_of_particles_selected": each.particles_kept,
                "number_of_particles_rejected": each.particles_picked - each.particles_kept,
            }
            results: dict[str, Any] = {
                "motion_correction": {
                    "total_motion": each.motion,
                    "average_motion": each.motion / 50,
                },
                "ctf": {"ctf_max_resolution_estimate": each.resolution},
                "particle_picking": {"number_of_particles_picked": each.particles_picked},
                "particle_selection": particles,
            }
            for name, values in results.items():
                event = {"event_type": f"{name}.completed", "micrograph_uuid": each.id}
                apply_event(connection, {**event, **values})
