"""The one configuration: ``skywright.toml``, overridden by ``SKYWRIGHT_*`` variables."""

import codecs
import getpass
import json
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self, get_args, get_origin

from pydantic import (
    AfterValidator,
    Field,
    JsonValue,
    ValidationError,
    create_model,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from skywright.arguments import TEXT_MAX, did_you_mean
from skywright.errors import ConfigError
from skywright.instruments import ServiceOffer, declared, instruments, resolve
from skywright.section import BeamlinePrefix, PathValue, Port, PvPrefix, Section, ServedPath

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

logger = logging.getLogger(__name__)

FILE_NAME = "skywright.toml"
FILE_VARIABLE = "SKYWRIGHT_CONFIG"
"""Environment variable that names another file."""
ENV_PREFIX = "SKYWRIGHT_"
OWN_NAMES = ("up", "tiled", "ingester", "repeater", "dashboard")
"""Names of `skywright up` and of its own processes; no IOC or service may have one of them."""


Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
ServiceName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")]


def _is_http(uri: str) -> str:
    if uri and not re.match(r"https?://[^/\s]", uri, re.IGNORECASE):
        raise ValueError("expected http://HOST:PORT or https://HOST")
    return uri


class StoreSettings(Section):
    """Where runs are kept, and which tiled server shows them."""

    directory: ServedPath = Path("~/.local/share/skywright")
    """Root of journals, assets, the embedded catalog, RE metadata and logs. IOCs that record below
    it need a path of ASCII characters."""
    tiled_uri: Annotated[str, AfterValidator(_is_http)] = ""
    """A tiled server that exists already; empty starts the embedded one."""
    api_key: str = ""
    """Key of that server; the embedded one makes its own."""
    tiled_port: Port = 0
    """Port of the embedded server; 0: a free one at each start of `skywright up`."""
    readable: tuple[ServedPath, ...] = ()
    """Further directories with assets, written by IOCs elsewhere, that tiled may read."""


class DashboardSettings(Section):
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
    except (OSError, KeyError, ImportError):  # no entry in passwd (a container), or no passwd
        name = f"uid{os.getuid()}" if hasattr(os, "getuid") else "user"
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)


class IocSettings(Section):
    """One IOC: a module that `skywright up` starts, or one that runs elsewhere."""

    module: str
    """Python module with a ``python -m`` entry, e.g. ``iocs.axis``."""
    prefix: PvPrefix
    """PV prefix below the beamline's, with its colon, e.g. ``AXIS1:``."""
    port: Port = 0
    """Channel Access port (TCP and UDP); 0: a free one."""
    args: tuple[str, ...] = ()
    """Further arguments of the module, e.g. ``("--source", "push")``. The name of an IOC in
    braces stands for its full prefix, or for nothing when there is no such IOC."""
    address: Annotated[str, Field(pattern=r"^$|^[^\s:]+:\d+$")] = ""
    """``host:port`` of an IOC that somebody else runs; it is then not started."""


class ServiceSettings(Section):
    """A program that `skywright up` starts, watches and restarts like an IOC."""

    command: tuple[str, ...] = ()
    """The program and its arguments; ``skywright`` and ``python`` are those that run `up`. Empty:
    the service of this name that an instrument offers."""
    args: tuple[str, ...] = ()
    """Further arguments. The name of an IOC in braces stands for its full prefix, or for nothing
    when there is no such IOC."""
    environment: dict[str, str] = Field(default={})
    """Further environment variables."""
    ready_line: bool = True
    """Whether it prints skywright's ready line to stdout, as all servers of skywright do. A program
    without one counts as ready when it has started."""


def _declared_iocs() -> dict[str, IocSettings]:
    """Return the IOCs of all instruments; one with faulty values is logged and left out."""
    iocs = {}
    for instrument in instruments().values():
        for name, ioc in instrument.iocs.items():
            try:
                iocs[name] = IocSettings(module=ioc.module, prefix=ioc.prefix, args=ioc.args)
            except Exception as error:  # whatever another package declares: the others work
                logger.error(
                    "instrument %s: its IOC %s is left out: %s", instrument.name, name, error
                )
    return iocs


DEFAULT_IOCS = _declared_iocs()
"""The IOCs of all instruments, simulated."""


