"""Every message of the queue: its name, its fields, and an example.

Names and fields are those of smartem-decisions. A body is checked against its model before it is
applied; unknown fields are ignored.
"""

import json
from datetime import datetime
from typing import Annotated, Any, Literal

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from skywright.errors import DataError


def _deliverable(content: dict[str, Any]) -> dict[str, Any]:
    """Refuse what an answer of the API cannot hold: one such value would end every stream."""
    try:
        json.dumps(content, allow_nan=False)
        orjson.dumps([[[[[[content]]]]]])  # an answer holds it some levels deep
    except (TypeError, RecursionError) as error:  # an integer above 64 bits, a lone surrogate
        raise ValueError(str(error)) from error
    return content


Object = Annotated[dict[str, Any], AfterValidator(_deliverable)]
Positive = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
QualityName = Literal["motioncorrection", "ctfmaxresolution", "numparticles"]


ENTITIES = (
    *("acquisition", "grid", "atlas", "atlas_tile", "gridsquare", "gridsquare_lowmag", "foilhole"),
    "micrograph",
)
ENTITY_CHANGES = tuple(
    f"{kind}.{change}" for change in ("created", "updated", "deleted") for kind in ENTITIES
)


class Event(BaseModel):
    """Base of all messages."""

    model_config = ConfigDict(allow_inf_nan=False)


class EntityChanged(Event):
    """An entity was created or updated; the other keys are its natural id and its parent's."""

    model_config = ConfigDict(extra="allow")

    event_type: Literal[ENTITY_CHANGES]  # type: ignore[valid-type]
    uuid: str


class GridRegistered(Event):
    """All squares of a grid are stored."""

    event_type: Literal["grid.registered"] = "grid.registered"
    grid_uuid: str


class GridSquareRegistered(Event):
    """All holes of a square are stored."""

    event_type: Literal["gridsquare.registered"] = "gridsquare.registered"
    uuid: str
    grid_uuid: str | None = None
    count: int | None = None


class OfMicrograph(Event):
    """Base class of the results of a processing service for a micrograph."""

    micrograph_uuid: str


class MotionCompleted(OfMicrograph):
    """Result of motion correction."""

    event_type: Literal["motion_correction.completed"] = "motion_correction.completed"
    total_motion: Positive
    average_motion: Positive
    motion_corrected_image_path: str | None = None
    motion_corrected_snapshot_path: str | None = None


class CtfCompleted(OfMicrograph):
    """Result of CTF estimation."""

    event_type: Literal["ctf.completed"] = "ctf.completed"
    ctf_max_resolution_estimate: Positive


class PickingCompleted(OfMicrograph):
    """Result of particle picking."""

    event_type: Literal["particle_picking.completed"] = "particle_picking.completed"
    number_of_particles_picked: Count
    pick_distribution: Any = None


class SelectionCompleted(OfMicrograph):
    """Result of particle selection."""

    event_type: Literal["particle_selection.completed"] = "particle_selection.completed"
    number_of_particles_selected: Count
    number_of_particles_rejected: Count
    selection_distribution: Any = None


class Judged(OfMicrograph):
    """A metric judges a micrograph."""

    event_type: Literal[
        "motion_correction.registered", "ctf.registered", "particle_picking.registered"
    ]
    quality: bool
    metric_name: QualityName | None = None


class ModelPrediction(Event):
    """Base class of the predictions of a model."""

    prediction_model_name: str
    prediction_value: float
    metric: str | None = None


class AtlasPrediction(Event):
    """A model predicts the quality of a grid from its atlas."""

    event_type: Literal["atlas.model_prediction"] = "atlas.model_prediction"
    uuid: str
    prediction_value: float
    model_name: str = ""


class GridSquarePrediction(ModelPrediction):
    """A model predicts the quality of a square."""

    event_type: Literal["gridsquare.model_prediction"] = "gridsquare.model_prediction"
    gridsquare_uuid: str


class FoilHolePrediction(ModelPrediction):
    """A model predicts the quality of a hole."""

    event_type: Literal["foilhole.model_prediction"] = "foilhole.model_prediction"
    foilhole_uuid: str


