"""Checks of the metadata of a run, before its start document is made."""

from collections.abc import Mapping
from typing import Any

SET_BY_BLUESKY = ("uid", "time")
TEXTS = ("data_session", "group", "owner", "project")
"""Keys whose values must be text by bluesky's schema of a start document."""


def check_metadata(md: Mapping[str, Any]) -> None:
    """Raise if no run can be opened with this metadata; for the ``md_validator`` of a RunEngine.

    The RunEngine calls it before the run is opened, with the metadata of the call, of the plan and
    of ``RE.md`` together.

    Parameters
    ----------
    md
        Metadata of the run.

    Raises
    ------
    ValueError
        The message names the key and says what is allowed.
    """
    for key in SET_BY_BLUESKY:
        if key in md:
            _refuse(key, "the RunEngine sets it; choose another key")
    if md.get("purpose") == "analysis":
        _refuse("purpose", "'analysis' marks the runs of analyses; choose another text")
    _check_keys(md)
    if "scan_id" in md:
        _check_scan_id(md["scan_id"])
    sample = md.get("sample", "")
    if not isinstance(sample, (str, Mapping)):
        _refuse("sample", f"{sample!r} is neither a text nor a dictionary; e.g. sample='lysozyme'")
    for key in TEXTS:
        if not isinstance(md.get(key, ""), str):
            _refuse(key, f"{md[key]!r} is not a text")


def next_scan_id(md: Mapping[str, Any]) -> int:
    """Return the scan id of the next run; for the ``scan_id_source`` of a RunEngine.

    Parameters
    ----------
    md
        ``RE.md``: holds the scan id of the run before, if there was one.

    Raises
    ------
    ValueError
        If that scan id is not an int.
    """
    scan_id: int = md.get("scan_id", 0)
    _check_scan_id(scan_id)
    return scan_id + 1


def _check_scan_id(scan_id: object) -> None:
    if not isinstance(scan_id, int) or isinstance(scan_id, bool):
        _refuse("scan_id", f"{scan_id!r} is not an int; e.g. RE.md['scan_id'] = 0")


def _check_keys(md: Mapping[Any, Any]) -> None:
    for key, value in md.items():
        if not isinstance(key, str):
            _refuse(key, "a key must be a text")
        if not key or "." in key or "/" in key:
            _refuse(key, "a key must not be empty, or contain '.' or '/'; use '_'")
        if isinstance(value, Mapping):
            _check_keys(value)


def _refuse(key: object, reason: str) -> None:
    raise ValueError(f"metadata key {key!r}: {reason}")
