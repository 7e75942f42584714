"""The REST API of the PSSS service as an OpenAPI document, and models of two of its bodies."""

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field

from skywright import __version__
from skywright.instruments.psss.background import DATASET, record_limit_s
from skywright.instruments.psss.settings import CHOICES, PULSES_MAX

Schema = dict[str, Any]


class RecordRequest(BaseModel):
    """Body of POST /background/record."""

    model_config = ConfigDict(extra="forbid")

    pulses: int = Field(
        100, ge=1, le=PULSES_MAX, description="Pictures of which the mean is taken."
    )
    name: str = Field("", description="Label; empty makes one of the date.")
    limit_s: float | None = Field(
        None,
        gt=0,
        le=record_limit_s(PULSES_MAX),
        description="Time to wait for them, s; without it a minute and 0.1 s a pulse.",
    )


class LoadRequest(BaseModel):
    """Body of POST /background/load."""

    model_config = ConfigDict(extra="forbid")

    path: str = Field(description="HDF5 file below the directory of backgrounds.")
    dataset: str = Field(DATASET, description="(rows, columns), or (n, rows, columns): the mean.")
    name: str = Field("", description="Label; empty takes the path.")


_ROWS = {"type": "array", "items": {"type": "array", "items": {"type": "number"}}}
BACKGROUND = {
    "type": "object",
    "required": ["filename", "data"],
    "properties": {
        "filename": {"type": "string", "description": "A label: no file is read."},
        "data": {
            "anyOf": [_ROWS, {"type": "null"}],
            "description": "Rows of 0..65535, fractions are cut; null clears the background.",
        },
    },
}
ROI = {
    "type": "array",
    "items": {"type": "integer"},
    "minItems": 2,
    "maxItems": 2,
    "description": "Rows [ymin, ymax) that are summed; [0, 0] is the whole picture.",
}
PARAMETERS = {
    "type": "object",
    "additionalProperties": True,
    "description": "All or none are applied; unknown names are kept and given back.",
    "properties": {
        "background": {"type": "string", "description": "Name of the one in use, or empty."},
        "roi": ROI,
        **{name: {"enum": get_args(literal)} for name, literal in CHOICES.items()},
        "signal_per_row": {"type": "number", "minimum": 0},
        "saturation": {
            "type": ["number", "null"],
            "description": "Pixels of this or more are saturated; null: the dtype's greatest.",
        },
        "axis": {
            "anyOf": [{"type": "array", "items": {"type": "number"}}, {"type": "null"}],
            "description": "Photon energy of each column, eV; null: pixels.",
        },
    },
}
INFO = {"type": "object", "description": "Name, date, origin, shape, pulses, file."}


def describe(paths: Mapping[str, Mapping[str, Schema]]) -> Schema:
    """Return the OpenAPI 3.1 document of operations, by path and method."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "PSSS",
            "version": __version__,
            "description": "What is refused is HTTP 200 with state error and the reason in status.",
        },
        "paths": paths,
    }


def operation(summary: str | None, body: Schema | None, fields: Mapping[str, Schema]) -> Schema:
    """Return the description of an operation.

    Parameters
    ----------
    summary
        What it does.
    body
        Schema of its body; None: it has none.
    fields
        Schemas of the fields of the answer beside state and status.
    """
    answer = {
        "type": "object",
        "required": ["state", "status"],
        "properties": {
            "state": {"enum": ["ok", "error"]},
            "status": {
                "type": "string",
                "description": "stopped or processing; in an error, the reason.",
            },
            **fields,
        },
    }
    found: Schema = {
        "summary": summary,
        "responses": {
            "200": {"description": summary, "content": {"application/json": {"schema": answer}}}
        },
    }
    if body is not None:
        found["requestBody"] = {"content": {"application/json": {"schema": body}}}
    return found
