"""The section ``[epu]`` of ``skywright.toml``."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from skywright.section import Section, parameters_of

QUALITY = parameters_of("skywright.instruments.epu.decisions.analysis:MicrographQuality")


class EpuSettings(Section):
    """What differs between microscopes and visits."""

    quality: Annotated[dict[str, JsonValue], QUALITY] = Field(default={})
    """Parameters of the analysis `epu_quality`: which micrographs are good, e.g.
    ``{"ctf_limit_a": 4.0, "motion_limit_a": 100.0}``."""
    policy: Literal["stay_or_leave", "epu_order", "random_order"] = "stay_or_leave"
    """What chooses the next square."""
    move_holes: float = Field(default=2.0, ge=0)
    """Time that a move to another square costs, in times of a hole; for `stay_or_leave`."""
    api_url: str = ""
    """API that suggestions are sent to, as instructions for the microscope's agent; empty: they
    are only shown."""
    agent_session: str = ""
    """Session of that agent (``skywright epu watch --session-id``)."""
    late_s: float = Field(default=300.0, gt=0)
    """Seconds that a micrograph may wait for its hole before it counts as late."""
    path_map: dict[str, str] = Field(default={})
    r"""Where the processing cluster sees paths of EPU: prefix there by Windows prefix, e.g.
    ``{'Z:\DoseFractions' = "/dls/m02"}``."""

    @property
    def quality_parameters(self) -> dict[str, JsonValue]:
        """Parameters of the analysis `epu_quality`, those that choose included."""
        return {"policy": self.policy, "move_holes": self.move_holes, **self.quality}
