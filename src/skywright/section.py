"""What the sections of ``skywright.toml`` are made of."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Port = Annotated[int, Field(ge=0, le=65535, description="0 takes a free port at each start")]
PvPrefix = Annotated[str, Field(pattern=r"^([\w:;+<>\[\]-]|\{user\})*:$", max_length=40)]


class Section(BaseModel):
    """A section of ``skywright.toml``: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)
