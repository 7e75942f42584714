"""State file and EPICS environment of a running `skywright up`."""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from skywright.errors import ConfigError, HardwareError
from skywright.files.replacing import replacing
from skywright.processes.locks import lock_owner
from skywright.processes.ports import ARRAY_BYTES_MAX
from skywright.waiting import pause

STATE_FILE, UP_LOCK, SESSION_LOCK = "up.json", "up.lock", "session.lock"
NOT_RUNNING = "no skywright up runs on this store"
"""Sentence for people; what to do depends on the place where it is shown."""


@dataclass(frozen=True)
class Child:
    """A process of the stack: its id, its ready line, how often it was restarted."""

    pid: int
    ready: Mapping[str, Any]
    restarts: int = 0


@dataclass(frozen=True)
class State:
    """State of `skywright up`, as stored in ``<store>/up.json``."""

    pid: int
    started: float
    """Unix time, s."""
    prefix: str
    tiled_uri: str
    """URI of the tiled in use, without a key; empty if there is none."""
    epics: Mapping[str, str]
    """Environment of Channel Access clients."""
    processes: Annotated[Mapping[str, Child], Field(alias="children")] = field(default_factory=dict)
    """Processes by service. The key in the file is ``children``. The attribute has another name,
    because bluesky-queueserver takes an object with an attribute `children` for a device."""


_IN_FILE = TypeAdapter(State)


def client_environment(addresses: list[str], repeater_port: int = 0) -> dict[str, str]:
    """Return the environment with which a Channel Access client finds the IOCs at `addresses`.

    Parameters
    ----------
    addresses
        ``host:port`` of each IOC. Nothing else is searched, so the clients of one user never
        find the IOCs of another user.
    repeater_port
        Where beacons arrive; 0 for EPICS' default.
    """
    repeater = {"EPICS_CA_REPEATER_PORT": str(repeater_port)} if repeater_port else {}
    return {
        **repeater,
        "EPICS_CA_ADDR_LIST": " ".join(addresses),
        "EPICS_CA_AUTO_ADDR_LIST": "NO",
        "EPICS_CA_NAME_SERVERS": "",  # those of the facility would be searched too
        "EPICS_CA_MAX_ARRAY_BYTES": str(ARRAY_BYTES_MAX),
    }


def write_state(directory: Path, state: State) -> None:
    """Replace the state file in one step, so that no reader sees half of it.

    Raises
    ------
    OSError
        If it cannot be written, e.g. because the disk is full.
    """
    with replacing(directory / STATE_FILE) as new:
        new.write_text(json.dumps(_IN_FILE.dump_python(state, by_alias=True), indent=1) + "\n")


def read_state(directory: Path) -> State | None:
    """Return the state of the stack that serves the store `directory`.

    None if no stack runs, or if it is still starting or stopping.
    """
    if lock_owner(directory / UP_LOCK) is None:
        return None
    try:
        # Of another version of skywright it may have more fields; they are ignored
        return _IN_FILE.validate_python(json.loads((directory / STATE_FILE).read_text()))
    except FileNotFoundError:  # it is starting or stopping
        return None


def not_ready(directory: Path) -> str:
    """Return that `skywright up` starts or stops on the store `directory`; "" if none runs.

    Call it when `read_state` returns None.
    """
    owner = lock_owner(directory / UP_LOCK)
    return "" if owner is None else f"skywright up, process {owner}, starts or stops"


def await_state(directory: Path, limit_s: float) -> State | None:
    """Return the state of the stack. If it is starting, wait for it. None if no stack runs.

    Raises
    ------
    HardwareError
        If it is still starting after `limit_s`.
    """
    deadline = time.monotonic() + limit_s
    while (state := read_state(directory)) is None:
        owner = lock_owner(directory / UP_LOCK)
        if owner is None:
            return None
        if time.monotonic() > deadline:
            raise HardwareError(
                f"{directory}: skywright up, process {owner}, is not ready after {limit_s:g} s; "
                f"look at {directory / 'logs'}"
            )
        pause(0.1)
    return state


def require_state(directory: Path) -> State:
    """Return the state of the stack that serves the store `directory`.

    Raises
    ------
    ConfigError
        If no `skywright up` runs on the store, or it is not ready.
    """
    state = read_state(directory)
    if state is None and (starting := not_ready(directory)):
        raise ConfigError(f"{directory}: {starting}; try again when it says that it is ready")
    if state is None:
        raise ConfigError(
            f"{directory}: {NOT_RUNNING}; start `skywright up` (or, to have it for this session "
            "alone, `skywright session`)"
        )
    return state


def attach(directory: Path) -> State:
    """Return what `require_state` does, with this process's EPICS environment set to it.

    Must come before the first import of ophyd or pyepics, which read the environment once.
    """
    state = require_state(directory)
    os.environ.update(state.epics)
    return state