def offered_services() -> dict[str, ServiceOffer]:
    """Return the services that instruments offer, by name."""
    return declared(lambda instrument: instrument.services)


class _Variables(EnvSettingsSource):
    """Environment variables; those of keys in a table of any values are JSON, or else text."""

    def next_field(
        self, field: Any, key: str, case_sensitive: bool | None = None
    ) -> FieldInfo | None:
        """Return the field of a key, such as that of a parameter of an analysis."""
        found = super().next_field(field, key, case_sensitive)
        if found is None and get_args(getattr(field, "annotation", None))[1:] == (JsonValue,):
            return FieldInfo(annotation=str | dict[str, Any])
        return found


class CommonSettings(BaseSettings):
    """Everything that differs between beamlines.

    Values come, first match wins, from arguments, ``SKYWRIGHT_SECTION__KEY`` environment
    variables, the TOML file, and the defaults, which run the simulated beamline.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True
    )

    profile: PathValue | None = None
    """Directory of the session's start-up files; by default ours."""
    metadata: dict[str, JsonValue] = {
        "project": "skywright",
        "instrument": "simulated beamline",
    }
    """Goes into the start document of every run."""
    prefix: BeamlinePrefix = "SKY:{user}:"
    """Beamline part of every PV name; ``{user}`` is the login name, so users do not collide."""
    store: StoreSettings = StoreSettings()
    iocs: dict[Name, IocSettings] = DEFAULT_IOCS
    services: dict[ServiceName, ServiceSettings] = Field(default={})
    """Programs that `skywright up` starts beside the IOCs, by name."""
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
        a default IOC. If the file has a table ``iocs``, only the IOCs in it exist.
        """
        file = TomlConfigSettingsSource(settings_cls)
        named = file.toml_data.get("iocs", DEFAULT_IOCS)
        present = [name for name in DEFAULT_IOCS if isinstance(named, dict) and name in named]
        defaults = {"iocs": {name: DEFAULT_IOCS[name].model_dump() for name in present}}
        variables = _Variables(settings_cls)
        return init_settings, variables, file, InitSettingsSource(settings_cls, defaults)

    @model_validator(mode="after")
    def _names_do_not_collide(self) -> Self:
        prefixes = {f"iocs.{name}.prefix": ioc.prefix for name, ioc in self.iocs.items()}
        for values in (prefixes, self.ports):
            taken: dict[Any, str] = {}
            for key, value in values.items():
                if value and value in taken:
                    raise ValueError(f"{key}: the same as {taken[value]} ({value})")
                taken[value] = key
        for key, names in (("iocs", self.iocs), ("services", self.services)):
            if own := sorted(set(names) & set(OWN_NAMES)):
                raise ValueError(
                    f"{key}.{own[0]}: `skywright up` has a part of this name; choose another one"
                )
        both = sorted(set(self.services) & set(self.iocs))
        if both:
            raise ValueError(f"services.{both[0]}: an IOC has this name; choose another one")
        return self

    @model_validator(mode="after")
    def _services_have_a_command(self) -> Self:
        offers = offered_services()
        for name, service in self.services.items():
            if not service.command and name not in offers:
                known = ", ".join(offers) or "no services"
                raise ValueError(
                    f"services.{name}.command: is missing, and no instrument offers a service of "
                    f"this name (instruments offer {known})"
                )
        return self

    @property
    def directory(self) -> Path:
        """Absolute root directory of the store.

        Raises
        ------
        ConfigError
            If it is the default and this user has no home directory, as in some containers.
        """
        try:
            return self.store.directory.expanduser().resolve()
        except RuntimeError as error:
            raise ConfigError(
                f"store.directory: {self.store.directory}: this user has no home directory; "
                "set HOME, or write the whole path"
            ) from error

    @property
    def ports(self) -> dict[str, int]:
        """Ports of the servers that `skywright up` starts, by name of the setting; 0: any."""
        started = {name: ioc for name, ioc in self.iocs.items() if not ioc.address}
        ports = {f"iocs.{name}.port": ioc.port for name, ioc in started.items()}
        if not self.store.tiled_uri:
            ports["store.tiled_port"] = self.store.tiled_port
        if self.dashboard.with_up:
            ports["dashboard.port"] = self.dashboard.port
        return ports

    @property
    def journals(self) -> Path:
        """Directory of the journals of runs."""
        return self.directory / "journal"

    @property
    def assets(self) -> Path:
        """Directory of the files that devices and analyses write."""
        return self.directory / "assets"

    def pv_prefix(self, ioc: str = "") -> str:
        """Return the full PV prefix of the IOC named `ioc`, or the beamline's part alone."""
        prefix = self.prefix + (self.iocs[ioc].prefix if ioc else "")
        return prefix.replace("{user}", user_name())

    def ioc_args(self, ioc: str) -> tuple[str, ...]:
        """Return the further arguments of the IOC named `ioc`, names in braces filled in."""
        return self._with_prefixes(self.iocs[ioc].args)

    def service_command(self, name: str) -> tuple[str, ...]:
        """Return the command of the service `name`, names of IOCs in braces filled in."""
        service = self.services[name]
        command = service.command or offered_services()[name].command
        return self._with_prefixes((*command, *service.args))

    def _with_prefixes(self, args: Sequence[str]) -> tuple[str, ...]:
        """Replace each name of an IOC in braces by the IOC's prefix."""

        def prefix_of(match: re.Match[str]) -> str:
            return self.pv_prefix(match[1]) if match[1] in self.iocs else ""

        return tuple(re.sub(r"\{([a-z][a-z0-9_]*)\}", prefix_of, a) for a in args)


