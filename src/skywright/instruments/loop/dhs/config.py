"""The configuration file of the loopDHS that this DHS replaces, as far as it means something here.

Such a file, with all its keys::

    dcss: {host: dcss.beamline, port: 14242}
    loopdhs:
        automl: {host: gpu.beamline, port: 5000, threshold: 0.04, scan_n_results: 5}
        axis: {host: axis6.beamline, port: 80, camera: 1}
        jpeg_receiver: {port: 9000}
        save_image_files: false
        debug_dir: RESULTS
        log_dir: logs
        osci_delta: 180.0
        osci_time: 3.0
        video_fps: 30.0
        end_by_count: false
"""

import logging
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from skywright.arguments import did_you_mean, first_problem
from skywright.errors import ConfigError
from skywright.processes.ports import http_url

logger = logging.getLogger(__name__)


def is_host(name: str) -> bool:
    """Return whether a text can be the name or address of a machine."""
    try:
        name.encode("idna")  # as it is looked up; refuses empty and long labels
    except UnicodeError:
        return False
    return "/" not in name and name.split() == [name]


def _host(name: str) -> str:
    if not is_host(name):
        raise ValueError("expected the name or address of a machine, without http://")
    return name


Host = Annotated[str, AfterValidator(_host)]
Port = Annotated[int, Field(ge=0, le=65535)]
Part = Annotated[float, Field(ge=0.0, le=1.0)]


class _Section(BaseModel):
    # Unknown keys have no effect, `read_config` names them: the file may belong to a newer or
    # older loopDHS.
    model_config = ConfigDict(
        extra="allow", frozen=True, allow_inf_nan=False, coerce_numbers_to_str=True
    )

    @model_validator(mode="before")
    @classmethod
    def _given(cls, values: Any) -> Any:
        """Take a key without a value as absent."""
        if not isinstance(values, dict):
            raise ValueError("expected keys and values")
        return {key: value for key, value in values.items() if value is not None}

    def unknown_keys(self) -> Iterator[str]:
        """Yield a line for each key without effect, with the key that it is nearest to."""
        fields = type(self).model_fields
        for key in self.model_extra or {}:
            hint = did_you_mean(key, fields)
            yield f"{key}: unknown key, ignored" + (f"; {hint}" if hint else "")
        for name in fields:
            section = getattr(self, name)
            if isinstance(section, _Section):
                yield from (f"{name}.{line}" for line in section.unknown_keys())


class DcssAddress(_Section):
    """The hub."""

    host: Host
    port: Port = 14242


class AutomlAddress(_Section):
    """The inference service."""

    host: Host
    port: Port = 5000
    threshold: Part | None = None
    """Lowest score of a loop or pin."""
    scan_n_results: Annotated[int, Field(ge=1, le=100)] | None = None
    """Number of boxes of a reply that are looked at, best scores first; without it 5."""

    @property
    def url(self) -> str:
        """Of the service."""
        return http_url(self.host, self.port)


class AxisAddress(_Section):
    """The video server."""

    host: Host
    port: Port = 80
    camera: str = "1"
    """Number of the camera, or its name on the video server, such as ``quad``."""

    @property
    def snapshot_url(self) -> str:
        """Of a single picture."""
        return f"{http_url(self.host, self.port)}/axis-cgi/jpg/image.cgi?camera={self.camera}"


class Receiver(_Section):
    """Where the video server uploads pictures to."""

    port: Port = 9000


class DhsConfig(_Section):
    """What the file says; keys of the section `loopdhs` count as keys of the file."""

    dcss: DcssAddress | None = None
    automl: AutomlAddress | None = None
    axis: AxisAddress | None = None
    jpeg_receiver: Receiver = Receiver()
    save_image_files: bool = False
    save_image_dir: Path | None = None
    """Pictures of series are saved there; without it below `debug_dir`."""
    debug_dir: Path = Path("RESULTS")
    """Each start of the DHS saves its pictures in a directory below, named by the time as that
    of loopDHS is."""
    log_dir: Path | None = None
    """Directory of a rotating log file; no log file without it."""
    osci_delta: float = 180.0
    """Turn of the spindle during a series, deg; 0 if unknown."""
    osci_time: Annotated[float, Field(ge=0.0)] = 3.0
    """Duration of a turn, s; 0 if unknown."""
    video_fps: Annotated[float, Field(ge=0.0)] = 30.0
    end_by_count: bool = False
    """Whether a series ends after `expected` pictures, as that of loopDHS; a key of skywright."""
    axis_row: Part = 0.5
    """Row of the rotation axis, fraction of the height; a key that the old DHS does not have."""

    @model_validator(mode="after")
    def _count_is_known(self) -> Self:
        if self.end_by_count and not self.expected:
            raise ValueError("end_by_count needs osci_time and video_fps above 0")
        return self

    @model_validator(mode="before")
    @classmethod
    def _flatten(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        outer = dict(values)
        inner = outer.pop("loopdhs", None) or {}
        if not isinstance(inner, dict):
            raise ValueError("loopdhs: expected keys and values")
        return outer | inner

    def save_directory(self, started: datetime) -> Path | None:
        """Return where a DHS that started at `started` saves pictures; None if it does not."""
        if not self.save_image_files:
            return None
        return self.save_image_dir or self.debug_dir / started.strftime("%Y-%m-%d-%H%M%S")

    @property
    def expected(self) -> int:
        """Pictures of one turn; 0 if unknown."""
        return round(self.osci_time * self.video_fps)


def read_config(file: Path) -> DhsConfig:
    """Read the configuration file of the old loopDHS; keys without effect are logged.

    Raise `ConfigError` if it cannot be read, is no YAML, or has a value that cannot be.
    """
    try:
        values = yaml.safe_load(file.read_text())
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from error
    except Exception as error:  # yaml raises many kinds, as ValueError for a date like 2026-02-30
        raise ConfigError(f"{file}: not YAML: {' '.join(str(error).split())}") from error
    try:
        config = DhsConfig.model_validate({} if values is None else values)
    except ValidationError as error:
        raise ConfigError(f"{file}: {first_problem(error)}") from error
    for line in config.unknown_keys():
        logger.error("%s: %s", file, line)
    return config
