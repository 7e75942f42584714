"""The REST API of the PSSS service as an OpenAPI document, and models of two of its bodies."""

from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field

from skywright import __version__
from skywright.instruments.psss.background import DATASET, record_limit_s
from skywright.instruments.psss.settings import CHOICES, PULSES_MAX


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
_BACKGROUND = {
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
_ROI = {
    "type": "array",
    "items": {"type": "integer"},
    "minItems": 2,
    "maxItems": 2,
    "description": "Rows [ymin, ymax) that are summed; [0, 0] is the whole picture.",
}
_PARAMETERS = {
    "type": "object",
    "additionalProperties": True,
    "description": "All or none are applied; unknown names are kept and given back.",
    "properties": {
        "background": {"type": "string", "description": "Name of the one in use, or empty."},
        "roi": _ROI,
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
_INFO = {"type": "object", "description": "Name, date, origin, shape, pulses, file."}


def describe() -> dict[str, Any]:
    """Return the OpenAPI 3.1 document."""
    rows: list[tuple[str, str, str, dict[str, Any] | None, dict[str, Any]]] = [
        ("post", "/start", "Start the processing.", None, {}),
        ("post", "/stop", "Stop the processing.", None, {}),
        ("get", "/status", "Whether it is processing.", None, {"roi": _ROI}),
        ("post", "/background", "Set or clear the background.", _BACKGROUND, {}),
        (
            *("post", "/background/record", "Use the mean of the next pulses as background."),
            *(RecordRequest.model_json_schema(), {"background": _INFO}),
        ),
        (
            *("post", "/background/load", "Use pixels of an HDF5 file as background."),
            *(LoadRequest.model_json_schema(), {"background": _INFO}),
        ),
        (
            *("get", "/backgrounds", "Backgrounds that were used, newest first.", None),
            {"backgrounds": {"type": "array", "items": _INFO}},
        ),
        (
            *("get", "/parameters", "All parameters.", None),
            {"parameters": _PARAMETERS, "roi": _ROI},
        ),
        (
            *("post", "/parameters", "Change parameters.", _PARAMETERS),
            {"parameters": _PARAMETERS, "roi": _ROI},
        ),
        (
            *("get", "/statistics", "Since the last start; {} before the first.", None),
            {"statistics": {"type": "object"}},
        ),
        ("get", "/health", "State, message, rate, pulses lost by cause.", None, {}),
    ]
    paths: dict[str, dict[str, Any]] = {}
    for method, path, summary, body, fields in rows:
        paths.setdefault(path, {})[method] = _operation(summary, body, fields)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "PSSS",
            "version": __version__,
            "description": "What is refused is HTTP 200 with state error and the reason in status.",
        },
        "paths": paths,
    }


def _operation(summary: str, body: dict[str, Any] | None, fields: dict[str, Any]) -> dict[str, Any]:
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
    operation: dict[str, Any] = {
        "summary": summary,
        "responses": {
            "200": {"description": summary, "content": {"application/json": {"schema": answer}}}
        },
    }
    if body is not None:
        operation["requestBody"] = {"content": {"application/json": {"schema": body}}}
    return operation
