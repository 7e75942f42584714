"""Routes for the state of the service: status, version and health."""

import os
import time
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Response
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from skywright import __version__
from skywright.instruments.epu.api.answers import answer
from skywright.instruments.epu.api.service import Service, ServiceOf
from skywright.instruments.epu.database import reason_of

router = APIRouter()
_STARTED = time.monotonic()

API_VERSION = "0.1.3"
"""Version of smartem-decisions whose API this is; front ends compare it with their own."""


@router.get("/status")
def status(service: ServiceOf) -> Response:
    """Give the version, the configuration and the paths of the other routes."""
    return answer(
        {
            "status": "ok",
            "service": "SmartEM Decisions API",
            "implementation": "skywright",
            "version": __version__,
            "timestamp": datetime.now(UTC),
            "configuration": {
                "log_level": os.environ.get("SKYWRIGHT_LOG_LEVEL")
                or os.environ.get("SMARTEM_LOG_LEVEL", "ERROR"),
                "environment": os.environ.get("ENVIRONMENT", "unknown"),
                "database": service.database.dialect,
            },
            "endpoints": {
                "health": "/health",
                "status": "/status",
                "docs": "/docs",
                "openapi": "/openapi.json",
            },
            "uptime_seconds": time.monotonic() - _STARTED,
            "features": {
                "database_operations": True,
                "message_queue_publishing": service.broker is not None,
                "direct_db_writes": True,
            },
        }
    )


@router.get("/version")
def version() -> dict[str, str]:
    """Give the version of the API, and that of this implementation."""
    return {
        "service": "smartem-decisions",
        "version": API_VERSION,
        "implementation": "skywright",
        "implementation_version": __version__,
    }


@router.get("/health", responses={503: {"description": "The database or the broker is down."}})
def health(service: ServiceOf) -> Response:
    """Check the database and the broker; 503 when one is down."""
    services = {
        "database": _database(service),
        "event_broker": _broker(service),
        "log_aggregator": {
            "status": "not_configured",
            "details": "logs go to stderr; a log server takes them from there",
        },
    }
    ok = all(part["status"] in ("ok", "not_configured") for part in services.values())
    body: dict[str, Any] = {
        "status": "ok" if ok else "degraded",
        "timestamp": datetime.now(UTC),
        "services": services,
        "version": __version__,
    }
    # smartem-decisions has the body of a 503 under "detail".
    return answer(body) if ok else answer(body | {"detail": body}, 503)


def _database(service: Service) -> dict[str, str]:
    try:
        with service.database.read() as connection:
            connection.execute(text("SELECT 1"))
    except SQLAlchemyError as error:
        return {"status": "error", "details": reason_of(error)}
    return {"status": "ok", "details": service.database.dialect}


def _broker(service: Service) -> dict[str, str]:
    if service.broker is None:
        return {"status": "not_configured", "details": "no --broker was given"}
    state = "ok" if service.broker.connected else "error"
    return {"status": state, "details": service.broker.details}
