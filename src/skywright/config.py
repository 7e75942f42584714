"""The one configuration: ``skywright.toml``, overridden by ``SKYWRIGHT_*`` variables."""

import getpass
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from skywright.errors import ConfigError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

FILE_NAME = "skywright.toml"
ENV_PREFIX = "SKYWRIGHT_"
Port = Annotated[int, Field(ge=0, le=65535, description="0 takes a free port at each start")]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StoreSettings(_Section):
    """Where runs are kept, and which tiled server shows them."""

    directory: Path = Path("~/.local/share/skywright")
    """Root of journals, assets, the embedded catalog, RE metadata and logs."""
    tiled_uri: str = ""
    """A tiled server that exists already; empty starts the embedded one."""
    api_key: str = ""
    """Key of that server; the embedded one makes its own."""
    tiled_port: Port = 0
    readable: tuple[Path, ...] = ()
    """Further directories with assets, written by IOCs elsewhere, that tiled may read."""


class DashboardSettings(_Section):
    """The live page."""

    host: str = "127.0.0.1"
    """Interface to serve on; others than 127.0.0.1 let anybody look."""
    port: Port = 8060
    with_up: bool = False
    """Whether `skywright up` starts it too."""


def user_name() -> str:
    """Return the login name, reduced to the characters that a PV name may hold."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError):  # a container's user without an entry in passwd
        name = f"uid{os.getuid()}"
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)


PvPrefix = Annotated[str, Field(pattern=r"^([\w:;+<>\[\]-]|\{user\})*:$", max_length=40)]


class IocSettings(_Section):
    """One IOC: a module that `skywright up` starts, or one that runs elsewhere."""

    module: str
    """Python module with a ``python -m`` entry, e.g. ``iocs.axis``."""
    prefix: PvPrefix
    """PV prefix below the beamline's, with its colon, e.g. ``AXIS1:``."""
    port: Port = 0
    """Channel Access port (TCP and UDP)."""
    args: tuple[str, ...] = ()
    """Further arguments of the module, e.g. ``("--source", "push")``. The name of an IOC in
    braces stands for its full prefix, or for nothing when there is no such IOC."""
    address: Annotated[str, Field(pattern=r"^$|^[^\s:]+:\d+$")] = ""
    """``host:port`` of an IOC that somebody else runs; it is then not started."""


DEFAULT_IOCS = {
    # The simulated camera looks at the sample, a loop in back light, on the simulated goniometer.
    "axis": IocSettings(
        module="iocs.axis",
        prefix="AXIS1:",
        args=("--goniometer", "{goniometer}", "--kind", "nylon", "--seed", "141"),
    ),
    "goniometer": IocSettings(module="iocs.goniometer", prefix="GONIO1:"),
    "psss": IocSettings(module="iocs.psss", prefix="PSSS1:", args=("--source", "sim")),
}

Row = tuple[float, float, float]


class GoniometerSettings(_Section):
    """The goniometer's motor records, and which way its stages move the sample."""

    phi: str = "phi"
    """Record of the spindle, below the prefix of the IOC."""
    stages: tuple[str, str, str] = ("sx", "sy", "sz")
    """Records of the sample stages; their unit (EGU) says mm or um."""
    stage_matrix: tuple[Row, Row, Row] = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    """Rows x, y, z of the sample; columns: its displacement by one unit of each stage."""
    mounting: Literal["spindle", "table"] = "spindle"
    """Whether the stages turn with the sample (rows: goniometer frame) or stand under the spindle
    (rows: along the spindle, across it as the camera sees it, along the beam)."""
    phi_sign: Literal[1, -1] = 1
    """-1 where the angle of the motor grows against the sense of the geometry's formula."""
    oscillation: Literal["controller", "motor"] = "controller"
    """Who makes oscillations: a controller with the PVs of `iocs.goniometer`, or the session with
    the motor record alone."""

    @model_validator(mode="after")
    def _stages_reach_everywhere(self) -> Self:
        from skywright.loop.stages import check_matrix

        try:
            check_matrix(self.stage_matrix)
        except ConfigError as error:
            raise ValueError(f"goniometer.stage_matrix: {error}") from error
        return self


