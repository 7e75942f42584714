"""Installed packages, and what a package requires."""

from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, requires, version
from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from packaging.requirements import Requirement


def installed_version(package: str) -> str:
    """Return the version of a package; "" if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def requirements_of(package: str, extras: Iterable[str]) -> "list[Requirement]":
    """Return what a package requires with these of its extras; nothing if it is not installed.

    What the extras of required packages bring, such as those of ``tiled[server]``, is included.
    """
    try:
        found = map(_parsed, requires(package) or [])
    except PackageNotFoundError:
        return []
    environments = [{"extra": extra} for extra in extras]
    direct = [
        each
        for each in found
        if each.marker is None or any(map(each.marker.evaluate, environments))
    ]
    brought = (requirements_of(each.name, each.extras) for each in direct if each.extras)
    return [*direct, *chain.from_iterable(brought)]


@cache
def _parsed(requirement: str) -> "Requirement":
    """Return a requirement; that of each instrument has all lines of skywright's own package."""
    from packaging.requirements import Requirement

    return Requirement(requirement)


def not_installed(requirements: "Iterable[Requirement]") -> list[str]:
    """Return the names of the required packages that are not installed, each once."""
    names = dict.fromkeys(each.name for each in requirements)
    return [name for name in names if not installed_version(name)]


def with_extra(package: str, extra: str) -> str:
    """Return a package with one of its extras as pip takes it; without if `extra` is empty."""
    return f"{package}[{extra}]" if extra else package
