"""Bodies of requests and answers of processing services, prediction models and agents."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from skywright.instruments.epu.api.models import FoilHoleAnswer, Int, Key, Model, Text, Time
from skywright.instruments.epu.broker.events import Object, QualityName


class MotionCompleted(Model):
    """Result of motion correction, angstrom; the corrected image and a small JPEG of it."""

    total_motion: Annotated[float, Field(ge=0)]
    average_motion: Annotated[float, Field(ge=0)]
    motion_corrected_image_path: Text | None = None
    motion_corrected_snapshot_path: Text | None = None


class CtfCompleted(Model):
    """Result of CTF estimation."""

    ctf_max_resolution_estimate: Annotated[float, Field(ge=0, alias="ctf_max_res")]


class Registered(Model):
    """Judgement of a micrograph by a metric."""

    quality: bool
    metric_name: QualityName | None = None


class Published(Model):
    """Whether the message goes to the broker."""

    published: bool


class PredictionModelCreate(Model):
    """A new quality prediction model."""

    name: Key
    description: Text = ""
    level: Literal["gridsquare", "foilhole", "foilholegroup"] = "gridsquare"
    can_train: bool = False
    can_infer: bool = True
    can_update: bool = False


class PredictionModelUpdate(Model):
    """Changes to a quality prediction model."""

    description: Text | None = None
    level: Literal["gridsquare", "foilhole", "foilholegroup"] | None = None
    can_train: bool | None = None
    can_infer: bool | None = None
    can_update: bool | None = None


class PredictionModelAnswer(PredictionModelCreate):
    """A quality prediction model."""


class PredictionCreate(Model):
    """A prediction for a square or a hole."""

    value: float
    prediction_model_name: Key
    metric_name: Text | None = None
    foilhole_uuid: Key | None = None
    gridsquare_uuid: Key | None = None


class CurrentPrediction(Model):
    """The present prediction of a model."""

    id: int
    prediction_model_name: str
    value: float
    gridsquare_uuid: str | None = None
    foilhole_uuid: str | None = None
    metric_name: str | None = None


class PredictionAnswer(CurrentPrediction):
    """A prediction."""

    timestamp: Time


class ModelWeight(Model):
    """The weight of a model after a micrograph was judged.

    ``prediction_value`` is what the model had predicted, None where it had predicted nothing;
    ``quality_score`` is 1 for a good micrograph and 0 for a bad one.
    """

    id: int
    grid_uuid: str
    micrograph_uuid: str | None
    micrograph_quality: bool | None
    timestamp: Time
    origin: str | None
    prediction_model_name: str
    metric_name: str | None
    weight: float
    prediction_value: float | None
    quality_score: float | None


class OverallPrediction(Model):
    """The combined prediction of a hole, and its place in the suggested order."""

    id: int
    value: float
    suggested_acquisition_index: int | None
    foilhole_uuid: str
    grid_uuid: str
    gridsquare_uuid: str


class SuggestedHole(FoilHoleAnswer):
    """A hole to take."""

    gridsquare_uuid: str


class QualityMetrics(Model):
    """Statistics over all predictions."""

    total_predictions: int
    average_quality: float | None
    min_quality: float | None
    max_quality: float | None
    models_count: int


class LatentRepresentation(Model):
    """Coordinates of a square or hole in a model's latent space."""

    x: float | None
    y: float | None
    index: int | None
    gridsquare_uuid: str = ""
    foilhole_uuid: str = ""


class Acknowledgement(Model):
    """An agent's answer to an instruction."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True, allow_inf_nan=False)

    status: Literal["received", "processed", "failed", "declined"]
    result: Text | None = None
    error_message: Text | None = None
    processing_time_ms: float | None = None
    processed_at: Time | None = None


class AcknowledgementAnswer(Model):
    """Confirmation of an acknowledgement."""

    status: str
    instruction_id: str
    acknowledged_at: datetime
    agent_id: str
    session_id: str


class LogEntry(Model):
    """A line of an agent's log."""

    timestamp: Time
    level: Text
    logger_name: Text = ""
    message: Text


class LogBatch(Model):
    """Lines of an agent's log; the first 500 are stored."""

    logs: list[LogEntry]


class LogsStored(Model):
    """How many lines of a batch were stored."""

    stored: int


class SessionCreate(Model):
    """A new agent session."""

    session_id: Key | None = None
    agent_id: Key = "test-agent"
    acquisition_uuid: Key | None = None
    name: Text | None = None
    description: Text | None = None
    experimental_parameters: Object = Field(default_factory=dict)


class InstructionCreate(Model):
    """A new instruction for the agent of a session.

    It expires after ``expires_in_minutes``, with 0 or null never.
    """

    instruction_type: Key = "test.instruction"
    payload: Object = Field(default_factory=lambda: {"test": True})
    sequence_number: Int | None = None
    priority: Literal["high", "normal", "low"] = "normal"
    expires_in_minutes: Annotated[float, Field(ge=0, le=1e6)] | None = 60
    metadata: Object = Field(default_factory=dict)