def _instrument_sections() -> dict[str, Any]:
    """Return the instruments' own settings as fields for `pydantic.create_model`."""
    sections: dict[str, Any] = {}
    for name, instrument in instruments().items():
        if not instrument.settings:
            continue
        if name in CommonSettings.model_fields:
            logger.error("instrument %s: its settings are left out, [%s] is taken", name, name)
            continue
        try:
            model = resolve(instrument.settings)
            sections[name] = (model, model())
        except Exception as error:  # whatever another package raises: the others work
            logger.error("instrument %s: its settings cannot be used: %s", name, error)
            sections[name] = (dict[str, JsonValue], {})
    return sections


if TYPE_CHECKING:

    class Settings(CommonSettings):
        """The common settings, and one section per instrument, defined by that instrument."""

        def __getattr__(self, name: str) -> Any: ...

else:
    Settings = create_model(
        "Settings",
        __base__=CommonSettings,
        __module__=__name__,
        __doc__=CommonSettings.__doc__,
        **_instrument_sections(),
    )


def configuration_file() -> Path:
    """Return the file that `load_settings` reads if it is given none; it need not exist."""
    return Path(os.environ.get(FILE_VARIABLE, FILE_NAME))


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
    if path is None and os.environ.get(FILE_VARIABLE) == "":
        raise ConfigError(f"{FILE_VARIABLE}: is empty; expected a configuration file")
    file = path or configuration_file()
    if (path or FILE_VARIABLE in os.environ) and not file.is_file():
        raise ConfigError(f"{file}: no such configuration file")

    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=file)

    _refuse_unknown_sections()
    try:
        return FromFile()
    except ValidationError as error:
        raise ConfigError(_explain(error.errors()[0], file)) from error
    except SettingsError as error:  # a variable that is not JSON where a table is expected
        raise ConfigError(_explain_variable(error)) from error
    except ValueError as error:
        has_mark = file.read_bytes().startswith(codecs.BOM_UTF8)
        reason = "it begins with a byte order mark, save it without one" if has_mark else error
        raise ConfigError(f"{file}: not TOML: {reason}") from error
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from error


def _refuse_unknown_sections() -> None:
    """Raise `ConfigError` for an environment variable ``SKYWRIGHT_X__KEY`` without a section X.

    A variable without a double underscore may belong to another program; it is ignored.
    """
    for variable in os.environ:
        section, separator, _ = variable.removeprefix(ENV_PREFIX).lower().partition("__")
        if variable.startswith(ENV_PREFIX) and separator and section not in Settings.model_fields:
            hint = did_you_mean(section, Settings.model_fields)
            raise ConfigError(f"{variable}: there is no section [{section}]; {hint}".rstrip("; "))


