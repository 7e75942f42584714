"""Checks of keys and values that a person has written, and words for what is wrong."""

import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from skywright.errors import ConfigError, SkywrightError

if TYPE_CHECKING:
    from pydantic import ValidationError

Made = TypeVar("Made")

TEXT_MAX = 80
"""Characters of a wrong value, or of another program's message, that an error message shows."""
PLAIN = (bool, int, float, str, list, dict)
"""Types of values in TOML and JSON."""
VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def check_keys(given: Mapping[str, Any], *takers: Callable[..., Any]) -> None:
    """Check that functions or classes take these keys as arguments, and miss none.

    Parameters
    ----------
    given
        The keys, with their values.
    *takers
        Each passes its ``**`` arguments on to the next one. Those of the last one may be any.

    Raises
    ------
    ConfigError
        For the first key that none of them has, with the one that it is nearest to, and for the
        first one without a default that is missing.
    """
    taken = [each for taker in takers for each in _parameters(taker)]
    known = {each.name: each for each in taken if each.kind not in VARIADIC}
    if not any(each.kind is each.VAR_KEYWORD for each in _parameters(takers[-1])):
        for key in given:
            if key not in known:
                listed = f"known are {', '.join(known)}" if known else "there is none"
                hint = did_you_mean(key, known) or listed
                raise ConfigError(f"{key}: no such key; {hint}")
    for name, each in known.items():
        if each.default is each.empty and name not in given:
            raise ConfigError(f"{name}: is missing")


def make_from(kind: Callable[..., Made], given: Mapping[str, Any]) -> Made:
    """Return ``kind(**given)``.

    Raises
    ------
    ConfigError
        If `kind` does not take one of the keys or values, or one is missing.
    ImportError
        If what `kind` needs is not installed.
    """
    check_keys(given, kind)
    if reason := _wrong_value(kind, given):
        raise ConfigError(reason)
    from pydantic import ValidationError

    where = f"{', '.join(given)}: " if given else ""
    try:
        return kind(**given)
    except (ConfigError, ImportError):
        raise
    except SkywrightError as error:
        raise ConfigError(str(error)) from error
    except ValidationError as error:
        raise ConfigError(f"{where}{first_problem(error)}") from error
    except OSError as error:  # the whole name of the file
        raise ConfigError(f"{where}{error}") from error
    except Exception as error:  # a wrong value can lead to any error
        why = str(error).partition("\n")[0] or type(error).__name__
        raise ConfigError(f"{where}{why:.{TEXT_MAX}}") from error


def check_output_directory(option: str, directory: Path) -> None:
    """Check that files can be written in a directory, which need not exist yet.

    Parameters
    ----------
    option
        Where a person has written it, for the message.
    directory
        The directory.

    Raises
    ------
    ConfigError
        If it, or the nearest of its parents that exists, is no directory or cannot be written.
    """
    path = directory.absolute()
    present = next(each for each in (path, *path.parents) if each.exists())
    if not present.is_dir():
        raise ConfigError(f"{option} {directory}: {present} is no directory")
    if not os.access(present, os.W_OK | os.X_OK):
        raise ConfigError(f"{option} {directory}: {present} cannot be written by this user")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a question that names the known word that is nearest to `word`; empty if none is."""
    near = get_close_matches(word, known, 1)
    return f"did you mean {near[0]}?" if near else ""


def first_problem(error: "ValidationError") -> str:
    """Return where pydantic has found the first wrong value, what is wrong, and the value."""
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    why = f"{first['msg'].removeprefix('Value error, ')} (got {first['input']!r:.{TEXT_MAX}})"
    if first["type"] == "missing":
        why = "is missing"
    return f"{where}: {why}" if where else why


def _wrong_value(taker: Callable[..., Any], given: Mapping[str, Any]) -> str:
    """Return what is wrong with the first plain value that is not of its argument's type.

    Empty if there is none.
    """
    from pydantic import PydanticUserError, TypeAdapter, ValidationError

    try:
        parameters = inspect.signature(taker, eval_str=True).parameters.values()
    except Exception:  # an annotation that only a type checker can evaluate may raise anything
        return ""
    for each in parameters:
        value = given.get(each.name)
        if each.annotation is each.empty or not isinstance(value, PLAIN):
            continue  # an array or another object comes from a program, not from a file
        try:
            with suppress(NameError, PydanticUserError):  # types that pydantic does not know
                read = TypeAdapter(each.annotation).validate_python(value)
                if isinstance(value, str) and isinstance(read, int | float):  # `taker` gets text
                    got = f"got the text {value!r:.{TEXT_MAX}}"
                    return f"{each.name}: {got}; write the value without quotes"
        except ValidationError as error:
            problem = first_problem(error).replace("an instance of Sequence", "a list")
            return f"{each.name}: {problem}"
    return ""


def _parameters(taker: Callable[..., Any]) -> Iterable[inspect.Parameter]:
    return inspect.signature(taker).parameters.values()