class FoilHolesPrediction(ModelPrediction):
    """A model predicts one quality for several holes."""

    event_type: Literal["foilhole.model_multi_prediction"] = "foilhole.model_multi_prediction"
    foilhole_uuids: list[str]


class GroupCreated(Event):
    """Holes form a group."""

    event_type: Literal["foilhole.group_create"] = "foilhole.group_create"
    grid_uuid: str
    group_uuid: str
    foilhole_uuids: list[str]
    name: str | None = None


class GroupPrediction(ModelPrediction):
    """A model predicts the quality of a group of holes."""

    event_type: Literal["foilhole.group_model_prediction"] = "foilhole.group_model_prediction"
    group_uuid: str


class ParameterUpdated(Event):
    """A parameter of a model has a new value for a grid."""

    event_type: Literal["grid.model_parameter_update"] = "grid.model_parameter_update"
    grid_uuid: str
    prediction_model_name: str
    key: str
    value: float
    metric: str | None = None
    group: str = ""


class RefreshPredictions(Event):
    """Predictions of a grid are to be combined anew."""

    event_type: Literal["refresh.predictions"] = "refresh.predictions"
    grid_uuid: str


class Decision(Event):
    """A step of a decision, or of acquisition, is complete."""

    model_config = ConfigDict(extra="allow")

    event_type: Literal[
        "gridsquares.decision_completed",
        "foilholes.decision_completed",
        "foilholes.detected",
        "micrographs.detected",
    ]
    grid_uuid: str | None = None
    gridsquare_uuid: str | None = None
    foilhole_uuid: str | None = None


class OfInstruction(Event):
    """Base class of the events of an instruction for an agent."""

    instruction_id: str
    session_id: str
    agent_id: str


class InstructionCreated(OfInstruction):
    """An instruction for an agent."""

    event_type: Literal["agent.instruction.created"] = "agent.instruction.created"
    instruction_type: str
    payload: Object
    sequence_number: int | None = None
    priority: Literal["high", "normal", "low"] = "normal"
    expires_at: datetime | None = None
    instruction_metadata: Object | None = None


class InstructionUpdated(OfInstruction):
    """An agent answered an instruction."""

    event_type: Literal["agent.instruction.updated"] = "agent.instruction.updated"
    status: str
    acknowledged_at: datetime | None = None


class InstructionExpired(OfInstruction):
    """An instruction was not answered in time."""

    event_type: Literal["agent.instruction.expired"] = "agent.instruction.expired"
    expires_at: datetime | None = None
    retry_count: int = 0


AnyEvent = (
    EntityChanged
    | GridRegistered
    | GridSquareRegistered
    | MotionCompleted
    | CtfCompleted
    | PickingCompleted
    | SelectionCompleted
    | Judged
    | AtlasPrediction
    | GridSquarePrediction
    | FoilHolePrediction
    | FoilHolesPrediction
    | GroupCreated
    | GroupPrediction
    | ParameterUpdated
    | RefreshPredictions
    | Decision
    | InstructionCreated
    | InstructionUpdated
    | InstructionExpired
)

_ADAPTER: TypeAdapter[Any] = TypeAdapter(Annotated[AnyEvent, Field(discriminator="event_type")])


def read_event(body: bytes | dict[str, Any]) -> Any:
    """Read a message.

    Parameters
    ----------
    body
        JSON, or the object that it holds.

    Returns
    -------
    Event
        A model of this module, by ``event_type``.

    Raises
    ------
    DataError
        The body is no JSON, has an unknown name, or lacks a field.
    """
    try:
        if isinstance(body, bytes):
            return _ADAPTER.validate_json(body)
        return _ADAPTER.validate_python(body)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "union_tag_invalid":  # pydantic would list all names
            found = json.dumps(first["ctx"]["tag"][:100])
            raise DataError(
                f"message: event_type: {found} is no name of `skywright epu simulate-events --list`"
            ) from error
        place = ".".join(str(part) for part in first["loc"][1:])
        raise DataError(f"message: {place + ': ' if place else ''}{first['msg']}") from error