def _explain_variable(error: SettingsError) -> str:
    """Name the variable whose value is no list or table, what was expected, and what was seen."""
    found = re.search(r'field "(\w+)"', str(error))
    name = f"{ENV_PREFIX}{found[1]}".upper() if found else f"{ENV_PREFIX}*"
    seen = getattr(error.__cause__, "doc", "")  # of the JSONDecodeError
    got = f"(got {seen!r:.{TEXT_MAX}})"
    below = (key for key, value in os.environ.items() if value == seen)
    variable = next((key for key in below if key.upper().startswith(f"{name}__")), "")
    if variable:
        return f'{variable}: expected JSON, ["a", "b"] or {{"key": "value"}} {got}'
    return (
        f'{name}: expected a table as JSON, {{"key": "value"}}, or a variable {name}__KEY for each '
        f"key {got}"
    )


def _explain(error: "ErrorDetails", file: Path) -> str:
    """Say in one line where the wrong value is, what is wrong, and what was seen."""
    in_file = f"{file}: " if file.is_file() else ""
    if not error["loc"]:  # our own check, which names the keys itself
        return f"{in_file}{error['ctx']['error']}"
    parts = [str(part) for part in error["loc"] if part != "[key]"]
    is_missing = error["type"] == "missing"
    variable, inside = _variable_of(parts, is_missing)
    where = f"{variable}:" if variable else f"{in_file}{'.'.join(parts)}:"
    if inside:
        where += f" {'.'.join(inside)}:"
    seen = f"{error['input']!r:.{TEXT_MAX}}"
    if error["type"] == "extra_forbidden":
        hint = f"{did_you_mean(parts[-1], _keys(parts[:-1]))} see".lstrip()
        return f"{where} no such key; {hint} examples/skywright.toml for those there are"
    if error["type"] == "string_pattern_mismatch" and parts[-1] == "prefix":
        rule = "has no blanks and no dots, and ends with a colon"
        return f"{where} a PV prefix {rule}, e.g. 'AXIS1:' (got {seen})"
    if is_missing:
        beside = "" if variable else _variable_beside(parts)
        note = f" (the variable {beside} sets another key of this table)" if beside else ""
        return f"{where} is missing{note}"
    if error["type"] == "value_error":  # our own check; pydantic puts "Value error, " before it
        why = str(error["ctx"]["error"])
        for word in why.split(": ")[:-1]:  # one may be a key of a table of any values
            variable, inside = _variable_of([*parts, word], is_missing)
            if variable and not inside:
                where, why = f"{variable}:", why.replace(f"{word}: ", "", 1)
        return f"{where} {why}" if "(got " in why else f"{where} {why} (got {seen})"
    wrong = error["msg"].replace("valid tuple", "list")  # the word of TOML
    return f"{where} {wrong[0].lower()}{wrong[1:]} (got {seen})"


def _variable_of(parts: Sequence[str], is_missing: bool) -> tuple[str, Sequence[str]]:
    """Return the environment variable that sets a key, and the rest of the key within its JSON.

    Parameters
    ----------
    parts
        The key.
    is_missing
        Whether the key is not there; the variable that sets its table is returned.
    """
    present = {name.upper(): name for name in os.environ}
    for count in range(len(parts), 0, -1):
        name = present.get((ENV_PREFIX + "__".join(parts[:count])).upper())
        inside = parts[count:]
        if name and _holds(os.environ[name], inside[:-1] if is_missing else inside):
            return name, inside
    return "", []


def _variable_beside(parts: Sequence[str]) -> str:
    """Return an environment variable that sets another key of the table of a key; else ""."""
    table = (ENV_PREFIX + "__".join(parts[:-1]) + "__").upper()
    return next((name for name in os.environ if name.upper().startswith(table)), "")


def _holds(text: str, parts: Sequence[str]) -> bool:
    """Return whether a JSON text has a value for a key."""
    try:
        value: Any = json.loads(text) if parts else text
        for part in parts:
            value = value[part] if isinstance(value, dict) else value[int(part)]
    except (ValueError, LookupError, TypeError):
        return False
    return True


def _keys(parts: Sequence[str]) -> list[str]:
    """Return the keys that a table of the configuration may have; none if that is not known."""
    model: Any = Settings
    for part in parts:
        fields = getattr(model, "model_fields", {})
        if part in fields:
            model = fields[part].annotation
        elif get_origin(model) is dict:  # [iocs.NAME]
            model = get_args(model)[1]
        else:
            return []
    return list(getattr(model, "model_fields", {}))
