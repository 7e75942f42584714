"""Lines of a report on a beamline: `skywright doctor` and the live page show them."""

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """Outcome of a check."""

    ok = "ok"
    warning = "warning"
    wrong = "wrong"


@dataclass(frozen=True)
class Check:
    """One line of the report."""

    name: str
    status: Status
    found: str
    todo: str = ""


def good(name: str, found: str) -> Check:
    """Return a check without a finding."""
    return Check(name, Status.ok, found)


def wrong(name: str, found: str, todo: str) -> Check:
    """Return a check that failed, with what to do."""
    return Check(name, Status.wrong, found, todo)


def doubtful(name: str, found: str, todo: str) -> Check:
    """Return a check that a person should look at; it does not fail the command."""
    return Check(name, Status.warning, found, todo)
