"""One example of every message, for trying out consumers."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

_GRID, _SQUARE, _HOLE, _MICROGRAPH = (str(uuid4()) for _ in range(4))
_PARENTS: dict[str, dict[str, Any]] = {
    "acquisition": {"id": None},
    "grid": {"acquisition_uuid": str(uuid4())},
    "atlas": {"id": "29260100", "grid_uuid": _GRID},
    "atlas_tile": {"id": "29260211", "atlas_uuid": str(uuid4())},
    "gridsquare": {"grid_uuid": _GRID, "gridsquare_id": "29260139"},
    "gridsquare_lowmag": {"grid_uuid": _GRID, "gridsquare_id": "29260139"},
    "foilhole": {
        "foilhole_id": "29260304",
        "gridsquare_uuid": _SQUARE,
        "gridsquare_id": "29260139",
    },
    "micrograph": {"foilhole_uuid": _HOLE, "foilhole_id": "29260304", "micrograph_id": None},
}
_MODEL = {"prediction_model_name": "example", "prediction_value": 0.7, "metric": None}
_JUDGEMENT = {"micrograph_uuid": _MICROGRAPH, "quality": True, "metric_name": None}
_INSTRUCTION = {"instruction_id": str(uuid4()), "session_id": "session", "agent_id": "agent"}

_OTHERS: dict[str, dict[str, Any]] = {
    "grid.registered": {"grid_uuid": _GRID},
    "gridsquare.registered": {"uuid": _SQUARE, "grid_uuid": _GRID, "count": 570},
    "gridsquares.decision_completed": {"grid_uuid": _GRID},
    "foilholes.detected": {"gridsquare_uuid": _SQUARE},
    "foilholes.decision_completed": {"gridsquare_uuid": _SQUARE},
    "micrographs.detected": {"foilhole_uuid": _HOLE},
    "motion_correction.completed": {
        "micrograph_uuid": _MICROGRAPH,
        "total_motion": 12.5,
        "average_motion": 0.3,
        "motion_corrected_image_path": None,
        "motion_corrected_snapshot_path": None,
    },
    "motion_correction.registered": {**_JUDGEMENT, "metric_name": "motioncorrection"},
    "ctf.completed": {"micrograph_uuid": _MICROGRAPH, "ctf_max_resolution_estimate": 3.6},
    "ctf.registered": {**_JUDGEMENT, "metric_name": "ctfmaxresolution"},
    "particle_picking.completed": {
        "micrograph_uuid": _MICROGRAPH,
        "number_of_particles_picked": 300,
    },
    "particle_picking.registered": {**_JUDGEMENT, "metric_name": "numparticles"},
    "particle_selection.completed": {
        "micrograph_uuid": _MICROGRAPH,
        "number_of_particles_selected": 150,
        "number_of_particles_rejected": 150,
        "selection_distribution": {},
    },
    "atlas.model_prediction": {
        "uuid": str(uuid4()),
        "prediction_value": 0.7,
        "model_name": "example",
    },
    "gridsquare.model_prediction": {"gridsquare_uuid": _SQUARE, **_MODEL},
    "foilhole.model_prediction": {"foilhole_uuid": _HOLE, **_MODEL},
    "foilhole.model_multi_prediction": {"foilhole_uuids": [_HOLE], **_MODEL},
    "foilhole.group_create": {
        "grid_uuid": _GRID,
        "group_uuid": str(uuid4()),
        "foilhole_uuids": [_HOLE],
        "name": "example",
    },
    "foilhole.group_model_prediction": {"group_uuid": str(uuid4()), **_MODEL},
    "grid.model_parameter_update": {
        "grid_uuid": _GRID,
        "prediction_model_name": "example",
        "key": "x",
        "value": 0.5,
        "metric": None,
        "group": f"coordinates:{_SQUARE}",
    },
    "refresh.predictions": {"grid_uuid": _GRID},
    "agent.instruction.created": {
        **_INSTRUCTION,
        "instruction_type": "agent.status.request",
        "payload": {},
        "sequence_number": 1,
        "priority": "normal",
        "expires_at": None,
        "instruction_metadata": None,
    },
    "agent.instruction.updated": {
        **_INSTRUCTION,
        "status": "acknowledged",
        "acknowledged_at": datetime.now(UTC).isoformat(),
    },
    "agent.instruction.expired": {
        **_INSTRUCTION,
        "expires_at": (datetime.now(UTC) - timedelta(minutes=1)).isoformat(),
        "retry_count": 0,
    },
}


def example_events() -> dict[str, dict[str, Any]]:
    """Give an example of each message by its name, in the order of a session."""
    events: dict[str, dict[str, Any]] = {}
    for change in ("created", "updated"):
        for kind, fields in _PARENTS.items():
            events[f"{kind}.{change}"] = {"uuid": str(uuid4()), **fields}
    events |= _OTHERS
    for kind in reversed(_PARENTS):
        events[f"{kind}.deleted"] = {"uuid": str(uuid4())}
    return {name: {"event_type": name, **fields} for name, fields in events.items()}
