"""One example of every message, for trying out consumers."""

from datetime import UTC, datetime
from typing import Any, get_args
from uuid import uuid4

from skywright.instruments.epu.broker.events import ENTITIES, AnyEvent, EntityChanged
from skywright.instruments.epu.database.events import Change, change_event

_UUIDS = (
    *("acquisition_uuid", "atlas_uuid", "grid_uuid", "gridsquare_uuid", "foilhole_uuid"),
    *("micrograph_uuid", "group_uuid", "instruction_id", "uuid"),
)
_VALUES: dict[str, Any] = {name: str(uuid4()) for name in _UUIDS}
_VALUES |= {
    **{"atlas_id": "29260100", "tile_id": "29260211"},
    **{"gridsquare_id": "29260139", "foilhole_id": "29260304", "count": 570},
    **{"total_motion": 12.5, "average_motion": 0.3, "ctf_max_resolution_estimate": 3.6},
    **{"number_of_particles_picked": 300, "selection_distribution": {}},
    **{"number_of_particles_selected": 150, "number_of_particles_rejected": 150},
    **{"prediction_model_name": "example", "model_name": "example", "prediction_value": 0.7},
    **{"quality": True, "name": "example", "foilhole_uuids": [_VALUES["foilhole_uuid"]]},
    **{"key": "x", "value": 0.5, "group": f"coordinates:{_VALUES['gridsquare_uuid']}"},
    **{"session_id": "session", "agent_id": "agent", "instruction_type": "agent.status.request"},
    **{"payload": {}, "sequence_number": 1, "priority": "normal", "retry_count": 0},
    **{"status": "acknowledged", "acknowledged_at": datetime.now(UTC).isoformat()},
}
"""Values of fields of messages and of columns of entities; others are null."""
_METRICS = {
    "motion_correction.registered": "motioncorrection",
    "ctf.registered": "ctfmaxresolution",
    "particle_picking.registered": "numparticles",
}


def _change(kind: str, change: Change) -> dict[str, Any]:
    row = {**_VALUES, "uuid": str(uuid4()), "lowmag": kind == "gridsquare_lowmag"}
    return change_event(kind.removesuffix("_lowmag"), change, row)


def _others() -> list[dict[str, Any]]:
    """Give the messages that are no changes of entities, in the order of `events`."""
    return [
        {
            **{field: _VALUES.get(field) for field in model.model_fields},
            **({"metric_name": _METRICS[name]} if name in _METRICS else {}),
            "event_type": name,
        }
        for model in get_args(AnyEvent)
        if model is not EntityChanged
        for name in get_args(model.model_fields["event_type"].annotation)
    ]


def example_events() -> dict[str, dict[str, Any]]:
    """Give an example of each message by its name, in the order of a session."""
    changes: tuple[Change, ...] = ("created", "updated")
    examples = [_change(kind, change) for change in changes for kind in ENTITIES]
    examples += _others()
    examples += [_change(kind, "deleted") for kind in reversed(ENTITIES)]
    return {event["event_type"]: event for event in examples}
