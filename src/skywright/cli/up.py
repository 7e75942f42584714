"""``skywright up``: the IOCs, tiled, the ingester and configured services of one store."""

import asyncio
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from skywright.cli.data_directories import data_directories, why_unreadable
from skywright.cli.output import ConfigOption, share_configuration
from skywright.config import OWN_NAMES, Settings, StoreSettings, load_settings
from skywright.errors import ConfigError
from skywright.processes import locks, stack
from skywright.processes.lifecycle import SUPERVISED, announce_ready, end_with_parent, stop_event
from skywright.processes.ports import ARRAY_BYTES_MAX, free_port, port_is_free
from skywright.processes.supervisor import Report, Service, Supervisor
from skywright.rooms import importable

_, TILED, INGESTER, REPEATER, DASHBOARD = OWN_NAMES
FREE_BYTES_MIN = 200_000_000
STATE_RETRY_S = 2.0
"""Pause before the state is written again when it could not be, as on a full disk."""
STARTING = "starting "
"""Begins the first report; the names of the parts follow."""


def up(
    # In `--only axis tiled` the second name is an argument
    names: Annotated[list[str] | None, typer.Argument(hidden=True)] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME...",
            help="Start only these: IOCs and services by name, tiled, ingester, dashboard.",
        ),
    ] = None,
    config: ConfigOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Report as JSON lines on stdout.")
    ] = False,
) -> None:
    """Start IOCs, tiled, the ingester and configured services; watch and restart them.

    Ctrl-C or SIGTERM stops all of them. Logs are in the store's directory, under logs/.
    """
    settings = load_settings(config)
    if names and not only:
        raise ConfigError(f"up {' '.join(names)}: use --only to start only these")
    wanted = {name for word in [*(only or []), *(names or [])] for name in word.split(",") if name}
    check_directory(settings)
    starting = names_to_start(settings, wanted)
    check_data_directories(settings, starting)
    locks.hold_lock(settings.directory / stack.UP_LOCK, "skywright up")
    # Before anything starts: the file of a stack that was killed has ports where nobody answers.
    (settings.directory / stack.STATE_FILE).unlink(missing_ok=True)
    share_configuration(config)
    services = plan_services(settings, starting)
    end_with_parent()
    announce = as_json or bool(os.environ.get(SUPERVISED))
    report = _json_report if as_json else _text_report
    asyncio.run(_run(settings, services, report, announce))


