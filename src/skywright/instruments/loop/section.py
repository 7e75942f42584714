"""The section ``[loop]`` of ``skywright.toml``."""

from typing import Any, Literal, Self

from pydantic import Field, JsonValue, field_validator, model_validator

from skywright.arguments import make_from
from skywright.section import Section, as_value_errors

Row = tuple[float, float, float]
IDENTITY: tuple[Row, Row, Row] = ((1, 0, 0), (0, 1, 0), (0, 0, 1))


class GoniometerSettings(Section):
    """The goniometer's motor records, and which way its stages move the sample."""

    phi: str = "phi"
    """Record of the spindle, below the prefix of the IOC."""
    stages: tuple[str, str, str] = ("sx", "sy", "sz")
    """Records of the sample stages; their unit (EGU) says mm or um."""
    stage_matrix: tuple[Row, Row, Row] = IDENTITY
    """Rows x, y, z of the sample; columns: its displacement by one unit of each stage."""
    mounting: Literal["spindle", "table"] = "spindle"
    """Whether the stages turn with the sample (rows: goniometer frame) or stand under the spindle
    (rows: along the spindle, across it as the camera sees it, along the beam). Those under the
    spindle cannot center a loop."""
    phi_sign: Literal[1, -1] = 1
    """-1 where the angle of the motor grows against the sense of the geometry's formula."""
    oscillation: Literal["controller", "motor"] = "controller"
    """Who makes oscillations: a controller with the PVs of `iocs.goniometer`, or the session with
    the motor record alone."""

    @model_validator(mode="after")
    def _stages_reach_everywhere(self) -> Self:
        if self.stage_matrix == IDENTITY:  # the default, which imports no numpy for this
            return self
        from skywright.instruments.loop.stages import check_matrix

        with as_value_errors("loop.goniometer.stage_matrix"):
            check_matrix(self.stage_matrix)
        return self


DETECTION: dict[str, JsonValue] = {"backend": "network"}


class LoopSettings(Section):
    """What differs between beamlines for the sample loop."""

    goniometer: GoniometerSettings = GoniometerSettings()
    detection: dict[str, JsonValue] = Field(default=DETECTION)
    """Parameters of the analysis `loop_detection`: its back-end, and what that needs, e.g.
    ``{"backend": "automl", "url": "http://host:8501"}``."""

    @field_validator("detection")
    @classmethod
    def _backend_takes_them(cls, value: dict[str, Any]) -> dict[str, Any]:
        if value != DETECTION:  # the default, which imports no back-end for this
            from skywright.instruments.loop.backends import detector_class

            with as_value_errors():
                make_from(detector_class, value)
        return value
