"""The section ``[sacla]`` of ``skywright.toml``."""

from pydantic import Field, JsonValue

from skywright.section import Section


class SaclaSettings(Section):
    """What differs between experiments."""

    curves: dict[str, JsonValue] = Field(default={})
    """Parameters of the analysis `sacla_curves` that the device does not give."""