async def _run(
    settings: Settings, services: Sequence[Service], report: Report, announce: bool
) -> None:
    """Keep the services running until SIGINT or SIGTERM."""
    started = time.time()
    complete, stop = asyncio.Event(), stop_event()
    retry: asyncio.TimerHandle | None = None
    supervisor: Supervisor

    def write_state() -> None:
        nonlocal retry
        if not complete.is_set():  # clients take the file as the sign that all parts have started
            return
        state = stack_state(settings, services, supervisor.ready_children, started)
        try:
            stack.write_state(settings.directory, state)
        except OSError as error:
            if retry is None:
                supervisor.report("up", f"the state of the stack cannot be written: {error}")
            else:
                retry.cancel()
            retry = asyncio.get_running_loop().call_later(STATE_RETRY_S, write_state)
        else:
            if retry is not None:
                retry.cancel()
            retry = None

    async def supervise() -> None:
        supervisor.report("up", STARTING + ", ".join(service.name for service in services))
        await supervisor.start()
        complete.set()
        write_state()
        not_ready = ", ".join(supervisor.not_ready)
        ready = f"ready, except {not_ready}" if not_ready else "all ready"
        supervisor.report("up", f"{ready}; store {settings.directory}; Ctrl-C stops")
        if announce:
            with suppress(OSError):  # if nobody reads stdout any more, the services run on
                announce_ready(directory=str(settings.directory), pid=os.getpid())
        await supervisor.watch()

    supervisor = Supervisor(services, settings.directory / "logs", report, write_state)
    work = asyncio.create_task(supervise())
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([work, stopped], return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            work.result()  # raises its error
        supervisor.report("up", "stopping")
    finally:
        work.cancel()
        stopped.cancel()
        complete.clear()
        if retry is not None:
            retry.cancel()
        # Before the services stop: a session that starts now must not use them
        try:
            (settings.directory / stack.STATE_FILE).unlink(missing_ok=True)
        finally:
            await supervisor.stop()


def names_to_start(settings: Settings, only: Set[str]) -> Set[str]:
    """Return the names of the services to start: those of `only` and what they need, or all.

    All of them include the dashboard only if the setting `dashboard.with_up` is true.

    Raises
    ------
    ConfigError
        If `only` names something that does not exist.
    """
    own_tiled = not settings.store.tiled_uri
    iocs = {name: ioc for name, ioc in settings.iocs.items() if not ioc.address}
    known = {*([TILED] if own_tiled else []), INGESTER, DASHBOARD, *iocs, *settings.services}
    if only - known:
        raise ConfigError(
            f"--only {', '.join(sorted(only - known))}: not one of {', '.join(sorted(known))}"
        )
    names = only or (known if settings.dashboard.with_up else known - {DASHBOARD})
    needs_tiled = INGESTER in names and own_tiled
    return names | {TILED} if needs_tiled else names


def plan_services(settings: Settings, names: Set[str]) -> list[Service]:
    """Return what to start, each server with a port of its own.

    Parameters
    ----------
    settings
        The configuration.
    names
        What to start, see `names_to_start`.

    Raises
    ------
    ConfigError
        If a configured port is taken, or the module of an IOC or the program of a service is not
        there.
    """
    ports = _Ports(settings)
    directory = "--directory", settings.directory
    services = []
    if TILED in names:
        port = ports.usable(settings.store.tiled_port, "store.tiled_port")
        readable = ["--readable", *settings.store.readable] if settings.store.readable else []
        command = _python("skywright.store.server", *directory, "--port", port, *readable)
        services.append(Service(TILED, command, port=port, answers_http=True))
        uri = f"http://127.0.0.1:{port}"
    else:
        uri = settings.store.tiled_uri
    if INGESTER in names:
        command = _python("skywright.store.ingester", *directory, "--uri", uri)
        services.append(Service(INGESTER, command, stop_before=TILED))
    if DASHBOARD in names:
        port = ports.usable(settings.dashboard.port, "dashboard.port")
        command = _python("skywright.cli", "dashboard", "--port", port)
        services.append(Service(DASHBOARD, command, port=port))
    environment: dict[str, str] = {}
    wanted = {name: ioc for name, ioc in settings.iocs.items() if name in names}
    if wanted:
        repeater_port = ports.usable(0, "")
        command = _python("iocs.repeater", "--port", repeater_port)
        services.append(Service(REPEATER, command, port=repeater_port))
        servers = {
            name: ports.usable(ioc.port, f"iocs.{name}.port") for name, ioc in wanted.items()
        }
        # An IOC may be a client of another one: the simulated camera of the goniometer
        clients = stack.client_environment(_addresses(settings, servers), repeater_port)
        environment = clients | _server_environment(repeater_port)
        services += [
            _ioc_service(settings, name, port, environment) for name, port in servers.items()
        ]
    services += [
        _configured_service(settings, name, environment)
        for name in settings.services
        if name in names
    ]
    return services


def _python(module: str, *args: object) -> list[str]:
    """Return the command that runs a module as a program."""
    return [sys.executable, "-m", importable(module), *map(str, args)]


def _server_environment(repeater_port: int) -> dict[str, str]:
    """Return the environment of Channel Access servers that only this machine sees."""
    return {
        "EPICS_CAS_INTF_ADDR_LIST": "127.0.0.1",
        "EPICS_CAS_BEACON_ADDR_LIST": "127.0.0.1",
        "EPICS_CAS_AUTO_BEACON_ADDR_LIST": "NO",
        "EPICS_CAS_BEACON_PORT": str(repeater_port),
        "EPICS_CA_MAX_ARRAY_BYTES": str(ARRAY_BYTES_MAX),
    }


def _ioc_service(
    settings: Settings, name: str, port: int, environment: Mapping[str, str]
) -> Service:
    module = settings.iocs[name].module
    if not _is_module(importable(module)):
        raise ConfigError(f"iocs.{name}.module: there is no module {module}")
    command = _python(module, "--prefix", settings.pv_prefix(name), "--port", port)
    ports = {"EPICS_CA_SERVER_PORT": str(port), "EPICS_CAS_SERVER_PORT": str(port)}
    return Service(
        name,
        [*command, *settings.ioc_args(name)],
        {**environment, **ports},
        port=port,
        may_be_late=True,
    )


def _is_module(name: str) -> bool:
    """Return whether ``python -m`` finds a module, also in the working directory."""
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        return find_spec(name) is not None
    except ImportError:  # the package of the module is not there
        return False


def _configured_service(settings: Settings, name: str, environment: Mapping[str, str]) -> Service:
    """Return the service ``[services.NAME]``, a client of the IOCs like any other."""
    own = {"skywright": _python("skywright.cli"), "python": [sys.executable]}
    program, *args = settings.service_command(name)
    given = settings.services[name]
    command = [*own.get(program, [program]), *args]
    if shutil.which(command[0], path=given.environment.get("PATH")) is None:
        raise ConfigError(f"services.{name}.command: no program {program} that can be executed")
    return Service(
        name,
        command,
        {**environment, **given.environment},
        ready_line=given.ready_line,
        may_be_late=True,
    )


def _addresses(settings: Settings, ports: Mapping[str, int]) -> list[str]:
    """Return the addresses of the IOCs, also of those that others run."""
    return [
        ioc.address or f"127.0.0.1:{ports[name]}"
        for name, ioc in settings.iocs.items()
        if ioc.address or name in ports
    ]


class _Ports:
    """Gives each service a port that no other service has, or is configured to have."""

    def __init__(self, settings: Settings) -> None:
        configured = (ioc.port for ioc in settings.iocs.values())
        self._promised = {settings.store.tiled_port, settings.dashboard.port, *configured}

    def usable(self, configured: int, key: str) -> int:
        """Return the port to use, fixed for the life of the stack so that clients reconnect.

        Parameters
        ----------
        configured
            The port that the configuration gives; 0: any.
        key
            Name of the setting, for the message.

        Raises
        ------
        ConfigError
            If the configured port is taken.
        """
        if configured and not port_is_free(configured):
            raise ConfigError(
                f"{key}: port {configured} is taken by another process; "
                "stop that one, or set another port, or 0 for any"
            )
        port = configured or free_port(taken=self._promised)
        self._promised.add(port)
        return port


def stack_state(
    settings: Settings,
    services: Sequence[Service],
    children: Mapping[str, stack.Child],
    started: float,
) -> stack.State:
    """Return the present state of the stack, for other processes."""
    ports = {service.name: service.port for service in services}
    own_uri = f"http://127.0.0.1:{ports[TILED]}" if TILED in ports else ""
    return stack.State(
        pid=os.getpid(),
        started=started,
        prefix=settings.pv_prefix(),
        tiled_uri=settings.store.tiled_uri or own_uri,
        epics=stack.client_environment(_addresses(settings, ports), ports.get(REPEATER, 0)),
        processes=dict(children),
    )


def check_directory(settings: Settings) -> None:
    """Make the store's directory, write to it, and check its room (`check_room`).

    The default directory is made with its parents. A configured one must lie in a directory that
    exists: if its disk is not mounted, this fails, and nothing is written to another disk.

    Raises
    ------
    ConfigError
        Naming the directory and what to do.
    """
    directory = settings.directory
    is_default = settings.store.directory == StoreSettings().directory
    try:
        directory.mkdir(parents=is_default, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory) as probe:
            probe.write(bytes(65536))
            probe.flush()
    except FileNotFoundError as error:
        raise ConfigError(
            f"store.directory: {directory.parent} does not exist; mount or make it, "
            "or set another directory"
        ) from error
    except OSError as error:
        raise _refused(directory, error.strerror or str(error)) from error
    check_room(settings)


def check_room(settings: Settings) -> None:
    """Check the free space of the store, and that the directories of `store.readable` exist.

    It writes nothing.

    Raises
    ------
    ConfigError
        Naming the directory and what to do.
    """
    directory = settings.directory
    if not os.access(directory, os.W_OK | os.X_OK):
        raise _refused(directory, "no directory that this user can write to")
    free = shutil.disk_usage(directory).free
    if free < FREE_BYTES_MIN:
        raise ConfigError(
            f"store.directory: {directory}: {free / 1e6:.0f} MB are free on its disk, "
            f"{FREE_BYTES_MIN / 1e6:.0f} are needed to start; make room"
        )
    for readable in settings.store.readable:
        try:
            is_there = readable.expanduser().is_dir()
        except PermissionError as error:  # a directory above may not be entered
            raise ConfigError(
                f"store.readable: {readable}: permission denied; give this user access"
            ) from error
        if not is_there:
            raise ConfigError(f"store.readable: {readable}: no such directory; mount or make it")


def check_data_directories(settings: Settings, names: Set[str]) -> None:
    """Check that tiled may read the files that other programs write.

    Parameters
    ----------
    settings
        The configuration.
    names
        What is to be started. The directories of these IOCs are checked, and those of all IOCs if
        tiled is among them.

    Raises
    ------
    ConfigError
        Naming the IOC and what cannot be read.
    """
    for name, directory in data_directories(settings).items():
        why = why_unreadable(directory) if {name, TILED} & names else ""
        if why:
            raise ConfigError(
                f"iocs.{name}.args: {why}, so tiled could not serve its files; give access"
            )


def _refused(directory: Path, reason: str) -> ConfigError:
    return ConfigError(
        f"store.directory: {directory}: {reason.lower()}; make room or give access, or set another"
    )


def _text_report(name: str, line: str) -> None:
    typer.echo(f"{name:<10} {line}")


def _json_report(name: str, line: str) -> None:
    typer.echo(json.dumps({"name": name, "event": line}))
