"""The start-up files of console, script, notebook and queue server, and what these files need.

In a script or a notebook::

    from skywright.session.profile import load_profile

    load_profile(globals())
    RE(take_pictures(axis, 3))
"""

import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from inspect import iscoroutinefunction, isgeneratorfunction
from pathlib import Path
from shutil import disk_usage
from typing import Any, overload

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from skywright.config import Settings, load_settings, user_name
from skywright.errors import ConfigError
from skywright.packages import installed_version
from skywright.processes.stack import State
from skywright.rooms import importable, startup_files

RECORDED_PACKAGES = ("skywright", "bluesky", "ophyd", "event-model", "tiled", "pyepics", "numpy")


def startup_directory(settings: Settings) -> Path:
    """Return the directory of the start-up files: `profile` of the configuration, else our own.

    Raises
    ------
    ConfigError
        If it holds no ``*.py`` files.
    """
    configured = settings.profile
    directory = configured.expanduser().resolve() if configured else startup_files()
    if not any(directory.glob("*.py")):
        raise ConfigError(f"profile: {directory} holds no start-up files (*.py)")
    return directory


@overload
def load_profile() -> dict[str, Any]: ...
@overload
def load_profile(namespace: dict[str, Any]) -> None: ...
def load_profile(namespace: dict[str, Any] | None = None) -> dict[str, Any] | None:
    """Execute the start-up files, in the order of their names.

    Parameters
    ----------
    namespace
        Where the names go, e.g. ``globals()``; by default a new dictionary.

    Returns
    -------
    dict or None
        The new dictionary. None if `namespace` was given: a notebook would print all of it.

    Raises
    ------
    ConfigError
        If no `skywright up` runs, another session holds the store, or there are no start-up files.
    """
    found = _execute(load_settings(), "*.py", {} if namespace is None else namespace)
    return found if namespace is None else None


def _execute(settings: Settings, pattern: str, namespace: dict[str, Any]) -> dict[str, Any]:
    namespace.setdefault("__name__", "__main__")
    for file in sorted(startup_directory(settings).glob(pattern)):
        exec(compile(file.read_bytes(), file, "exec"), namespace)
    return namespace


def load_devices(settings: Settings) -> dict[str, Any]:
    """Execute only the start-up files with ``devices`` in their names; return what they define."""
    from skywright.session.context import SessionContext

    given = {"settings": settings, "context": SessionContext(settings)}
    return _execute(settings, "*devices*.py", given)


def run_metadata(settings: Settings) -> dict[str, Any]:
    """Return the metadata of every start document, in addition to those of its plan."""
    return {
        **settings.metadata,
        "operator": user_name(),
        "host": platform.node(),
        "versions": package_versions(),
        "git_revision": git_revision(startup_files().parents[1]),
    }


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of those `RECORDED_PACKAGES` that are installed."""
    found = {package: installed_version(package) for package in RECORDED_PACKAGES}
    return {"python": platform.python_version()} | {k: v for k, v in found.items() if v}


def git_revision(directory: Path) -> str:
    """Return the commit of the checkout at `directory`, with ``+`` if files are changed.

    It is empty if there is no checkout, or if git fails.
    """
    if not (directory / ".git").exists():
        return ""
    # Without `--exclude=*` git names the newest tag in place of the commit
    describe = ["describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
    # By default git refuses the checkout of another user, who may have installed it for all
    command = ["git", "-c", "safe.directory=*", "-C", str(directory), *describe]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def has_display() -> bool:
    """Return whether plots can be shown: in a notebook or on a screen, not in the queue server."""
    if os.environ.get("QSERVER_RE_WORKER_ACTIVE"):
        return False
    screen = sys.platform == "darwin" or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))
    return screen or "ipykernel" in sys.modules


def find_devices(namespace: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ophyd devices of a namespace by the names that they have in it."""
    return {
        name: value
        for name, value in namespace.items()
        if not name.startswith("_")
        and not isinstance(value, type)
        and all(hasattr(value, each) for each in ("wait_for_connection", "describe", "name"))
    }


def silent_pvs(devices: Iterable[Any], limit_s: float = 5.0) -> dict[str, list[str]]:
    """Wait until the devices are connected, and return the PVs that did not answer.

    Parameters
    ----------
    devices
        ophyd devices; they are awaited at the same time.
    limit_s
        Timeout, s. It starts again each time a further PV answers, because a slow machine needs
        long for all of them.

    Returns
    -------
    dict
        PV names by the name of the device; devices that are connected are left out.
    """
    devices, fewest = list(devices), math.inf
    with ThreadPoolExecutor(max_workers=max(1, len(devices))) as threads:
        end = time.monotonic() + limit_s
        while True:
            wait = partial(_await_pvs, limit_s=min(limit_s, 1.0))
            found = zip(devices, threads.map(wait, devices), strict=True)
            silent = {device.name: pvs for device, pvs in found if pvs}
            count = sum(map(len, silent.values()))
            if count < fewest:
                fewest, end = count, time.monotonic() + limit_s
            if not count or time.monotonic() >= end:
                return silent


