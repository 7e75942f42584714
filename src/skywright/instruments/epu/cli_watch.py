"""``skywright epu watch``: follow a directory and record it in the entity database."""

import hashlib
import json
import logging
import os
import sys
import threading
from contextlib import ExitStack
from dataclasses import asdict
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skywright.errors import ConfigError, SkywrightError
from skywright.processes.lifecycle import call_on_end_signal
from skywright.processes.logs import log_to_file

if TYPE_CHECKING:
    from skywright.instruments.epu.agent import Agent
    from skywright.instruments.epu.watch.importer import Outcome
    from skywright.instruments.epu.watch.watcher import Watcher

app = typer.Typer(add_completion=False)

TROUBLES_MAX = 20
"""Unreadable files and directories that are named at the end; `parse dir --json` lists all."""


@app.command()
def watch(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Directory that EPU writes.")],
    database: Annotated[
        str,
        typer.Option(help="sqlite:////ABS/FILE or postgresql://...; default: a file in the store."),
    ] = "",
    events: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Append a JSON line for each entity as it is stored."),
    ] = None,
    idle_exit: Annotated[
        float | None,
        typer.Option(metavar="S", min=0, help="End after S seconds without any event."),
    ] = None,
    polling: Annotated[
        float | None,
        typer.Option(metavar="S", min=0.05, help="Scan every S seconds; for network mounts."),
    ] = None,
    log_file: Annotated[
        Path | None, typer.Option(metavar="F", help="Append the log to F as well.")
    ] = None,
    api_url: Annotated[
        str | None,
        typer.Option("--api-url", metavar="URL", help="Send what is recorded to this API."),
    ] = None,
    proxy: Annotated[
        str | None,
        typer.Option(
            "--proxy",
            metavar="URL",
            help="HTTP proxy; SKYWRIGHT_PROXY_USER and SKYWRIGHT_PROXY_PASSWORD are read.",
        ),
    ] = None,
    ca_file: Annotated[
        Path | None, typer.Option("--ca-file", metavar="FILE", help="Certificates to trust (PEM).")
    ] = None,
    agent_id: Annotated[
        str | None,
        typer.Option(
            "--agent-id", metavar="NAME", help="Name of this agent; default: the computer's."
        ),
    ] = None,
    session_id: Annotated[
        str | None,
        typer.Option(
            "--session-id", metavar="NAME", help="Session whose instructions to carry out."
        ),
    ] = None,
    control_url: Annotated[
        str | None,
        typer.Option(
            "--control-url",
            metavar="URL",
            help="Acquisition-control service that carries out instructions for the microscope.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="At the end print the state as `parse dir` does.")
    ] = False,
) -> None:
    """Record what EPU has written in DIR, and what it writes from now on."""
    from skywright.instruments.epu.watch.watcher import Watcher, watched_root

    watched_root(directory)  # before anything is made
    of_api = {"--proxy": proxy, "--ca-file": ca_file, "--agent-id": agent_id}
    of_api |= {"--session-id": session_id, "--control-url": control_url}
    useless = [name for name, value in of_api.items() if value is not None and api_url is None]
    if useless:
        raise ConfigError(f"{useless[0]} needs --api-url, the API that the agent sends to")
    if log_file is not None:
        log_to_file(log_file)
    from skywright.instruments.epu.database import open_database
    from skywright.instruments.epu.watch.database_document import database_chunks
    from skywright.instruments.epu.watch.owner import TreeOwner, TreeSource

    with ExitStack() as stack:
        # After a power cut the files whose rows are gone are simply read again.
        opened = open_database(
            database or default_database(directory), announce=api_url is not None, durable=False
        )
        stack.callback(opened.close)
        agent = None
        if api_url is not None:
            from skywright.instruments.epu.agent import Agent, ApiSettings

            settings = ApiSettings(api_url, proxy, ca_file)
            handlers = None
            if control_url is not None:
                from skywright.instruments.epu.agent.control import ControlClient

                control = ControlClient(control_url)
                stack.callback(control.close)
                handlers = control.handlers()
            agent = Agent(
                opened, settings, agent_id=agent_id, session_id=session_id, handlers=handlers
            )
            agent.start()
            stack.callback(_finish, agent)
        endpoints: list[EventLines | Agent] = []
        lines = None
        if events is not None:
            lines = EventLines(stack.enter_context(_events_file(events)))
            endpoints.append(lines)
        if agent is not None:
            endpoints.append(agent)
        watcher = Watcher(directory, opened, polling)
        source = TreeSource(watcher, idle_exit=idle_exit)
        owner = TreeOwner(source, endpoints)
        stopped = threading.Event()

        def stop() -> None:
            stopped.set()
            source.request_stop()

        call_on_end_signal(stop)
        owner.start()
        while not source.ended.wait(1.0):  # without a limit Windows would not see Ctrl-C
            pass
        owner.close()
        if agent is not None:
            agent.wait_until_sent(stopped)
        if source.error is not None:
            raise typer.Exit(1)  # the log has it
        if as_json:
            with opened.read() as connection:
                for chunk in database_chunks(connection, watcher.root, watcher.unlisted):
                    sys.stdout.write(chunk)
            sys.stdout.write("\n")
        else:
            for kind, count in watcher.state.recorded.items():
                typer.echo(f"{kind}: {count} recorded")
            if not watcher.state.sequence:
                typer.echo(f"nothing new; {len(watcher.known)} files were recorded before")
        _report_troubles(watcher)
        if lines is not None:
            try:
                lines.write_waiting()
            except OSError as error:
                text = f"--events {events}: {error.strerror}; its last lines are missing"
                raise SkywrightError(text) from error


