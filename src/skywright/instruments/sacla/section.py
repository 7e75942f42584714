"""The section ``[sacla]`` of ``skywright.toml``."""

from pydantic import Field, JsonValue

from skywright.section import Section


class SaclaSettings(Section):
    """What differs between experiments."""

    curves: dict[str, JsonValue] = Field(default={})
    """Parameters of the analysis `sacla_curves` that the device does not give."""
    values: dict[str, JsonValue] = Field(default={})
    """Parameters of the analysis `sacla_values` that the device does not give: its histograms."""
    ngrab: int = Field(default=500, ge=1, le=2000)
    """Newest shots in the scatter plots of the page."""
    plot_every: float = Field(default=1.0, ge=0.2, le=60.0)
    """Time between two updates of the page, s."""
