"""The base class and the types of values of the sections of ``skywright.toml``."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from skywright.arguments import make_from
from skywright.errors import ConfigError
from skywright.instruments import resolve

Value = TypeVar("Value")


def _no_boolean(value: Value) -> Value:
    if isinstance(value, bool):  # pydantic would turn it into 0 or 1
        raise ValueError("expected a number from 0 to 65535")
    return value


Port = Annotated[
    int,
    Field(ge=0, le=65535, description="0 takes a free port at each start"),
    BeforeValidator(_no_boolean),
]
_PREFIX = r"([\w:;+<>\[\]-]|\{user\})*:"
PvPrefix = Annotated[str, Field(pattern=f"^{_PREFIX}$", max_length=40)]
BeamlinePrefix = Annotated[str, Field(pattern=f"^({_PREFIX})?$", max_length=40)]
"""The common part of PV names; empty where the IOCs' names have none."""


def _not_empty(value: Value) -> Value:
    if value == "":  # `Path("")` is the working directory
        raise ValueError("expected a path; for the default, leave it out")
    return value


def _has_home(path: Path) -> Path:
    try:
        path.expanduser()
    except RuntimeError as error:  # ``~`` of an unknown user, or of one without a passwd entry
        raise ValueError("there is no such home directory; write the whole path") from error
    return path


PathValue = Annotated[Path, BeforeValidator(_not_empty), AfterValidator(_has_home)]
"""A path; the empty text and a home directory that does not exist are refused."""

NOT_IN_ADDRESSES = frozenset("#?\t\n\r")
"""Characters that paths of files in tiled must not have: they would end the address of the file."""


def _fits_addresses(path: Path) -> Path:
    given = path.expanduser().absolute()
    if wrong := NOT_IN_ADDRESSES & {*f"{given}{given.resolve()}"}:
        raise ValueError(f"tiled reads no path with {' or '.join(map(repr, sorted(wrong)))}")
    return path


ServedPath = Annotated[PathValue, AfterValidator(_fits_addresses)]
"""The path of a directory whose files tiled reads."""


class Section(BaseModel):
    """A section of ``skywright.toml``: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@contextmanager
def as_value_errors(key: str = "") -> Iterator[None]:
    """Inside a validator, turn `ConfigError` into ValueError, so that pydantic reports it.

    An ImportError is ignored: a package that is not installed here is not used here.

    Parameters
    ----------
    key
        Name of the value, for the message, if pydantic names only the section that contains it.
    """
    try:
        with suppress(ImportError):
            yield
    except ConfigError as error:
        raise ValueError(f"{key}: {error}" if key else str(error)) from error


def parameters_of(analysis: str, **later: object) -> AfterValidator:
    """Return a validator that makes an analysis from its parameters, and imports it only then.

    It does nothing if there are no parameters.

    Parameters
    ----------
    analysis
        ``module:Class``.
    **later
        Parameters that the device gives later.
    """

    def check(value: dict[str, Any]) -> dict[str, Any]:
        if value:
            with as_value_errors():
                make_from(resolve(analysis), {**later, **value})
        return value

    return AfterValidator(check)