def _events_file(path: Path) -> FileIO:
    try:
        return path.open("ab", buffering=0)
    except OSError as error:
        raise ConfigError(f"--events {path}: {error.strerror}") from error


def _report_troubles(watcher: "Watcher") -> None:
    """Print what a person should look after to stderr."""
    for session in watcher.sessions_missing:
        typer.echo(f"skywright: {session}: no EpuSession.dm that can be read", err=True)
    unreadable = sorted((watcher.unreadable | watcher.unlisted).items())
    for path, reason in unreadable[:TROUBLES_MAX]:
        typer.echo(f"skywright: {path}: {reason}", err=True)
    if len(unreadable) > TROUBLES_MAX:
        more = len(unreadable) - TROUBLES_MAX
        typer.echo(f"skywright: {more} more cannot be read", err=True)


def _finish(agent: "Agent") -> None:
    """Send what is left, and say what could not be sent."""
    left = agent.close()
    if left:
        waits = agent.state()["waiting"] == left
        why = "what they belong to is not recorded" if waits else "there was no time left"
        logging.getLogger(__name__).error(
            "%d changes are not sent yet (%s); they are sent when this runs again",
            left,
            agent.away or why,
        )


class EventLines:
    """Appends a JSON line for each entity to a file; what finds no space waits."""

    def __init__(self, file: FileIO) -> None:
        self._file = file
        self._waiting = b""

    def offer(self, result: "Outcome") -> None:
        """Append the entities of a commit, after those that wait."""
        text = "".join(json.dumps(asdict(event)) + "\n" for event in result.events)
        self._waiting += text.encode()
        self.write_waiting()

    def write_waiting(self) -> None:
        """Append what waits; raises OSError if that is not possible."""
        while self._waiting:
            written = self._file.write(self._waiting)
            self._waiting = self._waiting[written:]


def default_database(directory: Path) -> Path:
    """Return the database file of a directory, in the directory of the store.

    The directory's number on its disk is part of the name, so a tree that is made anew under the
    same path starts afresh. The number of the disk itself is not: a network mount gets another one
    with each restart of the machine. A file of an older version, whose name has that number, is
    used further while there is none of the new name.
    """
    from skywright.config import load_settings

    path = directory.resolve()
    status, place = path.stat(), load_settings().directory / "epu"

    def file_of(*parts: object) -> Path:
        text = "\n".join(map(str, parts))
        digest = hashlib.sha256(os.fsencode(text)).hexdigest()[:16]
        return place / f"{path.name}-{digest}.sqlite"

    file, old = file_of(path, status.st_ino), file_of(path, status.st_dev, status.st_ino)
    return old if old.exists() and not file.exists() else file
