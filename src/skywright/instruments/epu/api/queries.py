"""The list of micrographs by parent, defocus and time."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response

from skywright.instruments.epu.api import models
from skywright.instruments.epu.api.answers import list_answer
from skywright.instruments.epu.api.service import PageOf, ServiceOf
from skywright.instruments.epu.database.read import MicrographQuery, micrographs

router = APIRouter()

Metres = Annotated[float | None, Query(allow_inf_nan=False, description="Defocus, metres.")]


@router.get("/micrographs", response_model=list[models.MicrographAnswer])
def list_micrographs(
    service: ServiceOf,
    page: PageOf,
    acquisition_uuid: str | None = None,
    grid_uuid: str | None = None,
    gridsquare_uuid: str | None = None,
    foilhole_uuid: str | None = None,
    defocus_min: Metres = None,
    defocus_max: Metres = None,
    time_from: models.Time | None = None,
    time_to: models.Time | None = None,
    order_by: Literal["arrival", "time", "defocus"] = "arrival",
    descending: bool = False,
) -> Response:
    """Give micrographs: all, or those of a parent, of a range of defocus, of a time."""
    column = {"arrival": "number", "time": "acquisition_datetime", "defocus": "defocus"}
    query = MicrographQuery(
        acquisition=acquisition_uuid,
        grid=grid_uuid,
        gridsquare=gridsquare_uuid,
        foilhole=foilhole_uuid,
        defocus=(defocus_min, defocus_max),
        time=(time_from, time_to),
        order_by=column[order_by],
        descending=descending,
    )
    with service.database.read() as connection:
        return list_answer("micrograph", micrographs(connection, query, page.limit, page.offset))
