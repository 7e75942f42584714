"""Installed packages, and what a package requires."""

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, requires, version
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
    """Return what an installed package requires with these of its extras."""
    from packaging.requirements import Requirement

    found = map(Requirement, requires(package) or [])
    environments = [{"extra": extra} for extra in extras]
    return [
        each
        for each in found
        if each.marker is None or any(map(each.marker.evaluate, environments))
    ]


def not_installed(package: str, extras: Iterable[str]) -> list[str]:
    """Return the packages of these extras that are not installed, each once."""
    names = dict.fromkeys(each.name for each in requirements_of(package, extras))
    return [name for name in names if not installed_version(name)]