class Settings(BaseSettings):
    """Everything that differs between beamlines.

    Values come, first match wins, from arguments, ``SKYWRIGHT_SECTION__KEY`` environment
    variables, the TOML file, and the defaults, which run the simulated beamline.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True
    )

    profile: Path | None = None
    """Directory of the session's start-up files; by default ours."""
    metadata: dict[str, JsonValue] = {
        "project": "skywright",
        "instrument": "simulated beamline",
    }
    """Goes into the start document of every run."""
    prefix: PvPrefix = "SKY:{user}:"
    """Beamline part of every PV name; ``{user}`` is the login name, so users do not collide."""
    store: StoreSettings = StoreSettings()
    iocs: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], IocSettings] = DEFAULT_IOCS
    goniometer: GoniometerSettings = GoniometerSettings()
    loop_detection: dict[str, JsonValue] = {"backend": "classical"}
    """Parameters of the live analysis of that name: its back-end, and what that needs, e.g.
    ``{"backend": "automl", "url": "http://host:8501"}``."""
    psss_spectra: dict[str, JsonValue] = {}
    """Parameters of the live analysis of that name that shall hold against what the spectrometer's
    configuration says, e.g. ``{"smoothing": "none", "resolution_ev": 0.1}``."""
    dashboard: DashboardSettings = DashboardSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order the sources (pydantic-settings' hook): arguments, environment, file, defaults.

        Tables of IOCs are merged key by key, so that a variable or a file can change one key of
        a default IOC; a file that names IOCs has those alone.
        """
        file = TomlConfigSettingsSource(settings_cls)
        named = file.toml_data.get("iocs", DEFAULT_IOCS)
        present = [name for name in DEFAULT_IOCS if isinstance(named, dict) and name in named]
        defaults = {"iocs": {name: DEFAULT_IOCS[name].model_dump() for name in present}}
        return init_settings, env_settings, file, InitSettingsSource(settings_cls, defaults)

    @model_validator(mode="after")
    def _names_do_not_collide(self) -> Self:
        for key in ("prefix", "port"):
            taken: dict[Any, str] = {}
            for name, ioc in self.iocs.items():
                value = getattr(ioc, key)
                if value and value in taken:
                    raise ValueError(
                        f"iocs.{name}.{key}: the same as that of iocs.{taken[value]} ({value})"
                    )
                taken[value] = name
        return self

    @property
    def directory(self) -> Path:
        """Absolute root directory of the store."""
        return self.store.directory.expanduser().resolve()

    def pv_prefix(self, ioc: str = "") -> str:
        """Return the full PV prefix of the IOC named `ioc`, or the beamline's part alone."""
        prefix = self.prefix + (self.iocs[ioc].prefix if ioc else "")
        return prefix.replace("{user}", user_name())

    def ioc_args(self, ioc: str) -> tuple[str, ...]:
        """Return the further arguments of the IOC named `ioc`, names in braces filled in."""

        def prefix_of(match: re.Match[str]) -> str:
            return self.pv_prefix(match[1]) if match[1] in self.iocs else ""

        return tuple(re.sub(r"\{([a-z][a-z0-9_]*)\}", prefix_of, a) for a in self.iocs[ioc].args)


def load_settings(path: Path | None = None) -> Settings:
    """Read and check the configuration.

    Parameters
    ----------
    path
        The TOML file. By default the one named by ``SKYWRIGHT_CONFIG``, else ``skywright.toml``
        in the working directory if there is one, else defaults.

    Raises
    ------
    ConfigError
        Naming file, key, value seen and what was expected.
    """
    if path is None and "SKYWRIGHT_CONFIG" in os.environ:
        path = Path(os.environ["SKYWRIGHT_CONFIG"])
    if path is not None and not path.is_file():
        raise ConfigError(f"{path}: no such configuration file")
    file = path or Path(FILE_NAME)

    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=file)

    try:
        return FromFile()
    except ValidationError as error:
        raise ConfigError(_explain(error.errors()[0], file)) from error
    except SettingsError as error:  # a variable that is not JSON where a table is expected
        raise ConfigError(f"{ENV_PREFIX}* variables: {error}") from error
    except ValueError as error:
        raise ConfigError(f"{file}: not TOML: {error}") from error
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from error


def _explain(error: "ErrorDetails", file: Path) -> str:
    """Say in one line where the wrong value is, what is wrong, and what was seen."""
    if not error["loc"]:  # our own check, which names the keys itself
        return f"{file}: {error['ctx']['error']}"
    parts = [str(part) for part in error["loc"] if part != "[key]"]
    variable = ENV_PREFIX + "__".join(parts).upper()
    where = f"{variable}:" if variable in os.environ else f"{file}: {'.'.join(parts)}:"
    if error["type"] == "extra_forbidden":
        return f"{where} no such key; see examples/skywright.toml for those there are"
    if error["type"] == "string_pattern_mismatch" and parts[-1] == "prefix":
        return f"{where} a PV prefix ends with a colon, e.g. 'AXIS1:' (got {error['input']!r})"
    if error["type"] == "missing":
        return f"{where} is missing"
    return f"{where} {error['msg'][0].lower()}{error['msg'][1:]} (got {error['input']!r})"
