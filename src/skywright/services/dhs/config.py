"""The configuration file of the loopDHS that this DHS replaces, as far as it means something here.

dcss: {host: dcss.beamline, port: 14242}
loopdhs:
    automl: {host: gpu.beamline, port: 5000, threshold: 0.04}
    axis: {host: axis6.beamline, port: 80, camera: 1}
    jpeg_receiver: {port: 9000}
    save_image_files: false
    debug_dir: RESULTS
    osci_time: 3.0
    video_fps: 30.0
"""

from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from skywright.errors import ConfigError

Port = Annotated[int, Field(ge=0, le=65535)]
Part = Annotated[float, Field(ge=0.0, le=1.0)]


class _Section(BaseModel):
    # Keys of the old file that mean nothing here, such as log_dir, are let be.
    model_config = ConfigDict(extra="ignore", frozen=True)


class DcssAddress(_Section):
    """The hub."""

    host: str
    port: Port = 14242


class AutomlAddress(_Section):
    """The inference service."""

    host: str
    port: Port = 5000
    threshold: Part | None = None
    """Least score of a loop or pin."""

    @property
    def url(self) -> str:
        """Of the service."""
        return f"http://{self.host}:{self.port}"


class AxisAddress(_Section):
    """The video server."""

    host: str
    port: Port = 80
    camera: int = 1

    @property
    def snapshot_url(self) -> str:
        """Of a single picture."""
        return f"http://{self.host}:{self.port}/axis-cgi/jpg/image.cgi?camera={self.camera}"


class Receiver(_Section):
    """Where the video server uploads pictures to."""

    port: Port = 9000


class DhsConfig(_Section):
    """What the file says; the old file's `loopdhs` section is laid open."""

    dcss: DcssAddress | None = None
    automl: AutomlAddress | None = None
    axis: AxisAddress | None = None
    jpeg_receiver: Receiver = Receiver()
    save_image_files: bool = False
    save_image_dir: Path = Path("RESULTS")
    osci_time: Annotated[float, Field(ge=0.0)] = 0.0
    """Duration of a turn, s; 0 if unknown."""
    video_fps: Annotated[float, Field(ge=0.0)] = 30.0
    axis_row: Part = 0.5
    """Row of the rotation axis, fraction of the height; a key that the old DHS does not have."""

    @model_validator(mode="before")
    @classmethod
    def _lay_open(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        inner = values.get("loopdhs") or {}
        if not isinstance(inner, dict):
            raise ValueError("loopdhs: expected keys and values")
        flat = {**values, **inner}
        if "debug_dir" in flat:
            flat.setdefault("save_image_dir", flat["debug_dir"])
        return {key: value for key, value in flat.items() if value is not None}

    @property
    def expected(self) -> int:
        """Pictures of one turn; 0 if unknown."""
        return round(self.osci_time * self.video_fps)


def read_config(file: Path) -> DhsConfig:
    """Read the configuration file of the old loopDHS.

    Raises
    ------
    ConfigError
        If it cannot be read, is no YAML, or has a value that cannot be.
    """
    try:
        values = yaml.safe_load(file.read_text())
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not YAML: {' '.join(str(error).split())}") from error
    try:
        return DhsConfig.model_validate(values or {})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise ConfigError(f"{file}: {where}: {first['msg']} (got {first['input']!r})") from error