def _await_pvs(device: Any, limit_s: float) -> list[str]:
    """Wait until a device is connected; return its PVs that did not answer, sorted."""
    with suppress(TimeoutError):
        device.wait_for_connection(timeout=limit_s)
        return []
    return pvs_of(signal for signal in signals_of(device) if not signal.connected)


def pvs_of(signals: Iterable[Any]) -> list[str]:
    """Return the names of the PVs of ophyd signals, sorted; a signal may have two."""
    names = ("pvname", "setpoint_pvname")
    return sorted({pv for each in signals for name in names if (pv := getattr(each, name, None))})


def signals_of(device: Any) -> list[Any]:
    """Return the signals of an ophyd device; for a signal, a list with the signal itself."""
    if not hasattr(device, "walk_signals"):
        return [device]
    return [walk.item for walk in device.walk_signals()]


def _console() -> Console:
    """Return a console that prints text as it is: PV prefixes hold colons and brackets."""
    return Console(highlight=False, markup=False, emoji=False)


def make_listdevs(namespace: Mapping[str, Any]) -> Callable[[], None]:
    """Return the function `listdevs` of the session that has this namespace."""

    def listdevs() -> None:
        """Print a table of the devices: name, class, PV prefix, whether connected."""
        table = Table("name", "class", "prefix", "connected", box=None)
        for name, device in sorted(find_devices(namespace).items()):
            connected = Text("yes") if device.connected else Text("no", style="red")
            table.add_row(name, type(device).__name__, getattr(device, "prefix", ""), connected)
        _console().print(table)

    return listdevs


def show_banner(namespace: Mapping[str, Any]) -> None:
    """Print the banner of a session: what is simulated, where things are, what to type."""
    settings, stack = namespace["settings"], namespace["stack"]
    devices = sorted(find_devices(namespace))
    facts = {
        "PVs": f"{stack.prefix}  ({'; '.join(_origins(settings, stack)) or 'no IOC'})",
        "store": f"{settings.directory}  ({disk_usage(settings.directory).free / 1e9:.0f} GB free)",
        "runs": _web_page(settings, stack),
        "devices": ", ".join(devices),
        "plans": ", ".join(plan_names(namespace)),
    }
    console = _console()
    version_text = Text(f"skywright {package_versions()['skywright']}", style="bold")
    instrument = settings.metadata.get("instrument")
    console.print(Text.assemble(version_text, f", {instrument}" if instrument else ""))
    grid = Table.grid(padding=(0, 2))
    for name, fact in facts.items():
        grid.add_row(f"  {name}", Text(fact, overflow="fold"))
    console.print(grid)
    camera = next((name for name in devices if _takes_pictures(namespace[name])), None)
    plan = f"take_pictures({camera}, 3)" if camera else f"count([{', '.join(devices[:1])}])"
    console.print(
        Text.from_markup(
            f"Type [bold]RE({escape(plan)})[/], then [bold]cat\\[-1][/]; "
            "[bold]listdevs()[/], [bold]count?[/] for help on a plan, [bold]exit[/].",
            emoji=False,
        )
    )


def _takes_pictures(device: Any) -> bool:
    """Return whether a device reads pictures; False if it does not answer."""
    if not getattr(device, "connected", False) or iscoroutinefunction(device.describe):
        return False
    try:
        return any(len(key["shape"]) >= 2 for key in device.describe().values())
    except Exception:  # an IOC that is down, a device that is odd: the session starts all the same
        return False


def plan_names(namespace: Mapping[str, Any]) -> list[str]:
    """Return the names of the plans of a namespace, ours first."""
    plans = {
        name: value.__module__.startswith(importable("plans."))
        for name, value in namespace.items()
        if isgeneratorfunction(value) and not name.startswith("_")
    }
    return sorted(plans, key=lambda name: (not plans[name], name))


def _origins(settings: Settings, stack: State) -> list[str]:
    """Return the origin of the data of each IOC: simulated, stored before, or real."""
    origins = []
    for name, ioc in settings.iocs.items():
        if ioc.address:
            origins.append(f"{name} at {ioc.address}")
        elif name not in stack.processes:
            origins.append(f"{name} does not run, or is not ready yet")
        else:
            origins.append(f"{name} {_origin(stack.processes[name].ready.get('source'))}")
    return origins


def _origin(source: str | None) -> str:
    if source is None:
        return "does not say whether it is simulated"
    origins = {"sim": "is SIMULATED", "replay": "REPLAYS stored data"}
    return origins.get(source, f"is real ({source})")


def _web_page(settings: Settings, stack: State) -> str:
    """Return the address of tiled's page of the runs, without its key."""
    if not stack.tiled_uri:
        return "no tiled server runs; runs are kept in journals until one does"
    if settings.store.tiled_uri:
        return f"{stack.tiled_uri}/ui/"
    return f"{stack.tiled_uri}/ui/  (tiled_key() prints its key)"
