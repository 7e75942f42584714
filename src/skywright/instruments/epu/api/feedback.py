"""Routes by which processing services report results of a micrograph."""

from typing import Any

from fastapi import APIRouter, Response
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


def _event(name: str, uuid: str, **values: Any) -> dict[str, Any]:
    return {"event_type": name, "micrograph_uuid": uuid, **values}


@router.post(
    "/micrographs/{uuid}/motion_correction/completed",
    status_code=202,
    response_model=models_services.Published,
)
async def motion_completed(
    uuid: str, body: models_services.MotionCompleted, service: ServiceOf
) -> Response:
    """Store the result of motion correction and publish it."""
    event = _event("motion_correction.completed", uuid, **body.model_dump())
    return await _report(service, uuid, event)


@router.post(
    "/micrographs/{uuid}/ctf_estimation/completed",
    status_code=202,
    response_model=models_services.Published,
)
async def ctf_completed(
    uuid: str, body: models_services.CtfCompleted, service: ServiceOf
) -> Response:
    """Store the result of CTF estimation and publish it."""
    event = _event("ctf.completed", uuid, ctf_max_resolution_estimate=body.ctf_max_res)
    return await _report(service, uuid, event)


@router.post(
    "/micrographs/{uuid}/motion_correction/registered",
    status_code=202,
    response_model=models_services.Published,
)
async def motion_registered(
    uuid: str, body: models_services.Registered, service: ServiceOf
) -> Response:
    """Publish how a metric judges the motion of a micrograph."""
    event = _event("motion_correction.registered", uuid, **body.model_dump())
    return await _report(service, uuid, event)


@router.post(
    "/micrographs/{uuid}/ctf_estimation/registered",
    status_code=202,
    response_model=models_services.Published,
)
async def ctf_registered(
    uuid: str, body: models_services.Registered, service: ServiceOf
) -> Response:
    """Publish how a metric judges the CTF of a micrograph."""
    event = _event("ctf.registered", uuid, **body.model_dump())
    return await _report(service, uuid, event)
