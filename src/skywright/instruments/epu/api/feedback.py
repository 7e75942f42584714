"""Routes by which processing services report results of a micrograph."""

from typing import Any

from fastapi import APIRouter, Response
from pydantic import BaseModel
from sqlalchemy import Connection

from skywright.instruments.epu.api import models_services
from skywright.instruments.epu.api.answers import answer
from skywright.instruments.epu.api.create import stored
from skywright.instruments.epu.api.service import Service, ServiceOf
from skywright.instruments.epu.broker.apply import apply_event
from skywright.instruments.epu.database.write import announce, announces

router = APIRouter()


async def _report(service: Service, uuid: str, body: dict[str, Any]) -> Response:
    def work(connection: Connection) -> None:
        stored(connection, "micrograph", uuid)
        announce(connection, [body])
        if not announces(connection) or body["event_type"].endswith(".completed"):
            # A judgement counts once: where there is a broker, the consumer counts it.
            apply_event(connection, body)

    await service.writer.do(work)
    return answer({"published": service.publishes}, 202)


def _add_route(path: str, event_type: str, name: str, model: type[BaseModel], about: str) -> None:
    """Add the route of one kind of report, which is a message with the fields of its body."""

    @router.post(
        f"/micrographs/{{uuid}}/{path}",
        status_code=202,
        response_model=models_services.Published,
        name=name,
        description=about,
    )
    async def report(uuid: str, body: model, service: ServiceOf) -> Response:  # type: ignore[valid-type]
        event = {"event_type": event_type, "micrograph_uuid": uuid}
        return await _report(service, uuid, event | body.model_dump())  # type: ignore[attr-defined]


_add_route(
    *("motion_correction/completed", "motion_correction.completed", "motion_completed"),
    models_services.MotionCompleted,
    "Store the result of motion correction and publish it.",
)
_add_route(
    *("ctf_estimation/completed", "ctf.completed", "ctf_completed"),
    models_services.CtfCompleted,
    "Store the result of CTF estimation and publish it.",
)
_add_route(
    *("motion_correction/registered", "motion_correction.registered", "motion_registered"),
    models_services.Registered,
    "Publish how a metric judges the motion of a micrograph.",
)
_add_route(
    *("ctf_estimation/registered", "ctf.registered", "ctf_registered"),
    models_services.Registered,
    "Publish how a metric judges the CTF of a micrograph.",
)
